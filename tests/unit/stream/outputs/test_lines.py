"""Moves as lines for people."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from segmentation.events import encode
from segmentation.output_events import Cause, SegmentChanged
from stream.outputs.lines import change_line

AT = "2026-03-03T14:20:00.000Z"


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"to": "Loyal", "cause": Cause.MERGE}, "Lost -> Loyal  merge, move 4"),
        ({"to": None, "cause": Cause.ERASURE}, "Lost -> (erased)  erasure, move 4"),
        ({"to": None, "cause": Cause.MERGED, "merged_into": "bob"}, "Lost -> (merged into bob)  merged, move 4"),
    ],
)
def test_where_a_move_leads(changes: dict[str, Any], shown: str) -> None:
    move = SegmentChanged(
        id="m", customer_id="ann", sequence=4, from_="Lost", occurred_at=AT, scored_at=AT, model_version=None,
        rfm=None, before=None, distances={}, next=None, causation_id=None, **changes,
    )  # fmt: skip
    assert change_line(SimpleNamespace(value=encode(move))).endswith(f"ann  {shown}")
