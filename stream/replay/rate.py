"""The rate of a replay: when each row is due, by the rows' own time and the chosen speed."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ReplayRate:
    """The first row is due at once, each later one after the time between their dates, divided by the speed.

    `speed` None: all rows are due at once. `clock_s`: a monotonic clock, in seconds.
    """

    def __init__(
        self, speed: float | None, stop: asyncio.Event, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.limited = speed is not None
        self._speed = speed
        self._stop = stop
        self._clock_s = clock_s
        self._origin: tuple[float, int] | None = None  # seconds of the clock, ms of the first row's date

    @property
    def stopped(self) -> bool:
        """Whether the replay is to end."""
        return self._stop.is_set()

    def ahead_s(self, at_ms: int) -> float:
        """Return in how many seconds a row of this date is due; zero or less: it is due now."""
        if self._speed is None:
            return 0.0
        now_s = self._clock_s()
        if self._origin is None:
            self._origin = now_s, at_ms
        return self._origin[0] + (at_ms - self._origin[1]) / 1000 / self._speed - now_s

    async def wait(self, at_ms: int) -> None:
        """Sleep until a row of this date is due, or the replay is to end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self.ahead_s(at_ms))
