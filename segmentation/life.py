"""A customer's whole life: orders, purchase days and money, of what the window has long left behind too.

What is at or before a state's cut is folded into a few numbers and the set of purchase days; what comes after it is
read from the entries. The sum of both is a function of the set of events (docs/explanation/state-format.md, section 4).
Times in ms since 1970 UTC, amounts in ten-thousandths; days are UTC days since 1970.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import ANCHOR, DAY_MS, NEVER, NONE, PLACED, Entry, after
from segmentation.meaning import money_of, refunds_by_order, saturated

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from segmentation.entries import Rules

MOST_DAYS: Final = 2**16 - 1  # purchase days that a header can count: 179 years


class Folded(NamedTuple):
    """Orders that the cut has passed: they are final, and no entry is left of them but the last one."""

    orders: int = 0
    money: int = 0  # net of the refunds that had come by then
    first: int = NEVER  # date of the first one
    last: int = NONE  # date of the last one
    days: tuple[int, ...] = ()  # purchase days, ascending
    whole: bool = True  # False: orders had been forgotten before, by a version that didn't count them


class Life(NamedTuple):
    """The figures of a whole life, up to an instant. The date of the last order is the state's `last`."""

    orders: int = 0  # that stand
    days: int = 0  # with an order that stands
    money: int = 0  # net of refunds
    first: int = NEVER  # date of the first order that stands


NOTHING_FOLDED: Final = Folded()
NO_LIFE: Final = Life()


class Gaps(NamedTuple):
    """The days between one purchase day and the next."""

    mean: float
    typical: float  # the median: one long pause doesn't move it


def day_of(time: int) -> int:
    """Return the UTC day of an instant, in days since 1970.

    >>> day_of(DAY_MS - 1), day_of(DAY_MS)
    (0, 1)
    """
    return time // DAY_MS


def folded_again(entries: Iterable[Entry]) -> Folded:
    """Return what is known of folded orders from the entries alone: the last of them, without its refunds."""
    anchor = next((e for e in entries if e.kind == ANCHOR), None)
    if anchor is None:
        return NOTHING_FOLDED
    return Folded(1, anchor.amount, anchor.time, anchor.time, (day_of(anchor.time),), whole=False)


def life_of(folded: Folded, standing: Sequence[Entry], refunds: Iterable[Entry], cut: int, rules: Rules) -> Life:
    """Return the figures of a life from what is folded, and from the entries that stand after the cut."""
    least = after(cut)
    orders = [e for e in standing if e.key >= least and e.key & 7 == PLACED]
    money = _money(orders, refunds, cut, NEVER, rules)
    times = [e.key >> 3 for e in orders]
    return Life(
        orders=folded.orders + len(orders),
        days=count_days(folded, {time // DAY_MS for time in times}),
        money=saturated(folded.money + money),
        first=min([folded.first, *times]),
    )


def fold(
    folded: Folded, standing: Sequence[Entry], refunds: Iterable[Entry], since: int, cut: int, rules: Rules
) -> Folded:
    """Fold the orders that a cut leaves behind, with their refunds, and refunds by themselves. `since`: the cut before.

    An order that comes after its date was cut counts only where it is later than all that is folded, and no content of
    the last one: another may be a repeat.
    """
    leaving = [e for e in standing if folded.last < e.time <= cut and e.kind == PLACED]
    anchors = {e.order: e.time + rules.window for e in standing if e.kind == ANCHOR}
    orders = [e for e in leaving if e.time > since or e.time >= anchors.get(e.order, NONE)]
    money = _money(orders, refunds, since, cut, rules)
    if not (leaving or money):
        return folded
    days = {day_of(e.time) for e in orders}.difference(folded.days[-1:])
    return folded._replace(
        orders=folded.orders + len(orders),
        money=saturated(folded.money + money),
        first=min([folded.first, *(e.time for e in orders)]),
        last=max([folded.last, *(e.time for e in leaving)]),
        days=tuple(sorted(days.union(folded.days))) if days else folded.days,
    )


def refunds_of(order: Entry, named: Mapping[int, Sequence[Entry]], rules: Rules) -> list[Entry]:
    """Return the refunds that belong to an order: dated from a grace before it up to a window after it.

    Later ones can't count: by then the order may be folded.
    """
    time = order.time
    return [e for e in named.get(order.order, ()) if time - rules.grace <= e.time < time + rules.window]


def _money(orders: Iterable[Entry], refunds: Iterable[Entry], since: int, until: int, rules: Rules) -> int:
    """Return orders less their refunds, less the refunds that name none and are dated in (since, until]."""
    named = refunds_by_order(refunds)
    alone = sum([e.amount for e in named.pop(0, ()) if since < e.time <= until])
    return money_of(orders, named, lambda order: refunds_of(order, named, rules)) - alone


def gaps_of(days: Sequence[int]) -> Gaps | None:
    """Return the mean and the median gap between purchase days, which are ascending; None: fewer than two.

    >>> gaps_of([0, 7, 14, 44])
    Gaps(mean=14.666666666666666, typical=7.0)
    """
    if len(days) < 2:
        return None
    gaps = sorted([b - a for a, b in pairwise(days)])
    middle = len(gaps) // 2
    typical = gaps[middle] if len(gaps) % 2 else (gaps[middle - 1] + gaps[middle]) / 2
    return Gaps((days[-1] - days[0]) / len(gaps), float(typical))


def purchase_days(folded: Folded, standing: Iterable[Entry], cut: int) -> list[int]:
    """Return all purchase days, ascending."""
    return sorted({day_of(e.time) for e in standing if e.time > cut and e.kind == PLACED}.union(folded.days))


def count_days(folded: Folded, coming: Collection[int]) -> int:
    """Return how many purchase days there are. `coming`: those after the cut, a set or a mapping.

    Only the day of the cut itself can be among both: then it is the last one folded.
    """
    return len(folded.days) + len(coming) - (bool(folded.days) and folded.days[-1] in coming)
