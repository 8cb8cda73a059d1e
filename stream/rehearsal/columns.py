"""Ordinary histories as columns: the figures of every customer after each of its events, without a state.

A history is ordinary if each order was placed once, under an event id of its own, and was at most refunded. Then the
state algebra comes down to sums: nothing that arrives takes an order away. Others go through states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segmentation.entries import DAY_MS, NONE, PLACED, REFUNDED, kinds_of, times_of
from segmentation.intervals import Intervals
from segmentation.money import UNITS
from segmentation.state_bytes import HEAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.entries import Entry, Rules

    Ints = NDArray[np.int64]

_LEAVES, _STARTS, _COMES = 0, 1, 2  # the order of changes at one instant


class ReplaySpan(NamedTuple):
    """The time of a replay, [start, end), ms: the model starts at its beginning."""

    start: int
    end: int


def is_ordinary(own: Sequence[Entry], rules: Rules) -> bool:
    """Return whether a history, in time order, can be computed as sums.

    A refund must come within a window of its order: later, the order may be forgotten already.
    """
    if len(own) > rules.cap or not own or own[0].key & 7 != PLACED:
        return False
    orders: dict[int, int] = {}
    events = set()
    for key, order, _, event, _, foreign in own:
        if foreign or event in events:
            return False
        events.add(event)
        kind = key & 7
        if kind == PLACED:
            if order in orders:
                return False
            orders[order] = key >> 3
        elif kind != REFUNDED or (order and (key >> 3) - orders.get(order, NONE) >= rules.window):
            return False
    return True


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a group's customers, in columns [items]: the model's start, then the events from there on.

    Those of customer i are [offset[i], offset[i + 1]). `head`: the state's header after each, as far as decisions need
    it. The figures of the window change with each item and with each entry that leaves it: [changes].
    """

    offset: Ints  # [customers + 1]
    at: Ints  # ms
    end: Ints  # ms: of the next item, or of the span
    is_start: NDArray[np.bool_]
    came: Ints  # ms: of the latest entry
    kind: Ints  # of the latest entry
    head: NDArray[np.void]
    first: Ints  # its place among the changes
    stop: Ints  # where the changes until the next item end
    change_at: Ints
    frequency: Ints  # orders
    monetary: Ints  # ten-thousandths

    def intervals(self, rows: Ints) -> Intervals:
        """Return the time from each of some items to the next, cut into intervals."""
        first, count = self.first[rows], self.stop[rows] - self.first[rows]
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
        place = np.arange(offset[-1]) + np.repeat(first - offset[:-1], count)
        return Intervals(
            offset,
            self.change_at[place],
            self.frequency[place].astype(np.float64),
            self.monetary[place] / float(UNITS),
            self.end[rows],
        )

    def change_before(self, rows: Ints, at: Ints) -> Ints:
        """Return the place of the latest change up to an instant between each of some items and the next."""
        places = [
            first + 1 + int(np.searchsorted(self.change_at[first + 1 : stop], instant, side="right"))
            for first, stop, instant in zip(
                self.first[rows].tolist(), self.stop[rows].tolist(), at.tolist(), strict=True
            )
        ]
        return np.array(places, dtype=np.int64) - 1

    def leaves_at(self, rows: Ints, at: Ints) -> NDArray[np.bool_]:
        """Return whether an entry leaves the window at exactly an instant between each of some items and the next."""
        place = self.change_before(rows, at)
        leaves: NDArray[np.bool_] = (place > self.first[rows]) & (self.change_at[place] == at)
        return leaves

    def head_at(self, rows: Ints, at: Ints) -> NDArray[np.void]:
        """Return headers as of an instant between each of some items and the next."""
        head, place = self.head[rows], self.change_before(rows, at)
        head["frequency"], head["monetary"] = self.frequency[place], self.monetary[place]
        return head


class _Entries(NamedTuple):
    """All entries before the span's end, in columns [entries], by customer and time."""

    owner: Ints
    time: Ints
    kind: Ints
    money: Ints  # what each adds, ten-thousandths
    leaving: Ints  # what leaves the window with it: of an order, the rest after all its refunds
    begin: Ints  # [customers]: the first of each

    @property
    def placed(self) -> NDArray[np.bool_]:
        placed: NDArray[np.bool_] = self.kind == PLACED
        return placed


