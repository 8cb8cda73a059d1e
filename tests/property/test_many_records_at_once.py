"""Many records of one customer in a batch: merged at once, they give what they give one by one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segmentation.merging
from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.events import (
    Amount,
    CustomerErased,
    InputEvent,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    encode,
)
from segmentation.rfm import Rules
from segmentation.scoring import ScoringStep
from segmentation.step import BatchTooLong, TurnContext
from tests.support.engine.memory_shard import DAY, T0, MemoryShard, Rec, a_model, at, check_chains, published_moves

many = settings(
    max_examples=int(os.environ.get("EXAMPLES", "30")), deadline=None, suppress_health_check=list(HealthCheck)
)


def a_log(rng: np.random.Generator) -> list[Rec]:
    """Make long runs of late records of two or three customers, so that most have the clock of the one before."""
    names = [f"c{i}" for i in range(int(rng.integers(1, 4)))]
    t, out = T0, list[Rec]()
    for n in range(int(rng.integers(10, 120))):
        t += int(rng.choice([0, 1, DAY, 9 * DAY], p=[0.9, 0.03, 0.05, 0.02]))
        when = at(t - int(rng.choice([0, int(rng.integers(0, 90 * DAY)), 60 * DAY, 67 * DAY], p=[0.1, 0.7, 0.1, 0.1])))
        who, old = str(rng.choice(names)), f"o{int(rng.integers(0, n + 1))}"
        amount = Amount(value=str(int(rng.integers(0, 300))), currency="USD")
        backfill = "old" if rng.random() < 0.1 else None
        kind = rng.random()
        event: InputEvent
        if kind < 0.75:
            order = old if rng.random() < 0.1 else f"o{n}"
            event = OrderPlaced(
                id=f"e{n if rng.random() < 0.95 else n // 2}", order_id=order, customer_id=who, occurred_at=when,
                amount=amount, backfill=backfill,
            )  # fmt: skip
        elif kind < 0.87:
            refunded = old if rng.random() < 0.7 else None
            event = OrderRefunded(id=f"e{n}", order_id=refunded, customer_id=who, occurred_at=when, amount=amount)
        elif kind < 0.99:
            event = OrderCancelled(id=f"e{n}", order_id=old, customer_id=who, occurred_at=when)
        else:
            event = CustomerErased(id=f"e{n}", customer_id=who, occurred_at=when)
        out.append(Rec(n, who.encode(), encode(event)))
        if rng.random() < 0.05:
            out.append(out[-1])
    return out


@many
@given(st.integers(0, 2**63 - 1), st.sampled_from(["event", "wall"]), st.sampled_from([1_000, 5, 20]))
def test_records_merged_at_once_give_what_they_give_one_by_one(seed: int, time: str, cap: int) -> None:
    rng = np.random.default_rng(seed)
    rules = Rules(60 * DAY, int(rng.choice([0, 7 * DAY])), cap)
    dwell = int(rng.choice([0, 0, DAY]))
    model, log = CompiledModel.of(a_model(rng), "g", {}), a_log(rng)
    size, held = int(rng.choice([5, 40, 1_000])), int(rng.choice([1, 2, 5]))
    runs = []
    for held_open in (10**9, held):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segmentation.merging, "HELD_OPEN", held_open)
            reader = Reader("USD", time, 10**12, 400 * DAY, 1_000_000)  # type: ignore[arg-type]  # wall or event
            shard = MemoryShard(ScoringStep(reader, rules, dwell_ms=dwell), model, now=T0 + 100 * DAY)
            while shard.offset < len(log):
                shard.turn(log, size, 1_000)
                shard.now += DAY
        runs.append(shard)
    one, other = runs
    assert published_moves(one) == published_moves(other)
    assert (one.states, one.index, one.clock) == (other.states, other.index, other.clock)
    assert (one.reasons, one.counts) == (other.reasons, other.counts)
    check_chains(published_moves(other), dwell)


def placed(n: int, customer: str, when: int) -> Rec:
    amount = Amount(value="10", currency="USD")
    event = OrderPlaced(id=f"e{n}", order_id=f"o{n}", customer_id=customer, occurred_at=at(when), amount=amount)
    return Rec(n, customer.encode(), encode(event))


def test_a_customer_of_very_many_orders_moves_once_at_one_clock() -> None:
    rng = np.random.default_rng(3)
    log = [placed(n, "guest", T0 - int(rng.integers(0, 300 * DAY))) for n in range(4_000)]
    reader = Reader("USD", "wall", 10**12, 400 * DAY, 1_000_000)
    shard = MemoryShard(ScoringStep(reader, Rules()), CompiledModel.of(a_model(rng), "g", {}), now=T0)
    shard.turn(log, len(log), 100)
    assert (shard.offset, shard.counts["new"]) == (4_000, 4_000)
    assert [m.sequence for m in published_moves(shard)] == [1]


@pytest.mark.parametrize("customers", [1, 50])
def test_a_batch_that_takes_too_long_is_given_up(customers: int) -> None:
    log = [placed(n, f"c{n % customers}", T0) for n in range(100)]
    step = ScoringStep(Reader("USD", "wall", 10**12, 400 * DAY, 1_000_000), Rules())
    context = TurnContext(-1, T0, overdue=lambda: True)
    plan = step.plan(log, 0, context)
    with pytest.raises(BatchTooLong):
        step.decide(plan, [None] * len(plan.keys), [], False, context)
    plan = step.absorb(log, 0, context)
    with pytest.raises(BatchTooLong):
        step.merge(plan, [None] * len(plan.keys))
