"""The walk through ordinary histories makes the moves of the scoring step, and both those of a replay by records."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.harness.model import bench_model
from bench.studies.memory_replay import MemoryReplay
from segmentation.entries import DAY_MS, Rules
from segmentation.model import SegmentModel
from segmentation.money import UNITS
from stream.orders.rows import OrderRow, cancelled, parse_at, placed, refunded
from stream.rehearsal.columns import ReplaySpan
from stream.rehearsal.histories import read_histories
from stream.rehearsal.replay import GroupReplay, HistoryReplay
from tests.support.data.clock_models import clock_model

START = 500 * DAY_MS
SPAN = ReplaySpan(START, START + 400 * DAY_MS)
RULES = Rules(90 * DAY_MS, 7 * DAY_MS)
HOURS = 3_600_000

Moves = dict[bytes, list[tuple[int, int, int, str]]]


@st.composite
def histories(draw: st.DrawFn, *, cancellations: bool = False) -> list[OrderRow]:
    """Draw the orders of a few customers by time, with refunds and orders at one instant."""
    rows: list[OrderRow] = []
    for number in range(draw(st.integers(1, 4))):
        name = f"c{number}"
        at = START + draw(st.integers(-300, 300)) * DAY_MS
        for order in range(draw(st.integers(1, 9))):
            order_id = f"{name}-{order}"
            rows.append(placed(order_id, name, at, draw(st.integers(1, 300)) * UNITS, "USD"))
            after = at + draw(st.integers(0, 89 * 24)) * HOURS
            match draw(st.integers(0, 9)):
                case 0:
                    rows.append(refunded(order_id, name, after, UNITS, "USD", names_order=True))
                case 1:
                    rows.append(refunded(f"credit {order_id}", name, after, 2 * UNITS, "USD", names_order=False))
                case 2 if cancellations:
                    rows.append(cancelled(order_id, name, at + draw(st.integers(0, 7 * 24)) * HOURS, "USD"))
            at += draw(st.sampled_from([0, 1, HOURS, DAY_MS, 5 * DAY_MS, 30 * DAY_MS, 90 * DAY_MS, 200 * DAY_MS]))
    return sorted(rows, key=lambda row: row.at_ms)


def moves_of(groups: Sequence[GroupReplay]) -> Moves:
    found: Moves = {}
    for group in groups:
        columns = zip(*(column.tolist() for column in group.moves[:4]), group.moves.cause, strict=True)
        for customer, at, source, target, cause in columns:
            found.setdefault(group.customers[customer], []).append((at, source, target, cause.value))
    return found


MODELS = (bench_model(), bench_model().model_copy(update={"margin": 0.0}), clock_model())


@pytest.mark.parametrize("dwell_days", [0, 7])
@settings(deadline=None, max_examples=35)
@given(rows=histories(), model=st.sampled_from(MODELS))
def test_a_walk_makes_the_moves_of_the_step(rows: list[OrderRow], model: SegmentModel, dwell_days: int) -> None:
    replay = HistoryReplay(model, RULES, dwell_ms=dwell_days * DAY_MS)
    own = read_histories(lambda: rows, "USD", SPAN.end)[0]
    walked = moves_of(list(replay.run(own, SPAN)))
    stepped = moves_of([replay.by_step(list(own.items()), SPAN)])
    assert walked == stepped


@settings(deadline=None, max_examples=20)
@given(rows=histories(cancellations=True), model=st.sampled_from(MODELS))
def test_a_rehearsal_makes_the_moves_of_a_shard(rows: list[OrderRow], model: SegmentModel) -> None:
    shard = MemoryReplay("USD", RULES)
    shard.send([row for row in rows if row.at_ms < SPAN.start], until_ms=SPAN.start)
    shard.start(model)
    shard.send([row for row in rows if SPAN.start <= row.at_ms < SPAN.end], until_ms=SPAN.end)
    wanted: Moves = {}
    ids = {segment.name: segment.id for segment in model.segments} | {None: 0}
    for move in shard.moves():
        at, cause = parse_at(move.occurred_at), move.cause.value
        if at == SPAN.start and not wanted.get(move.customer_id.encode()) and move.rfm and move.rfm.recency_days > 0:
            cause = "model"  # the model's start
        wanted.setdefault(move.customer_id.encode(), []).append((at, ids[move.from_], ids[move.to], cause))
    own = read_histories(lambda: rows, "USD", SPAN.end)[0]
    assert moves_of(list(HistoryReplay(model, RULES).run(own, SPAN))) == wanted
