"""One customer's state: a pruned set of events in canonical bytes, from which recency, frequency and monetary value are read.

The bytes are a function of the set of the customer's events and of the clock, nothing else: not of order, repetition, batching or the
instants at which the state was looked at. For recency this holds if whatever takes an order away (a cancellation, an erasure, a second
placement of an order, a second content of an id) comes at most a grace late; frequency and monetary value are exact at any lateness.

Layout, version 1: little-endian, no padding, every field on its own boundary. A header of 72 bytes (HEADER, HEAD), then 32 bytes an
entry (ENTRY, ROW) in sorted order. The header's figures hold from the last change up to, not including, `next_change`.

`t` is everywhere the shard's clock in ms: it never goes back.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.backfills import SLOTS
from segmentation.entries import (
    ANCHOR,
    CANCELLED,
    ERASED,
    NEVER,
    NONE,
    PLACED,
    Entry,
    Kind,
    Reading,
    Rules,
    after,
    entry,
    hash64,
    read,
)
from segmentation.step import StateUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "EMPTY",
    "ENTRY",
    "HEAD",
    "HEADER",
    "NEVER",
    "NONE",
    "ROW",
    "CustomerState",
    "Entry",
    "Kind",
    "Outcome",
    "Reading",
    "Rules",
    "StateFormatError",
    "absorb",
    "absorb_bytes",
    "advance",
    "advance_bytes",
    "announcement",
    "append",
    "entry",
    "hash64",
    "headers",
    "is_capped",
    "is_erased",
    "is_lost",
    "is_silent",
    "muted_by",
    "pack",
    "read",
    "rows",
    "settle",
    "unpack",
    "with_announcement",
    "with_mute",
]

VERSION: Final = 1
HEADER, ENTRY = struct.Struct("<BBHIqIIqqqqqq"), struct.Struct("<qQqQ")
HEAD: Final = np.dtype(
    [
        ("version", "u1"),
        ("flags", "u1"),
        ("segment", "<u2"),
        ("sequence", "<u4"),
        ("moved_at", "<i8"),
        ("n", "<u4"),
        ("frequency", "<u4"),
        ("monetary", "<i8"),
        ("last", "<i8"),
        ("first", "<i8"),
        ("newest", "<i8"),
        ("next_change", "<i8"),
        ("cut", "<i8"),
    ]
)
ROW: Final = np.dtype([("key", "<i8"), ("order", "<u8"), ("amount", "<i8"), ("event", "<u8")])
_ANNOUNCED: Final = struct.Struct("<HIq")  # offsets 2 to 15: the scorer's
_NEXT_CHANGE, _NEXT_CHANGE_AT = struct.Struct("<q"), 56
_FLAGS: Final = SLOTS << 1 | 1  # bit 0: capped; bits 1 to 6: the back-fill that mutes
_FIRST, _NO_ORDER = slice(40, 48), struct.pack("<q", NEVER)
_PLAIN_MONEY: Final = 2**62  # two sums below this can't saturate


class StateFormatError(StateUnreadable):
    """These bytes aren't a state of this version: written by another program, or torn."""


class Outcome(StrEnum):
    """What became of an event, for metrics and dead letters."""

    NEW = "new"
    REPEAT = "repeat"
    CONFLICT = "conflict"  # known id, other content: kept as a further entry, and to be reported
    LATE = "late"  # not after the cut: moves at most `last` and `first`
    ERASED = "erased"  # not after the customer's erasure


@dataclass(frozen=True, slots=True)
class CustomerState:
    """Header and entries. The header's figures hold from the last change up to, not including, `next_change`."""

    frequency: int = 0  # standing orders in the window
    monetary: int = 0  # ten-thousandths, net of refunds
    last: int = NONE  # time of the last order that stands, in the window or not
    first: int = NEVER  # time of the first order ever seen, standing or not
    newest: int = NONE  # time of the newest entry
    next_change: int = NEVER  # the earliest instant at which time alone can change these bytes
    cut: int = NONE  # events up to here no longer count, and entries up to here are only the remnant
    capped: bool = False  # the cap put the cut where it is: the window is incomplete, and there is no remnant
    muted: int = 0  # the slot of the back-fill that mutes this customer; 0: none
    entries: tuple[Entry, ...] = ()
    segment: int = 0  # the scorer's three, passed through unchanged; 0: never announced
    sequence: int = 0
    moved_at: int = NONE


