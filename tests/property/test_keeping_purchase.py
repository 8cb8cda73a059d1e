"""The purchase that keeps a customer's segment: bought in the last millisecond, it does; a cent less doesn't."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation.decisions import CompiledModel, ScoringContext, search
from segmentation.decoder import Reader
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.forecast import _AMOUNTS, keeping_purchase
from segmentation.money import format_units
from segmentation.rfm import Rules, announcement
from segmentation.scoring import ScoringStep
from tests.support.engine.memory_shard import DAY, T0, MemoryShard, Rec, a_model, at

RULES = Rules(60 * DAY, 7 * DAY, 64)
STEP = ScoringStep(Reader("USD", "event", 300_000, 40_000 * DAY, 1_000_000), RULES)


def order(number: int, ms: int, units: int) -> Rec:
    amount = Amount(format_units(units), "USD")
    event = OrderPlaced(id=f"e{number}", order_id=f"o{number}", customer_id="c", occurred_at=at(ms), amount=amount)
    return Rec(number, b"c", encode(event))


def lives(rng: np.random.Generator, model: CompiledModel) -> MemoryShard:
    """A customer with some orders."""
    shard, ms, log = MemoryShard(STEP, model), T0, list[Rec]()
    for number in range(int(rng.integers(1, 6))):
        ms += int(rng.integers(1, 12 * DAY))
        log.append(order(number, ms, int(rng.integers(1, 30_000)) * 100))
    while shard.offset < len(log):
        shard.turn(log, 10, 10)
    return shard


@settings(max_examples=int(os.environ.get("EXAMPLES", "60")), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**63 - 1))
def test_it_keeps_and_a_cent_less_does_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = CompiledModel.of(a_model(rng), "g", {})
    shard = lives(rng, model)
    value = shard.states[b"c"]
    segment = announcement(value)[0]
    scoring = ScoringContext.of(model, 1, RULES)
    (due,) = search([value], [shard.clock + 1], scoring).due
    if not shard.clock < due - 1 < T0 + 9_000 * DAY:
        return
    least = keeping_purchase(value, due, scoring)
    for amount in _AMOUNTS if least is None else (least, least - 100):
        if amount:
            again = MemoryShard(STEP, model, states=dict(shard.states), index=dict(shard.index), clock=shard.clock)
            again.turn([order(99, due - 1, amount)], 10, 10)
            assert not again.dead
            stays = announcement(again.states[b"c"])[0] == segment
            assert stays == (amount == least)
