"""Snapshots from a file of orders: the columns of whole lives, against plain Python over its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segmentation.entries import DAY_MS, Rules
from segmentation.event_text import instant
from stream.orders.rows import parse_at
from tests.support.oracles.lifetimes import lifetimes, retail_bookings
from trainer.snapshot.orders import take_from_file

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_gives_whole_lives_beyond_the_window(test_data: Path) -> None:
    path = test_data / "online_retail" / "orders.csv.gz"
    bookings = retail_bookings(path)
    expected = lifetimes(bookings)
    for window_days in (30, 365):
        snapshot = take_from_file(path, parse_at("2012-06-10"), Rules(window_days * DAY_MS, 7 * DAY_MS), "GBP")
        assert [name.decode() for name in snapshot.customers] == sorted(expected)
        assert snapshot.life is not None
        rows = zip(*(column.tolist() for column in snapshot.life), strict=True)
        assert [(row[0], row[1], round(row[2], 4), row[3]) for row in rows] == [
            (life.orders, life.purchase_days, float(life.monetary), life.first_order_at.timestamp() * 1000)
            for _, life in sorted(expected.items())
        ]
        begin = instant(parse_at("2012-06-10") - window_days * DAY_MS)
        recent = {booking.customer for booking in bookings if booking.is_order and booking.at > begin}
        assert np.count_nonzero(snapshot.frequency) == len(recent)


ROWS = """order_id,customer_id,ordered_at,amount,kind,merged_into
1,guest,2026-01-01,10,,
2,account,2026-01-02,20,,
3,guest,2026-01-03,30,,
2,guest,2026-01-04,,cancellation,
4,other,2026-01-05,40,,
,guest,2026-01-06,,merge,account
,account,2026-01-08,,merge,other
,other,2026-01-09,,merge,guest
"""


def test_merged_ids_are_one_customer_from_the_merge_on(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(ROWS, "utf-8")

    def customers(day: str) -> list[tuple[str, int, float]]:
        found = take_from_file(path, parse_at(day), Rules(365 * DAY_MS, 7 * DAY_MS), "GBP")
        names = [name.decode() for name in found.customers]
        return list(zip(names, found.frequency.tolist(), found.monetary.tolist(), strict=True))

    # An id's cancellation of an order that came under the other id counts as soon as they are one.
    assert customers("2026-01-05") == [("account", 1, 20.0), ("guest", 2, 40.0), ("other", 1, 40.0)]
    assert customers("2026-01-07") == [("account", 2, 40.0), ("other", 1, 40.0)]
    assert customers("2026-01-08") == [("other", 3, 80.0)]
    assert customers("2026-01-09") == [("guest", 3, 80.0)]
