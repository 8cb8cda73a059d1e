"""Records of the input that an open transaction of another producer holds back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.metrics import Metrics
    from stream.status.board import ShownShard, StatusBoard


class HeldBack:
    """Knows how many records wait behind the last stable offset, and for how long it hasn't moved.

    >>> seconds = iter([0.0, 5.0, 9.0, 9.0])
    >>> held = HeldBack(lambda: next(seconds))
    >>> held.note(stable=10, high=13), held.note(stable=10, high=15), held.note(stable=10, high=15)
    ((3, 0.0), (5, 5.0), (5, 9.0))
    >>> held.note(stable=15, high=15)
    (0, 0.0)
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """`clock_s`: a clock that never steps."""
        self._clock_s = clock_s
        self._stable = -1
        self._since = 0.0

    def note(self, stable: int, high: int) -> tuple[int, float]:
        """Note the last stable offset and the high watermark. Return (records that wait, seconds without a move)."""
        if high <= stable:
            self._stable = -1
            return 0, 0.0
        now = self._clock_s()
        if stable != self._stable:
            self._stable, self._since = stable, now
        return high - stable, now - self._since


class InputDisplay:
    """Shows how far a shard's input reaches, in the metrics and in the shard's status."""

    def __init__(self, shard: ShownShard, step: str, metrics: Metrics, board: StatusBoard) -> None:
        """Call `show` for every batch, and when idle."""
        self._shard = shard
        self._metrics = metrics
        self._board = board
        self._held = HeldBack()
        self._labels = (step, str(shard.partition))

    def show(self, bounds: tuple[int, int] | None, offset: int) -> None:
        """Show the lag behind `offset`, and what an open transaction of another producer holds back.

        `bounds`: (last stable offset, high watermark) as of the last fetch; None: there was none yet.
        """
        if bounds is None:
            return
        stable, high = bounds
        records, seconds = self._held.note(stable, high)
        self._metrics.lag.labels(*self._labels).set(max(stable - offset, 0))
        self._metrics.held_back.labels(*self._labels).set(records)
        self._metrics.held_back_seconds.labels(*self._labels).set(seconds)
        self._board.hold(self._shard, stable, records, seconds)

    def show_sides(self, lags: Mapping[str, int]) -> None:
        """Show how many records of each side input aren't joined."""
        for source, lag in lags.items():
            self._metrics.side_lag.labels(*self._labels, source).set(lag)
