"""Replay histories in memory: each customer's moves, exactly as a worker would publish them.

Customers don't meet, so a turn needn't hold all records of a while: it holds whole histories of some customers, and the
due index isn't needed. Ordinary histories are walked through in columns; all others go through the scoring step itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np

from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.decoder import Batch, DecodedEvent
from segmentation.output_events import Cause
from segmentation.rfm import CustomerState, headers, pack, settle
from segmentation.scoring import ScoringStep
from segmentation.step import Activation, DueEntry, Output, TurnContext
from stream.rehearsal.columns import ReplaySpan, is_ordinary, items_of
from stream.rehearsal.moves import MoveColumns
from stream.rehearsal.walk import walk

if TYPE_CHECKING:
    from segmentation.backfills import Backfills
    from segmentation.decoder import Reader
    from segmentation.entries import Entry, Rules
    from segmentation.model import SegmentModel
    from segmentation.moves import Move, MoveWriter
    from segmentation.rates import Rates
    from segmentation.step import KafkaRecord

TOGETHER: Final = 60_000  # entries of a group: bounds its memory
MOST_CUSTOMERS: Final = 8_192  # of a group: its columns stay in the cache
_STARTED: Final = Activation(1, "rehearsal")

Named = tuple[bytes, Sequence["Entry"]]


class GroupReplay(NamedTuple):
    """The moves of some customers. The first one of those known before the start has the cause `model`: it places them.

    `entries`: all of each, also those that come after the replay.
    """

    customers: list[bytes]
    entries: list[Sequence[Entry]]
    moves: MoveColumns


class HistoryReplay:
    """Replays histories under one model. Pure; instants in ms."""

    def __init__(self, model: SegmentModel, rules: Rules, *, dwell_ms: int = 0) -> None:
        self._rules = rules
        self._compiled = CompiledModel.of(model, "rehearsal", {})
        self._scoring = ScoringContext.of(self._compiled, dwell_ms, rules)
        self._dwell_ms = dwell_ms

    def run(self, histories: Mapping[bytes, Sequence[Entry]], span: ReplaySpan) -> Iterator[GroupReplay]:
        """Yield the customers with an event before the end, in groups of no particular order."""
        ordinary, others = list[Named](), list[Named]()
        for customer, own in histories.items():
            if own and own[0].key >> 3 < span.end:
                (ordinary if is_ordinary(own, self._rules) else others).append((customer, own))
        for group in _groups(ordinary):
            entries = [own for _, own in group]
            moves = walk(items_of(entries, span, self._rules), self._scoring)
            yield GroupReplay([customer for customer, _ in group], entries, moves)
        for group in _groups(others):
            yield self.by_step(group, span)

    def by_step(self, group: Sequence[Named], span: ReplaySpan) -> GroupReplay:
        """Replay any histories through the scoring step, as one turn."""
        states: dict[bytes, bytes] = {}
        coming: list[tuple[int, bytes, Entry]] = []
        for customer, own in group:
            first = next((i for i, e in enumerate(own) if e.key >> 3 >= span.start), len(own))
            if first:
                states[customer] = pack(settle(CustomerState(), own[:first], span.start - 1, self._rules))
            coming += [(e.key >> 3, customer, e) for e in own[first:] if e.key >> 3 < span.end]
        coming.sort(key=_instant)
        collector = _MoveCollector()
        model = replace(self._compiled, writer=cast("MoveWriter", collector))
        reader = _BatchGiver(_batch(coming, span.end))
        step = ScoringStep(cast("Reader", reader), self._rules, dwell_ms=self._dwell_ms)
        context = TurnContext(span.start, span.start, _STARTED, model)
        started = step.rescore(list(states.items()), [False] * len(states), context)
        states |= started.states
        for move in collector.moves:
            move.cause = Cause.MODEL
        plan = step.plan(_SOME, 0, context)
        values: list[Any] = [states.get(key) for key in plan.keys]
        due = [DueEntry(at, key, states[key]) for key, at in started.earlier.items()]
        step.decide(plan, [value and (step.hold(value) or value) for value in values], due, False, context)
        place = {customer: i for i, (customer, _) in enumerate(group)}
        return GroupReplay(list(place), [own for _, own in group], _columns(collector.moves, place))


@dataclass(slots=True)
class _MoveCollector:
    """Stands in for the writer of moves: keeps them as they are decided."""

    moves: list[Move] = field(default_factory=list)

    def write(self, move: Move, now: int, rules: Rules) -> Output:
        del now, rules  # the writer's contract asks for them
        self.moves.append(move)
        return _NOTHING


@dataclass(slots=True)
class _BatchGiver:
    """Stands in for the reader of records: gives a batch of entries that needn't be decoded."""

    batch: Batch
    time: str = "event"

    def read(self, records: Sequence[KafkaRecord], clock: int, backfills: Backfills, *, rates: Rates | None) -> Batch:
        del records, clock, backfills, rates  # the reader's contract asks for them
        return self.batch


_NOTHING: Final = Output(b"", b"", [], b"")
_SOME: Final = cast("Sequence[KafkaRecord]", (None,))


def _instant(coming: tuple[int, bytes, Entry]) -> int:
    return coming[0]


def _batch(coming: Sequence[tuple[int, bytes, Entry]], end: int) -> Batch:
    """Return the records of a turn: the entries, and a last one that only brings the clock to the end."""
    batch = Batch(clock=end)
    for position, (at, customer, entry) in enumerate(coming):
        batch.events.append(DecodedEvent(entry, ""))
        batch.clocks.append(at)
        batch.own.setdefault(customer, []).append(position)
    batch.events.append(None)
    batch.clocks.append(end)
    return batch


def _columns(moves: Sequence[Move], place: Mapping[bytes, int]) -> MoveColumns:
    columns = np.array([(place[m.customer], m.at, m.source, m.target) for m in moves], dtype=np.int64)
    customer, at, source, target = columns.reshape(len(moves), 4).T
    return MoveColumns(customer, at, source, target, [m.cause for m in moves], headers([m.value for m in moves]))


def _groups(histories: Sequence[Named]) -> Iterator[list[Named]]:
    """Yield groups of customers with histories of similar length: a walk takes as many rounds as the longest has."""
    group: list[Named] = []
    entries = 0
    for customer, own in sorted(histories, key=_length):
        if group and (entries + len(own) > TOGETHER or len(group) >= MOST_CUSTOMERS):
            yield group
            group, entries = [], 0
        group.append((customer, own))
        entries += len(own)
    if group:
        yield group


def _length(history: Named) -> int:
    return len(history[1])
