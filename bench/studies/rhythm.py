"""A prototype of features by each customer's own clock, with the figures of bench.studies.worth beside the default's.

    python -m bench.studies.rhythm --data DIR [--only "CDNOW"] [--json FILE]

Recipes:

- **gaps**: silence in the customer's own expected gaps; orders a month by that gap; expected value of an order.
- **fade**: instead of silence its surprise, log(1 + odds of having dropped out): near 0 while the customer is on its
  own rhythm, then rising with every gap. Where orders don't show drop-out, odds of 1 to 20 at the last order stand in.
- **definitions**: no clusters, but seven names in plain units: lost and slipping by the chance to be alive, new and
  young ones by their orders, the others by money a month. Each border is entered and left at two levels.

The features stand still between orders but the first, which rises: as in the worker, the next move has an exact
instant. Here customers are scored once a day, at midnight; moves within a day are one. The trainer fits the segments.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.studies.worth import OUTLOOK, ShopLog, book_of, fits_of, gaps_of, plain_lifts, shops, trained
from bench.studies.worth_lift import DAYS, Lift, lifts, segment_values
from bench.studies.worth_moves import Crossings, MoveFigures, by_customer, move_figures
from segmentation.entries import DAY_MS, PLACED
from segmentation.model import SegmentModel
from segmentation.outlook import Purchases, expected_gap, expected_value, odds_of_drop_out, silence_days
from segmentation.scorer import Scorer, standardise
from stream.rehearsal.moves import Crossing
from trainer.snapshot.orders import OrderBook
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.outlook_fit import OutlookFit, purchases_of
from trainer.training.plan import TrainingPlan
from trainer.training.worth_gates import later_orders

RECIPES: Final = ("gaps", "fade", "definitions")
SETTINGS: Final = ((0.25, 0), (1.0, 0), (1.0, 7), (2.0, 7), (2.0, 14), (3.0, 14))  # margin, dwell in days
LEVELS: Final = ((0.5, 0.15), (0.3, 0.1), (0.2, 0.05), (0.1, 0.02))  # chances to be alive: slipping, lost
HYSTERESIS: Final = 1.3  # how much further a border is left than entered
_MONTH: Final = 30.0
_STAND_IN_ODDS: Final = 0.05

Column = NDArray[np.float64]


class RhythmWorth(NamedTuple):
    """The figures of one shop under one recipe."""

    title: str
    recipe: str
    segments: tuple[str, ...]
    chosen: str
    moves: dict[str, MoveFigures]
    lifts: dict[str, dict[str, Lift]]  # by margin and dwell


def features(fit: OutlookFit, purchases: Purchases, recipe: str) -> tuple[Column, Column, Column]:
    """Return silence, orders a month and value, [n] each."""
    gap = expected_gap(fit.rates, purchases)
    value = purchases.mean_value if fit.values is None else expected_value(fit.values, purchases)
    silence = silence_days(purchases)
    if recipe == "gaps":
        return silence / gap, _MONTH / gap, value
    rates = fit.rates
    if fit.has_drop_out:
        odds = odds_of_drop_out(rates, purchases)
    else:
        odds = odds_of_drop_out(rates._replace(a=1.0, b=1.0), purchases) * (1.0 + purchases.repeats) * _STAND_IN_ODDS
    return np.log1p(odds), _MONTH / gap, value


def disguised(snapshot: CustomerSnapshot, fit: OutlookFit, recipe: str) -> CustomerSnapshot:
    """Return the snapshot with these features in place of the default's, so that the trainer fits them."""
    silence, rate, value = features(fit, purchases_of(snapshot), recipe)
    return CustomerSnapshot(
        snapshot.customers, silence, rate, value, snapshot.as_of_ms, snapshot.left_out, snapshot.life
    )


