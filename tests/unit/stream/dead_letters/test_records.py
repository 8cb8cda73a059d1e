from __future__ import annotations

from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from segmentation.step import DeadLetter
from stream.dead_letters.records import KEPT_OF_HUGE, DeadRecord, dead_record

WHY = DeadLetter(0, "not_json", "amount", "it isn't.")


def dead(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]] | None = None
) -> tuple[DeadRecord, dict[str, bytes]]:
    record: Any = SimpleNamespace(offset=7, key=key, value=value, headers=headers or [])
    made = dead_record(record, WHY, "orders", 3, now_ms=1_772_547_600_000, max_bytes=1_000_000, group="shop")
    return made, dict(made.headers)


def test_a_dead_letter_holds_its_record_and_why() -> None:
    made, headers = dead(b"k", b"v", [("own", b"1")])
    assert (made.key, made.value) == (b"k", b"v")
    assert made.headers[0] == ("own", b"1")
    assert headers["__connect.errors.topic"] == b"orders"
    assert headers["__connect.errors.partition"] == b"3"
    assert headers["__connect.errors.offset"] == b"7"
    assert headers["__connect.errors.exception.message"] == b"it isn't."
    assert headers["segstream_reason"] == b"not_json"
    assert headers["segstream_field"] == b"amount"
    assert headers["segstream_failed_at"] == b"2026-03-03T14:20:00.000Z"
    assert headers["segstream_group"] == b"shop"


def test_a_record_without_key_and_value_gets_an_empty_value() -> None:
    assert dead(None, None)[0].value == b""
    assert dead(b"k", None)[0].value is None


@pytest.mark.parametrize("part", ["key", "value", "headers"])
def test_the_beginning_and_the_digest_of_a_huge_record_are_kept(part: str) -> None:
    huge = b"x" * 3_000_000
    made, headers = dead(
        huge if part == "key" else b"k",
        huge if part == "value" else None,
        [("own", huge)] if part == "headers" else None,
    )
    assert len(made.key or b"") + len(made.value or b"") + sum(len(v) for _, v in made.headers) < 200_000
    assert "own" not in headers
    if part != "headers":
        assert headers[f"segstream_{part}_sha256"] == sha256(huge).hexdigest().encode()
        assert headers[f"segstream_{part}_bytes"] == b"3000000"
        assert len(getattr(made, part)) == KEPT_OF_HUGE
