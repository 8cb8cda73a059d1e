"""Definitions say in plain units who is in a segment, and the reasons name the border that the scorer goes by."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.clock_scorer import ClockScorer, purchases_of_heads
from segmentation.definitions import ClockFacts, clock_facts, definition, why
from segmentation.entries import DAY_MS, Kind
from segmentation.life_figures import life_at
from segmentation.outlook_figures import outlook_figures, outlook_of_lives, purchases_of_lives
from segmentation.rfm import EMPTY, Rules, absorb_bytes, advance_bytes, entry, headers
from tests.support.data.clock_models import clock_model

MODEL = clock_model()
SCORER = ClockScorer(MODEL)
RULES = Rules()
AT = 20_000 * DAY_MS
BY_STAGE = {segment.stage: segment for segment in MODEL.segments}

orders = st.lists(st.tuples(st.integers(0, 700 * DAY_MS), st.integers(0, 3_000_000)), min_size=1, max_size=12)


def state_of(placed: list[tuple[int, int]]) -> bytes:
    value = EMPTY
    for number, (ago, amount) in enumerate(sorted(placed, reverse=True)):
        one = entry(Kind.PLACED, f"{number}", AT - ago, order=f"{number}", amount=amount)
        value, _ = absorb_bytes(value, one, AT - ago, RULES)
    return advance_bytes(value, AT, RULES)


@given(orders)
def test_facts_of_lives_are_those_of_headers_to_the_bit(placed: list[tuple[int, int]]) -> None:
    value = state_of(placed)
    head, at = headers([value]), np.array([AT])
    life = life_at(value, AT, RULES)
    of_head, of_life = purchases_of_heads(head, at), purchases_of_lives([life], AT)
    assert [column.tobytes() for column in of_head] == [column.tobytes() for column in of_life]
    assert outlook_of_lives(MODEL.outlook, [life], AT) == outlook_figures(MODEL.outlook, head, at)


@given(orders)
def test_the_reason_agrees_with_the_scorer(placed: list[tuple[int, int]]) -> None:
    value = state_of(placed)
    head, at = headers([value]), np.array([AT])
    index = int(SCORER.decide(np.array([-1]), at, head["last"], SCORER.rest_of(head))[0])
    segment = MODEL.segments[index]
    facts = clock_facts(SCORER, purchases_of_heads(head, at), AT, int(head["last"][0]))
    clock = MODEL.clock
    assert clock is not None
    days, gaps = facts.purchase_days, facts.silence_days / facts.usual_gap_days
    is_quiet = gaps > clock.quiet_gaps
    if days < clock.few:
        expected = "quiet" if is_quiet else "new" if days == 1 else "young"
    elif facts.chance < clock.at_risk:
        expected = "at risk, heavy" if facts.money_a_month > clock.heavy else "at risk"
    else:
        expected = "steady"
    if facts.chance < clock.lost and (days >= clock.few or is_quiet):
        expected = "lost"
    if days < clock.few and gaps > clock.lost_gaps:
        expected = "lost"
    assert segment.stage == expected
    said = why(MODEL, segment, facts, "EUR")
    assert said is not None
    assert ("usual gaps of" in said, "chance of still being a customer" in said) == (True, True)


@pytest.mark.parametrize("stage", BY_STAGE)
def test_every_stage_has_a_definition_without_jargon(stage: str) -> None:
    said = definition(MODEL, BY_STAGE[stage], "EUR")  # type: ignore[index]
    assert said is not None
    assert said.endswith(".")
    assert not re.search("centroid|odds|z space|cluster|feature", said)


def test_the_definition_names_the_borders_of_the_model() -> None:
    lost, heavy, steady = (definition(MODEL, BY_STAGE[stage], "EUR") for stage in ("lost", "at risk, heavy", "steady"))
    assert lost is not None
    assert "below 5 %" in lost
    assert heavy is not None
    assert "below 20 %. In their rhythm they spend more than 60.00 EUR a month." in heavy
    assert steady is not None
    assert "Ordered on 3 days or more" in steady
    assert re.search(r"about [\d.]+ orders a year of [\d.]+ EUR", steady)


def test_a_customer_who_came_nearly_back_hears_what_holds_them() -> None:
    clock, risk = MODEL.clock, BY_STAGE["at risk"]
    assert clock is not None
    facts = ClockFacts(0.9, 9, 10.0, 20.0, 30.0)
    said = why(MODEL, risk, facts._replace(chance=0.23), "EUR")
    assert said is not None
    assert "23 % chance of still being a customer (At Risk, until it is above 26 %)" in said
    assert clock.chance_back(clock.at_risk) == pytest.approx(0.26)


def test_a_model_by_centres_defines_nothing() -> None:
    facts = ClockFacts(0.5, 3, 10.0, 20.0, 30.0)
    by_centres = MODEL.model_copy(update={"format": 1, "clock": None})
    assert definition(by_centres, by_centres.segments[0]) is None
    assert why(by_centres, by_centres.segments[0], facts) is None
