"""One shard in a worker: its takeovers, its turns, and what follows an error.

One rule for all errors: throw the producer away and take the shard over afresh, never repair in place
(docs/explanation/exactly-once.md, section 4).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from stream.engine.flow_control import TurnSlots
from stream.engine.ownership import Owned, ShardContext
from stream.engine.takeover import take_over
from stream.engine.turns import Models, Turns
from stream.errors import SegstreamError, ShardLost, ShardQuarantined, StepFailed, WorkerFailed, error_text
from stream.kafka.refusals import denial
from stream.metrics import Metrics
from stream.status.board import StatusBoard
from stream.storage.client import refusal

log = logging.getLogger(__name__)


class Shard:
    """Owns one partition of a step in this worker and runs its turns, or shows why it can't."""

    def __init__(
        self,
        shard: ShardContext,
        models: Models | None,
        metrics: Metrics,
        board: StatusBoard,
        slots: TurnSlots,
        now_ms: Callable[[], int],
    ) -> None:
        """`models` None: the step uses none. `slots`: limits the turns at one time. `now_ms`: the wall clock."""
        self.shard = shard
        self._metrics = metrics
        self._board = board
        self._now_ms = now_ms
        self._stopping = asyncio.Event()
        self._turns = Turns(shard, models, metrics, board, slots, now_ms, self._stopping)

    @property
    def offset(self) -> int | None:
        """N of the last turn published; None: not taken over yet."""
        return self._turns.offset

    def stop(self) -> None:
        """Let `run` finish the turn, release the shard and return."""
        self._stopping.set()

    def doubt(self, cause: str) -> None:
        """Let the shard be taken over afresh, which checks all topics. It stays as it is where it has no owner now."""
        self._turns.doubt(cause)

    async def run(self) -> None:
        """Own the shard until stopped.

        Raises WorkerFailed; KafkaDenied and RedisUnreachable where this user isn't allowed what the shard needs. All
        other errors are handled here.
        """
        try:
            await self._own()
        finally:
            self._metrics.forget_shard(self.shard.step.name, self.shard.partition)

    async def _own(self) -> None:
        cause, attempt = "assigned", 0
        while not self._stopping.is_set():
            owned: Owned | None = None
            try:
                await self._board.put(self.shard, "taking over")
                began = time.monotonic()
                owned = await take_over(self.shard, self._now_ms(), self._stopping)
                self._metrics.takeovers.labels(self.shard.step.name, cause).inc()
                self._metrics.takeover_seconds.labels(self.shard.step.name).observe(time.monotonic() - began)
                log.info("%s: owned from offset %d (%s)", self.shard, owned.head.offset, cause)
                self._board.warn(self.shard.partition, owned.warning)
                await self._board.put(self.shard, "running", owned.head)
                self._turns.begin(owned)
                while not self._stopping.is_set():
                    await self._turns.turn(owned)
                    attempt = 0
            except ShardQuarantined as stop:
                cause = "retried"
                await self._close(owned)
                owned = None
                await self._quarantine(stop)
            except StepFailed as fault:
                cause = "retried"
                log.exception("%s: the step raised without a record", self.shard)
                await self._close(owned)
                owned = None
                await self._quarantine(ShardQuarantined("step_failed", str(fault)))
            except WorkerFailed:
                raise
            except Exception as error:  # one rule for all errors
                if refused := self._refusal(error):
                    raise refused from error
                cause = error.cause if isinstance(error, ShardLost) else type(error).__name__
                attempt += 1
                why = error_text(error)
                log.warning(
                    "%s: %s: %s; taking over afresh", self.shard, cause, why, exc_info=log.isEnabledFor(logging.DEBUG)
                )
                await self._close(owned)
                owned = None
                await self._board.put(self.shard, "failing", reason=cause, detail=why)
                await self._back_off(attempt)
            finally:
                await self._close(owned)
        await self._board.release(self.shard)

    def _refusal(self, error: Exception) -> SegstreamError | None:
        """Return why Kafka or Redis refuses this user, None for any other error: no takeover would help."""
        settings = self.shard.settings
        return refusal(settings, error) or denial(settings, error, f"what {self.shard} needs")

    @staticmethod
    async def _close(owned: Owned | None) -> None:
        if owned:
            await owned.close()

    async def _quarantine(self, stop: ShardQuarantined) -> None:
        """Run no turns until `segstream retry`, or until the shard is assigned to another worker."""
        log.error("%s: quarantined (%s): %s", self.shard, stop.reason, stop)
        gauge = self._metrics.quarantined.labels(self.shard.step.name)
        gauge.inc()
        try:
            shown = False
            while not self._stopping.is_set():
                if not shown:  # a missing entry means a retry only where it was shown before
                    shown = await self._board.put(self.shard, "quarantined", reason=stop.reason, detail=str(stop))
                elif await self._board.retry_asked(self.shard):
                    await self._back_off(1)
                    return
                await self._pause(1.0)
        finally:
            gauge.dec()

    async def _back_off(self, attempt: int) -> None:
        """Wait, longer each time, and until the group has confirmed that the shard is still this worker's.

        Otherwise an old owner that wakes up would fence its healthy successor.
        """
        longest = min(self.shard.settings.backoff_max_s, 0.1 * 2 ** min(attempt, 16))
        await self._pause(longest * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
        while not self._stopping.is_set() and not await self.shard.membership.confirm(self.shard.partition):
            await self._pause(0.5)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
