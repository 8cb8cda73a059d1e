"""The campaign step in memory: a shard's records in the order of time, without sending anything."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from segmentation.output_events import CampaignDecision, OutputEvent
from segmentation.step import DueEntry, SideRecord, TurnContext

if TYPE_CHECKING:
    from segmentation.campaigns import CampaignStep

Source = Literal["moves", "profiles", "orders"]

MOST: Final = 1_000  # records of a turn
TOGETHER_MS: Final = 60_000  # records of a turn come within this time: decisions are as exact

_decoder: Final = msgspec.json.Decoder(OutputEvent)


class TimedRecord(NamedTuple):
    """A record, and the instant (ms) at which the dispatcher would have taken it."""

    at: int
    source: Source
    offset: int
    key: bytes | None
    value: bytes | None

    @property
    def timestamp(self) -> int:
        """The record's time, as the step asks for it."""
        return self.at


class CampaignReplay:
    """Runs a shard's campaign step. Feed it records in the order of their instants."""

    def __init__(self, step: CampaignStep, partition: int = 0) -> None:
        """`step`: in wall time, so that it decides as of the instants of the records."""
        self._step = step
        self._partition = partition
        self._states: dict[bytes, bytes] = {}
        self._due: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []
        self.clock = 0

    @property
    def held_back(self) -> int:
        """The number of customers with something that is held back now."""
        return len(self._due)

    def feed(self, records: Iterable[TimedRecord]) -> Iterator[CampaignDecision]:
        """Yield the decisions on records, and on what falls due before the last of them.

        The records of a turn are of different customers and come close to each other, so that their order makes no
        difference.
        """
        batch = list[TimedRecord]()
        customers = set[bytes | None]()
        for record in records:
            full = len(batch) >= MOST or record.key in customers
            if batch and (full or record.at >= batch[0].at + TOGETHER_MS):
                yield from self._turn(batch)
                batch, customers = [], set()
            if not batch:
                yield from self.advance(record.at)
            batch.append(record)
            customers.add(record.key)
        if batch:
            yield from self._turn(batch)

    def advance(self, until: int) -> Iterator[CampaignDecision]:
        """Yield the decisions on what falls due before an instant (ms), each at its own."""
        while self._heap and self._heap[0][0] < until:
            yield from self._turn([], self._heap[0][0] + 1)
        self.clock = max(self.clock, until)

    def _turn(self, batch: list[TimedRecord], now: int | None = None) -> Iterator[CampaignDecision]:
        self.clock = max(self.clock, batch[-1].at if now is None else now)
        side = [SideRecord(r.source, r.offset, r.at, r.key, r.value) for r in batch if r.source != "moves"]
        context = TurnContext(self.clock, self.clock, side=side)
        moves = [record for record in batch if record.source == "moves"]
        plan = self._step.plan(moves, self._partition, context)
        fired = self._fired(self.clock)
        turn = self._step.decide(plan, [self._states.get(key) for key in plan.keys], fired, False, context)
        self._states |= turn.states
        for key in turn.idle:
            self._due.pop(key, None)
        for key, at in turn.due.items():
            self._set_due(key, at)
        for key, at in turn.earlier.items():
            if at < self._due.get(key, at + 1):
                self._set_due(key, at)
        for output in turn.outputs:
            event = _decoder.decode(output.value)
            if isinstance(event, CampaignDecision):
                yield event

    def _fired(self, horizon: int) -> list[DueEntry]:
        found = list[DueEntry]()
        while self._heap and self._heap[0][0] < horizon:
            at, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                found.append(DueEntry(at, key, self._states.get(key)))
        return found

    def _set_due(self, key: bytes, at: int) -> None:
        self._due[key] = at
        heapq.heappush(self._heap, (at, key))
