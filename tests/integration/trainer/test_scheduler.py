"""Schedulers on a real Valkey, with a clock that the tests move: one trains, and its result outlives it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from stream.settings import DeploymentSettings
from tests.support.engine.toy_engine import eventually
from trainer.commands.schedule import health_of, no_model_yet
from trainer.errors import PublishError
from trainer.schedule.policy import DueRun, LastRun, Policy, Schedule
from trainer.schedule.scheduler import LOOK_S, RunResult, Scheduler
from trainer.schedule.state import RunMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stream.settings import Settings as WorkerSettings

T0 = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)
HOUR, DAY = 3_600_000, 86_400_000
THREE = T0 + 15 * HOUR
NIGHTLY = Schedule("0 3 * * *", "UTC")
GOOD, BAD, BUSY = (
    RunResult(0),
    RunResult(1, "segtrainer: too few customers"),
    RunResult(4, "another training is under way"),
)


@dataclass
class Night:
    """A clock that tests move, and the events by it. `ends`: results of the next runs; the last one is repeated."""

    redis: Redis
    group: str
    now: int = T0
    ends: list[RunResult] = field(default_factory=lambda: [GOOD])
    runs: list[tuple[int, DueRun]] = field(default_factory=list)
    alarms: list[LastRun] = field(default_factory=list)

    async def train(self, run: DueRun) -> RunResult:
        self.runs.append((self.now, run))
        self.now += 60_000
        return self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]

    async def alarm(self, last: LastRun) -> None:
        self.alarms.append(last)

    async def wait(self, seconds: float) -> None:
        self.now += int(seconds * 1000)

    def scheduler(self, **others: Any) -> Scheduler:
        chosen: dict[str, Any] = {
            "schedule": NIGHTLY,
            "policy": Policy(self.group),
            "memory": RunMemory(self.redis, self.group),
            "train": self.train,
            "clock": lambda: self.now,
            "wait": self.wait,
            "alarm": self.alarm,
        }
        return Scheduler(**(chosen | others))

    async def until(self, ms: int, *schedulers: Scheduler) -> None:
        """Move the clock to an instant, with the schedulers looking in turn."""
        while self.now < ms:
            before = self.now
            for scheduler in schedulers:
                await scheduler.look()
            if self.now == before:
                self.now = min(ms, self.now + int(schedulers[0]._pause_s() * 1000) if schedulers else ms)

    def begun(self) -> list[tuple[str, int]]:
        """Return (reason, minutes after three) of each run."""
        return [(run.reason, (at - THREE) // 60_000) for at, run in self.runs]


@pytest.fixture
async def night(settings_for: Callable[..., WorkerSettings]) -> AsyncIterator[Night]:
    settings = settings_for()
    async with Redis.from_url(settings.redis_url.get_secret_value(), protocol=2) as redis:
        yield Night(redis, settings.group)


async def test_it_trains_at_three_each_night_and_at_no_other_time(night: Night) -> None:
    scheduler = night.scheduler()
    await night.until(THREE + 2 * DAY + HOUR, scheduler)
    assert night.begun() == [("scheduled", 0), ("scheduled", 1440), ("scheduled", 2880)]
    assert night.alarms == []


async def test_of_two_schedulers_one_trains(night: Night) -> None:
    await night.until(THREE + 2 * DAY + HOUR, night.scheduler(), night.scheduler())
    assert len(night.runs) == 3


async def test_of_many_at_the_same_moment_one_trains(night: Night) -> None:
    gate = asyncio.Event()

    async def slow(run: DueRun) -> RunResult:
        night.runs.append((night.now, run))
        await gate.wait()
        return GOOD

    schedulers = [night.scheduler(train=slow) for _ in range(8)]
    await asyncio.gather(*(scheduler.look() for scheduler in schedulers))
    night.now = THREE
    looks = [asyncio.ensure_future(scheduler.look()) for scheduler in schedulers]
    await eventually(lambda: sum(look.done() for look in looks) == 7)
    gate.set()
    await asyncio.gather(*looks)
    assert len(night.runs) == 1
    # A scheduler that looks a moment later finds it done.
    await asyncio.gather(*(scheduler.look() for scheduler in schedulers))
    assert len(night.runs) == 1


async def test_a_restart_neither_repeats_a_run_nor_forgets_one(night: Night) -> None:
    await night.until(THREE + HOUR, night.scheduler())
    night.now = THREE + 3 * HOUR
    after = night.scheduler()
    await night.until(THREE + 4 * HOUR, after)
    assert len(night.runs) == 1
    assert after.metrics.registry.get_sample_value("segstream_training_last_success_seconds") == THREE / 1000 + 60
    assert b"segstream_training_last_duration_seconds 60.0" in after.metrics.render()
    # Down for five nights: one run makes up for them.
    night.now = THREE + 5 * DAY + 2 * HOUR
    await night.until(THREE + 5 * DAY + 5 * HOUR, night.scheduler())
    assert night.begun()[1:] == [("missed", 5 * 1440 + 120)]


async def test_on_the_very_first_start_nothing_was_missed(night: Night) -> None:
    night.now = THREE + 20 * HOUR
    await night.until(THREE + 23 * HOUR, night.scheduler())
    assert night.runs == []
    # From the first start on it counts: started, and down at three.
    night.now = THREE + DAY + HOUR
    await night.until(THREE + DAY + 2 * HOUR, night.scheduler())
    assert night.begun() == [("missed", 1440 + 60)]


async def test_failures_are_reported_each_and_tried_again(night: Night) -> None:
    night.ends = [BAD, BAD, GOOD]
    scheduler = night.scheduler()
    await night.until(THREE + 5 * HOUR, scheduler)
    assert [reason for reason, _ in night.begun()] == ["scheduled", "retry", "retry"]
    assert [(last.attempt, last.exit_code, last.error) for last in night.alarms] == [
        (1, 1, "segtrainer: too few customers"),
        (2, 1, "segtrainer: too few customers"),
    ]
    value = scheduler.metrics.registry.get_sample_value
    assert value("segstream_training_runs_total", {"outcome": "failed"}) == 2
    assert value("segstream_training_runs_total", {"outcome": "succeeded"}) == 1
    assert value("segstream_training_failed_attempts") == 0


async def test_a_scheduler_that_gives_up_shows_it_until_the_next_night(night: Night) -> None:
    night.ends = [BAD]
    scheduler = night.scheduler(policy=Policy(night.group, retries=1))
    await night.until(THREE + 5 * HOUR, scheduler)
    assert len(night.alarms) == 2
    value = scheduler.metrics.registry.get_sample_value
    assert value("segstream_training_failed_attempts") == 2
    assert value("segstream_training_next_run_seconds") == (THREE + DAY) / 1000
    assert value("segstream_training_last_success_seconds") == 0
    night.ends = [GOOD]
    await night.until(THREE + DAY + HOUR, scheduler)
    assert value("segstream_training_failed_attempts") == 0


async def test_another_training_in_its_place_is_no_failure(night: Night) -> None:
    night.ends = [BUSY]
    await night.until(THREE + 5 * HOUR, night.scheduler())
    assert (len(night.runs), night.alarms) == (1, [])


async def test_a_run_that_is_stopped_is_ended_and_begun_again_by_the_next(night: Night) -> None:
    begun, ended = asyncio.Event(), []

    async def endless(run: DueRun) -> RunResult:
        del run
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return GOOD

    scheduler = night.scheduler(train=endless)
    await scheduler.look()
    night.now = THREE
    task = asyncio.ensure_future(scheduler.run(asyncio.Event()))
    await asyncio.wait_for(begun.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    await night.scheduler().look()
    assert [run.reason for _, run in night.runs] == ["resumed"]


async def test_the_turn_of_a_scheduler_that_dies_in_a_run_expires(night: Night) -> None:
    first = night.scheduler()
    await first.look()
    night.now = THREE
    dead = RunMemory(night.redis, night.group)
    assert await dead.take_turn()
    running = LastRun(instant_ms=THREE, outcome="running", attempt=1, started_ms=THREE)
    await dead.write(running)
    night.now = THREE + HOUR
    await first.look()
    assert night.runs == []
    # Delete the turn, as its expiry would.
    await night.redis.delete(f"{{{night.group}:training}}:turn")
    await first.look()
    assert [run.reason for _, run in night.runs] == ["retry"]
    # It comes back and knows that it has lost the turn.
    assert not await dead.renew()
    assert not await dead.owns_turn()


async def test_the_turn_outlives_a_run_and_no_more(night: Night) -> None:
    key = f"{{{night.group}:training}}:turn"
    seen: list[int] = []

    async def looks(run: DueRun) -> RunResult:
        del run
        seen.append(await night.redis.pttl(key))
        return GOOD

    scheduler = night.scheduler(train=looks)
    await scheduler.look()
    night.now = THREE
    await scheduler.look()
    assert 0 < seen[0] <= 60_000
    assert await night.redis.exists(key) == 0


async def test_a_scheduler_that_gets_the_turn_looks_again(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow = night.scheduler(), night.scheduler()
    await quick.look()
    night.now = THREE
    real = slow.memory.take_turn

    async def late() -> bool:
        await quick.look()
        return await real()

    monkeypatch.setattr(slow.memory, "take_turn", late)
    await slow.look()
    assert len(night.runs) == 1


async def test_the_begin_and_end_of_a_run_are_stored_only_by_the_holder_of_the_turn(night: Night) -> None:
    reader = RunMemory(night.redis, night.group)
    anothers = LastRun(instant_ms=THREE + 1, outcome="succeeded")

    async def overtaken(run: DueRun) -> RunResult:
        del run
        seen = await reader.read(night.now)
        assert (seen.outcome, seen.attempt, seen.instant_ms) == ("running", 1, THREE)
        # Its turn expires, and another scheduler runs.
        await night.redis.delete(f"{{{night.group}:training}}:turn")
        assert await reader.take_turn()
        await reader.write(anothers)
        return BAD

    scheduler = night.scheduler(train=overtaken)
    await scheduler.look()
    night.now = THREE
    await scheduler.look()
    assert await reader.read(night.now) == anothers
    assert await reader.owns_turn()
    assert len(night.alarms) == 1  # it is still reported


async def test_redis_may_go_and_come_back(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = night.scheduler()
    await scheduler.look()
    assert health_of(scheduler)["healthy"] is True
    with monkeypatch.context() as unreachable:

        async def refused(*_: Any) -> Any:
            raise RedisConnectionError("refused")

        unreachable.setattr(night.redis, "get", refused)
        night.now = THREE + 60_000
        await scheduler.look()
        assert (night.runs, health_of(scheduler)["healthy"]) == ([], False)
    await scheduler.look()
    assert len(night.runs) == 1
    assert health_of(scheduler)["healthy"] is True
    assert health_of(scheduler)["last_outcome"] == "succeeded"


async def test_an_unreadable_record_of_the_last_run_is_reset(night: Night) -> None:
    await night.redis.set(f"{{{night.group}:training}}:last", b"torn")
    scheduler = night.scheduler()
    await night.until(THREE + HOUR, scheduler)
    assert night.begun() == [("scheduled", 0)]


async def test_the_loop_looks_often_enough_to_see_that_the_clock_was_set(night: Night) -> None:
    scheduler, stopping, pauses = night.scheduler(), asyncio.Event(), []

    async def wait(seconds: float) -> None:
        pauses.append(seconds)
        night.now += int(seconds * 1000)
        if night.now > THREE + HOUR:
            stopping.set()

    scheduler.wait = wait
    await scheduler.run(stopping)
    assert max(pauses) == LOOK_S
    assert night.begun() == [("scheduled", 0)]


async def test_it_trains_before_the_schedule_if_something_asks_for_it(night: Night) -> None:
    # A check with a reason is called twice: before the turn and with it.
    yes = "no model is active yet"
    reasons: list[str | Exception | None] = [None, PublishError("Kafka is away."), yes, yes, None]

    async def ask(last: LastRun) -> str | None:
        del last
        answer = reasons.pop(0) if len(reasons) > 1 else reasons[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    await night.until(T0 + 10 * 60_000, night.scheduler(asks=[ask]))
    assert [(run.reason, run.text) for _, run in night.runs] == [("asked", "no model is active yet")]


async def test_requested_runs_that_fail_pause_like_any_retry(night: Night) -> None:
    async def ask(last: LastRun) -> str | None:
        del last
        return "no model is active yet"

    night.ends = [BAD]
    await night.until(T0 + 65 * 60_000, night.scheduler(asks=[ask], policy=Policy(night.group, retry_s=600)))
    assert len(night.runs) == 6  # each takes a minute, followed by a pause of ten


async def test_a_first_model_is_asked_for_until_there_is_one(settings: WorkerSettings) -> None:
    mine = DeploymentSettings(
        kafka_bootstrap_servers=settings.kafka_bootstrap_servers,
        models_topic=settings.models_topic,
        orders_topic=settings.orders_topic,
    )
    assert await no_model_yet(mine, LastRun(instant_ms=0)) == "no model is active yet"
    assert await no_model_yet(mine, LastRun(instant_ms=0, last_success_ms=1)) is None
