"""The meaning of a set of entries at an instant: which orders stand, and what they amount to.

Times are int64 milliseconds since 1970 UTC, amounts int64 ten-thousandths of the currency's unit.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from segmentation.entries import (
    ANCHOR,
    CANCELLED,
    ERASED,
    MONEY_LIMIT,
    NEVER,
    PLACED,
    RATE_SCALE,
    UNREVISED,
    Entry,
    Rules,
    after,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Reading(NamedTuple):
    """The meaning of entries at an instant."""

    standing: list[Entry]  # orders that stand, newest first, the anchor among them
    refunds: list[Entry]  # refunds that aren't void, newest first
    frequency: int  # standing orders in the window
    monetary: int  # their amounts less the refunds that count, ten-thousandths, saturating


class Counted(NamedTuple):
    """The entries that make up frequency and monetary value at an instant."""

    orders: dict[int, Entry]  # by the hash of the order's id
    refunds: list[Entry]


def read(rows: Sequence[Entry], t: int, cut: int, rules: Rules) -> Reading:
    """Return the meaning of sorted entries at `t`, where entries up to `cut` no longer count and later ones don't yet.

    1. Void: of two contents of one event (kind and id) less than a window apart the greater counts: by revision, then
       date, then amount. The other has no effect whatever.
    2. Superseded: so do two placements of one order.
    3. Cancelled: a cancellation c of the order exists with placed - grace <= c < placed + window.
    4. An order stands if none of these holds. A refund counts with its order (see `counted`), or by itself if it names
       none.
    """
    standing, refunds = judge(rows, t, rules)
    counting = counted(standing, refunds, max(t - rules.window, cut), rules.grace)
    return Reading(standing, refunds, len(counting.orders), saturated(sum_of(counting)))


def read_counted(rows: Sequence[Entry], t: int, cut: int, rules: Rules) -> Counted:
    """Return the entries that make up the two figures of `read` at the same instant."""
    standing, refunds = judge(rows, t, rules)
    return counted(standing, refunds, max(t - rules.window, cut), rules.grace)


def counted(standing: Sequence[Entry], refunds: Sequence[Entry], start: int, grace: int) -> Counted:
    """Pick what counts in a window that begins after `start`.

    A refund that names an order counts as long as that order does, unless dated more than `grace` before it. A refund
    that names none counts while it lies in the window itself.
    """
    least = after(start)
    orders = {e.order: e for e in standing if e.key >= least and e.key & 7 == PLACED}
    counting = []
    for e in refunds:
        order = orders.get(e.order)
        if e.key >= least if e.order == 0 else order is not None and e.time >= order.time - grace:
            counting.append(e)
    return Counted(orders, counting)


def sum_of(counting: Counted) -> int:
    """Return the money of the entries that count, in ten-thousandths."""
    refunds = refunds_by_order(counting.refunds)
    by_themselves = sum([e.amount for e in refunds.pop(0, ())])
    return money_of(counting.orders.values(), refunds, lambda order: refunds.get(order.order, ())) - by_themselves


def money_of(
    orders: Iterable[Entry], named: Mapping[int, Sequence[Entry]], refunds_of: Callable[[Entry], Iterable[Entry]]
) -> int:
    """Return what is left of the money of orders. `named`: refunds by order, of which `refunds_of` picks an order's."""
    if not named:  # as for most customers
        return sum([net(e, ()) if e.foreign else e.amount for e in orders])
    return sum([net(e, refunds_of(e)) if e.foreign or e.order in named else e.amount for e in orders])


def refunds_by_order(refunds: Iterable[Entry]) -> dict[int, list[Entry]]:
    """Return refunds by the hash of the order that they name; 0: they name none."""
    found: dict[int, list[Entry]] = {}
    for refund in refunds:
        found.setdefault(refund.order, []).append(refund)
    return found


def net(order: Entry, refunds: Iterable[Entry]) -> int:
    """Return what is left of an order's money, in ten-thousandths.

    Refunds in the currency that the order was paid in are taken from what was paid, and the rest is converted at the
    order's rate: so a full refund leaves exactly nothing. Others are taken off at the rate of their own day.
    """
    own = order.foreign
    if not own:
        return order.amount - sum([e.amount for e in refunds])
    paid = others = 0
    for e in refunds:
        if e.foreign and e.foreign.currency == own.currency:
            paid += e.foreign.paid
        else:
            others += e.amount
    return converted(own.paid - paid, own.rate) - others


