"""The dead letters that go back, the partitions that they go to, and the records read back from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.events import CONTROL_KEY, Reason
from segmentation.partitioners import murmur2
from segmentation.step import DeadLetter
from stream.dead_letters.reasons import FIXABLE
from stream.dead_letters.records import REDRIVES_HEADER, dead_record, read_dead_letter, sent_back_headers
from stream.dead_letters.routing import Selection, SentBack, route
from stream.settings import Settings

SETTINGS = Settings()


class Consumed(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    offset: int = 5


def dead_letter(
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    headers: list[tuple[str, bytes | None]] | None = None,
    reason: Reason = Reason.STEP_FAILED,
    topic: str = "orders",
) -> Any:
    record = Consumed(key, value, headers or [])
    return dead_record(record, DeadLetter(0, reason, "id", "why."), topic, 3, now_ms=0, max_bytes=100_000)


names = st.sampled_from(["", "own", "ütf", "__connect.errors.topic", "segstream_reason", "segstream_value_sha256"])
header_lists = st.lists(st.tuples(names, st.none() | st.binary(max_size=8)), max_size=6)


@given(st.none() | st.binary(max_size=9), st.binary(max_size=9), header_lists, st.sampled_from(list(Reason)))
def test_any_record_can_be_read_back_from_its_dead_letter(
    key: bytes | None, value: bytes, headers: list[tuple[str, bytes | None]], reason: Reason
) -> None:
    stored = read_dead_letter(dead_letter(key, value, headers, reason))
    assert (stored.key, stored.value, stored.headers) == (key, value, headers)
    assert (stored.topic, stored.partition, stored.offset) == ("orders", 3, 5)
    assert (stored.reason, stored.field, stored.message, stored.redrives) == (reason, "id", "why.", 0)
    assert not stored.cut
    assert sent_back_headers(stored) == [*headers, (REDRIVES_HEADER, b"1")]


@given(header_lists)
def test_a_record_that_segstream_did_not_write_is_read_too(headers: list[tuple[str, bytes | None]]) -> None:
    stored = read_dead_letter(Consumed(b"k", b"v", headers))
    assert stored.partition is None
    assert isinstance(route(stored, SETTINGS), str)


def test_redrives_are_counted() -> None:
    headers: list[tuple[str, bytes | None]] = [("own", b"1")]
    for time in range(1, 9):
        stored = read_dead_letter(dead_letter(headers=headers))
        assert stored.redrives == time - 1
        assert isinstance(route(stored, SETTINGS), SentBack)
        headers = sent_back_headers(stored)
        assert headers == [("own", b"1"), (REDRIVES_HEADER, b"%d" % time)]
    assert route(read_dead_letter(dead_letter(headers=headers)), SETTINGS) == "too_often"


@pytest.mark.parametrize("text", [b"", b"-1", b"9" * 30, b"\xff", b"1.5", "²".encode()])
def test_an_unreadable_count_is_zero(text: bytes) -> None:
    assert read_dead_letter(dead_letter(headers=[(REDRIVES_HEADER, text)])).redrives == 0


def test_the_partition_that_a_dead_letter_goes_to() -> None:
    def target(**changes: Any) -> tuple[str, int] | str:
        routed = route(read_dead_letter(dead_letter(**changes)), SETTINGS)
        return routed if isinstance(routed, str) else (routed.topic, routed.partition)

    assert target() == ("orders", 3)
    assert target(reason=Reason.KEY_NOT_CUSTOMER) == ("orders-unkeyed", 3)
    assert target(reason=Reason.WRONG_PARTITION) == ("orders", murmur2(b"k", SETTINGS.partitions))
    # Only the topic of orders has an adapter for wrong keys, and a partitioner.
    assert target(reason=Reason.KEY_NOT_CUSTOMER, topic="segment-changes") == ("segment-changes", 3)
    assert target(reason=Reason.ADAPTER_FAILED, topic="shop-orders") == ("shop-orders", 3)
    anywhere = SETTINGS.model_copy(update={"partitioner": "none"})
    stored = read_dead_letter(dead_letter(reason=Reason.WRONG_PARTITION))
    assert route(stored, anywhere) == route(read_dead_letter(dead_letter()), SETTINGS)
    assert target(key=None, value=None) == "empty"
    assert target(value=b"x" * 200_000) == "cut"
    assert target(headers=[("a", b"")] * 30_000) == "cut"


def test_each_reason_is_a_queue_and_its_controls_another() -> None:
    usual, all_of_them = Selection(frozenset(FIXABLE)), Selection(frozenset(FIXABLE), controls=True)
    clock = read_dead_letter(dead_letter(CONTROL_KEY, reason=Reason.CLOCK_JUMP))
    assert Selection.queue_of(clock) not in usual.queues()
    assert Selection.queue_of(clock) in all_of_them.queues()
    assert Selection.queue_of(read_dead_letter(dead_letter(reason=Reason.CLOCK_JUMP))) in usual.queues()
    assert Selection.queue_of(read_dead_letter(dead_letter(reason=Reason.NOT_JSON))) not in all_of_them.queues()