def settle(state: CustomerState, entries: Iterable[Entry], t: int, rules: Rules) -> CustomerState:
    """Make the canonical state of the given entries at `t`: forget what can't matter any more, then fill the header.

    `state` gives the cut, `first`, whether it is capped, and the scorer's fields; its entries don't take part.
    """
    window, grace, cap = rules
    kept = sorted(entries)
    # Erasure: nothing up to the latest one has ever been, and that one stays for good.
    stones = [e for e in kept if e.key & 7 == ERASED][-1:]
    erased = stones[0].time if stones else NONE
    if stones:
        kept = [e for e in kept if e.time > erased and e.key & 7 != ERASED]
    first = state.first if state.first > erased else NEVER
    first = min(first, next((e.time for e in kept if e.key & 7 in (PLACED, ANCHOR)), NEVER))
    # The cut follows the newest event that has left the window, a grace behind. From the customer's own events, not from the clock: else every value would change as time passes.
    gone = bisect_left(kept, (after(t - window),))
    aged = max(erased, kept[gone - 1].time - grace) if gone else erased
    cut = max(state.cut, aged)
    capped = state.capped and cut > aged
    old = bisect_left(kept, (after(cut),)) if cut > NONE else 0
    if capped:
        kept, old = kept[old:], 0
    reading = read(kept, t, cut, rules)
    if old:
        kept[:old] = _remnant(kept[:old], reading, cut, grace)
    if len(kept) > cap:
        cut = max(cut, kept[-cap - 1].time)
        capped = cut > aged
        kept = kept[bisect_left(kept, (after(cut),)) :]
        reading = read(kept, t, cut, rules)
    return replace(
        state,
        frequency=reading.frequency,
        monetary=reading.monetary,
        last=reading.standing[0].time if reading.standing else NONE,
        first=first,
        newest=max(kept[-1].time if kept else NONE, erased),
        next_change=_next_change(kept, t, cut, window),
        cut=cut,
        capped=capped,
        entries=tuple(sorted(stones + kept)),
    )


def _remnant(old: Sequence[Entry], reading: Reading, cut: int, grace: int) -> list[Entry]:
    """Keep of the entries up to the cut, sorted, the last order that stood, now the anchor, and what can still tell its successors from dead ones."""
    kept = [e for e in old if e.kind in (PLACED, CANCELLED)]
    anchor = max((e for e in reading.standing if e.time <= cut), key=lambda e: e.rank, default=None)
    if anchor:
        kept = [e for e in kept if (e.rank > anchor.rank if e.kind == PLACED else e.time >= anchor.time - grace)]
        kept.append(anchor._replace(key=anchor.time << 3 | ANCHOR))
    return sorted(kept)


def _next_change(kept: Sequence[Entry], t: int, cut: int, window: int) -> int:
    """Find the earliest instant after `t` at which an entry begins to count or leaves the window."""
    counting, coming = bisect_left(kept, (after(max(t - window, cut)),)), bisect_left(kept, (after(t),))
    leaves = kept[counting].time + window if counting < coming else NEVER
    begins = kept[coming].time if coming < len(kept) else NEVER
    return min(leaves, begins)


def advance(state: CustomerState, t: int, rules: Rules) -> CustomerState:
    """Bring a state to a later instant: the same events, perhaps others of them in the window."""
    return state if t < state.next_change else settle(state, state.entries, t, rules)


