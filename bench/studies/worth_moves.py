"""How often customers move, how many moves go back, and who gets an offer that would have bought anyway."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from segmentation.entries import DAY_MS
from stream.rehearsal.moves import BACK_DAYS, Crossing, tally_of

# Names whose default action takes money off, or asks the customer to come back.
OFFERS: Final = (
    "At Risk",
    "Promising",
    "Need Attention",
    "Cannot Lose",
    "Hibernating",
    "Lost",
    "Slipping",
    "Slipping, heavy",
)


Crossings = Mapping[str, Sequence[Crossing[str]]]  # by customer, in time order


class MoveFigures(NamedTuple):
    """Shares are parts of 1. `back`: share of the moves whose source is entered again within so many days."""

    moves_per_year: float  # of a customer
    back: dict[int, float]
    by_cause: dict[str, float]
    offers: int  # moves into a segment whose default action is an offer
    offers_in_rhythm: float  # share of them to customers whose silence is no longer than their usual gap
    offers_needless: float  # share of them to customers who order within 30 days all the same


def move_figures(
    crossings: Crossings, orders: Mapping[str, Sequence[int]], start_ms: int, end_ms: int, gaps: Mapping[str, float]
) -> MoveFigures:
    """Measure the moves in [start, end). `orders`: instants (ms), ascending; `gaps`: usual gaps in days.

    A customer counts from the start, or from its first order, on. Only moves that can be followed for 30 days are asked
    whether they go back and whether an offer was needed.

    >>> crossings = {"c": [Crossing(0, "A", "B", "silence"), Crossing(10 * DAY_MS, "B", "A", "order")]}
    >>> figures = move_figures(crossings, {"c": [-5, 10 * DAY_MS]}, 0, 365 * DAY_MS, {})
    >>> figures.moves_per_year, figures.back, figures.by_cause
    (2.0, {14: 0.5, 30: 0.5}, {'order': 0.5, 'silence': 0.5})
    """
    tally = tally_of(crossings, {customer: own[0] for customer, own in orders.items()}, start_ms, end_ms)
    offers: Counter[str] = Counter()
    for customer, own in crossings.items():
        for crossing in own:
            if crossing.at < end_ms - BACK_DAYS[-1] * DAY_MS and crossing.target in OFFERS:
                offers.update(_about_offer(crossing, orders[customer], gaps.get(customer, 0.0)))
    made = max(offers["made"], 1)
    return MoveFigures(
        tally.moves_per_year,
        {days: tally.share_back(days) for days in BACK_DAYS},
        tally.causes(),
        offers["made"],
        offers["in rhythm"] / made,
        offers["needless"] / made,
    )


def _about_offer(crossing: Crossing[str], orders: Sequence[int], gap: float) -> list[str]:
    """Return what holds of an offer at this move: made, in rhythm, needless."""
    place = int(np.searchsorted(orders, crossing.at, side="right"))
    found = ["made"]
    if place and crossing.at - orders[place - 1] <= gap * DAY_MS:
        found.append("in rhythm")
    if place < len(orders) and orders[place] - crossing.at <= BACK_DAYS[-1] * DAY_MS:
        found.append("needless")
    return found


def by_customer(moves: Iterable[tuple[str, Crossing[str]]]) -> Crossings:
    """Return moves, in time order, by customer."""
    found: dict[str, list[Crossing[str]]] = defaultdict(list)
    for customer, crossing in moves:
        found[customer].append(crossing)
    return found
