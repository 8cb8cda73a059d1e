"""A customer's state held open while many events are merged into it: each costs little, whatever the state's size.

The result is, after every event, byte for byte that of `rfm.absorb_bytes`. There an event that isn't a plain new order
costs a reading of all entries; a customer id that thousands of guests share would hold up everybody else for seconds.
Here an event changes the figures of its own order alone. Whatever might reach further is merged as there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from segmentation.entries import ANCHOR, CANCELLED, ERASED, NEVER, NONE, PLACED, REFUNDED, Entry, after, read, saturated
from segmentation.rfm import Outcome, next_change_at, settle
from segmentation.state_bytes import EMPTY, HEADER, VERSION, CustomerState, pack_entries, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segmentation.entries import Rules

# Sums of so many amounts (10^15 at most, by the decoder) don't saturate; and a longer history of one order is rare.
_LARGEST_ORDER: Final = 1_000
_EXACT_MONEY: Final = 2**62


class OpenState:
    """The state of one customer, changed by one event after the other."""

    __slots__ = ("_entries", "_events", "_indexed", "_orders", "_rules", "_standing", "_state", "changed", "muted")

    def __init__(self, value: bytes | None, rules: Rules) -> None:
        """`value` None: a customer without a state. Raises StateFormatError."""
        self._rules = rules
        self._open(unpack(EMPTY if value is None else value))
        self.muted = self._state.muted  # the slot of the backfill that mutes the customer; 0: none
        self.changed = False  # the last event changed more than the passing of time alone

    def _open(self, state: CustomerState) -> None:
        self._state = state
        self._entries = list(state.entries)
        self._indexed = False
        self._orders: dict[int, list[Entry]] = {}  # by the hash of the order's id; without orders' ids: none
        self._events: Counter[int] = Counter()
        self._standing: list[int] = []  # the times of the orders that stand, ascending

    @property
    def capped(self) -> bool:
        """Whether the cap has put the state's cut where it is."""
        return self._state.capped

    @property
    def silent(self) -> bool:
        """Whether neither time nor a model may move the customer (`state_bytes.is_silent`)."""
        return self.muted != 0 or (self._state.first == NEVER and self._state.segment != 0)

    def header(self) -> bytes:
        """Return the first 72 bytes of the state."""
        s = self._state
        figures = (s.frequency, s.monetary, s.last, s.first, s.newest, s.next_change, s.cut)
        flags = s.capped | self.muted << 1
        return HEADER.pack(VERSION, flags, s.segment, s.sequence, s.moved_at, len(self._entries), *figures)

    def value(self) -> bytes:
        """Return the state's bytes."""
        return self.header() + pack_entries(self._entries)

    def absorb(self, e: Entry, t: int) -> Outcome:
        """Merge one more event at clock `t`, which never goes back, as `rfm.absorb` does."""
        if t >= self._state.next_change:
            self._settle(self._entries, t)
        entries, state = self._entries, self._state
        self.changed = False
        at = bisect_left(entries, e)
        if at < len(entries) and entries[at] == e:
            return Outcome.REPEAT
        if entries and entries[0].kind == ERASED and e.time <= entries[0].time:
            return Outcome.ERASED
        if e.kind == ERASED:
            self._settle([*entries, e], t)
            self.changed = True
            return Outcome.NEW
        if e.time <= state.cut:
            self._absorb_late(e, t)
            return Outcome.LATE
        self._index(t)
        outcome = Outcome.CONFLICT if e.event and self._events[e.event] else Outcome.NEW
        if outcome is Outcome.CONFLICT or not self._add(e, t):
            self._settle([*entries, e], t)
        self.changed = True
        return outcome

    def _settle(self, entries: Sequence[Entry], t: int) -> None:
        self._open(settle(self._state, entries, t, self._rules))

    def _absorb_late(self, e: Entry, t: int) -> None:
        """Merge an event from before the cut. Over the cap, or behind the anchor, an order moves `first` at most."""
        state, (window, grace, _) = self._state, self._rules
        # An entry that has left the window may put the cut where the cap has put it: then the cap no longer shows.
        over = state.capped and (e.time > t - window or e.time - grace < state.cut)
        if over or (not state.capped and e.kind == PLACED and self._is_behind_anchor(e)):
            self.changed = e.kind == PLACED and e.time < state.first
            if self.changed:
                self._state = replace(state, first=e.time)
            return
        before = replace(state, entries=tuple(self._entries))
        self._settle([*self._entries, e], t)
        self.changed = self._state != before

    def _is_behind_anchor(self, e: Entry) -> bool:
        old = self._entries[: bisect_left(self._entries, (after(self._state.cut),))]
        return any(x.kind == ANCHOR and e.rank < x.rank for x in old)

    def _index(self, t: int) -> None:
        if self._indexed:
            return
        self._indexed = True
        for e in self._entries:
            if e.order:
                self._orders.setdefault(e.order, []).append(e)
        self._events = Counter([e.event for e in self._entries])
        self._standing = [e.time for e in read(self._entries, t, self._state.cut, self._rules).standing[::-1]]

    def _add(self, e: Entry, t: int) -> bool:
        """Add an entry after the cut by what it changes of its own order. False: it may change more; it isn't added."""
        state, entries, (window, grace, cap) = self._state, self._entries, self._rules
        reaches_cut = e.time <= t - window and e.time - grace >= state.cut  # the newest that left the window sets it
        if reaches_cut or abs(state.monetary) >= _EXACT_MONEY or self._own(e) is None:
            return False
        if (
            entries and entries[0].kind == ERASED and entries[0].time > t
        ):  # an erasure dated ahead: no instant of change
            return False
        at, cut, dropped = bisect_left(entries, e), state.cut, list[Entry]()
        if len(entries) >= cap:
            # With one more, the (cap + 1)th newest goes, and all of its instant.
            over = len(entries) - cap
            cut = (entries[over] if over < at else e if over == at else entries[over - 1]).time
            dropped = entries[: bisect_left(entries, (after(cut),))]
            if e.time <= cut:
                insort(dropped, e)
            if not self._may_drop(dropped, t - window):
                return False
        entries.insert(at, e)
        self._events[e.event] += 1
        sums = self._moved((state.frequency, state.monetary), e, t, added=True)
        for x in dropped:
            sums = self._moved(sums, x, t, added=False)
            self._events[x.event] -= 1
        del entries[: len(dropped)]
        self._state = replace(
            state,
            frequency=sums[0],
            monetary=saturated(sums[1]),
            last=self._standing[-1] if self._standing else NONE,
            first=min(state.first, e.time) if e.kind == PLACED else state.first,
            newest=entries[-1].time if entries else NONE,
            next_change=next_change_at(entries, t, cut, window),
            cut=cut,
        )
        return True

    def _may_drop(self, dropped: Sequence[Entry], left: int) -> bool:
        """Return whether the cap may drop these by what they change of their own orders. `left`: the window's start."""
        entries = self._entries
        plain = self._state.capped and entries[0].kind != ERASED and dropped[0].time > left
        return plain and all(self._own(x) is not None for x in dropped)

    def _own(self, e: Entry) -> list[Entry] | None:
        """Return the entries of an entry's order, sorted; None where more than these may matter to what it changes."""
        if e.order == 0:
            return [] if e.kind == REFUNDED and self._events[e.event] <= 1 else None
        own = self._orders.get(e.order, [])
        cut, events = self._state.cut, self._events
        if len(own) > _LARGEST_ORDER:
            return None
        for x in own:
            if events[x.event] > 1 or (x.time <= cut and x.kind != CANCELLED):
                return None
        return own

    def _moved(self, sums: tuple[int, int], e: Entry, t: int, *, added: bool) -> tuple[int, int]:
        """Return (frequency, monetary) after an entry was added to its order, or taken from it."""
        if e.order == 0:
            before, now = ([], [e]) if added else ([e], [])
        else:
            before = self._orders.get(e.order, [])
            now = [*before, e] if added else [x for x in before if x != e]
            now.sort()
            self._orders[e.order] = now
        cut = self._state.cut
        was, is_ = read(before, t, cut, self._rules), read(now, t, cut, self._rules)
        for x in was.standing:
            del self._standing[bisect_left(self._standing, x.time)]
        for x in is_.standing:
            insort(self._standing, x.time)
        return sums[0] + is_.frequency - was.frequency, sums[1] + is_.monetary - was.monetary
