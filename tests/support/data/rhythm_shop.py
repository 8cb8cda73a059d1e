"""A shop of known nature as an order book, and trainings by the recipe rhythm on it."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from segmentation.entries import DAY_MS, Entry, Rules
from segmentation.rfm import Kind, entry
from trainer.rhythm.learn import learn_by_recipe
from trainer.snapshot.orders import OrderBook
from trainer.training.learn import Stopwatch, TrainingResult
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan, of_recipe

BEGIN_MS = 20_000 * DAY_MS
PLAN = replace(of_recipe("rhythm"), ks=(2, 3), rounds=2, starts=2)


def shop(customers: int, days: int, seed: int = 1, leave: float = 0.08) -> OrderBook:
    """Return a shop of weekly and of monthly buyers, who come over the first half of the time and leave at random."""
    rng = np.random.default_rng(seed)
    entries: dict[bytes, list[Entry]] = {}
    for number in range(customers):
        gap, value = ((7.0, 20.0), (30.0, 60.0))[number % 2]
        at, order, own = rng.uniform(0, days / 2), 0, []
        while at < days:
            amount = round(value * rng.gamma(4.0, 0.25) * 10_000)
            own.append(
                entry(Kind.PLACED, f"{number}-{order}", BEGIN_MS + int(at * DAY_MS), order=f"{order}", amount=amount)
            )
            if rng.random() < leave:
                break
            at, order = at + gap * rng.gamma(3.0, 1 / 3.0), order + 1
        entries[b"%05d" % number] = own
    return OrderBook(entries, Rules(90 * DAY_MS, 7 * DAY_MS), 0)


def learnt(
    orders: OrderBook,
    days: float,
    plan: TrainingPlan = PLAN,
    lineage: Lineage | None = None,
    *,
    book: OrderBook | None = None,
) -> TrainingResult:
    """Train as of so many days after the shop's beginning. `book`: to judge the worth with."""
    at = BEGIN_MS + int(days * DAY_MS)
    return learn_by_recipe(
        orders.as_of(at),
        plan,
        lineage or Lineage(),
        source="test",
        now_ms=at,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _what, _done, _total: None,
        book=book,
    )
