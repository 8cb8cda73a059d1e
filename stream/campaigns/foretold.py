"""The moves that a model's start would make, and those that time will make, as a worker would publish them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.decisions import CompiledModel
from segmentation.entries import DAY_MS
from segmentation.scoring import ScoringStep
from segmentation.step import NEVER_DUE, Activation, DueEntry, TurnContext
from stream.campaigns.past import date_of
from stream.rehearsal.campaign_replay import TimedRecord

if TYPE_CHECKING:
    from segmentation.backfills import Backfills
    from segmentation.model import SegmentModel
    from segmentation.step import Output, Turn
    from stream.settings import Settings

SPAN_MS: Final = DAY_MS  # of a turn: each move has its own instant all the same


class Foreteller:
    """Runs the scoring step on stored states, under one model, with no order to come."""

    def __init__(self, settings: Settings, model: SegmentModel, names: dict[int, str]) -> None:
        """`names`: of all segments by id, as the models topic has them."""
        self._step = ScoringStep.of(msgspec.structs.replace(settings.agreed, time="wall"), settings.partitions)
        known = names | {segment.id: segment.name for segment in model.segments}
        self._model = CompiledModel.of(model, settings.group, known)
        self._activation = Activation(1, model.version)

    def moves(
        self, rows: Sequence[tuple[bytes, bytes]], at: int, until: int, backfills: Backfills, *, starts: bool
    ) -> tuple[list[TimedRecord], list[TimedRecord]]:
        """Return (the moves that the model's start at an instant would make, those by time before `until`).

        `rows`: customers with their states. `starts` False: the model scores them already. Instants in ms.
        """
        context = TurnContext(at, at, self._activation, self._model, backfills)
        turn = self._step.rescore(rows, [not starts] * len(rows), context)
        states = dict(rows) | turn.states
        due = {key: when for key, when in (turn.earlier | turn.due).items() if when < NEVER_DUE}
        first = [_record(output) for output in turn.outputs]
        return first, [_record(output) for output in self._by_time(states, due, context, until)]

    def _by_time(
        self, states: dict[bytes, bytes], due: dict[bytes, int], context: TurnContext, until: int
    ) -> Iterator[Output]:
        heap = [(when, key) for key, when in due.items()]
        heapq.heapify(heap)
        while heap and heap[0][0] < until:
            now = min(heap[0][0] + SPAN_MS, until)
            fired = list[DueEntry]()
            while heap and heap[0][0] < now:
                when, key = heapq.heappop(heap)
                if due.get(key) == when:
                    fired.append(DueEntry(when, key, states[key]))
            turn = self._turn(fired, context._replace(clock=now, now=now))
            states |= turn.states
            for key, when in (turn.earlier | turn.due).items():
                due[key] = when
                heapq.heappush(heap, (when, key))
            yield from turn.outputs

    def _turn(self, fired: list[DueEntry], context: TurnContext) -> Turn:
        plan = self._step.plan([], 0, context)
        return self._step.decide(plan, [], fired, False, context)


def _record(output: Output) -> TimedRecord:
    return TimedRecord(date_of(output.value), "moves", 0, output.key, output.value)
