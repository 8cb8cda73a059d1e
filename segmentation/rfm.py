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
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from segmentation.entries import (
    ANCHOR,
    CANCELLED,
    ERASED,
    NEVER,
    NONE,
    PLACED,
    UNREVISED,
    Entry,
    Kind,
    Rules,
    after,
    entry,
    hash_id,
    key_of,
)
from segmentation.life import MOST_DAYS, day_of, fold, folded_again, life_of, refunds_of
from segmentation.meaning import Reading, has_revisions, read, refunds_by_order
from segmentation.state_bytes import (
    EMPTY,
    EVENT_AT,
    FLAGS,
    HEADER,
    ORDER_AT,
    ROW,
    TAIL,
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
    pack_entry,
    rows,
    rows_end_of,
    unpack,
    with_announcement,
    with_mute,
)
from segmentation.state_former import current
from segmentation.state_tail import is_wide, put_revision, row_has_revision, takes_revisions, with_foreign

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
    "current",
    "entry",
    "hash_id",
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

_PLACED: Final = (PLACED, ANCHOR)
_PLAIN_MONEY: Final = 2**62  # two sums below this can't saturate


class Outcome(StrEnum):
    """The effect of an event on its customer's state, for metrics and dead letters."""

    NEW = "new"
    REPEAT = "repeat"
    CONFLICT = "conflict"  # known id, other content: kept as a further entry, and reported
    OUTDATED = "outdated"  # another content of its order counts: a later one, or one of a greater revision
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
    # What is folded lies up to the cut before: an erasure from there on takes all of it, an earlier one a part.
    folded = state.folded if erased < min(state.cut, state.folded.first) else folded_again(kept)
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
        folded = fold(folded, reading.standing, reading.refunds, state.cut, cut, rules)
        kept[:old] = remnant(kept[:old], kept[old:], reading, cut, rules)
    if len(kept) > cap:
        before, cut = cut, max(cut, kept[-cap - 1].time)
        folded = fold(folded, reading.standing, reading.refunds, before, cut, rules)
        capped = cut > aged
        kept = kept[bisect_left(kept, (after(cut),)) :]
        reading = read(kept, t, cut, rules)
    return CustomerState(
        frequency=reading.frequency,
        monetary=reading.monetary,
        last=reading.standing[0].time if reading.standing else NONE,
        first=first,
        newest=max(kept[-1].time if kept else NONE, erased),
        next_change=next_change_at(kept, t, cut, window),
        cut=cut,
        capped=capped,
        muted=state.muted,
        entries=tuple(sorted(stones + kept)),
        life=life_of(folded, reading.standing, reading.refunds, cut, rules),
        folded=folded,
        links=state.links,
        segment=state.segment,
        sequence=state.sequence,
        moved_at=state.moved_at,
    )


def remnant(old: Sequence[Entry], ahead: Sequence[Entry], reading: Reading, cut: int, rules: Rules) -> list[Entry]:
    """Return those of the entries up to the cut that are still needed. `ahead`: the entries after it.

    These are the last order that stood, now the anchor; later placements, which don't stand, and cancellations that
    may reach them; placements of a greater revision than a later one; and refunds of orders after the cut.
    """
    if len(old) == 1 and old[0].key & 7 == ANCHOR:
        return list(old)  # the most frequent case: only time has passed
    placed = [e if e.key & 7 == PLACED else e._replace(key=key_of(e.time, PLACED)) for e in old if e.key & 7 in _PLACED]
    kept = [e for e in old if e.key & 7 == CANCELLED]
    least = after(cut)
    anchor = max([e for e in reading.standing if e.key < least], key=lambda e: e.rank, default=None)
    if anchor:
        kept = [e for e in kept if e.time >= anchor.time - rules.grace]
        later, earlier = [e for e in placed if e.rank > anchor.rank], [e for e in placed if e.rank < anchor.rank]
        kept.append(anchor._replace(key=key_of(anchor.time, ANCHOR)))
        if has_revisions(earlier):
            kept += _greater(earlier, [*later, *(e for e in ahead if e.kind == PLACED)], rules.window)
        placed = later
    named = refunds_by_order([e for e in reading.refunds if e.key < least and e.order])
    if named:
        coming = [e for e in reading.standing if e.kind == PLACED and e.time > cut]
        kept += {refund for order in coming for refund in refunds_of(order, named, rules)}
    return sorted([*kept, *placed])


def _greater(earlier: Sequence[Entry], later: Sequence[Entry], window: int) -> list[Entry]:
    """Return the earlier placements that a later one of a lower revision gives way to. `earlier` is sorted."""
    found: list[Entry] = []
    # By order and by event: with all of them compared, thousands of orders would hold the shard up for seconds.
    by_order: dict[int, list[Entry]] = {}
    by_event: dict[int, list[Entry]] = {}

    def give_way(e: Entry) -> None:
        by_order.setdefault(e.order, []).append(e)
        by_event.setdefault(e.event, []).append(e)

    for e in later:
        give_way(e)
    for e in reversed(earlier):
        others = (*by_order.get(e.order, ()), *by_event.get(e.event, ()))
        if any(x.time - e.time < window and x.precedence < e.precedence for x in others):
            found.append(e)
            give_way(e)
    return found


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
    elif e.event and (known := [x for x in state.entries if x.event == e.event]):
        outcome = outcome_of_known(e, known)
    if outcome is Outcome.NEW and e.kind == PLACED:
        outcome = outcome_of_placed(e, [x for x in state.entries if x.order == e.order], rules.window)
    return settle(state, (*state.entries, e), t, rules), outcome