class Days:
    """All customers' purchases, day by day."""

    def __init__(self, book: OrderBook, start_ms: int, end_ms: int) -> None:
        self.names = [key.decode() for key in book.entries]
        self.first_day, self.last_day = start_ms // DAY_MS, end_ms // DAY_MS
        rows: list[tuple[int, int, float]] = []
        for i, own in enumerate(book.entries.values()):
            days: dict[int, float] = {}
            for e in own:
                if e.kind == PLACED:
                    days[e.time // DAY_MS] = days.get(e.time // DAY_MS, 0.0) + e.amount / 10_000
                elif days:
                    last = max(days)
                    days[last] -= e.amount / 10_000
            rows += [(day, i, money) for day, money in days.items()]
        rows.sort()
        self._day = np.array([row[0] for row in rows])
        self._who = np.array([row[1] for row in rows])
        self._money = np.array([row[2] for row in rows])
        n = len(self.names)
        self.first, self.last = np.full(n, -1), np.full(n, -1)
        self.days, self.money = np.zeros(n), np.zeros(n)
        self._apply(0, int(np.searchsorted(self._day, self.first_day)))

    def _apply(self, begin: int, end: int) -> None:
        """Add the purchases of rows [begin, end)."""
        who, day = self._who[begin:end], self._day[begin:end]
        fresh = self.first[who] < 0
        # Ascending by day, so the last assignment is the latest day, and the first in reverse the earliest.
        self.first[who[fresh][::-1]] = day[fresh][::-1]
        self.last[who] = day
        np.add.at(self.days, who, 1.0)
        np.add.at(self.money, who, self._money[begin:end])

    def add(self, day: int) -> NDArray[np.bool_]:
        """Add the purchases of a day, and return who made one, [customers]."""
        begin, end = np.searchsorted(self._day, [day, day + 1]).tolist()
        self._apply(begin, end)
        bought = np.zeros(len(self.names), dtype=bool)
        bought[self._who[begin:end]] = True
        return bought

    def purchases(self, at_day: int) -> Purchases:
        """Return the purchases as of the end of a day, of all customers; those to come are as if new."""
        first = np.where(self.first < 0, at_day, self.first)
        last = np.where(self.last < 0, at_day, self.last)
        count = np.maximum(self.days, 1.0)
        return Purchases(count - 1.0, (last - first) * 1.0, (at_day + 1 - first) * 1.0, self.money / count)


class ByCentroid:
    """Segments by the nearest centroid, left only for one nearer by more than a margin."""

    def __init__(self, model: SegmentModel, fit: OutlookFit, recipe: str, margin: float) -> None:
        self.names = [segment.name for segment in model.segments]
        self._scorer, self._fit, self._recipe, self._margin = Scorer(model), fit, recipe, margin

    def place(self, before: NDArray[np.int64], purchases: Purchases) -> NDArray[np.int64]:
        """Return the segment of each customer by index; `before`: -1 for none."""
        silence, rate, value = features(self._fit, purchases, self._recipe)
        z = standardise(silence, self._scorer.model.features[0])
        lead = self._scorer.leads(np.maximum(before, 0), z, self._scorer.rest(rate, value))
        stays = (before >= 0) & (lead.max(axis=1) <= self._margin)
        return np.where(stays, before, lead.argmax(axis=1))


class ByDefinition:
    """Segments by definitions. `heavy`: money a month from which a customer counts as heavy, that of the top fifth."""

    names: Final = ["Lost", "Slipping", "Slipping, heavy", "New", "Young", "Regular", "Champions"]

    def __init__(self, fit: OutlookFit, purchases: Purchases, slipping: float, lost: float) -> None:
        """Take the border of money from customers at the training. The others are chances to be alive."""
        self._fit, self._slipping, self._lost = fit, slipping, lost
        _, rate, value = features(fit, purchases, "fade")
        self._heavy = float(np.quantile(rate * value, 0.8))

    def place(self, before: NDArray[np.int64], purchases: Purchases) -> NDArray[np.int64]:
        """Return the segment of each customer by index; `before`: -1 for none."""
        gone, rate, value = features(self._fit, purchases, "fade")
        alive = np.exp(-gone)
        was_heavy = (before == 2) | (before == 6)
        heavy = rate * value >= self._heavy * np.where(was_heavy, 1.0 / HYSTERESIS, HYSTERESIS)
        slipping = alive < np.where((before >= 0) & (before <= 2), self._slipping * HYSTERESIS, self._slipping)
        lost = alive < np.where(before == 0, self._lost * HYSTERESIS, self._lost)
        on_rhythm = np.where(heavy, 6, 5)
        on_rhythm = np.where(
            purchases.repeats == 0, 3, np.where(purchases.repeats < 3, np.where(heavy, 6, 4), on_rhythm)
        )
        return np.where(lost, 0, np.where(slipping, np.where(heavy, 2, 1), on_rhythm))


def crossings_of(
    book: OrderBook, log: ShopLog, way: ByCentroid | ByDefinition, dwell: int
) -> tuple[Crossings, dict[str, int]]:
    """Return the moves by customer, and the segments by index at the instant of the ranking."""
    days = Days(book, log.start_ms, log.end_ms)
    n = len(days.names)
    segment, since = np.full(n, -1, dtype=np.int64), np.full(n, -(10**6))
    found: list[tuple[str, Crossing[str]]] = []
    judged: dict[str, int] = {}
    for day in range(days.first_day, days.last_day):
        bought = days.add(day)
        begun = days.first >= 0
        place = np.where(begun, way.place(segment, days.purchases(day)), -1)
        moves = (segment >= 0) & (place != segment) & (day - since >= dwell)
        for i in np.flatnonzero(moves).tolist():
            cause = "order" if bought[i] else "silence"
            step = Crossing((day + 1) * DAY_MS, way.names[segment[i]], way.names[place[i]], cause)
            found.append((days.names[i], step))
        fresh = moves | (begun & (segment < 0))
        segment, since = np.where(fresh, place, segment), np.where(fresh, day, since)
        if day + 1 == log.judged_ms // DAY_MS:
            judged = {name: s for name, s in zip(days.names, segment.tolist(), strict=True) if s >= 0}
    return by_customer(found), judged


def study(log: ShopLog, recipe: str, plan: TrainingPlan) -> RhythmWorth:
    """Measure one shop under one recipe."""
    book = book_of(log)
    at_start, judged = book.as_of(log.start_ms), book.as_of(log.judged_ms)
    fits = fits_of(book, at_start)
    fit = fits[OUTLOOK]
    before, after = later_orders(at_start, judged), later_orders(judged, book.as_of(log.judged_ms + int(DAYS) * DAY_MS))
    ways: dict[str, tuple[ByCentroid | ByDefinition, int]] = {}
    if recipe == "definitions":
        first, chosen = ByDefinition(fit, purchases_of(at_start), *LEVELS[0]), "By definitions."
        nobody = np.full(len(at_start.customers), -1)
        learnt, names = segment_values(first.place(nobody, purchases_of(at_start)), before), first.names
        for slipping, lost in LEVELS:
            ways[f"below {slipping:g}, {lost:g}"] = ByDefinition(fit, purchases_of(at_start), slipping, lost), 0
    else:
        training = trained(disguised(at_start, fit, recipe), plan)
        assert training.trained is not None
        model, chosen = training.trained.model, training.outcome.decision.why[0]
        learnt, names = segment_values(training.trained.labels, before), [one.name for one in model.segments]
        for margin, dwell in SETTINGS:
            ways[f"margin {margin:g}, dwell {dwell} d"] = ByCentroid(model, fit, recipe, margin), dwell
    orders = {key.decode(): [e.time for e in own if e.kind == PLACED] for key, own in book.entries.items()}
    orders = {customer: own for customer, own in orders.items() if own and own[0] < log.end_ms}
    gaps = gaps_of(fit, book.as_of(log.end_ms - 1))
    moves, lift = {}, {}
    for name, (way, dwell) in ways.items():
        crossings, segments = crossings_of(book, log, way, dwell)
        moves[name] = move_figures(crossings, orders, log.start_ms, log.end_ms, gaps)
        announced = np.array([segments.get(key.decode(), -1) for key in judged.customers], dtype=np.int64)
        lift[name] = lifts(judged, announced, learnt, fits, after)
    return RhythmWorth(log.title, recipe, tuple(names), chosen, moves, lift)


def text(worth: RhythmWorth) -> str:
    """Return the figures as Markdown."""
    lines = [f"**{worth.title}**, {worth.recipe}: {', '.join(worth.segments)}. {worth.chosen}", ""]
    lines.append("| | moves a year | back in 14 d | 30 d | by silence | offers | needless | AUC | top tenth |")
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for name, m in worth.moves.items():
        back, lift = " | ".join(f"{share:.1%}" for share in m.back.values()), worth.lifts[name]["segments"]
        silence = m.by_cause.get("silence", 0.0)
        lines.append(
            f"| {name} | {m.moves_per_year:.2f} | {back} | {silence:.0%} | {m.offers:,} | {m.offers_needless:.0%} | "
            f"{lift.auc:.3f} | {lift.captured:.1%} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the shops under both recipes, print the tables, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.rhythm", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with online_retail/orders.csv.gz (default: without it)")
    parser.add_argument("--only", nargs="+", help="titles of shops (default: all)")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args(argv)
    found = []
    for title, read in shops(arguments.data).items():
        if arguments.only is None or title in arguments.only:
            log = read()
            for recipe in arguments.recipes:
                begun = time.perf_counter()
                found.append(study(log, recipe, TrainingPlan()))
                print(f"{text(found[-1])}\n{time.perf_counter() - begun:.1f} s\n", flush=True)
    if arguments.json is not None:
        content = [
            one._asdict()
            | {"moves": {name: m._asdict() for name, m in one.moves.items()}}
            | {"lifts": {name: plain_lifts(lift) for name, lift in one.lifts.items()}}
            for one in found
        ]
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
