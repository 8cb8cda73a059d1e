"""The levels of the stages, chosen by what the segments would have been worth on the orders of the last half year."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from segmentation.entries import DAY_MS
from tests.support.data.clock_models import clock_model
from tests.support.data.rhythm_shop import BEGIN_MS, PLAN, learnt, shop
from trainer.outcome import LaterWorth
from trainer.rhythm import worth
from trainer.rhythm.worth import JUDGED_MS, LEVELS, judged
from trainer.snapshot.orders import OrderBook
from trainer.training.choose import gate
from trainer.training.learn import TrainingResult, held_back
from trainer.training.naming import Lineage
from trainer.training.worth_gates import WorthFigures

if TYPE_CHECKING:
    from segmentation.model import SegmentModel
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.plan import TrainingPlan

AT_MS = BEGIN_MS + 400 * DAY_MS


def with_moves(moves: dict[float, float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let each level of `at_risk` give so many moves a year, and return the list of those that are tried."""
    tried: list[float] = []

    def figures(_book: object, model: SegmentModel, _start: int, _end: int) -> WorthFigures:
        assert model.clock is not None
        tried.append(model.clock.at_risk)
        later = LaterWorth(since="", until="", customers=1, moves_per_year=moves[model.clock.at_risk], back_14=0.0)
        return WorthFigures(later, {}, None)

    monkeypatch.setattr(worth, "replayed_figures", figures)
    return tried


def trained(_snapshot: CustomerSnapshot, plan: TrainingPlan) -> SegmentModel:
    clock = clock_model().clock
    assert clock is not None
    return clock_model(clock=clock.model_copy(update={"at_risk": plan.at_risk, "lost": plan.lost}))


@pytest.fixture(scope="module")
def book() -> OrderBook:
    return shop(60, 400)


def test_the_first_levels_that_pass_are_taken(book: OrderBook, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = with_moves({0.2: 9.0, 0.3: 5.0, 0.1: 2.0}, monkeypatch)
    found = judged(book, AT_MS, PLAN, Lineage(), trained)
    assert tried == [0.2, 0.3, 0.1]
    assert (found.plan.at_risk, found.plan.lost) == (0.1, 0.02)
    assert all(gate.passed for gate in found.gates)
    assert "with 0.2 and 0.05, moves a year would not pass" in found.why[0]


def test_those_of_the_active_model_come_first(book: OrderBook, monkeypatch: pytest.MonkeyPatch) -> None:
    active = trained(book.as_of(AT_MS), replace(PLAN, at_risk=0.3, lost=0.1))
    tried = with_moves(dict.fromkeys((0.2, 0.3, 0.1), 1.0), monkeypatch)
    assert judged(book, AT_MS, PLAN, Lineage(active), trained).plan.at_risk == 0.3
    assert tried == [0.3]


def test_where_none_passes_the_first_stays_and_its_gates_say_why(
    book: OrderBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_moves(dict.fromkeys((0.2, 0.3, 0.1), 9.0), monkeypatch)
    found = judged(book, AT_MS, PLAN, Lineage(), trained)
    assert (found.plan.at_risk, found.plan.lost) == LEVELS[0]
    assert [gate.name for gate in found.gates if not gate.passed] == ["moves a year"]


def test_levels_that_were_asked_for_stand(book: OrderBook, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = with_moves({0.25: 9.0}, monkeypatch)
    plan = replace(PLAN, at_risk=0.25, lost=0.01, levels_asked=True)
    found = judged(book, AT_MS, plan, Lineage(), trained)
    assert (tried, found.plan) == ([0.25], plan)
    assert not found.gates[0].passed


def test_without_orders_or_with_too_few_nothing_is_measured_and_it_says_so(book: OrderBook) -> None:
    found = judged(None, AT_MS, PLAN, Lineage(), trained)
    assert (found.plan, found.later, found.gates) == (PLAN, None, ())
    assert "wasn't measured" in found.why[0]
    found = judged(book, BEGIN_MS + JUDGED_MS - DAY_MS, PLAN, Lineage(), trained)
    assert "too short to train on and compare" in found.why[0]


def test_a_failed_gate_holds_back_a_model_that_would_replace_another(
    book: OrderBook,
) -> None:
    result = learnt(book, 400)
    decision = msgspec.structs.replace(result.outcome.decision, gates=(gate("moves a year", 5.0, 4.0, "most"),))
    first = TrainingResult(msgspec.structs.replace(result.outcome, decision=decision, parent=None), result.trained)
    later = TrainingResult(msgspec.structs.replace(first.outcome, parent="abc"), result.trained)
    assert first.may_activate
    assert not later.may_activate
    assert [held_back(one) for one in later.holding_back] == [
        "on the orders of the last half year moves a year is 5, expected at most 4"
    ]


def test_a_real_half_year_is_judged() -> None:
    book = shop(700, 460, leave=0.05)
    result = learnt(book, 460, book=book)
    later = result.outcome.later
    assert later is not None
    assert later.moves_per_year is not None
    assert later.moves_per_year < 4
    names = {gate.name for gate in result.outcome.decision.gates}
    assert {"moves a year", "back in 14 days", "lift over recency", "outlook over recency"} <= names
