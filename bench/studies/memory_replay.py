"""A replay of rows through the scoring step in event time, with states, due index and moves in memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np

from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.entries import DAY_MS
from segmentation.event_text import instant, iso
from segmentation.events import CONTROL_KEY, ClockAdvanced, encode
from segmentation.model import SegmentModel
from segmentation.money import UNITS
from segmentation.output_events import SegmentChanged
from segmentation.rfm import NONE, Rules, advance_bytes, headers
from segmentation.scoring import ScoringStep
from segmentation.step import Activation, DueEntry, Output, Turn, TurnContext
from stream.orders.rows import OrderRow, to_event
from stream.replay.timeline import timeline
from trainer.snapshot.redis import CustomerSnapshot

GROUP: Final = "bench"
JUMP_DAYS: Final = 90
TURN_RECORDS: Final = 2_000
TURN_DUE: Final = 512
RESCORE: Final = 2_000
LARGEST_EVENT: Final = 1_048_576


class MemoryRecord(NamedTuple):
    """A record of the one partition."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@dataclass
class MemoryReplay:
    """One shard. Rows are scored at once, in turns as a worker takes them. Instants and durations are in ms."""

    currency: str
    rules: Rules
    dwell_ms: int = 0
    clock: int = -1
    states: dict[bytes, bytes] = field(default_factory=dict)
    due: dict[bytes, int] = field(default_factory=dict)
    # A heap of `due`; entries that no longer agree with it are skipped.
    queue: list[tuple[int, bytes]] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    model: CompiledModel | None = None

    def __post_init__(self) -> None:
        reader = Reader(self.currency, "event", 0, JUMP_DAYS * DAY_MS, LARGEST_EVENT)
        self._step = ScoringStep(reader, self.rules, dwell_ms=self.dwell_ms)

    def copy(self, *, dwell_ms: int) -> MemoryReplay:
        """Return a copy of the shard that goes on with another dwell."""
        return replace(
            self,
            dwell_ms=dwell_ms,
            states=dict(self.states),
            due=dict(self.due),
            queue=list(self.queue),
            outputs=list(self.outputs),
        )

    def start(self, model: SegmentModel) -> None:
        """Rescore all customers with this model, and use it from here on."""
        self.model = CompiledModel.of(model, GROUP, {})
        names = sorted(self.states)
        for begin in range(0, len(names), RESCORE):
            rows = [(name, self.states[name]) for name in names[begin : begin + RESCORE]]
            self._apply(self._step.rescore(rows, [False] * len(rows), self._context()))

    def send(self, rows: Iterable[OrderRow], *, until_ms: int) -> None:
        """Score rows in time order, with clock advances as `segstream replay` sends them. Raises ValueError."""
        log = list(self.records(rows, until_ms))
        done = 0
        while done < len(log):
            done += self._turn(log[done : done + TURN_RECORDS])

    def moves(self) -> Iterator[SegmentChanged]:
        """Return all moves, in their order."""
        return (msgspec.json.decode(output.value, type=SegmentChanged) for output in self.outputs)

    def records(self, rows: Iterable[OrderRow], until_ms: int) -> Iterator[MemoryRecord]:
        """Yield the records of these rows, with clock advances from the shard's clock on."""
        clock = None if self.clock < 0 else self.clock
        items = timeline(rows, step_ms=(JUMP_DAYS - 1) * DAY_MS, clock_ms=clock, until_ms=until_ms)
        for offset, item in enumerate(items):
            if isinstance(item, OrderRow):
                yield MemoryRecord(offset, until_ms, item.customer_id.encode(), encode(to_event(item)))
            else:
                event = ClockAdvanced(id=f"clock@{iso(item.to_ms)}", to=instant(item.to_ms))
                yield MemoryRecord(offset, until_ms, CONTROL_KEY, encode(event))

    def _context(self) -> TurnContext:
        return TurnContext(self.clock, self.clock, Activation(1, "") if self.model else Activation(), self.model)

    def _turn(self, records: list[MemoryRecord]) -> int:
        plan = self._step.plan(records, 0, self._context())
        due = [] if plan.horizon is None else self._fired(plan.horizon)
        fired = [DueEntry(at, key, self.states.get(key)) for at, key in due]
        values = [self.states.get(key) for key in plan.keys]
        turn = self._step.decide(plan, values, fired, len(fired) > TURN_DUE, self._context())
        if turn.dead:
            raise ValueError(f"a row can't be used: {turn.dead[0].message}")
        self._apply(turn)
        # Entries that the turn looked at and didn't take are due as before.
        for at, key in due:
            if self.due.get(key) == at:
                heapq.heappush(self.queue, (at, key))
        return turn.taken

    def _fired(self, horizon: int) -> list[tuple[int, bytes]]:
        """Take the earliest entries before the horizon from the queue, one more than a turn may hold."""
        found: list[tuple[int, bytes]] = []
        while self.queue and self.queue[0][0] < horizon and len(found) <= TURN_DUE:
            entry = heapq.heappop(self.queue)
            if self.due.get(entry[1]) == entry[0] and entry not in found[-1:]:
                found.append(entry)
        return found

    def _apply(self, turn: Turn) -> None:
        self.states |= turn.states
        earlier = {key: at for key, at in turn.earlier.items() if at < self.due.get(key, at + 1)}
        for key, at in (earlier | turn.due).items():
            self.due[key] = at
            heapq.heappush(self.queue, (at, key))
        for key in turn.idle:
            self.due.pop(key, None)
        self.clock = turn.clock
        self.outputs += turn.outputs


def snapshot_of(shard: MemoryReplay) -> CustomerSnapshot:
    """Return the snapshot that `segtrainer run` would read of a shard."""
    names = sorted(shard.states)
    head = headers([advance_bytes(shard.states[name], shard.clock, shard.rules) for name in names])
    has_orders = head["last"] != NONE
    known = tuple(name for name, keep in zip(names, has_orders.tolist(), strict=True) if keep)
    head = head[has_orders]
    return CustomerSnapshot(
        customers=known,
        recency_days=(shard.clock - head["last"]) / float(DAY_MS),
        frequency=head["frequency"].astype(np.float64),
        monetary=head["monetary"] / float(UNITS),
        as_of_ms=shard.clock,
        left_out=len(names) - len(known),
    )