def absorb(state: CustomerState, e: Entry, t: int, rules: Rules) -> tuple[CustomerState, Outcome]:
    """Take one more event in, at clock `t`.

    Always one by one, each at its own clock: then no batching shows, not even for events that come later than the grace.
    An erasure leaves the scorer's fields alone too: it is a numbered move, and the scorer clears them when it tells it.
    """
    state = advance(state, t, rules)
    if e in state.entries:
        return state, Outcome.REPEAT
    # Nothing up to an erasure is kept, so it comes first.
    if state.entries and state.entries[0].kind == ERASED and e.time <= state.entries[0].time:
        return state, Outcome.ERASED
    outcome = Outcome.NEW
    if e.time <= state.cut and e.kind != ERASED:
        outcome = Outcome.LATE
    elif e.event and e.event in [x.event for x in state.entries]:
        outcome = Outcome.CONFLICT
    return settle(state, (*state.entries, e), t, rules), outcome


def pack(state: CustomerState) -> bytes:
    """Write a state as bytes: 72, and 32 an entry."""
    s = state
    figures = (s.frequency, s.monetary, s.last, s.first, s.newest, s.next_change, s.cut)
    head = HEADER.pack(VERSION, s.capped | s.muted << 1, s.segment, s.sequence, s.moved_at, len(s.entries), *figures)
    return head + b"".join([ENTRY.pack(*e) for e in s.entries])


def unpack(value: bytes) -> CustomerState:
    """Read a state from bytes. Raises StateFormatError for another version, an unknown flag or a torn value."""
    if len(value) < HEADER.size or value[0] != VERSION or value[1] > _FLAGS:
        raise StateFormatError(_refusal(value))
    head = HEADER.unpack_from(value)
    if len(value) != HEADER.size + head[5] * ENTRY.size:
        raise StateFormatError(_refusal(value))
    _, flags, segment, sequence, moved_at, _, frequency, monetary, last, first, newest, next_change, cut = head
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
        entries=tuple([Entry._make(row) for row in ENTRY.iter_unpack(value[HEADER.size :])]),
        segment=segment,
        sequence=sequence,
        moved_at=moved_at,
    )


def _refusal(value: bytes) -> str:
    return (
        f"{len(value)} bytes that begin with {value[:24].hex()} aren't a customer's state: expected version {VERSION}, flags up to {_FLAGS} "
        f"and {HEADER.size} + {ENTRY.size} n bytes. Rebuild the states, or run the version that wrote them."
    )


EMPTY: Final = pack(CustomerState())


def append(value: bytes, e: Entry, t: int, rules: Rules) -> bytes | None:
    """Take the fast path: the bytes of `absorb` for a plain new order, by arithmetic on the header; None where that isn't certain to be equal.

    Plain: newer than every entry and than the cut (the cap may have cut all entries of one instant away), not ahead of the clock, nothing due by time alone,
    room under the cap, and neither its order nor its event known (the search of the bytes may hit by chance: that is slow, never wrong).
    """
    version, flags, segment, sequence, moved_at, n, frequency, monetary, _, first, newest, next_change, cut = (
        HEADER.unpack_from(value)
    )
    key, _, amount, _ = e
    time = key >> 3
    if not (
        newest < time <= t < next_change
        and key & 7 == PLACED
        and time > t - rules.window
        and time > cut
        and n < rules.cap
        and -_PLAIN_MONEY < monetary < _PLAIN_MONEY
        and amount < _PLAIN_MONEY
        and version == VERSION
        and flags <= _FLAGS
        and len(value) == HEADER.size + n * ENTRY.size
    ):
        return None
    row = ENTRY.pack(*e)
    if row[8:16] in value or row[24:] in value:
        return None
    first = min(first, time)
    next_change = min(next_change, time + rules.window)
    figures = (frequency + 1, monetary + amount, time, first, time, next_change, cut)
    return HEADER.pack(version, flags, segment, sequence, moved_at, n + 1, *figures) + value[HEADER.size :] + row


def absorb_bytes(value: bytes | None, e: Entry, t: int, rules: Rules) -> tuple[bytes, Outcome]:
    """Do what `absorb` does on bytes: by the fast path where it answers. None is a customer without a state.

    Raises StateFormatError. Returns `value` itself where nothing changed.
    """
    if value is None:
        value = EMPTY
    if len(value) >= HEADER.size:
        quick = append(value, e, t, rules)
        if quick is not None:
            return quick, Outcome.NEW
        if _has(value, e) and t < _NEXT_CHANGE.unpack_from(value, _NEXT_CHANGE_AT)[0]:
            return value, Outcome.REPEAT
    state, outcome = absorb(unpack(value), e, t, rules)
    return pack(state), outcome


