from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from bench.studies.shop_logs import ShopLog, book_of
from bench.studies.simulated_shops import GROCER, simulate_shop
from bench.studies.worth import trained
from segmentation.entries import DAY_MS, Entry, Kind, Rules, entry
from segmentation.model import SegmentModel
from tests.support.data.clock_models import clock_model
from trainer.errors import FitError
from trainer.snapshot.orders import OrderBook
from trainer.training.plan import TrainingPlan
from trainer.training.worth_gates import (
    WorthFigures,
    groups_of,
    later_orders,
    replayed_figures,
    sample_of,
    segment_values,
    worth_gates,
)


@cache
def shop() -> tuple[OrderBook, int]:
    """Return the orders of a weekly grocer, and the end of its time."""
    shop = simulate_shop(GROCER._replace(customers=120, years=2))
    return book_of(ShopLog("Grocer", shop.rows, "USD", 0, shop.end_ms)), shop.end_ms


def figures(model: SegmentModel) -> WorthFigures:
    book, end = shop()
    return replayed_figures(book, model, end - 200 * DAY_MS, end)


def test_a_model_by_own_clock_passes_where_one_by_recency_flaps() -> None:
    book, end = shop()
    training = trained(book.as_of(end - 200 * DAY_MS), TrainingPlan(ks=(4,), floor=100, rounds=0, starts=2))
    assert training.trained is not None
    clock, plain = figures(clock_model()), figures(training.trained.model)
    assert clock.later.moves_per_year is not None
    assert plain.later.moves_per_year is not None
    assert clock.later.moves_per_year < 4 < plain.later.moves_per_year
    failed = {gate.name for gate in worth_gates(plain) if not gate.passed}
    assert "moves a year" in failed
    assert {"moves a year", "back in 14 days"}.isdisjoint(g.name for g in worth_gates(clock) if not g.passed)
    assert sum(clock.by_cause.values()) == pytest.approx(1.0)
    assert {ranking.by for ranking in clock.later.rankings} == {"segments", "recency", "spend", "outlook"}
    assert {ranking.by for ranking in plain.later.rankings} == {"segments", "recency", "spend"}
    assert sum(group.customers for group in clock.later.calibration) == clock.later.customers
    assert all(group.chance <= 1.0 and group.ordered <= 1.0 for group in clock.later.calibration)


def test_too_short_a_time_is_refused() -> None:
    book, end = shop()
    with pytest.raises(FitError, match="expected 91 or more"):
        replayed_figures(book, clock_model(), end - 60 * DAY_MS, end)


def test_what_came_later_is_counted_in_purchase_days_and_money() -> None:
    def order(name: str, day: int, amount: int) -> Entry:
        return entry(Kind.PLACED, name, day * DAY_MS, order=name, amount=amount * 10_000)

    entries = {b"a": [order("1", 1, 5), order("2", 20, 7), order("3", 20, 1)], b"b": [order("4", 2, 9)]}
    book = OrderBook(entries, Rules(), 0)
    found = later_orders(book.as_of(10 * DAY_MS), book.as_of(30 * DAY_MS))
    assert (found.orders.tolist(), found.money.tolist()) == ([1.0, 0.0], [8.0, 0.0])
    assert segment_values(np.array([3, 4]), found) == {3: (1.0, 8.0), 4: (0.0, 0.0)}


def test_groups_are_of_equal_size() -> None:
    assert np.bincount(groups_of(np.arange(100.0), 4).astype(int)).tolist() == [25, 25, 25, 25]


def test_a_sample_is_the_same_each_time() -> None:
    everyone: dict[bytes, list[Entry]] = {b"%d" % number: [] for number in range(2_000)}
    sample = sample_of(everyone, 500)
    assert 400 < len(sample) < 600
    assert sample == sample_of(everyone, 500)
    assert sample_of(everyone, 2_000) is everyone
