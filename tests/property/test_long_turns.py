"""A turn that spans years of event time: searches of the next move that end on the way go on."""

from __future__ import annotations

import numpy as np
import pytest

from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.events import CONTROL_KEY, Amount, ClockAdvanced, OrderPlaced, encode
from segmentation.intervals import MOST_INTERVALS
from segmentation.output_events import SegmentChanged
from segmentation.rfm import Rules
from segmentation.scoring import ScoringStep
from tests.support.engine.memory_shard import DAY, T0, MemoryShard, Rec, a_model, at, published_moves

WINDOW = 365 * DAY


def the_log() -> list[Rec]:
    """More orders in a window than a search looks at, then two years without one."""
    rows = []
    for n in range(2 * MOST_INTERVALS):
        placed = OrderPlaced(
            id=f"e{n}", order_id=f"o{n}", customer_id="c", occurred_at=at(T0 + n * DAY), amount=Amount("9", "USD")
        )
        rows.append((b"c", encode(placed)))
    for n in range(0, 800, 8):
        to = at(T0 + (2 * MOST_INTERVALS + n) * DAY)
        rows.append((CONTROL_KEY, encode(ClockAdvanced(id=f"t{n}", to=to))))
    return [Rec(offset, key, value) for offset, (key, value) in enumerate(rows)]


def played(seed: int, size: int, *, holds: bool) -> list[SegmentChanged]:
    step = ScoringStep(Reader("USD", "event", 10**9 * 86_400, 10**12, 1_000_000), Rules(WINDOW, 7 * DAY, 16_384))
    model = CompiledModel.of(a_model(np.random.default_rng(seed)), "g", {n: f"s{n}" for n in range(1, 9)})
    shard, log = MemoryShard(step, model, holds=holds), the_log()
    while shard.offset < len(log):
        shard.turn(log, size, 100)
    return published_moves(shard)


@pytest.mark.parametrize("holds", [False, True])
def test_moves_by_time_do_not_depend_on_the_length_of_turns(monkeypatch: pytest.MonkeyPatch, *, holds: bool) -> None:
    monkeypatch.setattr("segmentation.scoring.WORTH_HOLDING", 500)
    by_time = 0
    for seed in range(12):
        moves = played(seed, 1, holds=holds)
        assert played(seed, 1_000, holds=holds) == moves
        by_time += sum(move.cause.value in {"window", "silence"} for move in moves)
    assert by_time > 5
