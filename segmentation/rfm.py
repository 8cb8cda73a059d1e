"""A customer's state: a pruned set of events in canonical bytes, with the customer's figures in its header.

The bytes are a function of the set of the customer's events and of the clock, nothing else: not of order, repetition,
batching or the instants at which the state was looked at. For recency this holds if any event that takes an order away
(a cancellation, an erasure, a second placement of an order, a second content of an id) comes at most a grace late;
frequency and monetary value are exact at any lateness. docs/explanation/state-format.md has the whole of it.

segmentation/state_bytes.py knows the layout of the bytes; only the fast path of a plain order, `append`, does
arithmetic on a header here. `t` is everywhere the shard's clock in ms: it never goes back.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

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
    key_of,
    read,
)
from segmentation.state_bytes import (
    EMPTY,
    ENTRY,
    FLAGS,
    HEADER,
    VERSION,
    CustomerState,
    StateFormatError,
    announcement,
    headers,
    is_capped,
    is_erased,
    is_lost,
    is_silent,
    muted_by,
    next_change_of,
    pack,
    rows,
    unpack,
    with_announcement,
    with_mute,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "EMPTY",
    "NEVER",
    "NONE",
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

_PLAIN_MONEY: Final = 2**62  # two sums below this can't saturate


class Outcome(StrEnum):
    """The effect of an event on its customer's state, for metrics and dead letters."""

    NEW = "new"
    REPEAT = "repeat"
    CONFLICT = "conflict"  # known id, other content: kept as a further entry, and reported
    LATE = "late"  # not after the cut: moves at most `last` and `first`
    ERASED = "erased"  # not after the customer's erasure


def settle(state: CustomerState, entries: Iterable[Entry], t: int, rules: Rules) -> CustomerState:
    """Make the canonical state of the given entries at `t`: drop entries that can't matter any more, fill the header.

    `state` gives the cut, `first`, whether it is capped, and the scorer's fields; its entries don't take part.
    """
    window, grace, cap = rules
    kept = sorted(entries)
    # The latest erasure stays for good; entries up to it are deleted.
    stones = [e for e in kept if e.key & 7 == ERASED][-1:]
    erased = stones[0].time if stones else NONE
    if stones:
        kept = [e for e in kept if e.time > erased and e.key & 7 != ERASED]
    first = state.first if state.first > erased else NEVER
    first = min(first, next((e.time for e in kept if e.key & 7 in (PLACED, ANCHOR)), NEVER))
    # The cut follows the newest event that has left the window, a grace behind. It depends on the customer's own
    # events, not on the clock: else every value would change as time passes.
    left = bisect_left(kept, (after(t - window),))
    aged = max(erased, kept[left - 1].time - grace) if left else erased
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
        next_change=next_change_at(kept, t, cut, window),
        cut=cut,
        capped=capped,
        entries=tuple(sorted(stones + kept)),
    )


def _remnant(old: Sequence[Entry], reading: Reading, cut: int, grace: int) -> list[Entry]:
    """Return the entries up to the cut that are kept: the last order that stood, now the anchor, and later ones.

    The later placements and cancellations still decide which of the anchor's successors stand.
    """
    kept = [e for e in old if e.kind in (PLACED, CANCELLED)]
    anchor = max((e for e in reading.standing if e.time <= cut), key=lambda e: e.rank, default=None)
    if anchor:
        kept = [e for e in kept if (e.rank > anchor.rank if e.kind == PLACED else e.time >= anchor.time - grace)]
        kept.append(anchor._replace(key=key_of(anchor.time, ANCHOR)))
    return sorted(kept)


def next_change_at(kept: Sequence[Entry], t: int, cut: int, window: int) -> int:
    """Find the earliest instant after `t` at which an entry begins to count or leaves the window."""
    counting, coming = bisect_left(kept, (after(max(t - window, cut)),)), bisect_left(kept, (after(t),))
    leaves = kept[counting].time + window if counting < coming else NEVER
    begins = kept[coming].time if coming < len(kept) else NEVER
    return min(leaves, begins)


def advance(state: CustomerState, t: int, rules: Rules) -> CustomerState:
    """Return the state at a later instant: the same events, perhaps others of them in the window."""
    return state if t < state.next_change else settle(state, state.entries, t, rules)


def absorb(state: CustomerState, e: Entry, t: int, rules: Rules) -> tuple[CustomerState, Outcome]:
    """Merge one more event, at clock `t`.

    Events are merged one by one, each at its own clock, so that batching never shows, not even for events that come
    later than the grace. An erasure too leaves the scorer's fields alone: the scorer clears them with its numbered
    move.
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


def append(value: bytes, e: Entry, t: int, rules: Rules) -> bytes | None:
    """Return the bytes of `absorb` for a plain new order, by arithmetic on the header; None if they may differ.

    Plain: newer than every entry and than the cut (the cap may have cut all entries of one instant away), not ahead of
    the clock, nothing due by time alone, room under the cap, and neither its order nor its event known (the search of
    the bytes may hit by chance: that is slow, never wrong).
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
        and flags <= FLAGS
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
    """Merge one more event into bytes, as `absorb` does; by the fast path if it can. None: a customer without a state.

    Raises StateFormatError. Returns `value` itself where nothing changed.
    """
    if value is None:
        value = EMPTY
    if len(value) >= HEADER.size:
        quick = append(value, e, t, rules)
        if quick is not None:
            return quick, Outcome.NEW
        if _has(value, e) and t < next_change_of(value):
            return value, Outcome.REPEAT
    state, outcome = absorb(unpack(value), e, t, rules)
    return pack(state), outcome


def _has(value: bytes, e: Entry) -> bool:
    """Return whether this very entry is in the state. Cheap, because a replay repeats whole logs.

    A hit across two entries counts as none: the slow path decides.
    """
    at = value.find(ENTRY.pack(*e), HEADER.size)
    return at >= 0 and (at - HEADER.size) % ENTRY.size == 0 and value[0] == VERSION and value[1] <= FLAGS


def advance_bytes(value: bytes, t: int, rules: Rules) -> bytes:
    """Return the state at a later instant (`advance`); if it is the same, `value` itself. Raises StateFormatError."""
    if len(value) >= HEADER.size and t < next_change_of(value):
        return value
    return pack(advance(unpack(value), t, rules))
