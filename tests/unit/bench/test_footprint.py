from __future__ import annotations

import numpy as np

from bench.studies.footprint import Footprint, a_state, table
from segmentation.rfm import announcement, unpack
from segmentation.state_bytes import HEADER, ROW


def test_a_state_has_all_orders_in_the_window_or_folded() -> None:
    rng = np.random.default_rng(1)
    within, beyond = a_state(1, 10, 360, rng), a_state(1, 10, 730, rng)
    assert len(within) == HEADER.size + 10 * ROW.size
    assert [unpack(value).life.orders for value in (within, beyond)] == [10, 10]
    assert unpack(beyond).folded.orders > 0
    assert announcement(within)[0]


def test_table_has_a_row_for_each_number_of_orders() -> None:
    text = table([Footprint(360, 10, 314.0, 536.4)])
    assert text.splitlines()[-1] == "| 360 | 10 | 314 | 536 |"
