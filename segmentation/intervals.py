"""Intervals of time in which a customer's frequency and monetary value stand still, for the search of the next move.

If nothing more happens, the two change only when something leaves the window: an order with the refunds that name it,
or a refund that names none. Both leave one window after their own time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.entries import ERASED, times_of
from segmentation.meaning import net, read_counted, refunds_by_order, saturated
from segmentation.money import UNITS
from segmentation.open_entries import Departure, Departures
from segmentation.rfm import advance_bytes, headers, rows, unpack
from segmentation.state_bytes import cut_of, times_in
from segmentation.step import NEVER_DUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segmentation.open_state import OpenState
    from segmentation.rfm import CustomerState, Rules

MOST_INTERVALS: Final = 64  # of a customer; later ones are searched when these are over
_EXACT_MONEY: Final = 2**62  # sums below this haven't saturated, so they can be taken apart again


@dataclass(frozen=True, slots=True)
class Intervals:
    """The intervals of customer i are [offset[i], offset[i + 1]), in order. Each ends where the next begins.

    The last one ends at until[i], exclusive.
    """

    offset: NDArray[np.int64]  # [customers + 1]
    start: NDArray[np.int64]  # [intervals], ms
    frequency: NDArray[np.float64]  # [intervals], orders
    monetary: NDArray[np.float64]  # [intervals], currency units
    until: NDArray[np.int64]  # [customers], ms; NEVER_DUE: no end


@dataclass(frozen=True, slots=True)
class _Changes:
    """The changes after the first intervals, by owner and time; figures in whole numbers, as of each change."""

    owner: NDArray[np.int64]
    rank: NDArray[np.int64]  # 0 for an owner's first
    start: NDArray[np.int64]
    frequency: NDArray[np.int64]
    monetary: NDArray[np.int64]


def intervals_of(
    values: Sequence[bytes], as_of: NDArray[np.int64], rules: Rules, limit: int = MOST_INTERVALS
) -> Intervals:
    """Cut each customer's future, from its own instant on, into intervals within which `read` gives the same figures.

    At most `limit` intervals a customer. `until` is where the first one left out would begin, or the first entry dated
    later than as_of, if that is earlier: its effect is for a state that has been advanced to it. Raises
    StateFormatError.
    """
    head = headers(values)
    plain, changes = _plain(values, head, as_of, rules)
    # Few: customers with refunds, cancellations or anything unusual in the window.
    general = {i: _general(unpack(values[i]), int(as_of[i]), rules, limit) for i in np.flatnonzero(~plain).tolist()}
    until = np.full(len(values), NEVER_DUE, np.int64)
    cut_off = changes.rank == limit - 1
    until[changes.owner[cut_off]] = changes.start[cut_off]
    shown = changes.rank < limit - 1
    owner = changes.owner[shown]
    count = 1 + np.bincount(owner, minlength=len(values))
    for i, course in general.items():
        count[i], until[i] = len(course.start), course.until
    offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(count, dtype=np.int64)])
    start, frequency, monetary = (np.empty(offset[-1], np.int64) for _ in range(3))
    first = offset[:-1]
    start[first], frequency[first], monetary[first] = as_of, head["frequency"], head["monetary"]
    at = first[owner] + 1 + changes.rank[shown]
    start[at], frequency[at], monetary[at] = changes.start[shown], changes.frequency[shown], changes.monetary[shown]
    for i, course in general.items():
        own = slice(offset[i], offset[i + 1])
        start[own], frequency[own], monetary[own] = course.start, course.frequency, course.monetary
    return Intervals(offset, start, frequency.astype(np.float64), monetary / float(UNITS), until)


def _plain(
    values: Sequence[bytes], head: NDArray[np.void], as_of: NDArray[np.int64], rules: Rules
) -> tuple[NDArray[np.bool_], _Changes]:
    """Find the customers whose window holds standing orders only, and when these leave.

    That is the case if the entries in the window are as many as the header's frequency, none lies ahead, and the header
    holds: anything but a standing order would be one entry more. Their amounts must be the header's money, too: a
    refund dated before its order may have left the window already and still be subtracted.
    """
    customers = np.arange(len(values))
    n = head["n"].astype(np.int64)
    entry = rows(values)
    owner = np.repeat(customers, n)
    time = times_of(entry["key"])
    start = np.maximum(as_of - rules.window, head["cut"])
    inside = time > start[owner]
    ahead = inside & (time > as_of[owner])
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.where(inside, entry["amount"], 0), dtype=np.int64)])
    ends = np.cumsum(n, dtype=np.int64)
    plain = (
        (np.bincount(owner[inside], minlength=customers.size) == head["frequency"])
        & (np.bincount(owner[ahead], minlength=customers.size) == 0)
        & (as_of < head["next_change"])
        & (np.abs(head["monetary"]) < _EXACT_MONEY)
        & (sums[ends] - sums[ends - n] == head["monetary"])
    )
    taken = np.flatnonzero(inside & plain[owner])
    owner, leaves = owner[taken], time[taken] + rules.window
    # Sums may wrap round in 64 bits over all customers; their differences within one are exact all the same.
    lost = np.cumsum(entry["amount"][taken], dtype=np.int64)
    last = np.empty(taken.size, np.bool_)  # the last of those that leave at one instant
    last[-1:] = True
    last[:-1] = (owner[1:] != owner[:-1]) | (leaves[1:] != leaves[:-1])
    before = np.searchsorted(owner, customers)  # each customer's first row
    left = np.arange(1, taken.size + 1) - before[owner]
    lost_before = np.concatenate([np.zeros(1, np.int64), lost])[before]
    frequency = head["frequency"][owner].astype(np.int64) - left
    monetary = head["monetary"][owner] - (lost - lost_before[owner])
    owner = owner[last]
    rank = np.arange(owner.size) - np.searchsorted(owner, customers)[owner]
    return plain, _Changes(owner, rank, leaves[last], frequency[last], monetary[last])


@dataclass(frozen=True, slots=True)
class _Course:
    """One customer's intervals, as lists of whole numbers."""

    start: list[int]
    frequency: list[int]
    monetary: list[int]
    until: int


