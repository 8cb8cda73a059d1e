from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from bench.harness.model import bench_model, nearer_at_risk
from bench.scenarios.moves_seen import SeenMove
from bench.scenarios.plain_rescore import nearest
from bench.scenarios.silence import name_of, patterns, shifted
from bench.scenarios.swap import SECOND, THIRD
from bench.scenarios.swap_checks import judge
from bench.scenarios.swap_watch import OrderMaker, SwapWatch
from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.entries import Rules
from segmentation.events import OrderPlaced, decode
from segmentation.partitioners import murmur2
from segmentation.rfm import announcement, headers, with_announcement
from segmentation.scorer import UNKNOWN
from segmentation.shadow import Verdict, verdicts

RULES = Rules()
NOW_MS = 1_790_000_000_123
DAY_MS = 86_400_000
SPAN_MS = (NOW_MS, NOW_MS + 1_000)
SECOND_MODEL = CompiledModel.of(nearer_at_risk(SECOND), "test", {})


def _before() -> dict[bytes, bytes]:
    """Return customers of each pattern, due within some days."""
    made = patterns(RULES)
    due = np.linspace(NOW_MS + 3_600_000, NOW_MS + 5 * DAY_MS, 400).astype(np.int64)
    return {name_of(n): shifted(made[n % len(made)], due[n : n + 1], np.array([n]))[0] for n in range(due.size)}


def _moving(states: dict[bytes, bytes], at_ms: int, model: CompiledModel) -> list[Verdict]:
    """Return the verdicts that differ from the announced segment."""
    found = verdicts([*states.items()], at_ms, ScoringContext.of(model, 0, RULES))
    return [verdict for verdict in found if verdict.segment != verdict.announced]


BEFORE = _before()
MOVED = {v.key: v.segment for v in _moving(BEFORE, NOW_MS, SECOND_MODEL)}
MOVER, STAYER = next(iter(MOVED)), next(key for key in BEFORE if key not in MOVED)


def _move(key: bytes, **changes: Any) -> SeenMove:
    source, sequence, _ = announcement(BEFORE[key])
    names = {s.id: s.name for s in bench_model().segments}
    move: dict[str, Any] = {
        "customer_id": key.decode(),
        "sequence": sequence + 1,
        "cause": "model",
        "occurred_at": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=NOW_MS),
        "causation_id": None,
        "source": names[source],
        "target": names[MOVED.get(key, 1)],
    }
    return SeenMove(**(move | changes))


def _after() -> dict[bytes, bytes]:
    return {
        key: with_announcement(value, MOVED[key], announcement(value)[1] + 1, NOW_MS) if key in MOVED else value
        for key, value in BEFORE.items()
    }


def test_each_model_moves_some_customers_in_a_hundred() -> None:
    assert 0.02 < len(MOVED) / len(BEFORE) < 0.1
    third = CompiledModel.of(nearer_at_risk(THIRD), "test", {})
    assert 0.02 < len(_moving(_after(), NOW_MS + 60_000, third)) / len(BEFORE) < 0.1


def test_a_correct_activation_has_no_problems() -> None:
    judged = judge(BEFORE, _after(), {k.decode(): [_move(k)] for k in MOVED}, SECOND_MODEL, SPAN_MS, RULES)
    assert (judged.problems, judged.moved, judged.stayed) == ([], len(MOVED), len(BEFORE) - len(MOVED))


@pytest.mark.parametrize(
    ("key", "moves"),
    [
        (MOVER, []),
        (MOVER, [_move(MOVER), _move(MOVER, sequence=9)]),
        (MOVER, [_move(MOVER, target="Champions")]),
        (MOVER, [_move(MOVER, source="Champions")]),
        (MOVER, [_move(MOVER, sequence=9)]),
        (MOVER, [_move(MOVER, occurred_at=datetime(2026, 1, 1, tzinfo=UTC))]),
        (STAYER, [_move(STAYER)]),
    ],
)
def test_checks_see_a_move_that_is_wrong(key: bytes, moves: list[SeenMove]) -> None:
    seen = {k.decode(): [_move(k)] for k in MOVED} | {key.decode(): moves}
    assert judge(BEFORE, _after(), seen, SECOND_MODEL, SPAN_MS, RULES).problems


def test_checks_see_a_state_that_changed_without_a_move() -> None:
    after = _after() | {STAYER: with_announcement(BEFORE[STAYER], 1, 1, NOW_MS)}
    moves = {k.decode(): [_move(k)] for k in MOVED}
    assert judge(BEFORE, after, moves, SECOND_MODEL, SPAN_MS, RULES).problems


def test_customers_moved_by_time_during_the_swap_are_counted_apart() -> None:
    moves = {k.decode(): [_move(k)] for k in MOVED} | {STAYER.decode(): [_move(STAYER, cause="silence")]}
    judged = judge(BEFORE, _after(), moves, SECOND_MODEL, SPAN_MS, RULES)
    assert (judged.problems, judged.by_time) == ([], 1)


def test_plain_loop_finds_the_nearest_centroid() -> None:
    values = list(BEFORE.values())
    head = headers(values)
    scorer = SECOND_MODEL.scorer
    rest = scorer.rest_of(head)
    own = scorer.decide(np.full(len(values), UNKNOWN), np.full(len(values), NOW_MS), head["last"], rest)
    assert nearest(values, NOW_MS, scorer.model).tolist() == scorer.ids[own].tolist()


def test_orders_are_distinct_and_in_their_customers_partition() -> None:
    maker = OrderMaker(8)
    made = [maker.order(number, b"2026-01-01T00:00:00Z") for number in range(200)]
    assert len({order.event_id for order in made}) == 200
    for order in made:
        event = decode(order.body)
        assert isinstance(event, OrderPlaced)
        assert (event.id, event.customer_id.encode()) == (order.event_id, order.key)
        assert order.partition == murmur2(order.key, 8)
    assert sum(order.is_new for order in made) == 20


def test_watch_sees_a_chain_that_breaks_and_times_new_customers() -> None:
    watch = SwapWatch(frozenset({"c1"}))
    watch._sent["e1"] = 10.0
    first = _move(STAYER, customer_id="c2", cause="first", sequence=1, source=None, target="Loyal", causation_id="e1")
    watch.take(first, 10.25)
    assert (watch.unseen, watch.spread(10, 11).max_ms) == (0, 250.0)
    for cohort, sequence in (("c1", 5), ("c1", 6)):
        watch.take(_move(STAYER, customer_id=cohort, sequence=sequence, source="Loyal", target="Loyal"), 11)
    assert watch.problems == []
    for broken in ({"sequence": 3}, {"sequence": 2, "source": "Lost"}):
        watch.take(_move(STAYER, **({"customer_id": "c2", "source": "Loyal"} | broken)), 12)
    assert len(watch.problems) == 2
