"""A record that can't be used, as it goes to the dead-letter topic: itself unchanged, and why, in headers."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from segmentation.events import iso
from segmentation.step import DeadLetter
from stream.ledger import DeadRecord

CONNECT: Final = "__connect.errors."  # Kafka Connect's names, which operators' tools know already
HEADER_ROOM: Final = 65_536  # how much larger the dead-letter topic's limit is than the input's
KEPT_OF_HUGE: Final = 65_536


def dead_record(
    record: Any, letter: DeadLetter, topic: str, partition: int, *, now_ms: int, max_bytes: int
) -> DeadRecord:
    """The dead letter of a consumed record: its original key, value and headers, and why.

    Of a value beyond `max_bytes` the SHA-256 and the first 64 KiB are kept; the coordinates lead to the rest.
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
    value: bytes | None = record.value
    original = list(record.headers)
    size = len(value or b"") + len(record.key or b"") + sum(len(k) + len(v or b"") for k, v in original)
    if value is not None and size > max_bytes:
        headers.append(("segstream_value_sha256", sha256(value).hexdigest().encode()))
        headers.append(("segstream_value_bytes", b"%d" % len(value)))
        value, original = value[:KEPT_OF_HUGE], original[:16]
    if value is None and record.key is None:
        value = b""  # Kafka takes no record without both
    return DeadRecord(record.key, value, [*original, *headers])