def converted(units: int, rate: int) -> int:
    """Convert money at a rate in 1 / RATE_SCALE; half a ten-thousandth is rounded to the even one.

    >>> converted(125_000, 900_000_000_000), converted(5, RATE_SCALE // 2), converted(-5, RATE_SCALE // 2)
    (112500, 2, -2)
    """
    whole, rest = divmod(units * rate, RATE_SCALE)
    return whole + (2 * rest > RATE_SCALE or (2 * rest == RATE_SCALE and whole & 1))


def saturated(units: int) -> int:
    """Limit a sum of money to 64 bits."""
    return max(-MONEY_LIMIT, min(units, MONEY_LIMIT))


def judge(rows: Sequence[Entry], t: int, rules: Rules) -> tuple[list[Entry], list[Entry]]:
    """Find the orders that stand at `t` and the refunds that aren't void, newest first: rules 1 to 3 of `read`."""
    window = rules.window
    next_by_id: dict[int, int] = {}
    next_by_order: dict[int, int] = {}
    cancelled: dict[int, list[int]] = {}
    placed: list[Entry] = []
    refunds: list[Entry] = []
    if has_revisions(rows):
        rows, placed = _revised(rows, t, window)
    # From the newest back, so that an entry that takes another's effect away comes before it (a cancellation may lie on
    # either side).
    for e in reversed(rows):
        time, kind = e.key >> 3, e.key & 7
        if time > t or kind == ERASED:
            continue
        if kind == ANCHOR:
            placed.append(e)
            continue
        void = next_by_id.get(e.event, NEVER) - time < window
        next_by_id[e.event] = time
        if void:
            continue
        if kind == PLACED:
            if next_by_order.get(e.order, NEVER) - time >= window:
                placed.append(e)
            next_by_order[e.order] = time
        elif kind == CANCELLED:
            cancelled.setdefault(e.order, []).append(time)
        else:
            refunds.append(e)
    return (_not_cancelled(placed, cancelled, rules) if cancelled else placed), refunds


def _not_cancelled(placed: Sequence[Entry], cancelled: Mapping[int, Sequence[int]], rules: Rules) -> list[Entry]:
    """Return the placements that no cancellation of their order reaches. `cancelled`: instants by order."""
    window, grace, _ = rules

    def stands(p: Entry) -> bool:
        time = p.key >> 3
        return p.key & 7 == ANCHOR or not any(time - grace <= c < time + window for c in cancelled.get(p.order, ()))

    return [p for p in placed if stands(p)]


def has_revisions(entries: Iterable[Entry]) -> bool:
    """Return whether any of these says which revision of its order it is."""
    return any(e.revision != UNREVISED for e in entries)


def _revised(rows: Sequence[Entry], t: int, window: int) -> tuple[list[Entry], list[Entry]]:
    """Return (what isn't a placement, the placements that count, newest first): some of them have revisions.

    Here an earlier content may count instead of a later one.
    """
    placed = [e for e in rows if e.key & 7 in (PLACED, ANCHOR) and e.key >> 3 <= t]
    real = undefeated(placed, window, lambda e: e.event)
    counting = undefeated(real, window, lambda e: e.order)
    return [e for e in rows if e.key & 7 not in (PLACED, ANCHOR)], counting[::-1]


def undefeated(placed: Sequence[Entry], window: int, name: Callable[[Entry], int]) -> list[Entry]:
    """Return the placements, sorted, than which no other under the same name less than a window away is greater.

    The anchor is final.
    """
    groups: dict[int, list[Entry]] = {}
    for e in placed:
        groups.setdefault(name(e), []).append(e)
    kept: list[Entry] = []
    for group in groups.values():
        kept += [
            e
            for e, greatest in zip(group, _greatest_near(group, window), strict=True)
            if greatest is e or e.kind == ANCHOR
        ]
    return sorted(kept)


def _greatest_near(group: Sequence[Entry], window: int) -> list[Entry]:
    """Return the greatest entry less than a window away from each, itself included. `group` is sorted."""
    found: list[Entry] = []
    near: deque[Entry] = deque()  # falling precedence, rising time: the first one is the greatest
    coming = 0
    for e in group:
        while coming < len(group) and group[coming].time < e.time + window:
            while near and near[-1].precedence < group[coming].precedence:
                near.pop()
            near.append(group[coming])
            coming += 1
        while near and near[0].time <= e.time - window:
            near.popleft()
        found.append(near[0] if near else e)  # a window of 0 holds nothing
    return found
