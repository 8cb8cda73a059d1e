"""The worth of a demo's segments and campaigns: what customers did after a move, an action, or an instant.

Counted from the published moves and actions, and the orders of the source as they were sent.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.lift import auc, captured
from segmentation.money import UNITS
from segmentation.output_events import CampaignAction, SegmentChanged
from stream.orders.rows import parse_at
from stream.rehearsal.moves import BACK_DAYS, NOT_OWN, Crossing, tally_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stream.orders.rows import OrderRow

AHEAD_DAYS: Final = 90  # customers are judged by what they do in so many days
ANYWAY_DAYS: Final = 30  # whoever orders within so many days of an offer may have done so without
_AHEAD_MS: Final = AHEAD_DAYS * DAY_MS


class SegmentWorth(msgspec.Struct, frozen=True):
    """A segment's customers at an instant, and what they did in the 90 days after it; shares are parts of 1."""

    segment: str
    customers: int
    bought: float  # share of them that ordered
    money: float  # their share of all money


class Ranking(msgspec.Struct, frozen=True):
    """How good a ranking of customers was, judged by the same 90 days."""

    auc: float  # chance that a customer who ordered ranks above one who didn't
    top_tenth: float  # share of the money that the best tenth spent


class DemoWorth(msgspec.Struct, frozen=True, kw_only=True):
    """The worth of segments and campaigns. `judged_at` is None where less than 90 days followed the training.

    `rankings`: by segment (learnt from the 90 days before the judged ones) and by recency; empty where there were none.
    """

    moves_per_year: float  # of a customer, by the customer's own doing
    back: dict[str, float]  # days -> share of these moves that went back within them
    judged_at: str | None
    segments: list[SegmentWorth]
    rankings: dict[str, Ranking]
    campaigns: dict[str, int]
    discounts: int  # actions that take money off
    needless_discounts: int  # those of them to customers who ordered within 30 days


@dataclass(slots=True)
class _Orders:
    """One customer's orders: the first of all, the last before the training, and each row from there on."""

    first: int
    last: int | None = None
    at: array[int] = field(default_factory=lambda: array("q"))  # ms, of orders alone
    money_at: array[int] = field(default_factory=lambda: array("q"))
    units: array[int] = field(default_factory=lambda: array("q"))  # refunds are below 0

    def bought(self, start: int, end: int) -> bool:
        return bisect_left(self.at, start) < bisect_left(self.at, end)

    def money(self, start: int, end: int) -> int:
        return sum(self.units[bisect_left(self.money_at, start) : bisect_left(self.money_at, end)])

    def last_before(self, at: int) -> int | None:
        place = bisect_left(self.at, at)
        return self.at[place - 1] if place else self.last


class OrderLog:
    """The orders of a source by customer, noted while they are sent. Rows of merges are ignored."""

    def __init__(self, start_ms: int) -> None:
        """Keep all orders from `start_ms` on, and little of those before."""
        self._start = start_ms
        self.customers: dict[str, _Orders] = {}

    def noted(self, rows: Iterable[OrderRow]) -> Iterator[OrderRow]:
        """Yield the rows, which are in time order, and note each."""
        for row in rows:
            if row.kind in {"placed", "refunded"}:
                self._note(row)
            yield row

    def _note(self, row: OrderRow) -> None:
        own = self.customers.get(row.customer_id)
        placed = row.kind == "placed"
        if own is None:
            if not placed:
                return
            own = self.customers[row.customer_id] = _Orders(row.at_ms)
        if row.at_ms < self._start:
            own.last = row.at_ms if placed else own.last
            return
        own.money_at.append(row.at_ms)
        own.units.append(row.amount_units if placed else -row.amount_units)
        if placed:
            own.at.append(row.at_ms)


class _Stay(NamedTuple):
    since: int
    segment: str | None


class MoveLog:
    """The moves of all customers, by customer, in their order."""

    def __init__(self) -> None:
        self._stays: defaultdict[str, list[_Stay]] = defaultdict(list)
        self.crossings: defaultdict[str, list[Crossing[str]]] = defaultdict(list)

    def add(self, move: SegmentChanged) -> None:
        """Note the next move. The moves of one customer come in their order."""
        at = parse_at(move.occurred_at)
        self._stays[move.customer_id].append(_Stay(at, move.to))
        if move.from_ is not None and move.to is not None and move.cause not in NOT_OWN:
            self.crossings[move.customer_id].append(Crossing(at, move.from_, move.to, move.cause.value))

    def segment_at(self, customer_id: str, at: int) -> str | None:
        """Return the segment that a customer was in right before an instant (ms)."""
        stays = self._stays.get(customer_id, [])
        place = bisect_left(stays, at, key=lambda stay: stay.since)
        return stays[place - 1].segment if place else None


