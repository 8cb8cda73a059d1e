"""An engine in memory for the scoring step, without Kafka and Redis: a log, states and a due index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import numpy as np

from segmentation.backfills import NONE_OPEN, Backfills
from segmentation.decisions import CompiledModel
from segmentation.model import Feature, Segment, SegmentModel, Training
from segmentation.output_events import Cause, SegmentChanged
from segmentation.rates import Rates
from segmentation.scoring import ScoringStep
from segmentation.step import Activation, DueEntry, Held, Output, Scope, Turn, TurnContext
from tests.support.data.clock_models import random_clock_model

DAY = 86_400_000
T0 = 1_500_000_000_000


@dataclass
class Rec:
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = T0 + 10_000 * DAY


def a_model(rng: np.random.Generator, ids: tuple[int, ...] | None = None) -> SegmentModel:
    """Return a model with segments of these ids; without ids, a model by own clock in one of three cases."""
    if ids is None and rng.random() < 1 / 3:
        return random_clock_model(rng)
    k = len(ids) if ids else int(rng.integers(2, 6))
    centroids = np.round(rng.normal(0, 1, (k, 3)) * 2) / 2 + rng.uniform(-0.01, 0.01, (k, 3))
    recency = (
        Feature(name="recency_days", transform="identity", mean=30.0, scale=20.0)
        if rng.random() < 0.5
        else Feature(name="recency_days", transform="log1p", mean=3.0, scale=1.0)
    )
    return SegmentModel(
        parent=None,
        features=(
            recency,
            Feature(name="frequency", transform="identity", mean=2.0, scale=1.5),
            Feature(name="monetary", transform="yeo-johnson", lam=0.3, mean=6.0, scale=3.0),
        ),
        segments=tuple(
            Segment(id=i, name=f"s{i}", action="none", centroid=(float(c[0]), float(c[1]), float(c[2])))
            for i, c in zip(ids or range(1, k + 1), centroids, strict=True)
        ),
        margin=float(rng.choice([0, 0.1, 0.5])),
        training=Training(
            as_of=datetime(2020, 1, 1, tzinfo=UTC), customers=1, k=k, silhouette=None, inertia=None, shares={},
            feature_means={}, seed=0,
        ),
    )  # fmt: skip


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


@dataclass(frozen=True)
class ShardPast:
    """An earlier content of Redis, from which a takeover starts."""

    states: dict[bytes, bytes]
    index: dict[bytes, int]
    clock: int
    offset: int
    outputs: int
    backfills: Backfills
    cursor: bytes | None


@dataclass
class MemoryShard:
    """An engine in memory for one shard.

    With `stepwise`, the rescore at a backfill's end takes a turn for each slice, as the engine's does, so that a
    takeover can come in between. Otherwise it belongs to the turn that ends the backfill.
    """

    step: ScoringStep
    model: CompiledModel | None
    now: int = T0 + 20_000 * DAY  # the worker's wall clock
    states: dict[bytes, bytes] = field(default_factory=dict)
    index: dict[bytes, int] = field(default_factory=dict)
    clock: int = -1
    offset: int = 0
    outputs: list[Output] = field(default_factory=list)
    dead: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    backfills: Backfills = NONE_OPEN
    rates: Rates | None = None
    stepwise: bool = False
    cursor: bytes | None = None  # the last customer that a rescore has done; None: none is under way
    quiet: bytes | None = b""  # the moves of customers up to here are published already; None: of all
    holds: bool = False  # large states stay open from one turn to the next, where their bytes don't change meanwhile
    held: dict[bytes, tuple[bytes, Held]] = field(default_factory=dict)

    def context(self, scope: Scope = Scope.EVERYONE) -> TurnContext:
        return TurnContext(
            self.clock, self.now, Activation(1, "x"), self.model, self.backfills, scope, rates=self.rates
        )

    def turn(self, log: Sequence[Rec], size: int, slice_: int) -> None:
        if self.cursor is not None:
            self.release(slice_)
            return
        plan = self.step.plan(log[self.offset : self.offset + size], 0, self.context())
        if plan.close:
            self.offset += plan.taken
            self.backfills = self.backfills.close(plan.close)
            if self.stepwise:
                self.cursor, self.quiet = b"", b""
            else:
                self.rescore(slice_, scope=Scope.RELEASED)
            return
        fired = sorted((t, k) for k, t in self.index.items() if plan.horizon is not None and t < plan.horizon)[
            : slice_ + 1
        ]
        opened = {k: self.state(k) for k in (*plan.keys, *(k for _, k in fired))}
        turn = self.step.decide(
            plan,
            [opened[k] for k in plan.keys],
            [DueEntry(t, k, opened[k]) for t, k in fired],
            len(fired) > slice_,
            self.context(),
        )
        self.check_replay(log[self.offset : self.offset + turn.taken], turn)
        self.offset += turn.taken
        self.apply(turn)

    def state(self, key: bytes) -> bytes | Held | None:
        """Return a customer's state, held open where that is worth it."""
        value = self.states.get(key)
        if value is None or not self.holds:
            return value
        known, held = self.held.pop(key, (None, None))
        return held if known == value else self.step.hold(value) or value

    def check_replay(self, records: Sequence[Rec], turn: Turn) -> None:
        """Check that what a torn turn lacks can be had from its records and outputs (a takeover's step 4b)."""
        for output in turn.outputs:
            assert self.step.latest(output.value, output.note) == output.latest
        if turn.dead:
            activation = Activation(1, "x")
            context = TurnContext(self.clock, turn.clock, activation, backfills=self.backfills, rates=self.rates)
            plan = self.step.absorb(records, 0, context)
            merged = self.step.merge(plan, [self.states.get(k) for k in plan.keys])
            assert [(d.position, d.reason, d.field) for d in sorted(merged.dead)] == [
                (d.position, d.reason, d.field) for d in sorted(turn.dead)
            ]

    def rescore(self, size: int, *, quiet: bool = False, scope: Scope = Scope.EVERYONE) -> None:
        keys = sorted(self.states)
        for i in range(0, len(keys), size):
            rows = [(k, self.states[k]) for k in keys[i : i + size]]
            self.apply(self.step.rescore(rows, [quiet] * len(rows), self.context(scope)))
        self.backfills = self.backfills.without_closed()

    def release(self, size: int) -> None:
        """Do one slice of the rescore that is under way."""
        assert self.cursor is not None
        keys = [key for key in sorted(self.states) if key > self.cursor][:size]
        rows = [(key, self.states[key]) for key in keys]
        quiet = [self.quiet is None or key <= self.quiet for key in keys]
        self.apply(self.step.rescore(rows, quiet, self.context(Scope.RELEASED)))
        self.cursor = keys[-1] if len(keys) == size else None
        if self.cursor is None:
            self.quiet, self.backfills = b"", self.backfills.without_closed()

    def apply(self, turn: Turn) -> None:
        self.states |= turn.states
        for key, held in turn.held.items():
            if held.dirty:
                self.states[key] = held.value()
                held.stored(in_parts=False)
            self.held[key] = self.states[key], held
        for k, t in turn.earlier.items():
            self.index[k] = min(t, self.index.get(k, t))
        self.index |= turn.due
        for k in turn.idle:
            self.index.pop(k, None)
        self.clock = turn.clock
        self.backfills = turn.backfills or self.backfills
        self.outputs += turn.outputs
        self.dead += len(turn.dead)
        self.reasons.update(d.reason for d in turn.dead)
        self.counts += turn.counts

    def past(self) -> ShardPast:
        return ShardPast(
            dict(self.states),
            dict(self.index),
            self.clock,
            self.offset,
            len(self.outputs),
            self.backfills,
            self.cursor,
        )

    def take_over(self, past: ShardPast, log: Sequence[Rec], size: int) -> None:
        """Roll the states back to `past` and take the shard over.

        The moves published since are patched in, the records absorbed, and their customers marked as due.
        """
        self.states, self.index, self.backfills = dict(past.states), dict(past.index), past.backfills
        for o in self.outputs[past.outputs :]:
            self.states[o.key] = self.step.patch(self.states.get(o.key), o.note)
        merge_clock, closed = past.clock, False
        for begin in range(past.offset, self.offset, size):
            context = TurnContext(merge_clock, self.clock, backfills=self.backfills, rates=self.rates)
            plan = self.step.absorb(log[begin : min(begin + size, self.offset)], 0, context)
            touched = self.step.merge(plan, [self.states.get(k) for k in plan.keys]).states
            self.states |= touched
            self.index |= dict.fromkeys(touched, max(self.clock, 0))
            merge_clock = max(merge_clock, plan.clock)
            self.backfills, closed = plan.backfills or self.backfills, closed or plan.closed
        if self.stepwise:
            published_up_to, self.cursor = self.cursor, b"" if closed else past.cursor
            self.quiet = b"" if self.cursor is None else published_up_to
        elif closed:
            self.rescore(size, quiet=True, scope=Scope.RELEASED)


def published_moves(shard: MemoryShard) -> list[SegmentChanged]:
    return [msgspec.json.decode(o.value, type=SegmentChanged) for o in shard.outputs]


def check_chains(moves: list[SegmentChanged], dwell: int) -> None:
    last: dict[str, SegmentChanged] = {}
    for m in moves:
        before = last.get(m.customer_id)
        assert m.sequence == (before.sequence + 1 if before else 1)
        assert m.from_ == (before.to if before else None)
        assert m.from_ != m.to
        # Without a segment in the new model a customer moves at once: docs/explanation/time.md, section 1.
        if before and m.to and m.from_ and m.cause is not Cause.MODEL:
            assert ms_of(m.occurred_at) - ms_of(before.occurred_at) >= max(dwell, 1)
        last[m.customer_id] = m


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
