"""The recipe rhythm on a shop of known nature: stages, guards on history, kinds, and retrains that move few."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from segmentation.clock_scorer import ClockScorer
from segmentation.entries import DAY_MS, Rules
from segmentation.model import CLOCK_FEATURES, SegmentModel
from tests.support.data.datasets import known_segments, trained_on
from tests.support.data.rhythm_shop import BEGIN_MS, PLAN, learnt, shop
from trainer.commands.run_output import print_tables
from trainer.errors import FitError
from trainer.outcome import TrainingOutcome
from trainer.report import sentences
from trainer.rhythm.history import LEAST_CUSTOMERS, LEAST_DAYS, UNKNOWN_GAP_DAYS
from trainer.rhythm.kinds import find_kinds
from trainer.rhythm.learn import learn_by_recipe
from trainer.snapshot.orders import OrderBook
from trainer.training.compare import segment_indices
from trainer.training.learn import Stopwatch, TrainingResult
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan


def model_in(result: TrainingResult) -> SegmentModel:
    assert result.trained is not None
    return result.trained.model


@pytest.fixture(scope="module")
def grown() -> OrderBook:
    return shop(700, 360)


@pytest.fixture(scope="module")
def trained(grown: OrderBook) -> TrainingResult:
    return learnt(grown, 360)


def test_a_year_gives_a_fitted_outlook_and_kinds(grown: OrderBook, trained: TrainingResult) -> None:
    model = model_in(trained)
    assert model.format == 2
    assert model.outlook is not None
    assert model.outlook.rates.a > 0
    assert model.clock is not None
    assert model.outlook.rates.stand_in is None
    assert all(check.passed for check in trained.outcome.history)
    steady = {segment.name for segment in model.segments if segment.stage == "steady"}
    assert {"Loyal", "Big Spenders"} <= steady  # weekly buyers of little, monthly ones of much
    assert SegmentModel.from_json(model.to_json()) == model
    assert TrainingOutcome.from_json(trained.outcome.to_json()) == trained.outcome
    # Each of its own clock: of two who are silent for 40 days, only the weekly buyer is a matter of concern.
    assert trained.trained is not None
    snapshot = grown.as_of(BEGIN_MS + 360 * DAY_MS)
    names = np.array([segment.name for segment in model.segments])[trained.trained.labels]
    weekly = np.array([int(name) % 2 == 0 for name in snapshot.customers])
    silent = (snapshot.recency_days > 35) & (snapshot.recency_days < 45) & (snapshot.life.purchase_days > 5)  # type: ignore[union-attr]  # a book gives lives
    assert set(names[silent & weekly]) <= {"At Risk", "Cannot Lose", "Lost"}
    assert not set(names[silent & ~weekly]) & {"Lost", "At Risk", "Cannot Lose"}


def test_labels_facts_and_histograms_are_those_of_the_worker(grown: OrderBook, trained: TrainingResult) -> None:
    model = model_in(trained)
    assert trained.trained is not None
    snapshot = grown.as_of(BEGIN_MS + 360 * DAY_MS)
    assert segment_indices(snapshot, model).tolist() == trained.trained.labels.tolist()
    counts = np.bincount(trained.trained.labels, minlength=len(model.segments)) / len(snapshot.customers)
    assert list(model.training.shares.values()) == pytest.approx(counts.tolist())
    assert tuple(model.training.histograms) == tuple(model.training.feature_means) == CLOCK_FEATURES
    assert sum(one.customers for one in trained.outcome.segments) == len(snapshot.customers)
    assert ClockScorer(model).ids.tolist() == sorted(one.id for one in trained.outcome.segments)


@pytest.mark.parametrize(
    ("plan", "column"),
    [(PLAN, "life"), (TrainingPlan(ks=(3,), rounds=0, least_stability=-1, largest_share=1.0, smallest_share=0), "90")],
)
def test_orders_and_money_are_those_that_the_segments_are_made_of(
    grown: OrderBook, plan: TrainingPlan, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    book = OrderBook(grown.entries, Rules(90 * DAY_MS, 7 * DAY_MS), 0)
    first = learnt(book, 330, plan)
    lineage = Lineage(model_in(first), 1, 99)
    result = learnt(book, 360, plan, lineage=lineage)
    snapshot, outcome = book.as_of(BEGIN_MS + 360 * DAY_MS), result.outcome
    assert snapshot.life is not None
    assert result.trained is not None
    assert outcome.comparison is not None
    # By hand: all orders of everybody, and those of the last 90 days.
    placed = [[e for e in own if e.time <= snapshot.as_of_ms] for own in book.entries.values()]
    whole = sum(e.amount for own in placed for e in own) / 10_000
    windowed = sum(e.amount for own in placed for e in own if e.time > snapshot.as_of_ms - 90 * DAY_MS) / 10_000
    assert whole > 1.5 * windowed
    life = column == "life"
    spent = whole if life else windowed
    assert (outcome.window_days, outcome.whole_lives) == (90.0, life)
    assert sum(s.money for s in outcome.segments) == pytest.approx(spent)
    assert sum(s.money_share or 0.0 for s in outcome.segments) == pytest.approx(1.0)
    assert sum(map(sum, outcome.comparison.money)) == pytest.approx(spent)
    orders = snapshot.life.purchase_days if life else snapshot.frequency
    for index, segment in enumerate(outcome.segments):
        inside = orders[result.trained.labels == index]
        assert (segment.frequency is None) == (not len(inside))
        assert segment.frequency is None or segment.frequency.median == np.median(inside)
    assert outcome.quality.without_orders == int((snapshot.frequency == 0).sum()) > 0
    assert outcome.quality.without_money == (0 if life else outcome.quality.without_orders)
    said = "in total" if life else "in the last 90 days"
    assert f"They have spent {spent:,.0f} net {said}." in sentences.headline(outcome)
    print_tables(outcome)
    counted = "days with an order in total" if life else "orders in the last 90 days"
    assert f"frequency ({counted}), monetary (spent {said})" in " ".join(capsys.readouterr().out.split())


def test_the_same_customers_give_the_same_model_again_and_nobody_moves(
    grown: OrderBook, trained: TrainingResult
) -> None:
    assert model_in(learnt(grown, 360)).version == model_in(trained).version
    model = model_in(trained)
    lineage = Lineage(model, 1, max(segment.id for segment in model.segments))
    again = learnt(grown, 360, lineage=lineage)
    assert again.outcome.comparison is not None
    assert again.outcome.comparison.moved == 0.0
    assert [s.id for s in model_in(again).segments] == [s.id for s in model.segments]
    assert [s.name for s in model_in(again).segments] == [s.name for s in model.segments]


@pytest.mark.parametrize(
    ("customers", "days", "missed", "complaint"),
    [
        (1, 1, "customers with an order", "The history is too short and there are too few customers to fit"),
        (40, 20, "customers with an order", "The history is too short and there are too few customers to fit"),
        (1_000, 60, "days of history", "The history is too short to fit"),
        (300, 360, "customers with an order", "There are too few customers to fit"),
    ],
)
def test_too_little_history_calls_nobody_lost_and_says_so(
    customers: int, days: int, missed: str, complaint: str
) -> None:
    result = learnt(shop(customers, days), days)
    model = model_in(result)
    assert model.outlook is not None
    assert (model.outlook.rates.a, model.outlook.rates.stand_in) == (0.0, 0.05)
    assert missed in {check.name for check in result.outcome.history if not check.passed}
    assert any(why.startswith(complaint) and missed in why for why in result.outcome.decision.why)
    # A long silence in the careful clock too: five of the customer's own gaps, or more.
    silent = {s.name: s.recency_days for s in result.outcome.segments}
    for name, least in (("At Risk", 30.0), ("Lost", 45.0)):
        spread = silent[name]
        assert spread is None or spread.least > least


def test_nobody_came_back(grown: OrderBook) -> None:
    once = OrderBook({name: own[:1] for name, own in grown.entries.items()}, Rules(90 * DAY_MS, 7 * DAY_MS), 0)
    result = learnt(once, 360)
    model = model_in(result)
    assert model.outlook is not None
    assert model.outlook.rates.alpha == UNKNOWN_GAP_DAYS
    assert {s.name for s in result.outcome.segments if s.customers} <= {"New", "About to Sleep", "Lost"}


def test_a_shop_without_recent_orders_is_not_fitted(grown: OrderBook) -> None:
    result = learnt(grown, 360 + 31)
    [late] = [check for check in result.outcome.history if not check.passed]
    assert (late.name, late.limit, late.bound) == ("days since the last order", 30.0, "most")
    assert model_in(result).outlook != model_in(learnt(grown, 360)).outlook
    text = " ".join(result.outcome.decision.why)
    assert "The last order is too long ago to fit how customers order (days since the last order 31, expected" in text


def test_few_steady_customers_are_one_segment(grown: OrderBook) -> None:
    result = learnt(grown, 360, replace(PLAN, floor=10_000))
    assert [s.name for s in model_in(result).segments if s.stage == "steady"] == ["Steady"]
    assert "customers are steady, expected 10,000" in result.outcome.decision.why[0]
    columns = (np.ones(2), np.ones(2), np.ones(2))
    kinds = find_kinds(columns, np.array([True, False]), PLAN, Lineage(), lambda *_: None)
    assert kinds.choice.why[0].startswith("1 customer is steady, expected")


def test_retrains_from_the_first_month_move_few(grown: OrderBook) -> None:
    lineage, moved = Lineage(), []
    for month in (1, 2, 3, 5, 7, 9, 11):
        result = learnt(grown, 30 * month, lineage=lineage)
        model = model_in(result)
        if result.outcome.comparison is not None:
            moved.append(result.outcome.comparison.moved)
        lineage = Lineage(model, month, max(lineage.highest_id, *(s.id for s in model.segments)))
    assert np.median(moved) <= 0.02


def test_other_kinds_wait_where_they_would_move_too_many(grown: OrderBook) -> None:
    first = model_in(learnt(grown, 360, replace(PLAN, floor=10_000)))
    lineage = Lineage(first, 1, max(segment.id for segment in first.segments))
    result = learnt(grown, 360, lineage=lineage)
    assert [s.name for s in model_in(result).segments if s.stage == "steady"] == ["Steady"]
    assert result.outcome.decision.why[0].startswith("The active model's kinds stay: others would move")
    assert result.may_activate


def test_recipes_by_centroids_get_an_outlook_where_the_history_allows_it(grown: OrderBook) -> None:
    plan = TrainingPlan(ks=(3,), rounds=0, least_stability=-1, largest_share=1.0, smallest_share=0.0)
    model = model_in(learnt(grown, 360, plan))
    assert (model.format, model.outlook is not None) == (1, True)
    assert model_in(learnt(shop(600, 60), 60, plan)).outlook is None


def test_figures_without_lives_are_refused() -> None:
    snapshot, _ = known_segments(1)
    assert trained_on(snapshot, TrainingPlan(ks=(5,), rounds=0)).trained is not None
    with pytest.raises(FitError, match="no lives"):
        learn_by_recipe(
            snapshot,
            PLAN,
            Lineage(),
            source="test",
            now_ms=0,
            watch=Stopwatch(time.perf_counter),
            progress=lambda _what, _done, _total: None,
        )


def test_the_thresholds_are_those_of_the_page() -> None:
    assert (LEAST_CUSTOMERS, LEAST_DAYS) == (500, 180.0)
