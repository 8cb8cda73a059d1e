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

from segmentation.entries import ANCHOR, CANCELLED, ERASED, NEVER, NONE, PLACED, REFUNDED, UNREVISED, Entry, after
from segmentation.life import NOTHING_FOLDED, Folded, Life, count_days, day_of, fold, life_of
from segmentation.links import NO_LINKS
from segmentation.meaning import read, saturated
from segmentation.rfm import Outcome, next_change_at, outcome_of_known, outcome_of_placed, settle
from segmentation.state_bytes import EMPTY, CustomerState, pack, pack_header, unpack
from segmentation.state_former import current
from segmentation.state_tail import needs_tail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segmentation.entries import Rules

# Sums of so many amounts (10^15 at most, by the decoder) don't saturate; and a longer history of one order is rare.
_LARGEST_ORDER: Final = 1_000
_EXACT_MONEY: Final = 2**62


class OpenState:
    """The state of one customer, changed by one event after the other."""

    __slots__ = (
        "_current", "_days", "_entries", "_events", "_indexed", "_orders", "_rules", "_standing", "_state", "_tailed",
        "changed", "muted",
    )  # fmt: skip

    def __init__(self, value: bytes | None, rules: Rules) -> None:
        """`value` None: a customer without a state. Raises StateFormatError."""
        self._rules = rules
        self._open(unpack(EMPTY if value is None else current(value, rules)))
        self.muted = self._state.muted  # the slot of the backfill that mutes the customer; 0: none
        self.changed = False  # the last event changed more than the passing of time alone

    def _open(self, state: CustomerState) -> None:
        self._state = state
        self._entries = list(state.entries)
        self._indexed = False
        self._orders: dict[int, list[Entry]] = {}  # by the hash of the order's id; without orders' ids: none
        self._events: Counter[int] = Counter()
        self._standing: list[int] = []  # the times of the orders that stand, ascending
        self._days: Counter[int] = Counter()  # of those after the cut
        self._current = Life()  # without what is folded
        self._tailed = sum([needs_tail(e) for e in self._entries])

    @property
    def capped(self) -> bool:
        """Whether the cap has put the state's cut where it is."""
        return self._state.capped

    @property
    def silent(self) -> bool:
        """Whether neither time nor a model may move the customer (`state_bytes.is_silent`)."""
        return self.muted != 0 or (self._state.first == NEVER and self._state.segment != 0)

    def header(self) -> bytes:
        """Return the state's header."""
        tail = self._tailed > 0 or self._state.folded != NOTHING_FOLDED or self._state.links != NO_LINKS
        return pack_header(self._state, len(self._entries), self.muted, tail=tail)

    def value(self) -> bytes:
        """Return the state's bytes."""
        return pack(replace(self._state, entries=tuple(self._entries), muted=self.muted))

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
        known = e.event != 0 and self._events[e.event] > 0
        outcome = outcome_of_known(e, [x for x in entries if x.event == e.event]) if known else Outcome.NEW
        if outcome is Outcome.NEW and e.kind == PLACED:
            outcome = outcome_of_placed(e, self._orders.get(e.order, ()), self._rules.window)
        if known or not self._add(e, t):
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
        final = not state.capped and e.kind == PLACED and e.revision == UNREVISED and self._is_behind_anchor(e)
        if over or final:
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
        reading, cut = read(self._entries, t, self._state.cut, self._rules), self._state.cut
        self._standing = [e.time for e in reading.standing[::-1]]
        self._days = Counter([day_of(e.time) for e in reading.standing if e.time > cut and e.kind == PLACED])
        self._current = life_of(NOTHING_FOLDED, reading.standing, reading.refunds, cut, self._rules)

    def _add(self, e: Entry, t: int) -> bool:
        """Add an entry after the cut by what it changes of its own order. False: it may change more; it isn't added."""
        state, entries, (window, grace, cap) = self._state, self._entries, self._rules
        reaches_cut = e.time <= t - window and e.time - grace >= state.cut  # the newest that left the window sets it
        if reaches_cut or not self._sums_are_exact() or self._own(e) is None:
            return False
        if entries and entries[0].kind == ERASED and entries[0].time > t:
            return False  # an erasure dated ahead: no instant of change
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
        self._tailed += needs_tail(e)
        sums = self._moved((state.frequency, state.monetary), e, t, added=True)
        folded = self._fold(dropped, t, cut) if dropped else state.folded
        for x in dropped:
            sums = self._moved(sums, x, t, added=False)
            self._events[x.event] -= 1
            self._tailed -= needs_tail(x)
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
            life=self._life(folded, cut),
            folded=folded,
        )
        return True

    def _sums_are_exact(self) -> bool:
        sums = self._state.monetary, self._state.folded.money, self._current.money
        return max([abs(units) for units in sums]) < _EXACT_MONEY

    def _fold(self, dropped: Sequence[Entry], t: int, cut: int) -> Folded:
        """Return what is folded once the cap has dropped these entries."""
        standing, refunds = list[Entry](), [e for e in dropped if e.order == 0]
        for order in {e.order for e in dropped if e.order}:
            reading = read(self._orders[order], t, self._state.cut, self._rules)
            standing += reading.standing
            refunds += reading.refunds
        return fold(self._state.folded, standing, refunds, self._state.cut, cut, self._rules)

    def _life(self, folded: Folded, cut: int) -> Life:
        """Return the figures of the whole life: what is folded, and what isn't."""
        coming = bisect_left(self._standing, cut + 1)
        first = self._standing[coming] if coming < len(self._standing) else NEVER
        orders, money = folded.orders + self._current.orders, saturated(folded.money + self._current.money)
        return Life(orders, count_days(folded, self._days), money, min(folded.first, first))

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
            self._count_day(x, -1)
        for x in is_.standing:
            insort(self._standing, x.time)
            self._count_day(x, 1)
        lived, lives = (life_of(NOTHING_FOLDED, r.standing, r.refunds, cut, self._rules) for r in (was, is_))
        self._current = self._current._replace(
            orders=self._current.orders + lives.orders - lived.orders,
            money=self._current.money + lives.money - lived.money,
        )
        return sums[0] + is_.frequency - was.frequency, sums[1] + is_.monetary - was.monetary

    def _count_day(self, order: Entry, by: int) -> None:
        if order.kind != PLACED or order.time <= self._state.cut:
            return
        day = day_of(order.time)
        self._days[day] += by
        if not self._days[day]:
            del self._days[day]
