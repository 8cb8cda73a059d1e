"""States of the former format, 1: they are read, and never written any more (docs/how-to/upgrade.md)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from segmentation.entries import ERASED, NEVER, NONE, Entry, narrowed
from segmentation.life import Folded, folded_again, life_of
from segmentation.meaning import read
from segmentation.state_bytes import FLAGS, CustomerState, StateFormatError, pack, unpack

if TYPE_CHECKING:
    from segmentation.entries import Rules

_VERSION: Final = b"\1"
_HEADER, _ENTRY = struct.Struct("<BBHIqIIqqqqqq"), struct.Struct("<qQqQ")
_COUNT, _COUNT_AT = struct.Struct("<I"), 16


def current(value: bytes, rules: Rules) -> bytes:
    """Return a state in the present format; `value` itself where it is in that. Raises StateFormatError."""
    return pack(_unpack_former(value, rules)) if is_former(value) else value


def entries_of(value: bytes) -> tuple[Entry, ...]:
    """Return the entries of a state of either format. Raises StateFormatError."""
    return tuple(_entries_of_former(value)) if is_former(value) else unpack(value).entries


def is_former(value: bytes) -> bool:
    """Return whether a state is of format 1."""
    return value[:1] == _VERSION


def is_former_erased(value: bytes) -> bool:
    """Return whether a state of format 1 holds an erasure and no segment, nothing else."""
    one = len(value) == _HEADER.size + _ENTRY.size and is_former(value)
    return one and value[_HEADER.size] & 7 == ERASED and value[2:4] == b"\0\0"


def _unpack_former(value: bytes, rules: Rules) -> CustomerState:
    """Read a state of format 1.

    That format forgot what the cut had passed but for the last order, so a life that it cut is marked as partial.
    """
    entries = _entries_of_former(value)
    _, flags, segment, sequence, moved_at, _, frequency, monetary, last, first, newest, next_change, cut = (
        _HEADER.unpack_from(value)
    )
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


def _entries_of_former(value: bytes) -> list[Entry]:
    size, rest = _HEADER.size, len(value) - _HEADER.size
    if rest < 0 or value[1] > FLAGS or rest != _ENTRY.size * _COUNT.unpack_from(value, _COUNT_AT)[0]:
        raise StateFormatError(_refusal(value))
    return sorted([_entry(*row) for row in _ENTRY.iter_unpack(value[size:])])


def _entry(key: int, order: int, amount: int, event: int) -> Entry:
    return Entry(key, narrowed(order) if order else 0, amount, narrowed(event) if event else 0)


def _folded(entries: list[Entry], cut: int) -> Folded:
    """Return what is known of the life before the cut: its last order, without the refunds that it had."""
    erased = next((e.time for e in entries if e.kind == ERASED), NONE)
    known = folded_again(entries)
    return known if known.orders or cut == erased else known._replace(whole=False)


def _refusal(value: bytes) -> str:
    shown = f"{len(value)} bytes that begin with {value[:24].hex()}"
    return f"{shown} aren't a customer's state of format 1. Rebuild the states."
