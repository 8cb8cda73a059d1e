"""Dead letters as records of their topic: the original record, and in headers why it can't be used.

`dead_record` writes one, `read_dead_letter` reads one, `sent_back_headers` makes the headers of the record sent back.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from segmentation.event_text import iso
from segmentation.step import DeadLetter
from stream.storage.heads import (
    MARK_HEADER,
    NOTE_HEADER,
)

CONNECT: Final = "__connect.errors."  # Kafka Connect's header names, which operators' tools know
REDRIVES_HEADER: Final = "segstream_redrives"  # how often the record has been sent back
HEADER_ROOM: Final = 65_536  # by how much the dead-letter topic's limit exceeds the input's
KEPT_OF_HUGE: Final = 65_536  # bytes kept of the key and of the value of a record that is too large
UNKNOWN_REASON: Final = "unknown"
_HEADER_BYTES: Final = 12  # most that a header takes besides name and value: two lengths
_CUT: Final = ("segstream_value_sha256", "segstream_key_sha256", "segstream_headers_dropped")


@dataclass(slots=True)
class DeadRecord:
    """A complete record for the dead-letter topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def dead_record(
    record: Any,
    dead_letter: DeadLetter,
    topic: str,
    partition: int,
    *,
    now_ms: int,
    max_bytes: int,
    group: str | None = None,
) -> DeadRecord:
    """Return the dead letter of a consumed record: its key, value and headers, and headers that say why.

    Of a record of more than `max_bytes`, the first 64 KiB of key and value and their SHA-256 are kept, and the headers
    are left out; topic, partition and offset lead to the complete record. `group`: of the worker that writes it.
    """
    headers = [
        (f"{CONNECT}topic", topic.encode()),
        (f"{CONNECT}partition", b"%d" % partition),
        (f"{CONNECT}offset", b"%d" % record.offset),
        (f"{CONNECT}stage", b"VALUE_CONVERTER"),
        (f"{CONNECT}exception.message", dead_letter.message.encode(errors="replace")[:4_096]),
        ("segstream_reason", dead_letter.reason.encode()),
        ("segstream_field", (dead_letter.field or "").encode()),
        ("segstream_failed_at", iso(now_ms).encode()),
        *([] if group is None else [("segstream_group", group.encode())]),
    ]
    key, value, original = record.key, record.value, list(record.headers)
    size = len(value or b"") + len(key or b"")
    size += sum(len(name.encode()) + len(content or b"") + _HEADER_BYTES for name, content in original)
    if size > max_bytes:
        if original:
            headers.append(("segstream_headers_dropped", b"%d" % len(original)))
        original = []
        # With a very low limit, both beginnings together must still be within it.
        kept = min(KEPT_OF_HUGE, max_bytes // 2)
        for name, part in (("value", value), ("key", key)):
            if part is not None and len(part) > kept:
                headers.append((f"segstream_{name}_sha256", sha256(part).hexdigest().encode()))
                headers.append((f"segstream_{name}_bytes", b"%d" % len(part)))
        value = value and value[:kept]
        key = key and key[:kept]
    if value is None and key is None:
        value = b""  # Kafka takes no record without key and value
    return DeadRecord(key, value, [*original, *headers])


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter read from its topic: the original record, and what the headers say; None where they don't."""

    topic: str | None
    partition: int | None
    offset: int | None
    reason: str
    field: str | None
    message: str
    failed_at: str | None
    group: str | None  # of the worker that wrote it; earlier versions don't say it
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]  # the record's own
    redrives: int  # how often it has been sent back
    cut: bool  # the record was too large: only its beginning is here


def read_dead_letter(record: Any) -> StoredDeadLetter:
    """Read a record of a dead-letter topic, also one that segstream didn't write."""
    own, ours = _split_headers(list(record.headers))
    redrives = _number(dict(own).get(REDRIVES_HEADER)) or 0
    return StoredDeadLetter(
        topic=_text(ours.get(f"{CONNECT}topic")) or None,
        partition=_number(ours.get(f"{CONNECT}partition")),
        offset=_number(ours.get(f"{CONNECT}offset")),
        reason=_text(ours.get("segstream_reason")) or UNKNOWN_REASON,
        field=_text(ours.get("segstream_field")) or None,
        message=_text(ours.get(f"{CONNECT}exception.message")),
        failed_at=_text(ours.get("segstream_failed_at")) or None,
        group=_text(ours.get("segstream_group")) or None,
        key=record.key,
        value=record.value,
        headers=own,
        redrives=redrives,
        cut=any(name in ours for name in _CUT),
    )


def sent_back_headers(dead_letter: StoredDeadLetter) -> list[tuple[str, bytes | None]]:
    """Return the headers of the record that is sent back: its own, and how often it has been sent back."""
    # Without the shard's marks: a takeover counts the shard's own outputs by them, and a move sent back is none.
    dropped = {REDRIVES_HEADER, MARK_HEADER, NOTE_HEADER}
    kept = [(name, value) for name, value in dead_letter.headers if name not in dropped]
    return [*kept, (REDRIVES_HEADER, b"%d" % (dead_letter.redrives + 1))]


def _split_headers(
    headers: list[tuple[str, bytes | None]],
) -> tuple[list[tuple[str, bytes | None]], dict[str, bytes | None]]:
    """Return the record's own headers, and ours. Ours come last: the record may have had headers of the same names."""
    firsts = [at for at, (name, _) in enumerate(headers) if name == f"{CONNECT}topic"]
    at = firsts[-1] if firsts else len(headers)
    return headers[:at], dict(headers[at:])


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None) -> int | None:
    """Return a number of up to 18 digits, None for anything else."""
    return int(value) if value is not None and value.isdigit() and len(value) <= 18 else None
