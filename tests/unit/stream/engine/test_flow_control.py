"""The number of customers that a rescore looks at in one turn."""

from __future__ import annotations

from typing import Any

import pytest

from stream.engine.flow_control import (
    HOLD_S,
    ORDERS_LATELY_S,
    RESCORED_BESIDE_ORDERS,
    RESCORED_SLICES,
    FlowControl,
    TurnSlots,
    deadline,
)
from stream.settings import Settings


def _flow(**fields: Any) -> FlowControl:
    return FlowControl(Settings(**fields), TurnSlots(4))


def test_slices_of_a_rescore_are_small_only_while_orders_come() -> None:
    """To any shard of the worker."""
    slots, now = TurnSlots(4), [100.0]
    one, other = (FlowControl(Settings(rescore_slice=5_000), slots, lambda: now[0]) for _ in range(2))
    for flow in (one, other):
        flow.held(2_500, 0.01)
    assert other.rescore_size(limited=True) == 5_000
    one.done(taken=3, due=0, seconds=0.01)
    assert one.rescore_size(limited=True) == other.rescore_size(limited=True) == RESCORED_BESIDE_ORDERS
    now[0] += ORDERS_LATELY_S
    assert other.rescore_size(limited=True) == 5_000
    one.done(taken=0, due=9, seconds=0.01)
    assert one.rescore_size(limited=True) == 5_000


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"rescore_slice": 100}, 100),
        ({"time": "event"}, 5_000),
        ({"model_moves_per_minute": 60 * 8 * 30}, 30),
    ],
)
def test_other_limits_of_a_slice_hold_while_orders_come(fields: dict[str, Any], size: int) -> None:
    flow = _flow(**fields)
    flow.held(2_500, 0.01)
    flow.done(taken=3, due=0, seconds=0.01)
    assert flow.rescore_size(limited=True) == size


def test_slices_of_a_rescore_share_a_turn_while_nothing_waits() -> None:
    flow = _flow(model_moves_per_minute=None)
    assert flow.rescore_slices(limited=True) == RESCORED_SLICES
    flow.done(taken=10, due=0, seconds=0.01)
    assert flow.rescore_slices(limited=True) == 1
    limited = _flow(model_moves_per_minute=600)
    assert limited.rescore_slices(limited=True) == 1
    assert limited.rescore_slices(limited=False) == RESCORED_SLICES


def test_slices_of_a_rescore_grow_while_they_are_quick_and_shrink_where_they_hold_the_loop() -> None:
    flow = _flow(rescore_slice=5_000)
    first = flow.rescore_size(limited=False)
    flow.held(first, HOLD_S / 10)
    assert flow.rescore_size(limited=False) == 2 * first
    flow.held(2 * first, HOLD_S * 4)
    assert flow.rescore_size(limited=False) == first // 2
    flow.held(1, 2 * HOLD_S)
    assert flow.rescore_size(limited=False) == 1


def test_batches_grow_slowly_after_one_that_took_too_long() -> None:
    flow = _flow(turn_max_orders=4_000)
    flow.too_long(4_000, 0)
    assert flow.limit == 2_000
    flow.done(taken=2_000, due=0, seconds=0.01)
    assert flow.limit == 2_200
    for _ in range(40):
        flow.done(taken=flow.limit, due=0, seconds=0.01)
    assert flow.limit == 4_000
    flow.too_long(4_000, 9)
    flow.too_long(2, 0)
    assert flow.limit == 1
    flow.done(taken=1, due=0, seconds=0.01)
    assert flow.limit == 2


def test_fewer_due_customers_come_where_they_take_too_long_and_no_fewer_records() -> None:
    flow = _flow(turn_max_orders=4_000, due_slice=512, time="event")
    flow.too_long(3, 512)
    assert (flow.limit, flow.due_slice) == (4_000, 256)
    flow.done(taken=0, due=256, seconds=0.1)
    assert (flow.limit, flow.due_slice) == (4_000, 281)
    for _ in range(20):
        flow.done(taken=0, due=256, seconds=0.1)
    assert flow.due_slice == 512
    taken, due = 8, 6
    while max(taken, due) > 1:  # neither alone takes too long: in the end it is one of each
        flow.too_long(taken, due)
        taken, due = min(taken, flow.limit), min(due, flow.due_slice)
    assert (taken, due) == (1, 1)


def test_a_batch_is_overdue_after_its_time_since_it_was_asked_first() -> None:
    now = [100.0]
    overdue = deadline(lambda: now[0])
    now[0] += 10 * HOLD_S
    assert not overdue()
    now[0] += 0.9 * HOLD_S
    assert not overdue()
    now[0] += 0.2 * HOLD_S
    assert overdue()
