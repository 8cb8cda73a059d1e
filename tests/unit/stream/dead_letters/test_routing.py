"""Which dead letters go back, and where to; and what a dead letter tells of its record."""

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


def buried(
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
def test_a_letter_gives_its_record_back_whatever_it_was(
    key: bytes | None, value: bytes, headers: list[tuple[str, bytes | None]], reason: Reason
) -> None:
    letter = read_dead_letter(buried(key, value, headers, reason))
    assert (letter.key, letter.value, letter.headers) == (key, value, headers)
    assert (letter.topic, letter.partition, letter.offset) == ("orders", 3, 5)
    assert (letter.reason, letter.field, letter.message, letter.redrives) == (reason, "id", "why.", 0)
    assert not letter.cut
    assert sent_back_headers(letter) == [*headers, (REDRIVES_HEADER, b"1")]


@given(header_lists)
def test_what_is_no_dead_letter_of_ours_is_read_all_the_same(headers: list[tuple[str, bytes | None]]) -> None:
    letter = read_dead_letter(Consumed(b"k", b"v", headers))
    assert letter.partition is None
    assert isinstance(route(letter, SETTINGS), str)


def test_each_time_is_counted() -> None:
    headers: list[tuple[str, bytes | None]] = [("own", b"1")]
    for time in range(1, 9):
        letter = read_dead_letter(buried(headers=headers))
        assert letter.redrives == time - 1
        assert isinstance(route(letter, SETTINGS), SentBack)
        headers = sent_back_headers(letter)
        assert headers == [("own", b"1"), (REDRIVES_HEADER, b"%d" % time)]
    assert route(read_dead_letter(buried(headers=headers)), SETTINGS) == "too_often"


@pytest.mark.parametrize("text", [b"", b"-1", b"9" * 30, b"\xff", b"1.5", "²".encode()])
def test_a_count_that_somebody_else_wrote_is_none(text: bytes) -> None:
    assert read_dead_letter(buried(headers=[(REDRIVES_HEADER, text)])).redrives == 0


def test_where_to() -> None:
    def target(**changes: Any) -> tuple[str, int] | str:
        way = route(read_dead_letter(buried(**changes)), SETTINGS)
        return way if isinstance(way, str) else (way.topic, way.partition)

    assert target() == ("orders", 3)
    assert target(reason=Reason.KEY_NOT_CUSTOMER) == ("orders-unkeyed", 3)
    assert target(reason=Reason.WRONG_PARTITION) == ("orders", murmur2(b"k", SETTINGS.partitions))
    # Only the orders have an adapter for wrong keys, and a partitioner.
    assert target(reason=Reason.KEY_NOT_CUSTOMER, topic="segment-changes") == ("segment-changes", 3)
    assert target(reason=Reason.ADAPTER_FAILED, topic="shop-orders") == ("shop-orders", 3)
    anywhere = SETTINGS.model_copy(update={"partitioner": "none"})
    letter = read_dead_letter(buried(reason=Reason.WRONG_PARTITION))
    assert route(letter, anywhere) == route(read_dead_letter(buried()), SETTINGS)
    assert target(key=None, value=None) == "empty"
    assert target(value=b"x" * 200_000) == "cut"
    assert target(headers=[("a", b"")] * 30_000) == "cut"


def test_controls_and_reasons_have_lanes_of_their_own() -> None:
    usual, all_of_them = Selection(frozenset(FIXABLE)), Selection(frozenset(FIXABLE), controls=True)
    clock = read_dead_letter(buried(CONTROL_KEY, reason=Reason.CLOCK_JUMP))
    assert Selection.lane(clock) not in usual.lanes()
    assert Selection.lane(clock) in all_of_them.lanes()
    assert Selection.lane(read_dead_letter(buried(reason=Reason.CLOCK_JUMP))) in usual.lanes()
    assert Selection.lane(read_dead_letter(buried(reason=Reason.NOT_JSON))) not in all_of_them.lanes()
