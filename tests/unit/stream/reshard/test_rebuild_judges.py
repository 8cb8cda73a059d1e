"""By which settings a rebuild of a resharded group judges the records of before."""

from __future__ import annotations

import msgspec
import pytest

from segmentation.agreed import JudgedBefore
from segmentation.scoring import ScoringStep
from stream.reshard.rebuild import _judge, _Stretch
from stream.settings import Settings
from stream.storage.heads import first_head

NOW = Settings().agreed
LIMIT = msgspec.structs.replace(NOW, future_tolerance_s=600)
WINDOW = msgspec.structs.replace(NOW, window_days=180)


@pytest.mark.parametrize(
    ("judged", "offset", "by"),
    [
        (LIMIT, 99, LIMIT),
        (LIMIT, 100, NOW),
        # The window was changed since: all records were read again, and count by the present settings.
        (msgspec.structs.replace(WINDOW, future_tolerance_s=600), 99, NOW),
    ],
)
def test_a_record_counts_by_the_settings_that_its_state_has_it_under(judged: object, offset: int, by: object) -> None:
    head = first_head("cluster", (2, 2), 0)
    before = JudgedBefore(100, judged, 0)  # type: ignore[arg-type]  # an Agreed, as every parameter here
    stretch = _Stretch(0, 2, head, head, [before], [])
    assert _judge(ScoringStep.of(NOW, 2), stretch, offset).agreed == by