def items_of(histories: Sequence[Sequence[Entry]], span: ReplaySpan, rules: Rules) -> Items:
    """Return the items of ordinary histories, each with an entry before the span's end."""
    entries = _entries(histories, span)
    customers, n = entries.begin.size, entries.time.size
    known = np.flatnonzero(entries.time[entries.begin] < span.start)
    # A refund that names an order leaves with it.
    leaves = np.flatnonzero(entries.placed | (entries.leaving != 0))
    nothing = np.zeros(known.size, np.int64)
    owner = np.concatenate([entries.owner[leaves], known, entries.owner])
    at = np.concatenate([entries.time[leaves] + rules.window, nothing + span.start, entries.time])
    stage = np.repeat(np.array([_LEAVES, _STARTS, _COMES]), [leaves.size, known.size, n])
    order = np.lexsort((stage, at, owner))
    owner, at, stage = owner[order], at[order], stage[order]
    came = np.concatenate([np.full(leaves.size + known.size, -1), np.arange(n)])[order]
    first = np.searchsorted(owner, np.arange(customers + 1))
    frequency = np.concatenate([-entries.placed[leaves].astype(np.int64), nothing, entries.placed.astype(np.int64)])
    frequency = _sums(frequency[order], owner, first)
    monetary = _sums(np.concatenate([-entries.leaving[leaves], nothing, entries.money])[order], owner, first)
    place = np.flatnonzero((stage == _STARTS) | ((stage == _COMES) & (at >= span.start)))
    latest = np.maximum.accumulate(came)[place]  # each customer's changes begin with an entry
    head = _heads(entries)[latest]
    head["frequency"], head["monetary"] = frequency[place], monetary[place]
    offset = np.searchsorted(owner[place], np.arange(customers + 1))
    ends = offset[1:][np.diff(offset) > 0] - 1  # each customer's last item
    end, stop = np.append(at[place][1:], span.end), np.append(place[1:], at.size)
    end[ends], stop[ends] = span.end, first[1:][owner[place[ends]]]
    return Items(
        offset=offset,
        at=at[place],
        end=end,
        is_start=stage[place] == _STARTS,
        came=entries.time[latest],
        kind=entries.kind[latest],
        head=head,
        first=place,
        stop=stop,
        change_at=at,
        frequency=frequency,
        monetary=monetary,
    )


def _entries(histories: Sequence[Sequence[Entry]], span: ReplaySpan) -> _Entries:
    rows: list[tuple[int, int, int]] = []
    begin = []
    for own in histories:
        begin.append(len(rows))
        orders: dict[int, int] = {}
        for key, order, units, *_ in own:
            if key >> 3 >= span.end:
                break
            # Of a refund the row of its order; of an order, and of a refund that names none, its own.
            row = orders.setdefault(order, len(rows)) if order else len(rows)
            rows.append((key, units, row))
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
    keys, amount, of = columns[:, 0], columns[:, 1], columns[:, 2]
    time, kind = times_of(keys), kinds_of(keys)
    money = np.where(kind == PLACED, amount, -amount)
    leaving = np.zeros(len(rows), np.int64)
    np.add.at(leaving, of, money)
    starts = np.array(begin, dtype=np.int64)
    owner = np.repeat(np.arange(starts.size), np.diff(np.append(starts, len(rows))))
    return _Entries(owner, time, kind, money, leaving, starts)


def _sums(column: Ints, owner: Ints, first: Ints) -> Ints:
    """Return the running sums of each customer."""
    total: Ints = np.cumsum(column)
    before: Ints = np.concatenate([np.zeros(1, np.int64), total])[first[:-1]]
    own: Ints = total - before[owner]
    return own


def _heads(entries: _Entries) -> NDArray[np.void]:
    """Return headers with the figures of the whole life after each entry."""
    head = np.zeros(entries.time.size, HEAD)
    placed, begin = entries.placed, np.append(entries.begin, entries.time.size)
    rows = np.arange(entries.time.size)
    last = np.maximum.accumulate(np.where(placed, rows, 0))  # the latest order: each customer begins with one
    before = np.concatenate([np.zeros(1, np.int64), last[:-1]])
    day = entries.time // DAY_MS
    new_day = placed & ((day != day[before]) | (rows == entries.begin[entries.owner]))
    head["last"] = entries.time[last]
    head["life_first"] = entries.time[entries.begin][entries.owner]
    head["life_orders"] = _sums(placed.astype(np.int64), entries.owner, begin)
    head["life_days"] = _sums(new_day.astype(np.int64), entries.owner, begin)
    head["life_money"] = _sums(entries.money, entries.owner, begin)
    return head
