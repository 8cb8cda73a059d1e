"""The scoring step: the moves are a function of the records, however the stream is cut into turns."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.events import (
    CONTROL_KEY,
    Amount,
    ClockAdvanced,
    CustomerErased,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    encode,
)
from segmentation.model import Feature, Segment
from segmentation.rates import KnownRate, NewRate, Rates
from segmentation.rfm import NONE, Rules, advance_bytes, headers
from segmentation.scoring import ScoringStep
from segmentation.step import TurnContext
from tests.support.engine.memory_shard import DAY, T0, MemoryShard, Rec, a_model, at, check_chains, published_moves

RULES = Rules(60 * DAY, 7 * DAY, 64)
many = settings(
    max_examples=int(os.environ.get("EXAMPLES", "20")), deadline=None, suppress_health_check=list(HealthCheck)
)


def a_log(rng: np.random.Generator) -> list[Rec]:
    names = [f"c{i}" for i in range(int(rng.integers(1, 8)))]
    t, out = T0, []
    for n in range(int(rng.integers(5, 60))):
        t += int(rng.choice([0, 0, 1, 1000, DAY, 5 * DAY, 40 * DAY], p=[0.2, 0.1, 0.1, 0.1, 0.3, 0.15, 0.05]))
        when = at(t - int(rng.choice([0, 0, 0, DAY, 5 * DAY])))
        who, old = str(rng.choice(names)), f"o{int(rng.integers(0, n + 1))}"
        amount = Amount(value=str(int(rng.integers(0, 300))), currency=str(rng.choice(["USD", "USD", "USD", "EUR"])))
        kind = rng.random()
        if kind < 0.05:
            out.append(Rec(n, CONTROL_KEY, encode(ClockAdvanced(id=f"e{n}", to=at(t)))))
            continue
        event: OrderPlaced | OrderRefunded | OrderCancelled | CustomerErased
        if kind < 0.75:
            event = OrderPlaced(id=f"e{n}", order_id=f"o{n}", customer_id=who, occurred_at=when, amount=amount)
        elif kind < 0.85:
            order = old if rng.random() < 0.7 else None
            event = OrderRefunded(id=f"e{n}", order_id=order, customer_id=who, occurred_at=when, amount=amount)
        elif kind < 0.97:
            event = OrderCancelled(id=f"e{n}", order_id=old, customer_id=who, occurred_at=when)
        else:
            event = CustomerErased(id=f"e{n}", customer_id=who, occurred_at=when)
        out.append(Rec(n, who.encode(), encode(event)))
        if rng.random() < 0.1:
            out.append(out[-1])
    out.append(Rec(len(out), CONTROL_KEY, encode(ClockAdvanced(id="end", to=at(t + 80 * DAY)))))
    return [replace(record, timestamp=record.timestamp + n * 60_000) for n, record in enumerate(out)]


# Some days have no rate. They came while the orders of a log do, whose timestamps are a minute apart.
LOADED = Rec(0, None, None).timestamp
RATES = Rates("USD").plus(
    NewRate("EUR", day, KnownRate(10**12 + day * 1_234_567_890, LOADED + day % 60 * 60_000))
    for day in range(T0 // DAY - 10, T0 // DAY + 4_000)
    if day % 7
)


def a_shard(dwell_ms: int, model: CompiledModel | None) -> MemoryShard:
    return MemoryShard(a_step(dwell_ms), model, rates=RATES)


def a_step(dwell_ms: int) -> ScoringStep:
    reader = Reader("USD", "event", 300_000, 90 * DAY, 1_000_000, other_currencies=frozenset({"EUR"}))
    return ScoringStep(reader, RULES, dwell_ms=dwell_ms)


@many
@given(st.integers(0, 2**63 - 1))
def test_cut_anywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, dwell = CompiledModel.of(a_model(rng), "g", {}), int(rng.choice([0, 0, DAY, 7 * DAY]))
    log = a_log(rng)
    runs = []
    for size, slice_ in ((1, 1), (10**6, 10**6), (7, 2), (0, 0)):
        shard = a_shard(dwell, model)
        guard = 0
        while shard.offset < len(log):
            shard.turn(log, size or int(rng.integers(1, 9)), slice_ or int(rng.integers(1, 9)))
            guard += 1
            assert guard < 10_000, "no progress"
        runs.append(shard)
    first = published_moves(runs[0])
    for shard in runs[1:]:
        assert published_moves(shard) == first
        assert (shard.states, shard.clock, shard.dead) == (runs[0].states, runs[0].clock, runs[0].dead)
    check_chains(first, dwell)
    check_truth(runs[0], model, dwell)


def check_truth(shard: MemoryShard, model: CompiledModel, dwell: int) -> None:
    """At rest everyone is where the model puts them, and would have been a millisecond ago (what is due now waits)."""
    for value in shard.states.values():
        now = shard.clock - 1
        head = headers([advance_bytes(value, now, RULES)])
        if head["last"][0] == NONE and head["segment"][0] == 0:
            continue
        if head["moved_at"][0] != NONE and now < head["moved_at"][0] + max(dwell, 1):
            continue
        source = model.scorer.index_from_ids(head["segment"])
        rest = model.scorer.rest_of(head)
        target = model.scorer.decide(source, np.array([now]), head["last"], rest)
        assert target[0] == source[0]


def test_of_two_orders_at_one_instant_the_second_moves_a_millisecond_later_and_is_the_cause() -> None:
    """At most one move per customer and instant; what waits for the next one is not silence."""
    rng = np.random.default_rng(1)
    one = a_model(rng, (1, 2, 3))
    by_count = one.model_copy(
        update={
            "features": (
                Feature(name="recency_days", transform="identity", mean=0.0, scale=1000.0),
                Feature(name="frequency", transform="identity", mean=0.0, scale=1.0),
                Feature(name="monetary", transform="identity", mean=0.0, scale=1e6),
            ),
            "segments": tuple(
                Segment(id=i, name=f"s{i}", action="none", centroid=(0.0, float(i), 0.0)) for i in (1, 2, 3)
            ),
            "margin": 0.0,
        }
    )
    amount = Amount(value="1", currency="USD")
    orders = [
        OrderPlaced(id=f"e{n}", order_id=f"o{n}", customer_id="c", occurred_at=at(T0), amount=amount) for n in range(3)
    ]
    log = [Rec(n, b"c", encode(order)) for n, order in enumerate(orders)]
    log.append(Rec(3, CONTROL_KEY, encode(ClockAdvanced(id="t", to=at(T0 + DAY)))))
    shard = MemoryShard(a_step(0), CompiledModel.of(by_count, "g", {}))
    while shard.offset < len(log):
        shard.turn(log, 10, 10)
    assert [(m.to, m.cause.value, m.occurred_at[-5:]) for m in published_moves(shard)] == [
        ("s1", "first", ".000Z"),
        ("s3", "order", ".001Z"),
    ]


@many
@given(st.integers(0, 2**63 - 1))
def test_a_replay_that_knows_more_rates_decides_as_the_first_delivery_did(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, log = CompiledModel.of(a_model(rng), "g", {}), a_log(rng)
    runs = []
    for known in (False, True):
        shard = a_shard(0, model)
        while shard.offset < len(log):
            size = int(rng.integers(1, 9))
            now = log[min(shard.offset + size, len(log)) - 1].timestamp
            shard.rates = RATES if known else Rates("USD").plus(rate for rate in RATES if rate.known.at <= now)
            shard.turn(log, size, 100)
        runs.append(shard)
    live, again = runs
    assert (live.states, live.reasons, live.clock) == (again.states, again.reasons, again.clock)
    assert published_moves(live) == published_moves(again)


@many
@given(st.integers(0, 2**63 - 1))
def test_a_second_replay_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shard = a_shard(0, CompiledModel.of(a_model(rng), "g", {}))
    log = [r for r in a_log(rng) if b"erased" not in (r.value or b"")]
    while shard.offset < len(log):
        shard.turn(log, 5, 3)
    states, count = dict(shard.states), len(shard.outputs)
    shard.offset = 0
    while shard.offset < len(log):
        shard.turn(log, 5, 3)
    assert len(shard.outputs) == count
    assert shard.states == states


@many
@given(st.integers(0, 2**63 - 1))
def test_a_new_model_moves_each_customer_once_whatever_the_slices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = CompiledModel.of(a_model(rng, (1, 2, 3)), "g", {})
    second = CompiledModel.of(a_model(rng, (2, 3, 7)), "g", {1: "s1"})
    log = a_log(rng)
    half = len(log) // 2
    results = []
    for slice_ in (1, 1000):
        shard = a_shard(0, None)
        while shard.offset < half // 2:
            shard.turn(log[: half // 2], 4, 4)
        assert not shard.outputs
        shard.model = first
        shard.rescore(slice_)
        announced = {o.key for o in shard.outputs}
        assert len(announced) == len(shard.outputs)
        assert announced == {
            k for k, v in shard.states.items() if headers([advance_bytes(v, shard.clock, RULES)])["last"][0] != NONE
        }
        while shard.offset < half:
            shard.turn(log[:half], 4, 4)
        shard.model = second
        shard.rescore(slice_)
        while shard.offset < len(log):
            shard.turn(log, 4, 4)
        check_chains(published_moves(shard), 0)
        check_truth(shard, second, 0)
        results.append((published_moves(shard), shard.states))
    assert results[0] == results[1]


@many
@given(st.integers(0, 2**63 - 1))
def test_merging_in_silence_and_patching_gives_the_states_of_an_undisturbed_run(seed: int) -> None:
    """Takeover: states at some offset, the outputs since, the records since: the same states."""
    rng = np.random.default_rng(seed)
    log = a_log(rng)
    model = CompiledModel.of(a_model(rng), "g", {})
    straight = a_shard(0, model)
    stop = int(rng.integers(0, len(log)))
    while straight.offset < stop:
        straight.turn(log[:stop], 3, 3)
    states, clock, outputs = dict(straight.states), straight.clock, len(straight.outputs)
    while straight.offset < len(log):
        straight.turn(log, 3, 3)
    step = a_step(0)
    for o in straight.outputs[outputs:]:
        states[o.key] = step.patch(states.get(o.key), o.note)
    plan = step.absorb(log[stop:], 0, TurnContext(clock, clock, rates=RATES))
    states |= step.merge(plan, [states.get(k) for k in plan.keys]).states
    assert plan.clock == straight.clock
    end = straight.clock
    assert {k: advance_bytes(v, end, RULES) for k, v in states.items()} == {
        k: advance_bytes(v, end, RULES) for k, v in straight.states.items()
    }
