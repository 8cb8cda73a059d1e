"""The fields of heads."""

from __future__ import annotations

from typing import get_type_hints

from stream.storage.heads import HeadChange, StoreHead, first_head


def test_a_head_change_has_fields_of_a_head_with_their_types() -> None:
    head, change = get_type_hints(StoreHead), get_type_hints(HeadChange)
    assert {name: head[name] for name in change} == change
    assert set(head) - set(change) == {"turn", "cluster", "partitions", "format"}, "these never change by a commit"


def test_a_head_before_the_first_record_has_no_clock() -> None:
    assert first_head("cluster", (4, 4), 0).clock_ms is None