def outcome_of_known(e: Entry, known: Iterable[Entry]) -> Outcome:
    """Return the outcome of an event whose id is known with another entry.

    With another revision of the same order it is an edit; and the same content without its revision is no conflict.
    """

    def fits(x: Entry) -> bool:
        if e.revision == UNREVISED:
            return (x.time, x.amount, x.foreign) == (e.time, e.amount, e.foreign)
        return x.revision != e.revision

    return Outcome.NEW if all(x.order == e.order and fits(x) for x in known) else Outcome.CONFLICT


def outcome_of_placed(e: Entry, same: Iterable[Entry], window: int) -> Outcome:
    """Return the outcome of a new placement: whether its order has a greater content. `same`: the order's entries."""
    near = [x for x in same if x.kind in (PLACED, ANCHOR) and abs(x.time - e.time) < window]
    content = e.time, e.amount, e.foreign
    if any((x.time, x.amount, x.foreign) == content for x in near):
        return Outcome.NEW  # sent again under another event id
    return Outcome.OUTDATED if any(x.precedence > e.precedence for x in near) else Outcome.NEW


def append(value: bytes, e: Entry, t: int, rules: Rules) -> bytes | None:
    """Return the bytes of `absorb` for a plain new order, by arithmetic on the header; None if they may differ.

    Plain: newer than every entry and than the cut (the cap may have cut all entries of one instant away), not ahead of
    the clock, nothing due by time alone, room under the cap, and neither its order nor its event known (the search of
    the bytes may hit by chance: that is slow, never wrong).
    """
    (
        version, flags, segment, sequence, moved_at, n, frequency, monetary, last, first, newest, next_change, cut,
        life_orders, life_days, life_money, life_first,
    ) = HEADER.unpack_from(value)  # fmt: skip
    key, _, amount, _, revision, foreign = e
    time, rows_end = key >> 3, HEADER.size + n * ROW.size
    tail = value[rows_end:]
    if not (
        newest < time <= t < next_change
        and key & 7 == PLACED
        and time > t - rules.window
        and time > cut
        and n < rules.cap
        and -_PLAIN_MONEY < monetary < _PLAIN_MONEY
        and -_PLAIN_MONEY < life_money < _PLAIN_MONEY
        and amount < _PLAIN_MONEY
        and life_days < MOST_DAYS
        and version == VERSION
        and flags & ~TAIL <= FLAGS
        and bool(tail) == bool(flags & TAIL)
        and not is_wide(key, amount)
        and (revision == UNREVISED or takes_revisions(tail))
        and (not tail or last > cut)  # else days that are folded may be later than the last order that stands
        and len(value) >= rows_end
    ):
        return None
    row = pack_entry(e)
    if value.find(row[ORDER_AT], HEADER.size, rows_end) >= 0 or value.find(row[EVENT_AT], HEADER.size, rows_end) >= 0:
        return None
    if takes_revisions(tail):
        longer = bytearray(tail)
        put_revision(longer, e)
        tail = bytes(longer)
    if foreign:
        paid = with_foreign(tail, n, foreign)
        if paid is None:
            return None
        tail, flags = paid, flags | TAIL
    next_change = min(next_change, time + rules.window)
    figures = (frequency + 1, monetary + amount, time, min(first, time), time, next_change, cut)
    # The order is newer than every other, so its day is new unless the last one's is the same.
    new_day = last == NONE or day_of(last) != day_of(time)
    life = (life_orders + 1, life_days + new_day, life_money + amount, min(life_first, time))
    head = HEADER.pack(version, flags, segment, sequence, moved_at, n + 1, *figures, *life)
    return head + value[HEADER.size : rows_end] + row + tail


def absorb_bytes(value: bytes | None, e: Entry, t: int, rules: Rules) -> tuple[bytes, Outcome]:
    """Merge one more event into bytes, as `absorb` does; by the fast path if it can. None: a customer without a state.

    Raises StateFormatError. Returns `value` itself where nothing changed.
    """
    value = EMPTY if value is None else current(value, rules)
    if len(value) >= HEADER.size:
        quick = append(value, e, t, rules)
        if quick is not None:
            return quick, Outcome.NEW
        if _has(value, e) and t < next_change_of(value):
            return value, Outcome.REPEAT
    state, outcome = absorb(unpack(value), e, t, rules)
    return pack(state), outcome


def _has(value: bytes, e: Entry) -> bool:
    """Return whether this very entry is in a state. Cheap, because a replay repeats whole logs.

    A hit across two entries counts as none: the slow path decides.
    """
    if e.foreign or is_wide(e.key, e.amount) or value[0] != VERSION or value[1] & ~TAIL > FLAGS:
        return False
    end = rows_end_of(value)
    at = value.find(pack_entry(e), HEADER.size, end)
    row, rest = divmod(at - HEADER.size, ROW.size)
    return at >= 0 and rest == 0 and row_has_revision(value[end:], row, (end - HEADER.size) // ROW.size, e)


def advance_bytes(value: bytes, t: int, rules: Rules) -> bytes:
    """Return the state at a later instant (`advance`); if it is the same, `value` itself. Raises StateFormatError."""
    value = current(value, rules)
    if len(value) >= HEADER.size and t < next_change_of(value):
        return value
    return pack(advance(unpack(value), t, rules))
