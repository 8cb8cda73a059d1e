"""The scorer by own clock: same bits alone and in any batch, and the first millisecond of every move."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation.clock_scorer import ClockScorer
from segmentation.entries import DAY_MS, HORIZON_MS, NONE
from segmentation.model_parts import ModelRates
from segmentation.outlook import Purchases
from segmentation.step import NEVER_DUE
from tests.support.data.clock_models import clock_model, random_clock_model

many = settings(
    max_examples=int(os.environ.get("EXAMPLES", "50")), deadline=None, suppress_health_check=list(HealthCheck)
)
NOW = 1_600_000_000_000


class ManyCustomers:
    """Random customers: announced segment, last order, what stands still, when their wait begins and ends."""

    def __init__(self, seed: int, n: int) -> None:
        rng = np.random.default_rng(seed)
        self.scorer = ClockScorer(random_clock_model(rng))
        repeats = np.floor(rng.exponential(rng.choice([0.5, 5.0, 200.0]), n))
        until_last = np.where(repeats > 0, rng.exponential(200.0, n) + repeats, 0.0)
        money = rng.lognormal(3.5, 1.0, n) * rng.choice([1.0, 1.0, 0.0, -1.0], n)
        self.rest = self.scorer.rest_of_purchases(Purchases(repeats, until_last, until_last, money))
        self.last = NOW - np.floor(rng.exponential(40.0, n) * DAY_MS).astype(np.int64)
        self.last[rng.random(n) < 0.05] = NONE
        self.a = rng.integers(0, len(self.scorer.ids), n)
        self.start = np.maximum(self.last, NOW) + rng.integers(0, 100 * DAY_MS, n)
        self.until = np.where(rng.random(n) < 0.3, self.start + rng.integers(0, 900 * DAY_MS, n), NEVER_DUE)

    def decide(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        return self.scorer.decide(self.a[rows], at, self.last[rows], self.rest[rows])


@many
@given(st.integers(0, 2**63 - 1))
def test_time_moves_a_customer_at_the_first_millisecond(seed: int) -> None:
    them = ManyCustomers(seed, 40)
    at, to = them.scorer.next_move(them.a, them.last, them.start, them.rest, them.until)
    rng = np.random.default_rng(seed)
    moves = np.flatnonzero(at < NEVER_DUE)
    assert ((them.start <= at) & (at < them.until))[moves].all()
    assert (them.decide(moves, at[moves]) == to[moves]).all()
    assert (to != them.a)[moves].all()
    # Before it, and where there is none before the end, nobody would move: just before, at the start, and anywhere.
    end = np.minimum(np.where(at < NEVER_DUE, at, them.until), np.maximum(them.last, NOW) + HORIZON_MS + DAY_MS)
    waits = np.flatnonzero(them.start < end)
    for asked in (
        end[waits] - 1,
        them.start[waits],
        rng.integers(them.start[waits], end[waits]),
        rng.integers(np.maximum(them.start[waits], end[waits] - 10_000), end[waits]),
    ):
        assert (them.decide(waits, asked) == them.a[waits]).all()


@many
@given(st.integers(0, 2**63 - 1))
def test_the_same_bits_alone_and_in_any_batch(seed: int) -> None:
    them = ManyCustomers(seed, 60)
    together = them.scorer.next_move(them.a, them.last, them.start, them.rest, them.until)
    decided = them.decide(np.arange(60), them.start)
    for size in (1, 7):
        for begin in range(0, 60, size):
            part = slice(begin, begin + size)
            at, to = them.scorer.next_move(
                them.a[part], them.last[part], them.start[part], them.rest[part], them.until[part]
            )
            assert (at == together[0][part]).all()
            assert (to == together[1][part]).all()
            assert (them.decide(np.arange(60)[part], them.start[part]) == decided[part]).all()


@many
@given(st.integers(0, 2**63 - 1))
def test_nobody_moves_twice_at_one_instant(seed: int) -> None:
    them = ManyCustomers(seed, 60)
    first = them.decide(np.arange(60), them.start)
    assert (them.scorer.decide(first, them.start, them.last, them.rest) == first).all()


def test_stages_by_definition() -> None:
    """A weekly buyer is at risk after weeks, a yearly one after years; one order is new, two are young."""
    scorer = ClockScorer(clock_model(ModelRates(r=2.0, alpha=40.0, a=0.5, b=5.0)))
    names = [segment.name for segment in scorer.model.segments]

    def name(days: int, between: float, value: float, silent: float, before: str | None = None) -> str:
        until_last = (days - 1) * between
        facts = Purchases(*(np.array([x]) for x in (days - 1.0, until_last, until_last, value)))
        a = np.array([-1 if before is None else names.index(before)])
        last = np.array([NOW - round(silent * DAY_MS)])
        return names[int(scorer.decide(a, np.array([NOW]), last, scorer.rest_of_purchases(facts))[0])]

    assert name(1, 0.0, 30.0, 1.0) == "New"
    assert name(2, 30.0, 30.0, 1.0) == "Potential Loyalists"
    # One order is expected to be followed after 40 / 2 days: two such gaps later it is quiet, six later lost.
    assert [name(1, 0.0, 30.0, silent) for silent in (40.0, 41.0, 120.0, 121.0)] == [
        "New", "About to Sleep", "About to Sleep", "Lost",
    ]  # fmt: skip
    assert name(50, 7.0, 200.0, 3.0) == "Champions"
    assert name(50, 7.0, 10.0, 3.0) == "Loyal"
    assert [name(50, 7.0, 10.0, silent) for silent in (20.0, 50.0, 90.0)] == ["Loyal", "At Risk", "Lost"]
    assert name(50, 7.0, 200.0, 50.0) == "Cannot Lose"
    assert [name(6, 365.0, 30.0, silent) for silent in (90.0, 500.0, 3_000.0)] == ["Steady", "Steady", "Lost"]
    # On the way back a border is passed later.
    assert name(50, 7.0, 10.0, 47.0) == "Loyal"
    assert name(50, 7.0, 10.0, 47.0, before="At Risk") == "At Risk"
    assert name(50, 7.0, 10.0, 0.0, before="Lost") == "Loyal"


def test_a_customer_without_an_order_that_stands_is_lost() -> None:
    scorer = ClockScorer(clock_model())
    rest = scorer.rest_of_purchases(Purchases(*(np.array([x]) for x in (0.0, 0.0, 0.0, 0.0))))
    to = scorer.decide(np.array([0]), np.array([NOW]), np.array([NONE]), rest)
    assert scorer.model.segments[int(to[0])].name == "Lost"


def test_where_most_customers_buy_once_a_first_order_is_new_all_the_same() -> None:
    """The odds of having dropped out are above every limit at the first order already: they don't decide yet."""
    scorer = ClockScorer(clock_model(ModelRates(r=1.0, alpha=30.0, a=1.64, b=0.08)))
    first = Purchases(*(np.array([x]) for x in (0.0, 0.0, 0.0, 30.0)))
    second = Purchases(*(np.array([x]) for x in (1.0, 20.0, 20.0, 30.0)))
    names = [segment.name for segment in scorer.model.segments]
    last, nobody = np.array([NOW]), np.array([-1])
    found = [
        names[int(scorer.decide(nobody, np.array([NOW + silence]), last, scorer.rest_of_purchases(facts))[0])]
        for facts, silence in ((first, 0), (first, 60 * DAY_MS), (first, 60 * DAY_MS + 1), (second, 0))
    ]
    assert found == ["New", "New", "Lost", "Potential Loyalists"]
