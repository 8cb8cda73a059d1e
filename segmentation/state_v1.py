"""States of format 1, read by workers of format 2 (docs/how-to/upgrade.md). Nothing writes them any more."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from segmentation.entries import ANCHOR, ERASED, NEVER, NONE, Entry, narrowed
from segmentation.life import NOTHING_FOLDED, Folded, day_of, life_of
from segmentation.meaning import read
from segmentation.state_bytes import FLAGS, CustomerState, StateFormatError, pack

if TYPE_CHECKING:
    from segmentation.entries import Rules

VERSION: Final = 1
_HEADER, _ENTRY = struct.Struct("<BBHIqIIqqqqqq"), struct.Struct("<qQqQ")


def upgraded(value: bytes, rules: Rules) -> bytes:
    """Return a state in the present format; `value` itself where it is. Raises StateFormatError."""
    return pack(unpack_v1(value, rules)) if value[:1] == b"\1" else value


def unpack_v1(value: bytes, rules: Rules) -> CustomerState:
    """Read a state of format 1. Raises StateFormatError.

    That format forgot what the cut had passed but for the last order, so a life that it cut is marked as partial.
    """
    if len(value) < _HEADER.size or value[1] > FLAGS:
        raise StateFormatError(_refusal(value))
    _, flags, segment, sequence, moved_at, n, frequency, monetary, last, first, newest, next_change, cut = (
        _HEADER.unpack_from(value)
    )
    if len(value) != _HEADER.size + n * _ENTRY.size:
        raise StateFormatError(_refusal(value))
    entries = sorted([_entry(*row) for row in _ENTRY.iter_unpack(value[_HEADER.size :])])
    # Within the span for which the header holds, no entry begins or ceases to count.
    at = next_change - 1 if next_change < NEVER else max(newest, cut)
    reading, folded = read(entries, at, cut, rules), _folded(entries, cut)
    return CustomerState(
        frequency=frequency,
        monetary=monetary,
        last=last,
        first=first,
        newest=newest,
        next_change=next_change,
        cut=cut,
        capped=bool(flags & 1),
        muted=flags >> 1,
        entries=tuple(entries),
        life=life_of(folded, reading.standing, reading.refunds, cut, rules),
        folded=folded,
        segment=segment,
        sequence=sequence,
        moved_at=moved_at,
    )


def _entry(key: int, order: int, amount: int, event: int) -> Entry:
    return Entry(key, narrowed(order) if order else 0, amount, narrowed(event) if event else 0)


def _folded(entries: list[Entry], cut: int) -> Folded:
    """Return what is known of the life before the cut: its last order, without the refunds that it had."""
    anchor = next((e for e in entries if e.kind == ANCHOR), None)
    if anchor:
        return Folded(1, anchor.amount, anchor.time, anchor.time, (day_of(anchor.time),), whole=False)
    erased = next((e.time for e in entries if e.kind == ERASED), NONE)
    return NOTHING_FOLDED if cut == erased else NOTHING_FOLDED._replace(whole=False)


def _refusal(value: bytes) -> str:
    shown = f"{len(value)} bytes that begin with {value[:24].hex()}"
    return f"{shown} aren't a customer's state of format 1. Rebuild the states."
