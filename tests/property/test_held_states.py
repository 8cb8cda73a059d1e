"""States that are held open from one turn to the next: they give what bytes give."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import segmentation.merging
import segmentation.scoring
from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.rfm import Rules
from segmentation.scoring import ScoringStep
from tests.property.test_many_records_at_once import a_log
from tests.support.engine.memory_shard import DAY, T0, MemoryShard, a_model

many = settings(
    max_examples=int(os.environ.get("EXAMPLES", "30")), deadline=None, suppress_health_check=list(HealthCheck)
)


@many
@given(st.integers(0, 2**63 - 1), st.sampled_from(["event", "wall"]), st.sampled_from([1_000, 5, 20]))
def test_held_states_give_what_bytes_give(seed: int, time: str, cap: int) -> None:
    rng = np.random.default_rng(seed)
    rules = Rules(60 * DAY, int(rng.choice([0, 7 * DAY])), cap)
    dwell = int(rng.choice([0, 0, DAY]))
    model, log = CompiledModel.of(a_model(rng), "g", {}), a_log(rng)
    size, held_open, worth, slice_ = (int(rng.choice(some)) for some in ([1, 5, 40], [3, 32], [0, 150], [1, 1_000]))
    reader = Reader("USD", time, 10**12, 400 * DAY, 1_000_000)  # type: ignore[arg-type]  # wall or event
    runs = [
        MemoryShard(ScoringStep(reader, rules, dwell_ms=dwell), model, now=T0, holds=holds) for holds in (False, True)
    ]
    used = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation.merging, "HELD_OPEN", held_open)
        patch.setattr(segmentation.scoring, "WORTH_HOLDING", worth)
        plain, holding = runs
        while plain.offset < len(log):
            passes = int(rng.integers(0, 5 * DAY))
            for shard in runs:
                shard.now += passes
                shard.turn(log, size, slice_)
            used += len(holding.held)
            assert holding.offset == plain.offset
            assert holding.outputs == plain.outputs
            assert holding.states == plain.states
            assert holding.index == plain.index
            assert (holding.reasons, holding.clock) == (plain.reasons, plain.clock)
    event(f"held {min(used // 10, 4)}0")
