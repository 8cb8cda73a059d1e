"""The fields of heads, and the one function that decodes a head of Redis."""

from __future__ import annotations

from typing import get_type_hints

import msgspec
import pytest

from stream.storage.heads import (
    UNCOUNTED,
    HeadChange,
    Stored,
    StoreHead,
    decode_kafka_head,
    decode_store_head,
    encode_head,
    first_head,
    stored_of,
    with_stored,
)
from stream.storage.reads import HeadUnreadable, parse_head
from tests.support.paths import ROOT


def test_a_head_change_has_fields_of_a_head_with_their_types() -> None:
    head, change = get_type_hints(StoreHead), get_type_hints(HeadChange)
    assert {name: head[name] for name in change} == change
    fixed = {"turn", "cluster", "partitions", "format", "stored", "era", "former"}
    assert set(head) - set(change) == fixed, "no change of a turn"


def test_a_head_before_the_first_record_has_no_clock() -> None:
    assert first_head("cluster", (4, 4), 0).clock_ms is None


def test_one_module_decodes_the_heads_of_redis() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("stream", "trainer", "bench")
        for path in (ROOT / package).rglob("*.py")
        if "decode_store_head" in path.read_text("utf-8")
    }
    assert found == {"stream/storage/heads.py", "stream/storage/reads.py"}


@pytest.mark.parametrize("raw", [b"", b"{}", b"null", b"\xff", b'{"token":"\xff"}'])
def test_bytes_that_are_no_head_raise_one_error(raw: bytes) -> None:
    with pytest.raises(HeadUnreadable, match=r"^the head of orders-3 in Redis is unreadable: .*`segstream rebuild`"):
        parse_head(raw, "orders-3")


def test_the_counts_are_the_heads_last_field() -> None:
    assert list(StoreHead.__struct_fields__)[-1] == "stored"
    bare = first_head("cluster", (4, 4), 7)
    counted = msgspec.structs.replace(bare, stored=Stored(3, 3, 2, 1, 7))
    assert encode_head(bare).endswith(b',"stored":' + UNCOUNTED)
    assert with_stored(encode_head(bare), Stored(3, 3, 2, 1, 7)) == encode_head(counted)
    assert stored_of(encode_head(counted)) == Stored(3, 3, 2, 1, 7)
    assert stored_of(encode_head(bare)) is None
    assert stored_of(b"no head") is None


def test_a_head_is_read_back() -> None:
    head = first_head("cluster", (4, 4), 7)
    assert parse_head(encode_head(head), "orders-3") == head


def test_a_head_of_before_the_eras_is_of_the_first() -> None:
    kafka = decode_kafka_head(b'{"offset":5,"count":2,"clock":9,"activation":1,"version":"v","cursor":null,"format":1}')
    assert (kafka.offset, kafka.era) == (5, 0)
    head = encode_head(first_head("cluster", (4, 4), 7))
    assert b',"era":0' in head
    assert parse_head(head.replace(b',"era":0', b""), "orders-3").era == 0


def test_a_head_of_before_side_inputs_knows_no_place_in_them() -> None:
    head = encode_head(msgspec.structs.replace(first_head("cluster", (4, 4), 7), sides={"orders": 3}))
    assert parse_head(head, "orders-3").sides == {"orders": 3}
    assert b',"sides":{"orders":3}' in head
    assert parse_head(head.replace(b',"sides":{"orders":3}', b""), "orders-3").sides == {}


def test_states_under_a_head_of_the_former_format_are_to_be_rewritten() -> None:
    now = encode_head(msgspec.structs.replace(first_head("cluster", (4, 4), 7), rewritten=None))
    former = now.replace(b'"format":2', b'"format":1').replace(b'"rewritten":null,', b"")
    assert decode_store_head(former) == msgspec.structs.replace(first_head("cluster", (4, 4), 7), rewritten="")
    assert decode_store_head(now).rewritten is None
    half = encode_head(msgspec.structs.replace(decode_store_head(now), rewritten="c7"))
    assert decode_store_head(half).rewritten == "c7"


@pytest.mark.parametrize("found", [0, 3, 17])
def test_a_format_that_this_version_does_not_know_is_refused_in_one_line(found: int) -> None:
    raw = encode_head(first_head("cluster", (4, 4), 7)).replace(b'"format":2', b'"format":%d' % found)
    wanted = f"it has format {found}, expected at most 2: run the version that wrote it"
    with pytest.raises(HeadUnreadable, match=wanted) as refused:
        parse_head(raw, "orders-3")
    assert "\n" not in str(refused.value)
    kafka = b'{"offset":5,"count":2,"clock":9,"activation":1,"version":"v","cursor":null,"format":%d}' % found
    with pytest.raises(msgspec.DecodeError, match=wanted):
        decode_kafka_head(kafka)
