"""How large a shard's next turn may be, and when it may begin; and how fast a new model may move its customers."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final

from stream.settings import Settings

DUE_BESIDE_ORDERS: Final = 128  # due customers of a turn in wall time, where the next order waits behind it
RESCORED_BESIDE_ORDERS: Final = 2_000  # the same of a rescore's slice
RESCORED_SLICES: Final = 4  # of a turn, while nothing waits behind it
ORDERS_LATELY_S: Final = 1.0  # as long after an order others are expected
FULL_SHARE: Final = 4  # a turn with a quarter of the largest batch isn't small: the next one needn't wait


class TurnSlots(asyncio.Semaphore):
    """The turns that a worker has under way at once; and when an order last came to any of its shards."""

    ordered_at: float = -math.inf


class FlowControl:
    """Batches shrink where turns take too long or fail, and grow again; small turns keep their distance."""

    def __init__(self, settings: Settings, slots: TurnSlots) -> None:
        """Start with the largest batch. `slots`: the worker's."""
        self._settings = settings
        self._slots = slots
        self.limit = settings.turn_max_orders  # records of the next turn
        # In event time who is due comes before the next order anyway, and larger slices cost less.
        self.due_slice = min(settings.due_slice, DUE_BESIDE_ORDERS) if settings.time == "wall" else settings.due_slice
        self._began = 0.0
        self._small = False
        limit = settings.model_moves_per_minute
        # In event time a rescore ends before the next record, however long it takes.
        self._moves_per_s = None if limit is None or settings.time == "event" else limit / 60 / settings.partitions
        self._rescore_at = 0.0

    async def keep_distance(self) -> None:
        """After a small turn, wait until the least time between two has passed: each costs the same, however small."""
        gap_s = self._began + self._settings.turn_min_gap_ms / 1000 - time.monotonic()
        if self._small and gap_s > 0:
            await asyncio.sleep(gap_s)

    def begin(self) -> None:
        """A turn with whatever records there are begins."""
        self._began = time.monotonic()

    def failed(self, taken: int) -> None:
        """The step raised on so many records: half of them next time, until the one to blame stands alone."""
        self.limit = max(1, taken // 2)

    def done(self, taken: int, due: int, seconds: float) -> None:
        """A turn of so many records and so many due customers took so long.

        Where the due were more, it isn't the batch of the records that was too large: made smaller, they would pile up.
        """
        most_s = self._settings.turn_max_ms / 1000
        if seconds > most_s and taken > max(due, 1):
            self.limit = max(1, int(taken * most_s / seconds))
        else:
            self.limit = min(self._settings.turn_max_orders, self.limit * 2)
        if taken:
            self._slots.ordered_at = time.monotonic()
        self._small = taken * FULL_SHARE < self._settings.turn_max_orders

    def rescores_now(self, *, limited: bool) -> bool:
        """Whether a slice of a rescore may be looked at now. `limited`: it is a new model's."""
        return not limited or time.monotonic() >= self._rescore_at

    def rescore_size(self, *, limited: bool) -> int:
        """How many customers that slice may have: with a limit, no more than may move in a second; few while orders come."""
        size = self._settings.rescore_slice
        if self._orders_come():
            size = min(size, RESCORED_BESIDE_ORDERS)
        if self._moves_per_s is None or not limited:
            return size
        return min(size, max(1, math.ceil(self._moves_per_s)))

    def rescore_slices(self, *, limited: bool) -> int:
        """How many slices with anything to be written a turn may have: one, where an order or the limit waits behind it."""
        return 1 if self._orders_come() or (self._moves_per_s is not None and limited) else RESCORED_SLICES

    def _orders_come(self) -> bool:
        """Whether an order may be waiting, of this shard or of another one here. In event time a rescore comes first."""
        lately = time.monotonic() - self._slots.ordered_at < ORDERS_LATELY_S
        return lately and self._settings.time == "wall"

    def rescored(self, moves: int) -> None:
        """A slice has made so many moves."""
        if self._moves_per_s is not None:
            self._rescore_at = time.monotonic() + moves / self._moves_per_s
