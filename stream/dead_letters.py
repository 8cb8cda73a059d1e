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
    size = len(value or b"") + len(key or b"") + sum(len(k) + len(v or b"") for k, v in original)
    if size > max_bytes:
        original = []
        for name, part in (("value", value), ("key", key)):
            if part is not None and len(part) > KEPT_OF_HUGE:
                headers.append((f"segstream_{name}_sha256", sha256(part).hexdigest().encode()))
                headers.append((f"segstream_{name}_bytes", b"%d" % len(part)))
        value = value and value[:KEPT_OF_HUGE]
        key = key and key[:KEPT_OF_HUGE]
    if value is None and key is None:
        value = b""  # Kafka takes no record without both
    return DeadRecord(key, value, [*original, *headers])
