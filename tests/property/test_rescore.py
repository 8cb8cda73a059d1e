"""A rescore decides on most customers in columns: the result is that of a rescore customer by customer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from segmentation import decisions
from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.rfm import (
    CustomerState,
    Kind,
    Rules,
    entry,
    pack,
    settle,
    with_announcement,
    with_mute,
)
from segmentation.scoring import ScoringStep
from segmentation.step import Activation, Scope, Turn, TurnContext
from tests.support.engine.memory_shard import DAY, T0, a_model

if TYPE_CHECKING:
    from collections.abc import Sequence

RULES = Rules(60 * DAY, 7 * DAY, 64)


class OneByOne(ScoringStep):
    """Asks each customer by itself."""

    def _without_staying(
        self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext, turn: Turn
    ) -> tuple[Sequence[tuple[bytes, bytes]], Sequence[bool]]:
        return rows, quiet


def a_step(of: type[ScoringStep], dwell_ms: int, time: Literal["wall", "event"]) -> ScoringStep:
    return of(Reader("USD", time, 300_000, 90 * DAY, 1_000_000), RULES, dwell_ms=dwell_ms)


def a_state(rng: np.random.Generator, now: int, segments: Sequence[int]) -> bytes:
    """Make a customer with orders, refunds, cancellations, perhaps one ahead; perhaps announced, muted or lost."""
    entries = []
    for n in range(int(rng.integers(0, 7))):
        when = now - int(rng.integers(-2 * DAY, 90 * DAY) if rng.random() < 0.1 else rng.integers(0, 90 * DAY))
        kind = Kind(int(rng.choice([Kind.PLACED, Kind.PLACED, Kind.PLACED, Kind.REFUNDED, Kind.CANCELLED])))
        entries.append(entry(kind, f"e{n}", when, order=f"o{n // 2}", amount=int(rng.integers(1, 3_000_000))))
    state = settle(CustomerState(), entries, now - int(rng.choice([0, DAY])), RULES)
    value = pack(state)
    if rng.random() < 0.9:
        moved_at = now - int(rng.choice([0, 1, DAY, 30 * DAY]))
        value = with_announcement(value, int(rng.choice(segments)), int(rng.integers(1, 9)), moved_at)
    return with_mute(value, int(rng.integers(1, 3))) if rng.random() < 0.05 else value


@settings(max_examples=int(os.environ.get("EXAMPLES", "40")), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**63 - 1))
def test_columns_say_what_each_customer_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    now, size = T0 + int(rng.integers(0, 400 * DAY)), int(rng.choice([0, 1, 5, 60, 120]))
    ids = sorted(rng.choice(np.arange(1, 9), int(rng.integers(2, 6)), replace=False).tolist())
    model = CompiledModel.of(a_model(rng, tuple(ids)), "g", {})
    known = ids if rng.random() < 0.5 else [*ids, 40]
    rows = [(b"c%04d" % n, a_state(rng, now, known)) for n in range(size)]
    quiet = (rng.random(size) < rng.choice([0.0, 0.3, 1.0])).tolist()
    scope = Scope.EVERYONE if rng.random() < 0.8 else Scope.RELEASED
    time: Literal["wall", "event"] = "wall" if rng.random() < 0.5 else "event"
    # In event time the shard's clock counts, wherever the wall's stands.
    context = TurnContext(
        now, now if time == "wall" else now + 1_000 * DAY, Activation(7, model.writer._version), model, scope=scope
    )
    dwell = int(rng.choice([0, 0, DAY, 7 * DAY]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "_FEW", 10**9)
        expected = a_step(OneByOne, dwell, time).rescore(rows, quiet, context)
    turn = a_step(ScoringStep, dwell, time).rescore(rows, quiet, context)
    assert turn == expected
    event(f"moved: {bool(turn.outputs)}, stayed: {len(turn.earlier) > len(turn.outputs)}")
