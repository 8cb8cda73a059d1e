"""A record that can't be used, as it goes to the dead-letter topic: itself unchanged, and why, in headers. And the way back."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from segmentation.events import iso
from segmentation.step import DeadLetter
from stream.storage.heads import (
    MARK_HEADER,
    NOTE_HEADER,
)

CONNECT: Final = "__connect.errors."  # Kafka Connect's names, which operators' tools know already
REDRIVES_HEADER: Final = "segstream_redrives"  # how often the record was sent back before
HEADER_ROOM: Final = 65_536  # how much larger the dead-letter topic's limit is than the input's
KEPT_OF_HUGE: Final = 65_536
UNKNOWN_REASON: Final = "unknown"
_HEADER_BYTES: Final = 12  # most that a header takes besides name and value: two lengths
_CUT: Final = ("segstream_value_sha256", "segstream_key_sha256", "segstream_headers_dropped")


def dead_record(
    record: Any, letter: DeadLetter, topic: str, partition: int, *, now_ms: int, max_bytes: int
) -> DeadRecord:
    """The dead letter of a consumed record: its original key, value and headers, and why.

    Of a record beyond `max_bytes` the first 64 KiB of key and value and their SHA-256 are kept, and the headers are left
    out; the coordinates lead to the rest.
    """
    headers = [
        (f"{CONNECT}topic", topic.encode()),
        (f"{CONNECT}partition", b"%d" % partition),
        (f"{CONNECT}offset", b"%d" % record.offset),
        (f"{CONNECT}stage", b"VALUE_CONVERTER"),
        (f"{CONNECT}exception.message", letter.message.encode(errors="replace")[:4_096]),
        ("segstream_reason", letter.reason.encode()),
        ("segstream_field", (letter.field or "").encode()),
        ("segstream_failed_at", iso(now_ms).encode()),
    ]
    key, value, original = record.key, record.value, list(record.headers)
    size = len(value or b"") + len(key or b"")
    size += sum(len(name.encode()) + len(content or b"") + _HEADER_BYTES for name, content in original)
    if size > max_bytes:
        if original:
            headers.append(("segstream_headers_dropped", b"%d" % len(original)))
        original = []
        # Where the limit is set very low, both beginnings must still fit it together.
        kept = min(KEPT_OF_HUGE, max_bytes // 2)
        for name, part in (("value", value), ("key", key)):
            if part is not None and len(part) > kept:
                headers.append((f"segstream_{name}_sha256", sha256(part).hexdigest().encode()))
                headers.append((f"segstream_{name}_bytes", b"%d" % len(part)))
        value = value and value[:kept]
        key = key and key[:kept]
    if value is None and key is None:
        value = b""  # Kafka takes no record without both
    return DeadRecord(key, value, [*original, *headers])


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter, read back: what its headers say, and the record as it was. None: its headers don't say."""

    topic: str | None
    partition: int | None
    offset: int | None
    reason: str
    field: str | None
    message: str
    failed_at: str | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]  # the record's own
    redrives: int  # how often it was sent back before
    cut: bool  # not all of it is here


def read_dead_letter(record: Any) -> StoredDeadLetter:
    """Read a dead letter, and anything else that somebody has put into its topic."""
    own, ours = _parted(list(record.headers))
    redrives = _number(dict(own).get(REDRIVES_HEADER)) or 0
    return StoredDeadLetter(
        topic=_text(ours.get(f"{CONNECT}topic")) or None,
        partition=_number(ours.get(f"{CONNECT}partition")),
        offset=_number(ours.get(f"{CONNECT}offset")),
        reason=_text(ours.get("segstream_reason")) or UNKNOWN_REASON,
        field=_text(ours.get("segstream_field")) or None,
        message=_text(ours.get(f"{CONNECT}exception.message")),
        failed_at=_text(ours.get("segstream_failed_at")) or None,
        key=record.key,
        value=record.value,
        headers=own,
        redrives=redrives,
        cut=any(name in ours for name in _CUT),
    )


def sent_back_headers(letter: StoredDeadLetter) -> list[tuple[str, bytes | None]]:
    """The headers of a record that is sent back: its own, and how often that has happened by now."""
    # A move that comes again isn't the shard's own output any more: a takeover counts those by their marks.
    gone = {REDRIVES_HEADER, MARK_HEADER, NOTE_HEADER}
    kept = [(name, value) for name, value in letter.headers if name not in gone]
    return [*kept, (REDRIVES_HEADER, b"%d" % (letter.redrives + 1))]


def _parted(headers: list[tuple[str, bytes | None]]) -> tuple[list[tuple[str, bytes | None]], dict[str, bytes | None]]:
    """(the record's own headers, ours). Ours come last, so a record may have had some of the same names."""
    firsts = [at for at, (name, _) in enumerate(headers) if name == f"{CONNECT}topic"]
    at = firsts[-1] if firsts else len(headers)
    return headers[:at], dict(headers[at:])


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None) -> int | None:
    """Read a number of up to 18 digits; anything else is none."""
    return int(value) if value is not None and value.isdigit() and len(value) <= 18 else None


@dataclass(slots=True)
class DeadRecord:
    """A record for the dead-letter topic, complete."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
