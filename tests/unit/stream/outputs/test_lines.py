"""Moves, and what became of webhooks, as lines for people."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from segmentation.events import encode
from segmentation.output_events import Cause, SegmentChanged
from stream.outputs.lines import change_line, delivery_line

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


def test_what_became_of_a_webhook() -> None:
    event = {
        "type": "campaign.retrying", "at": "2026-11-30T12:00:00.000Z", "customer_id": "c-42", "campaign": "win-back",
        "endpoint": "crm", "attempt": 2, "detail": "500 Internal Server Error: no\ndatabase",
        "next_attempt_at": "2026-11-30T12:05:00.000Z",
    }  # fmt: skip
    line = "2026-11-30 12:00:00  c-42  win-back  crm  retrying, attempt 2: 500 Internal Server Error: no database"
    record = SimpleNamespace(topic="d", partition=0, offset=1, value=json.dumps(event).encode())
    assert delivery_line(record) == f"{line}  next: 2026-11-30 12:05:00"
    assert delivery_line(SimpleNamespace(topic="d", partition=0, offset=1, value=b"{}")) == "unreadable: d-0@1: {}"
