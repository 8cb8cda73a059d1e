from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from segmentation.event_text import iso, move_id
from segmentation.output_events import Cause, Rfm, SegmentChanged
from stream.demo.report import ERASED, NEW, CustomerStatistics, MoveStatistics

if TYPE_CHECKING:
    from pathlib import Path

RANKING = ["Champions", "Loyal", "At Risk", "Lost"]


def _move(sequence: int, source: str | None, target: str | None, cause: Cause = Cause.ORDER) -> SegmentChanged:
    return SegmentChanged(
        id=move_id("demo", "c", sequence),
        customer_id="c",
        sequence=sequence,
        from_=source,
        to=target,
        cause=cause,
        occurred_at=iso(sequence),
        scored_at=iso(sequence),
        model_version="m",
        rfm=Rfm(1.0, 2, "30.00"),
        before=None,
        distances={},
        next=None,
        causation_id=None,
    )


FIRST = _move(1, None, "Champions", Cause.FIRST)
FALL = _move(2, "Champions", "At Risk", Cause.SILENCE)
BACK = _move(3, "At Risk", "Loyal")


def _seen(*moves: SegmentChanged) -> MoveStatistics:
    seen = MoveStatistics(RANKING)
    for move in moves:
        seen.add(move)
    return seen


def test_an_unbroken_chain_passes_and_shows_a_return() -> None:
    seen = _seen(FIRST, FALL, BACK)
    assert (seen.total, seen.customers, seen.broken, seen.duplicates) == (3, 1, 0, 0)
    assert seen.matrix == {(NEW, "Champions"): 1, ("Champions", "At Risk"): 1, ("At Risk", "Loyal"): 1}
    assert seen.won_back() == ("c", 3)
    assert not seen.lapsed("c")
    assert _seen(FIRST, FALL).lapsed("c")


def test_each_way_to_break_a_chain_is_found() -> None:
    assert _seen(FIRST, BACK).broken == 1, "a number left out"
    assert _seen(FALL).broken == 1, "the first left out"
    assert _seen(FIRST, msgspec.structs.replace(FALL, from_="Loyal")).broken == 1, "from elsewhere"
    assert _seen(FIRST, FALL, FALL).duplicates == 1
    assert _seen(FIRST, msgspec.structs.replace(FALL, sequence=1)).broken == 1, "a number twice under another id"


def test_an_erasure_has_its_own_column() -> None:
    assert _seen(FIRST, _move(2, "Champions", None, Cause.ERASURE)).matrix["Champions", ERASED] == 1


def test_a_stored_segment_that_is_not_the_last_move_s_is_found(tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    seen = _seen(FIRST, FALL)
    for row, strangers in (
        ("c,30.00,At Risk,2", 0),
        ("c,30.00,Loyal,2", 1),
        ("c,30.00,At Risk,1", 1),
        ("d,1.00,Lost,1", 1),
    ):
        file.write_text(f"customer_id,monetary,segment,sequence\n{row}\n")
        customers = CustomerStatistics()
        customers.read(file, seen, RANKING)
        assert customers.strangers == strangers, row
