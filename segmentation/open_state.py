"""A customer's state held open while many events are merged into it: each costs little, whatever the state's size.

The result is, after every event, byte for byte that of `rfm.absorb_bytes`. There an event that isn't a plain new order
costs a reading of all entries; a customer id that thousands of guests share would hold up everybody else for seconds.
Here an event changes the figures of its own order alone. Whatever might reach further is merged as there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from segmentation.entries import ANCHOR, ERASED, NEVER, NONE, PLACED, UNREVISED, Entry, after
from segmentation.life import NOTHING_FOLDED, Folded, fold
from segmentation.links import NO_LINKS
from segmentation.meaning import read, saturated
from segmentation.open_entries import OpenEntries
from segmentation.pieces import Pieces
from segmentation.rfm import Outcome, next_change_at, outcome_of_known, outcome_of_placed, remnant, settle
from segmentation.state_bytes import EMPTY, pack, pack_entries, pack_header, unpack
from segmentation.state_former import current
from segmentation.state_tail import begin_tail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segmentation.entries import Rules
    from segmentation.pieces import StateParts

WORTH_HOLDING: Final = 4_096  # bytes of a state from which on it is held open for many turns


class OpenState(OpenEntries):
    """The state of one customer, changed by one event after the other."""

    __slots__ = ("changed", "dirty", "muted")

    def __init__(self, value: bytes | None, rules: Rules) -> None:
        """`value` None: a customer without a state. Raises StateFormatError."""
        super().__init__(unpack(EMPTY if value is None else current(value, rules)), rules)
        self.muted = self._state.muted  # the slot of the backfill that mutes the customer; 0: none
        self.changed = False  # the last event changed more than the passing of time alone
        self.dirty = False  # some event since it was opened or stored did

    @property
    def size(self) -> int:
        """The number of entries."""
        return len(self._entries)

    @property
    def segment(self) -> int:
        """The segment published last; 0: none."""
        return self._state.segment

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
        state = self._state
        tail = self._revised > 0 or self._beyond > 0 or state.folded != NOTHING_FOLDED or state.links != NO_LINKS
        return pack_header(self._state, len(self._entries), self.muted, tail=tail)

    def value(self) -> bytes:
        """Return the state's bytes."""
        return pack(replace(self._state, entries=tuple(self._entries), muted=self.muted))

    def advance(self, t: int) -> None:
        """Bring the state to clock `t`, which never goes back, as `rfm.advance` does."""
        if t >= self._state.next_change and not self._leave(t):
            self._settle(self._entries, t)

    def is_for(self, e: Entry, t: int) -> bool:
        """Return whether time passes in the state only with a change that the event makes.

        A repeat leaves a stored state as it was, with moves by time that may still have to be made.
        """
        at = bisect_left(self._entries, e)
        return t < self._state.next_change or (e.time > t - self._rules.window and e not in self._entries[at : at + 1])

    def parts(self) -> StateParts | None:
        """Return the state's bytes in parts; None: they can't be divided, because the tail names some of the rows."""
        if self._beyond or self._state.links != NO_LINKS:
            return None
        first, revised = bisect_left(self._entries, (after(self._state.cut),)), self._revised > 0
        before = self._entries[:first]
        middle = begin_tail(self._state.folded, before, revised=revised)
        return self._pieces.parts(self.header() + pack_entries(before), middle, self._entries, first, revised=revised)

    def stored(self, *, in_parts: bool) -> None:
        """Note that the state is stored as it is now: its parts, or else its bytes."""
        self.dirty = False
        if not in_parts:
            self._pieces = Pieces()
            return
        self._pieces.stored(revised=self._revised > 0)

    def absorb(self, e: Entry, t: int) -> Outcome:
        """Merge one more event at clock `t`, which never goes back, as `rfm.absorb` does."""
        self.advance(t)
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
        self._index(t)
        over = state.capped and (e.time > t - window or e.time - grace < state.cut)
        final = not state.capped and e.kind == PLACED and e.revision == UNREVISED and self._is_behind_anchor(e)
        if self._agrees and (over or final):
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

    def _add(self, e: Entry, t: int) -> bool:
        """Add an entry after the cut by what it changes of its own order. False: it may change more; it isn't added."""
        state, entries, (window, grace, cap) = self._state, self._entries, self._rules
        reaches_cut = e.time <= t - window and e.time - grace >= state.cut  # the newest that left the window sets it
        if reaches_cut or not self._agrees or not self._sums_are_exact() or self._own(e) is None:
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
        self._pieces.inserted(at - bisect_left(entries, (after(state.cut),)))
        entries.insert(at, e)
        self._know(e)
        sums = self._moved((state.frequency, state.monetary), e, t, added=True)
        folded = self._fold(dropped, t, cut) if dropped else state.folded
        for x in dropped:
            sums = self._moved(sums, x, t, added=False)
            self._forget(x)
        del entries[: len(dropped)]
        self._pieces.left(len(dropped))
        first = min(state.first, e.time) if e.kind == PLACED else state.first
        self._note(sums, first, t, cut, folded)
        return True

    def _leave(self, t: int) -> bool:
        """Let entries leave the window, and the cut follow, by what changes of their own orders.

        False: more may change, so nothing has been done (an entry dated ahead, an erasure, a cap that shows no longer).
        """
        state, entries, (window, grace, _) = self._state, self._entries, self._rules
        if not self._is_settled() or entries[0].kind == ERASED or (state.cut == NONE and state.folded.days):
            return False
        left = bisect_left(entries, (after(t - window),))
        aged = entries[left - 1].time - grace if left else NONE
        if state.capped and state.cut <= aged:
            return False
        cut = max(state.cut, aged)
        passed = bisect_left(entries, (after(cut),)) if cut > state.cut else 0
        first = bisect_left(entries, (after(max(state.next_change - 1 - window, state.cut)),))
        own = self._orders_of([*entries[:passed], *entries[first:left]])
        if own is None:
            return False
        # The header holds up to, not including, the next change.
        was, now = read(own, state.next_change - 1, state.cut, self._rules), read(own, t, cut, self._rules)
        self._count_reading(was, state.cut, -1)
        folded, kept = state.folded, now
        if passed:
            ahead = own[bisect_left(own, (after(cut),)) :]
            folded = fold(folded, now.standing, now.refunds, state.cut, cut, self._rules)
            rest = remnant(entries[:passed], ahead, now, cut, self._rules)
            self._pieces.left(passed - bisect_left(entries, (after(state.cut),)))
            self._replace_first(passed, rest)
            kept = read([*rest, *ahead], t, cut, self._rules)
        self._count_reading(kept, cut, 1)
        self._agrees = (kept.frequency, kept.monetary) == (now.frequency, now.monetary)
        sums = state.frequency + now.frequency - was.frequency, state.monetary + now.monetary - was.monetary
        self._note(sums, state.first, t, cut, folded)
        return True

    def _note(self, sums: tuple[int, int], first: int, t: int, cut: int, folded: Folded) -> None:
        """Fill the header as of `t`, from the entries, `first` and these sums (frequency, monetary)."""
        entries = self._entries
        self._state = replace(
            self._state,
            frequency=sums[0],
            monetary=saturated(sums[1]),
            last=self._standing[-1] if self._standing else NONE,
            first=first,
            newest=entries[-1].time if entries else NONE,
            next_change=next_change_at(entries, t, cut, self._rules.window),
            cut=cut,
            life=self._life(folded, cut),
            folded=folded,
        )

    def _fold(self, dropped: Sequence[Entry], t: int, cut: int) -> Folded:
        """Return what is folded once the cap has dropped these entries."""
        standing, refunds = list[Entry](), [e for e in dropped if e.order == 0 and e.time <= t]
        for order in {e.order for e in dropped if e.order}:
            reading = read(self._orders[order], t, self._state.cut, self._rules)
            standing += reading.standing
            refunds += reading.refunds
        return fold(self._state.folded, standing, refunds, self._state.cut, cut, self._rules)

    def _may_drop(self, dropped: Sequence[Entry], left: int) -> bool:
        """Return whether the cap may drop these by what they change of their own orders. `left`: the window's start."""
        entries = self._entries
        plain = self._state.capped and entries[0].kind != ERASED and dropped[0].time > left
        return plain and all(self._own(x) is not None for x in dropped)
