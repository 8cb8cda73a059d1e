"""Flow control: the size and the earliest start of a shard's next turn, and the rate of moves by a new model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from stream.settings import Settings

DUE_BESIDE_ORDERS: Final = 128  # most due customers of a turn in wall time: the next order waits for its end
RESCORED_BESIDE_ORDERS: Final = 2_000  # most customers of a rescore's slice while orders come, for the same reason
RESCORED_SLICES: Final = 4  # of a turn, while no orders come
_FIRST_SLICE: Final = 1_000  # customers of a rescore's first slice
ORDERS_LATELY_S: Final = 1.0  # for so long after an order more are expected
HOLD_S: Final = 0.15  # longest time (s) that a batch holds the event loop: heartbeats and other shards wait for it
LEAST_GROWTH: Final = 1.1  # of batches after one that took too long; else they double
FULL_SHARE: Final = 4  # a turn with a quarter of the largest batch isn't small: the next one needn't wait


class TurnSlots(asyncio.Semaphore):
    """Limits the turns that a worker runs at one time; knows when an order last came to any of its shards."""

    ordered_at: float = -math.inf


def deadline(clock_s: Callable[[], float] = time.monotonic) -> Callable[[], bool]:
    """Return a function that returns whether a batch holds the event loop for too long, since it was asked first."""
    until = math.inf

    def overdue() -> bool:
        nonlocal until
        now = clock_s()
        until = min(until, now + HOLD_S)
        return now > until

    return overdue


class FlowControl:
    """Makes batches smaller where turns take too long or fail, and larger again; keeps small turns apart."""

    def __init__(self, settings: Settings, slots: TurnSlots, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Start with the largest batch. `slots`: the worker's. `clock_s`: a clock that never steps."""
        self._clock_s = clock_s
        self._settings = settings
        self._slots = slots
        self.limit = settings.turn_max_orders  # records of the next turn
        # In event time due customers come before the next order in any case, and larger slices cost less.
        wall = settings.time == "wall"
        self._most_due = min(settings.due_slice, DUE_BESIDE_ORDERS) if wall else settings.due_slice
        self.due_slice = self._most_due  # due customers of the next turn
        self._growth = 2.0  # of the next batch over this one
        self._slice = _FIRST_SLICE  # customers of a rescore's slice that don't hold the event loop for too long
        self._began = 0.0
        self._small = False
        limit = settings.model_moves_per_minute
        # In event time a rescore ends before the next record, however long it takes.
        self._moves_per_s = None if limit is None or settings.time == "event" else limit / 60 / settings.partitions
        self._rescore_at = 0.0

    async def keep_distance(self) -> None:
        """After a small turn, wait until SEGSTREAM_TURN_MIN_GAP_MS after its start: it costs as much as a large one."""
        gap_s = self._began + self._settings.turn_min_gap_ms / 1000 - self._clock_s()
        if self._small and gap_s > 0:
            await asyncio.sleep(gap_s)

    def begin(self) -> None:
        """Note that a turn begins."""
        self._began = self._clock_s()

    def too_long(self, taken: int, due: int) -> None:
        """Note that a batch of `taken` records and `due` customers was given up: smaller ones follow, and grow slowly.

        Where there were more due customers than records, fewer records wouldn't help.
        """
        if taken > max(due, 1):
            self.failed(taken)
        else:
            self.due_slice = max(1, due // 2)
        self._growth = LEAST_GROWTH

    def failed(self, taken: int) -> None:
        """Note that the step raised on `taken` records: the next batch has half of them, until one is left."""
        self.limit = max(1, taken // 2)

    def done(self, taken: int, due: int, seconds: float) -> None:
        """Note the duration of a turn of `taken` records and `due` customers.

        Where there were more due customers than records, a smaller batch wouldn't help: the records would pile up.
        """
        most_s = self._settings.turn_max_ms / 1000
        if seconds > most_s and taken > max(due, 1):
            self.limit = max(1, int(taken * most_s / seconds))
        else:
            self.limit = self._grown(self.limit, self._settings.turn_max_orders)
            self.due_slice = self._grown(self.due_slice, self._most_due)
            self._growth = min(2.0, self._growth * LEAST_GROWTH)
        if taken:
            self._slots.ordered_at = self._clock_s()
        self._small = taken * FULL_SHARE < self._settings.turn_max_orders

    def _grown(self, size: int, most: int) -> int:
        return min(most, max(size + 1, int(size * self._growth)))

    def rescores_now(self, *, limited: bool) -> bool:
        """Return whether a slice of a rescore may come now. `limited`: it is the rescore of a new model."""
        return not limited or self._clock_s() >= self._rescore_at

    def rescore_size(self, *, limited: bool) -> int:
        """Return the most customers of a slice: fewer while orders come; with a limit, one second's moves."""
        size = min(self._settings.rescore_slice, self._slice)
        if self._orders_come():
            size = min(size, RESCORED_BESIDE_ORDERS)
        if self._moves_per_s is None or not limited:
            return size
        return min(size, max(1, math.ceil(self._moves_per_s)))

    def rescore_slices(self, *, limited: bool) -> int:
        """Return the most slices with changes in a turn: one while orders come or the limit holds."""
        return 1 if self._orders_come() or (self._moves_per_s is not None and limited) else RESCORED_SLICES

    def _orders_come(self) -> bool:
        """Return whether an order may be waiting in any shard of this worker. In event time a rescore comes first."""
        lately = self._clock_s() - self._slots.ordered_at < ORDERS_LATELY_S
        return lately and self._settings.time == "wall"

    def held(self, customers: int, seconds: float) -> None:
        """Note how long the decision on a rescore's slice held the event loop."""
        if seconds > HOLD_S:
            self._slice = max(1, int(customers * HOLD_S / seconds))
        elif seconds < HOLD_S / 2:
            self._slice = min(self._settings.rescore_slice, max(self._slice, customers * 2))

    def rescored(self, moves: int) -> None:
        """Note the moves of a slice: the limit delays the next one."""
        if self._moves_per_s is not None:
            self._rescore_at = self._clock_s() + moves / self._moves_per_s
