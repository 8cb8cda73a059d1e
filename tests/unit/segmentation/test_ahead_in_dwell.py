"""An order that is dated a little ahead, while its customer has to dwell: the move at the end of the dwell is its."""

from __future__ import annotations

import pytest

from segmentation.decisions import CompiledModel, DueMove, ScoringContext, move_by_time, search
from segmentation.entries import DAY_MS, Kind, Rules, entry
from segmentation.model import FEATURES, Feature, Segment, SegmentModel
from segmentation.output_events import Cause
from segmentation.rfm import EMPTY, absorb_bytes, advance_bytes, with_announcement
from tests.support.data.clock_models import clock_model

NOW, HOUR, RULES = 1_700_000_000_000, 3_600_000, Rules()
BY_CENTROIDS = SegmentModel(
    parent=None,
    features=tuple(Feature(name=name, transform="log1p", mean=0.0, scale=1.0) for name in FEATURES),  # type: ignore[arg-type]
    segments=(
        Segment(id=2, name="Loyal", action="", centroid=(0.5, 3.0, 6.5)),
        Segment(id=5, name="Lost", action="", centroid=(2.5, 3.0, 6.5)),
    ),
    training=clock_model().training,
)


@pytest.mark.parametrize("model", [BY_CENTROIDS, clock_model()], ids=["by centroids", "by own clock"])
@pytest.mark.parametrize("ahead_ms", [0, 1, 60_000])
def test_the_order_moves_its_customer_when_the_dwell_is_over(model: SegmentModel, ahead_ms: int) -> None:
    scoring = ScoringContext.of(CompiledModel.of(model, "g", {}), 24 * HOUR, RULES)
    value = EMPTY
    for week in range(30):
        at = NOW - 400 * DAY_MS + week * 7 * DAY_MS
        value, _ = absorb_bytes(value, entry(Kind.PLACED, f"e{week}", at, order=f"o{week}", amount=300_000), at, RULES)
    value = with_announcement(advance_bytes(value, NOW, RULES), 5, 7, NOW)
    back = entry(Kind.PLACED, "back", NOW + HOUR + ahead_ms, order="back", amount=300_000)
    value, _ = absorb_bytes(value, back, NOW + HOUR, RULES)
    found = search([value], [NOW + HOUR + 1], scoring)
    assert found.due == [NOW + 24 * HOUR]
    [move] = move_by_time([DueMove(b"c", value, found.due[0], found.target[0], (0, 0, 0, b"c"))], scoring)
    assert (move.target, move.cause) == (2, Cause.ORDER)
