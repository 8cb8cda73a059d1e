"""The entries of a customer's state, indexed by order, with sums that follow each change of one order.

What an order amounts to depends on its own entries alone, unless two events have one id. So the sums of all orders
change by the difference that one order makes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import CANCELLED, NEVER, NONE, PLACED, REFUNDED, UNREVISED, Entry, after
from segmentation.life import NOTHING_FOLDED, Folded, Life, count_days, day_of, life_of
from segmentation.meaning import Reading, net, read, read_counted, saturated
from segmentation.pieces import Pieces
from segmentation.state_tail import is_beyond_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segmentation.entries import Rules
    from segmentation.state_bytes import CustomerState

# Sums of so many amounts (10^15 at most, by the decoder) don't saturate; and a longer history of one order is rare.
_LARGEST_ORDER: Final = 1_000
_EXACT_MONEY: Final = 2**62


class Departure(NamedTuple):
    """The orders and the money that leave the window at one instant."""

    at: int  # ms
    orders: int
    units: int  # ten-thousandths


class Departures(NamedTuple):
    """The figures of the window at an instant, and the departures from then on, in order."""

    frequency: int
    monetary: int  # ten-thousandths
    changes: list[Departure]


class OpenEntries:
    """The entries of one customer's state, and the figures that follow from them."""

    __slots__ = (
        "_agrees", "_beyond", "_current", "_days", "_entries", "_events", "_indexed", "_orders", "_pieces", "_revised",
        "_rules", "_standing", "_state",
    )  # fmt: skip

    def __init__(self, state: CustomerState, rules: Rules) -> None:
        self._rules = rules
        self._open(state)

    def _open(self, state: CustomerState) -> None:
        self._state = state
        self._entries = list(state.entries)
        self._indexed = False
        self._agrees = True  # the header's figures are those of the entries
        self._orders: dict[int, list[Entry]] = {}  # by the hash of the order's id; without orders' ids: none
        self._events: Counter[int] = Counter()
        self._standing: list[int] = []  # the times of the orders that stand, ascending
        self._days: Counter[int] = Counter()  # of those after the cut
        self._current = Life()  # without what is folded
        self._revised = sum([e.revision != UNREVISED for e in self._entries])
        self._beyond = sum([is_beyond_row(e) for e in self._entries])  # wide or foreign
        self._pieces = Pieces()

    def departures(self, at: int, most: int) -> Departures | None:
        """Return what the window still holds at an instant, and the next changes as entries leave it, `most` of them.

        It looks at no more entries than it needs. None: more than leaving may change the figures.
        """
        state, entries, (window, _, _) = self._state, self._entries, self._rules
        first = bisect_left(entries, (after(max(state.next_change - 1 - window, state.cut)),))
        left = entries[first - 1].time + window if first else NONE
        if not self._is_settled() or at < max(state.newest, left):
            return None
        frequency, money, changes = state.frequency, state.monetary, list[Departure]()
        for e in islice(entries, first, None):
            leaving = self._departure(e)
            if leaving is None:
                return None
            orders, units = leaving
            instant = e.time + window
            if instant <= at:
                frequency, money = frequency - orders, money - units
            elif changes and changes[-1].at == instant:
                changes[-1] = Departure(instant, changes[-1].orders + orders, changes[-1].units + units)
            elif orders or units:
                if len(changes) == most:
                    break
                changes.append(Departure(instant, orders, units))
        return Departures(frequency, money, changes)

    def _departure(self, e: Entry) -> tuple[int, int] | None:
        """Return (orders, money) that leave with an entry in the window; None: other orders may matter to it."""
        own = self._orders_of([e])
        if own is None:
            return None
        if e.order == 0:
            return 0, -e.amount
        if e.kind != PLACED:
            return 0, 0
        if len(own) == 1:
            return 1, e.amount
        counting = read_counted(own, self._state.next_change - 1, self._state.cut, self._rules)
        return (1, net(e, counting.refunds)) if counting.orders.get(e.order) == e else (0, 0)

    def _index(self, t: int) -> None:
        """Index the entries by what they amount to at `t`, an instant at which the header holds."""
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
        # What was just forgotten may have kept another entry from counting, where takers came too late.
        figures = self._state.frequency, self._state.monetary, self._state.life
        life = self._life(self._state.folded, cut)
        self._agrees = figures == (reading.frequency, reading.monetary, life)

    def _is_settled(self) -> bool:
        """Return whether no entry is dated ahead, and no sum is near its limit: then entries can only leave."""
        entries, next_change = self._entries, self._state.next_change
        if not entries or entries[-1].time >= next_change:
            return False
        self._index(next_change - 1)
        return self._agrees and self._sums_are_exact()

    def _orders_of(self, some: Iterable[Entry]) -> list[Entry] | None:
        """Return all entries of the orders of some entries, sorted; None where others may matter to these."""
        found, seen = list[Entry](), set[int]()
        for e in some:
            own = self._orders.get(e.order, []) if e.order else [e]
            if e.order in seen:
                continue
            if e.order:
                seen.add(e.order)
            if len(own) > _LARGEST_ORDER or any(self._events[x.event] > 1 for x in own):
                return None
            found += own
        return sorted(found)

    def _replace_first(self, count: int, rest: list[Entry]) -> None:
        """Put others in the place of the first entries."""
        old = self._entries[:count]
        self._entries[:count] = rest
        for e in old:
            self._forget(e)
            if e.order:
                self._orders[e.order].remove(e)
                if not self._orders[e.order]:
                    del self._orders[e.order]
        for e in rest:
            self._know(e)
            if e.order:
                insort(self._orders.setdefault(e.order, []), e)

    def _know(self, e: Entry) -> None:
        self._events[e.event] += 1
        self._revised += e.revision != UNREVISED
        self._beyond += is_beyond_row(e)

    def _forget(self, e: Entry) -> None:
        self._revised -= e.revision != UNREVISED
        self._beyond -= is_beyond_row(e)
        self._events[e.event] -= 1
        if not self._events[e.event]:
            del self._events[e.event]

    def _sums_are_exact(self) -> bool:
        sums = self._state.monetary, self._state.folded.money, self._current.money
        return max([abs(units) for units in sums]) < _EXACT_MONEY

    def _life(self, folded: Folded, cut: int) -> Life:
        """Return the figures of the whole life: what is folded, and what isn't."""
        coming = bisect_left(self._standing, cut + 1)
        first = self._standing[coming] if coming < len(self._standing) else NEVER
        orders, money = folded.orders + self._current.orders, saturated(folded.money + self._current.money)
        return Life(orders, count_days(folded, self._days), money, min(folded.first, first))

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
            if now:
                self._orders[e.order] = now
            else:
                del self._orders[e.order]
        cut = self._state.cut
        was, is_ = read(before, t, cut, self._rules), read(now, t, cut, self._rules)
        self._count_reading(was, cut, -1)
        self._count_reading(is_, cut, 1)
        return sums[0] + is_.frequency - was.frequency, sums[1] + is_.monetary - was.monetary

    def _count_reading(self, reading: Reading, cut: int, by: int) -> None:
        """Add what some orders amount to, or take it away. `by`: 1 or -1; `cut`: the state's when they were read."""
        for x in reading.standing:
            if by > 0:
                insort(self._standing, x.time)
            else:
                del self._standing[bisect_left(self._standing, x.time)]
            if x.kind == PLACED and x.time > cut:
                self._count_day(x, by)
        lives = life_of(NOTHING_FOLDED, reading.standing, reading.refunds, cut, self._rules)
        current = self._current
        self._current = current._replace(
            orders=current.orders + by * lives.orders, money=current.money + by * lives.money
        )

    def _count_day(self, order: Entry, by: int) -> None:
        day = day_of(order.time)
        self._days[day] += by
        if not self._days[day]:
            del self._days[day]
