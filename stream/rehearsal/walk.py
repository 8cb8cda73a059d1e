"""Walk through ordinary histories under a model: the moves of the scoring step, for many customers at a time.

The fold is the step's (docs/explanation/time.md, section 9), for one item of each customer after the other: the moves
by time that are due before it, then the customer is scored at it. A property test holds both to the same moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.decisions import CAUSE_OF_KIND
from segmentation.output_events import Cause
from segmentation.scorer import UNKNOWN, Scorer
from segmentation.step import NEVER_DUE
from stream.rehearsal.moves import MoveColumns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segmentation.decisions import ScoringContext
    from stream.rehearsal.columns import Items

    Ints = NDArray[np.int64]

_LONG_AGO: Final = -(2**62)


def walk(items: Items, scoring: ScoringContext) -> MoveColumns:
    """Return all moves, a customer's in time order; of those known before, the model's start is the first."""
    return MoveColumns.joined(list(_Walk(items, scoring).rounds()))


class _Walk:
    """The customers of a group on their way: the segment of each, by index in the model, and when it was entered."""

    def __init__(self, items: Items, scoring: ScoringContext) -> None:
        self._items = items
        self._scoring = scoring
        self._scorer = scoring.model.scorer
        self._rest = self._scorer.rest_of(items.head)
        self._ids = np.append(self._scorer.ids.astype(np.int64), 0)  # UNKNOWN, -1, is 0
        customers = items.offset.size - 1
        self._segment = np.full(customers, UNKNOWN, np.int64)
        self._moved_at = np.full(customers, _LONG_AGO, np.int64)

    def rounds(self) -> Iterator[MoveColumns]:
        """Yield the moves at one item of each customer, then those by time up to the next."""
        counts = np.diff(self._items.offset)
        for number in range(int(counts.max(initial=0))):
            customers = np.flatnonzero(counts > number)
            rows = self._items.offset[customers] + number
            yield from self._at_items(customers, rows)
            yield from self._by_time(customers, rows)

    def _at_items(self, customers: Ints, rows: Ints) -> Iterator[MoveColumns]:
        items, source = self._items, self._segment[customers]
        target = self._scorer.decide(source, items.at[rows], items.head["last"][rows], self._rest[rows])
        may = (source == UNKNOWN) | (self._moved_at[customers] <= items.at[rows] - self._scoring.dwell_ms)
        moving = np.flatnonzero((target != source) & may)
        if moving.size:
            customers, rows, source, target = customers[moving], rows[moving], source[moving], target[moving]
            causes = [
                (Cause.MODEL if start else Cause.FIRST) if was == UNKNOWN else CAUSE_OF_KIND[kind]
                for start, kind, was in zip(
                    items.is_start[rows].tolist(), items.kind[rows].tolist(), source.tolist(), strict=True
                )
            ]
            yield self._moved(customers, items.at[rows], target, causes, items.head[rows])

    def _by_time(self, customers: Ints, rows: Ints) -> Iterator[MoveColumns]:
        items, dwell_ms = self._items, self._scoring.dwell_ms
        start = items.at[rows] + 1
        while True:
            start = np.maximum(start, self._moved_at[customers] + dwell_ms)
            at, target = self._next_moves(self._segment[customers], rows, start)
            moving = np.flatnonzero(at < NEVER_DUE)
            if not moving.size:
                return
            customers, rows, at, target = customers[moving], rows[moving], at[moving], target[moving]
            causes, head = [Cause.SILENCE] * rows.size, items.head[rows]
            if self._scorer.by_window:
                causes = [Cause.WINDOW if leaves else Cause.SILENCE for leaves in items.leaves_at(rows, at).tolist()]
                head = items.head_at(rows, at)
            self._name_waited(customers, rows, at, causes)
            yield self._moved(customers, at, target, causes, head)
            start = at + 1

    def _name_waited(self, customers: Ints, rows: Ints, at: Ints, causes: list[Cause]) -> None:
        """Give the moves that only waited for the end of the dwell the cause of the latest event, as the step does."""
        items, since = self._items, self._moved_at[customers]
        waited = np.flatnonzero((since == at - self._scoring.dwell_ms) & (np.array(causes) != Cause.WINDOW))
        if not waited.size:
            return
        customers, rows, at, since = customers[waited], rows[waited], at[waited], since[waited]
        came = items.came[rows] > since
        # Where nothing came since, the last move lies after this item too.
        held = self._crossed(customers, rows, at - 1) & (
            came | self._crossed(customers, rows, np.maximum(since, items.at[rows]))
        )
        for place, row in zip(waited[held].tolist(), rows[held].tolist(), strict=True):
            causes[place] = CAUSE_OF_KIND[int(items.kind[row])]

    def _next_moves(self, source: Ints, rows: Ints, start: Ints) -> tuple[Ints, Ints]:
        items, scorer = self._items, self._scorer
        last = items.head["last"][rows]
        if isinstance(scorer, Scorer):
            return scorer.next_move(source, last, start, items.intervals(rows))
        return scorer.next_move(source, last, start, self._rest[rows], items.end[rows])

    def _crossed(self, customers: Ints, rows: Ints, at: Ints) -> NDArray[np.bool_]:
        """Return whether the model would move each customer at an instant between its item and the next."""
        source, head = self._segment[customers], self._items.head_at(rows, at)
        crossed: NDArray[np.bool_] = self._scorer.decide(source, at, head["last"], self._scorer.rest_of(head)) != source
        return crossed

    def _moved(
        self, customers: Ints, at: Ints, target: Ints, causes: list[Cause], head: NDArray[np.void]
    ) -> MoveColumns:
        source = self._segment[customers]
        self._segment[customers], self._moved_at[customers] = target, at
        return MoveColumns(customers, at, self._ids[source], self._ids[target], causes, head)