def _general(state: CustomerState, as_of: int, rules: Rules, limit: int) -> _Course:
    """Find the intervals of one customer with anything in the window, O(n log n).

    Without entries dated ahead it is fixed which orders stand: they can only leave, with their refunds.
    """
    counting = read_counted(state.entries, as_of, state.cut, rules)
    leaving: dict[int, tuple[int, int]] = {}  # instant -> orders and money that leave

    def leave(time: int, orders: int, money: int) -> None:
        so_far = leaving.get(time + rules.window, (0, 0))
        leaving[time + rules.window] = so_far[0] + orders, so_far[1] + money

    refunds = refunds_by_order(counting.refunds)
    for order in counting.orders.values():
        leave(order.time, 1, net(order, refunds.get(order.order, ())))
    for refund in refunds.get(0, ()):
        leave(refund.time, 0, -refund.amount)
    money = sum(m for _, m in leaving.values())
    until = next((e.time for e in state.entries if e.time > as_of and e.kind != ERASED), NEVER_DUE)
    changes = [Departure(at, *leaving[at]) for at in sorted(leaving)]
    return _course(Departures(len(counting.orders), money, changes), as_of, until, limit)


def _course(departures: Departures, as_of: int, until: int, limit: int) -> _Course:
    """Return the intervals between departures, at most `limit`, up to `until`."""
    frequency, money, changes = departures
    course = _Course([as_of], [frequency], [saturated(money)], until)
    for at, orders, units in changes:
        frequency, money = frequency - orders, money - units
        if at >= until:
            break
        if (frequency, saturated(money)) == (course.frequency[-1], course.monetary[-1]):
            continue
        if len(course.start) == limit:
            return _Course(course.start, course.frequency, course.monetary, at)
        course.start.append(at)
        course.frequency.append(frequency)
        course.monetary.append(saturated(money))
    return course


def intervals_of_open(
    states: Sequence[OpenState], as_of: NDArray[np.int64], rules: Rules, limit: int = MOST_INTERVALS
) -> Intervals:
    """Do as `intervals_of` with states held open: only as many entries are looked at as leave in these intervals."""
    courses = []
    for state, at in zip(states, as_of.tolist(), strict=True):
        if (departures := state.departures(at, limit)) is not None:
            courses.append(_course(departures, at, NEVER_DUE, limit))
        else:
            courses.append(_general(unpack(state.value()), at, rules, limit))
    offset = np.cumsum([0, *(len(course.start) for course in courses)], dtype=np.int64)
    return Intervals(
        offset,
        np.array([at for course in courses for at in course.start], np.int64),
        np.array([frequency for course in courses for frequency in course.frequency], np.float64),
        np.array([units for course in courses for units in course.monetary], np.int64) / float(UNITS),
        np.array([course.until for course in courses], np.int64),
    )


def entries_ahead(
    values: Sequence[bytes | OpenState], head: NDArray[np.void], as_of: NDArray[np.int64], rules: Rules
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Return headers whose whole lives hold at each customer's own instant, and the first entry dated later, [n] (ms).

    NEVER_DUE: there is none. The effect of such an entry is for a state that has been advanced to it.
    """
    until = np.full(len(head), NEVER_DUE, np.int64)
    # No entry that the figures count can be as late as the next change.
    some = np.flatnonzero(head["newest"] >= head["next_change"])
    if some.size:
        head = head.copy()
    for row in some.tolist():
        state, at = values[row], int(as_of[row])
        value = state if isinstance(state, bytes) else state.value()
        head[row] = headers([advance_bytes(value, at, rules)])[0]
        until[row] = next((e.time for e in unpack(value).entries if e.time > at and e.kind != ERASED), NEVER_DUE)
    return head, until


def window_leaves_at(value: bytes, at: int, rules: Rules) -> bool:
    """Return whether an entry leaves the window at exactly this instant: then that moves the customer, not silence."""
    return at - rules.window > cut_of(value) and bool((times_in(value) == at - rules.window).any())