def _has(value: bytes, e: Entry) -> bool:
    """Tell whether this very entry is among them. A replay repeats whole logs, so this has to be cheap. A hit across two entries is looked at by the slow path."""
    at = value.find(ENTRY.pack(*e), HEADER.size)
    return at >= 0 and (at - HEADER.size) % ENTRY.size == 0 and value[0] == VERSION and value[1] <= _FLAGS


def advance_bytes(value: bytes, t: int, rules: Rules) -> bytes:
    """Do what `advance` does on bytes; `value` itself while nothing changes by time. Raises StateFormatError."""
    if len(value) >= HEADER.size and t < _NEXT_CHANGE.unpack_from(value, _NEXT_CHANGE_AT)[0]:
        return value
    return pack(advance(unpack(value), t, rules))


def with_announcement(value: bytes, segment: int, sequence: int, moved_at: int) -> bytes:
    """Write into a state what the scorer has told last: segment (0: none), the customer's sequence, ms of that move (NONE: none)."""
    return value[:2] + _ANNOUNCED.pack(segment, sequence, moved_at) + value[2 + _ANNOUNCED.size :]


def announcement(value: bytes) -> tuple[int, int, int]:
    """Read what the scorer has told last: segment (0: none), the customer's sequence, ms of that move (NONE: none)."""
    segment, sequence, moved_at = _ANNOUNCED.unpack_from(value, 2)
    return segment, sequence, moved_at


def muted_by(value: bytes) -> int:
    """Read which back-fill mutes the customer: its slot; 0: none."""
    return value[1] >> 1


def with_mute(value: bytes, slot: int) -> bytes:
    """Write into a state which back-fill mutes it; 0: none."""
    return value[:1] + bytes((value[1] & 1 | slot << 1,)) + value[2:]


def is_lost(value: bytes) -> bool:
    """Tell whether a segment is known, but no order ever: all of them had left the log when the state was made anew."""
    return value[_FIRST] == _NO_ORDER and value[2:4] != b"\0\0"


def is_silent(value: bytes) -> bool:
    """Tell whether nothing may be told of the customer by time or by a model: muted, or every order lost."""
    return muted_by(value) != 0 or is_lost(value)


def is_erased(value: bytes) -> bool:
    """Tell whether an erasure is all that a state holds, with no segment announced: nothing in it is about a person any more."""
    return len(value) == HEADER.size + ENTRY.size and value[HEADER.size] & 7 == ERASED and value[2] == value[3] == 0


def is_capped(value: bytes) -> bool:
    """Tell whether the cap has put a state's cut where it is: then the window is incomplete."""
    return value[1] & 1 == 1


def headers(values: Sequence[bytes]) -> NDArray[np.void]:
    """Join the headers to columns, HEAD[len(values)], read-only. Raises StateFormatError if one isn't a state.

    At a clock t < next_change the columns are the figures at t; `advance_bytes` the others first.
    """
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    if values and sizes.min() < HEADER.size:
        raise StateFormatError(_refusal(values[int(sizes.argmin())]))
    head = np.frombuffer(b"".join([v[: HEADER.size] for v in values]), HEAD)
    bad = (
        (head["version"] != VERSION)
        | (head["flags"] > _FLAGS)
        | (sizes != HEADER.size + ENTRY.size * head["n"].astype(np.int64))
    )
    if bad.any():
        raise StateFormatError(_refusal(values[int(bad.argmax())]))
    return head


def rows(values: Sequence[bytes]) -> NDArray[np.void]:
    """Join the entries of all values, one after the other, to columns ROW[sum of n], read-only. The owner of each: `np.repeat(np.arange(len(values)), head["n"])`."""
    return np.frombuffer(b"".join([v[HEADER.size :] for v in values]), ROW)
