"""The loop of `segtrainer schedule`: look at the clock, take the turn, run, store the result.

A run is a process (schedule/process.py), so that it can fail in any way, even for lack of memory: the scheduler goes on
and reports it. The active model stays active, because a run publishes everything at its end or nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from stream.errors import SegstreamError, error_text
from trainer.lock import RENEW_S
from trainer.schedule.metrics import ScheduleMetrics
from trainer.schedule.policy import DueRun, LastRun, Policy, RunOutcome, Schedule, begun, due, ended, rested

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trainer.schedule.state import RunMemory

log = logging.getLogger(__name__)

LOOK_S: Final = 30.0  # at most, between two looks at the clock, which may be adjusted meanwhile
BUSY: Final = 4  # exit code of a run that found another one under way


@dataclass(frozen=True, slots=True)
class RunResult:
    """The exit code of a run, and its last line on stderr (`error`)."""

    exit_code: int
    error: str = ""

    @property
    def outcome(self) -> RunOutcome:
        """The outcome; a run that found another training under way was skipped, and hasn't failed."""
        return {0: "succeeded", BUSY: "skipped"}.get(self.exit_code, "failed")  # type: ignore[return-value]  # mypy widens the literals of a dict


@dataclass(slots=True)
class Scheduler:
    """One of the schedulers of a deployment, of which one trains at a time.

    `train(due)`: one run, cancelled when the scheduler stops. `alarm(last)`: called after each failed attempt. `asks`:
    each returns a reason to train before the schedule does, or None; called when nothing else is due and no failure is
    recent. `clock`: ms since 1970. `wait(seconds)`: returns earlier when the scheduler is stopped. `last` and
    `beaten_ms`: the last run known, and the time, at the last look that succeeded.
    """

    schedule: Schedule
    policy: Policy
    memory: RunMemory
    train: Callable[[DueRun], Awaitable[RunResult]]
    clock: Callable[[], int]
    wait: Callable[[float], Awaitable[None]]
    alarm: Callable[[LastRun], Awaitable[None]]
    asks: Sequence[Callable[[LastRun], Awaitable[str | None]]] = ()
    metrics: ScheduleMetrics = field(default_factory=ScheduleMetrics)
    last: LastRun | None = None
    beaten_ms: int | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Look and run until stopped. It continues through failures of Redis."""
        while not stopping.is_set():
            await self.look()
            await self.wait(self._pause_s())

    async def look(self) -> None:
        """Begin the run that is due, unless another scheduler has the turn."""
        try:
            last = await self._known()
            if await self._due(last) is not None and await self.memory.take_turn():
                try:
                    # Another scheduler may have run it before this one got the turn.
                    last = await self._known()
                    if (run := await self._due(last)) is not None:
                        await self._run(last, run)
                finally:
                    await self.memory.end_turn()
            self._beat()
        except (RedisError, OSError) as error:
            log.warning("no training can be scheduled, because Redis doesn't answer: %s", error_text(error))

    def next_run_ms(self) -> int:
        """Return when the next run is planned, ms since 1970: a retry, or an instant of the schedule plus jitter."""
        now, last = self.clock(), self.last
        if last is None:
            return self.policy.start(self.schedule, self.schedule.after(now))
        instant = self.schedule.latest(now)
        if instant <= last.instant_ms:
            instant = self.schedule.after(now)
        planned = max(now, self.policy.start(self.schedule, instant))
        if last.outcome == "failed" and last.finished_ms is not None and last.attempt <= self.policy.retries:
            return min(planned, max(now, last.finished_ms + self.policy.retry_s * 1000))
        return planned

    async def _known(self) -> LastRun:
        last = await self.memory.read(self.clock())
        self._show(last)
        return last

    async def _due(self, last: LastRun) -> DueRun | None:
        now = self.clock()
        if (run := due(self.schedule, self.policy, last, now)) is not None:
            return run
        if rested(self.policy, last, now):
            for ask in self.asks:
                try:
                    why = await ask(last)
                except SegstreamError as error:
                    log.warning("can't check whether to train before the schedule: %s", error)
                    continue
                if why:
                    return DueRun("asked", last.instant_ms, why)
        return None

    async def _run(self, last: LastRun, run: DueRun) -> None:
        """Run, keep the turn meanwhile, and store the result."""
        running = begun(last, run, self.clock())
        await self.memory.write(running)
        self._show(running)
        log.info("a training begins: %s", run.text)
        self.metrics.running.set(1)
        try:
            end = await self._until_done(asyncio.ensure_future(self.train(run)))
        except asyncio.CancelledError:
            await self._remember(ended(running, "stopped", self.clock(), exit_code=None))
            raise
        finally:
            self.metrics.running.set(0)
        done = ended(running, end.outcome, self.clock(), exit_code=end.exit_code, error=end.error)
        if done.outcome == "failed":
            # Before the result is stored, because that may fail too.
            log.error("the training failed with exit code %d: %s", end.exit_code, end.error)
            await self.alarm(done)
        await self._remember(done)

    async def _until_done(self, training: asyncio.Future[RunResult]) -> RunResult:
        """Wait for a run, and renew the turn and the heartbeat meanwhile."""
        warned = False
        try:
            while not training.done():
                await asyncio.wait({training}, timeout=RENEW_S)
                if not training.done() and not (await self.memory.renew() or warned):
                    log.warning("the turn to train was lost: this run goes on, but another one may begin")
                    warned = True
                self._beat()
            return training.result()
        finally:
            if training.cancel():
                await asyncio.wait({training})

    async def _remember(self, done: LastRun) -> None:
        self.metrics.runs.labels(done.outcome).inc()
        self._show(done)
        if await self.memory.owns_turn():
            await self.memory.write(done)

    def _show(self, last: LastRun) -> None:
        self.last = last
        self.metrics.show(last, self.next_run_ms())

    def _beat(self) -> None:
        self.beaten_ms = self.clock()
        self.metrics.heartbeat.set(self.beaten_ms / 1000)

    def _pause_s(self) -> float:
        """Return how long to wait: until the next run, at most LOOK_S."""
        return min(LOOK_S, max(0.05, (self.next_run_ms() - self.clock()) / 1000))

    def status(self) -> dict[str, object]:
        """Return the schedule and the last run, for `/health`."""
        last = self.last
        return {
            "cron": self.schedule.expression,
            "next_run": _iso(self.next_run_ms()),
            "last_outcome": last.outcome if last else None,
            "last_finished": _iso(last.finished_ms) if last and last.finished_ms is not None else None,
            "last_success": _iso(last.last_success_ms) if last and last.last_success_ms is not None else None,
        }


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