class WorthWriter:
    """Counts the worth of a demo between the training and the end."""

    def __init__(self, orders: OrderLog, moves: MoveLog, start_ms: int, end_ms: int) -> None:
        self._orders = orders.customers
        self._moves = moves
        self._start = start_ms
        self._end = end_ms

    def worth(self, ranking: list[str], actions: Iterable[CampaignAction]) -> DemoWorth:
        """Return all figures. `ranking`: the segments' names, in the order of the lines."""
        firsts = {customer: own.first for customer, own in self._orders.items() if own.first < self._end}
        tally = tally_of(self._moves.crossings, firsts, self._start, self._end)
        judged = self._end - _AHEAD_MS
        can_judge = judged >= self._start
        campaigns, discounts, needless = self._campaigns(actions)
        return DemoWorth(
            moves_per_year=round(tally.moves_per_year, 2),
            back={str(days): round(tally.share_back(days), 4) for days in BACK_DAYS},
            judged_at=iso(judged) if can_judge else None,
            segments=self._segments(judged, ranking) if can_judge else [],
            rankings=self._rankings(judged) if judged - _AHEAD_MS > self._start else {},
            campaigns=campaigns,
            discounts=discounts,
            needless_discounts=needless,
        )

    def _campaigns(self, actions: Iterable[CampaignAction]) -> tuple[dict[str, int], int, int]:
        by_name: Counter[str] = Counter()
        discounts = needless = 0
        for action in actions:
            by_name[action.campaign] += 1
            if "%" in action.action:
                at = parse_at(action.occurred_at)
                own = self._orders.get(action.customer_id)
                discounts += 1
                needless += own is not None and own.bought(at + 1, at + ANYWAY_DAYS * DAY_MS)
        return dict(by_name.most_common()), discounts, needless

    def _outcomes(self, at: int) -> list[_Outcome]:
        """Return the customers with a segment at an instant, and what each did in the 90 days from there on."""
        found = []
        for customer, own in self._orders.items():
            segment, last = self._moves.segment_at(customer, at), own.last_before(at)
            if segment is not None and last is not None:
                ahead = (at, at + _AHEAD_MS)
                money = max(own.money(*ahead), 0) / UNITS
                found.append(_Outcome(segment, last, own.bought(*ahead), money))
        return found

    def _segments(self, at: int, ranking: list[str]) -> list[SegmentWorth]:
        outcomes = self._outcomes(at)
        everything = sum(one.money for one in outcomes) or 1.0
        found = []
        for name in dict.fromkeys([*ranking, *sorted({one.segment for one in outcomes})]):
            own = [one for one in outcomes if one.segment == name]
            if own:
                share = sum(one.bought for one in own) / len(own)
                money = sum(one.money for one in own) / everything
                found.append(SegmentWorth(name, len(own), round(share, 4), round(money, 4)))
        return found

    def _rankings(self, at: int) -> dict[str, Ranking]:
        """Return how good customers rank by segment, as the 90 days before say, and by recency."""
        before, after = self._outcomes(at - _AHEAD_MS), self._outcomes(at)
        bought = np.array([one.bought for one in after])
        if not before or not bought.any() or bought.all():
            return {}
        chance, worth = _means(before)
        money = np.array([one.money for one in after])
        recency = np.array([float(one.last) for one in after])
        scores = {
            "segments": (
                np.array([chance.get(one.segment, 0.0) for one in after]),
                np.array([worth.get(one.segment, 0.0) for one in after]),
            ),
            "recency": (recency, recency),
        }
        return {
            name: Ranking(round(auc(by_chance, bought), 3), round(captured(by_worth, money), 3))
            for name, (by_chance, by_worth) in scores.items()
        }


class _Outcome(NamedTuple):
    """A customer at an instant: the segment, the last order (ms), and whether and for how much they bought after."""

    segment: str
    last: int
    bought: bool
    money: float  # currency units


def _means(outcomes: list[_Outcome]) -> tuple[dict[str, float], dict[str, float]]:
    """Return each segment's share that bought, and its money a customer."""
    customers = Counter(one.segment for one in outcomes)
    bought = Counter(one.segment for one in outcomes if one.bought)
    money: defaultdict[str, float] = defaultdict(float)
    for one in outcomes:
        money[one.segment] += one.money
    return (
        {name: bought[name] / count for name, count in customers.items()},
        {name: money[name] / count for name, count in customers.items()},
    )
