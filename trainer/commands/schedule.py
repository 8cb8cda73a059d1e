"""`segtrainer schedule`: train at the times of a cron expression, until stopped."""

from __future__ import annotations

import asyncio
import logging
import shlex
import signal
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.clock import now_ms
from stream.renamed_options import accepting
from stream.terminal import echo
from trainer.commands.options import settings_and_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

    from stream.settings import DeploymentSettings
    from trainer.schedule.policy import DueRun, LastRun
    from trainer.schedule.scheduler import RunResult, Scheduler
    from trainer.schedule.settings import ScheduleSettings

log = logging.getLogger(__name__)

# Looks at the clock that may be missed before /health reports a failure.
_LOOKS = 4


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schedule", cls=accepting({"--when-none": "--when-no-model"}))(schedule_command)


RunOptions = Annotated[
    list[str] | None, typer.Argument(metavar="[-- OPTIONS OF RUN]", help="Options for each `segtrainer run`.")
]
Cron = Annotated[
    str | None, typer.Option(help='When to train: "minute hour day month weekday".', show_default="0 3 * * *")
]
Zone = Annotated[str | None, typer.Option(help="Time zone of --cron.", show_default="UTC")]
Jitter = Annotated[int | None, typer.Option(min=0, help="Begin up to this many seconds later.", show_default="0")]
Retries = Annotated[int | None, typer.Option(min=0, help="Further attempts after a failed run.", show_default="3")]
RetryPause = Annotated[
    int | None, typer.Option(min=1, help="Seconds from a failure to the next attempt.", show_default="600")
]
WhenNoModel = Annotated[
    bool | None, typer.Option("--when-no-model", help="Also train while no model is active.", show_default=False)
]
WhenDrifted = Annotated[
    float | None,
    typer.Option(
        metavar="INDEX",
        help="Also train when a stability index of the customers exceeds this (usually 0.25), at most once between two "
        "scheduled runs.",
    ),
]
OnFailure = Annotated[str | None, typer.Option(metavar="COMMAND", help="Command to run after each failed attempt.")]
HttpPort = Annotated[
    int | None,
    typer.Option(help="Port of /health and /metrics; 0: none.", show_default="SEGSTREAM_SCHEDULE_HTTP_PORT"),
]


def schedule_command(
    context: typer.Context,
    run_options: RunOptions = None,
    *,
    cron: Cron = None,
    zone: Zone = None,
    jitter_s: Jitter = None,
    retries: Retries = None,
    retry_s: RetryPause = None,
    when_no_model: WhenNoModel = None,
    when_drifted: WhenDrifted = None,
    on_failure: OnFailure = None,
    http_port: HttpPort = None,
) -> None:
    """Train at the times of a cron expression, until stopped.

    Of several schedulers of a deployment, one trains.
    """
    from trainer.schedule.settings import ScheduleSettings

    settings = settings_and_log()
    chosen = ScheduleSettings.load(
        cron=cron,
        zone=zone,
        jitter_s=jitter_s,
        retries=retries,
        retry_s=retry_s,
        when_none=when_no_model,
        when_drifted=when_drifted,
        on_failure=on_failure,
        http_port=http_port,
    )
    options = run_options or []
    _check(context, options)
    asyncio.run(_schedule(settings, chosen, options))


def _check(context: typer.Context, options: list[str]) -> None:
    """Check the options of `segtrainer run` now instead of at the first run. Raises click.UsageError."""
    assert context.parent is not None
    program: Any = context.parent.command  # a group of commands, of click or of Typer's own copy of it
    run = program.get_command(context.parent, "run")
    with run.make_context("run", list(options), parent=context.parent):
        pass


async def _schedule(settings: DeploymentSettings, chosen: ScheduleSettings, options: list[str]) -> None:
    """Run the scheduler until SIGTERM or SIGINT; they also stop a run under way, which the next scheduler repeats."""
    from stream.hosting.http_server import http_server

    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    async with _redis(settings) as redis:
        scheduler = _build(settings, chosen, options, redis, stopping)
        server = http_server(
            chosen.http_host,
            chosen.http_port,
            health=lambda: health_of(scheduler),
            metrics=scheduler.metrics.render,
            setting="SEGSTREAM_SCHEDULE_HTTP_PORT",
        )
        async with server:
            log.info("the next training is planned for %s", scheduler.status()["next_run"])
            task = asyncio.ensure_future(scheduler.run(stopping))

            def stop(number: signal.Signals) -> None:
                echo(f"segtrainer: stopped by {number.name}.", err=True)
                stopping.set()
                task.cancel()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop, number)
            with suppress(asyncio.CancelledError):
                await task


def _build(
    settings: DeploymentSettings, chosen: ScheduleSettings, options: list[str], redis: Redis, stopping: asyncio.Event
) -> Scheduler:
    """Return a scheduler with the real clock and real processes."""
    from trainer.schedule.policy import Policy, Schedule
    from trainer.schedule.process import run_alarm_command, train_once
    from trainer.schedule.scheduler import Scheduler
    from trainer.schedule.state import RunMemory

    command = shlex.split(chosen.on_failure or "")

    async def train(run: DueRun) -> RunResult:
        return await train_once(options, run, chosen.timeout_s)

    async def alarm(last: LastRun) -> None:
        if command:
            await run_alarm_command(command, last)

    async def wait(seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), seconds)

    return Scheduler(
        schedule=Schedule(chosen.cron, chosen.zone),
        policy=Policy(settings.group, chosen.jitter_s, chosen.retries, chosen.retry_s),
        memory=RunMemory(redis, settings.group),
        train=train,
        clock=now_ms,
        wait=wait,
        alarm=alarm,
        asks=_asks(settings, chosen, redis),
    )


def _asks(
    settings: DeploymentSettings, chosen: ScheduleSettings, redis: Redis
) -> list[Callable[[LastRun], Awaitable[str | None]]]:
    """Return the checks that may ask for a training before the schedule does."""
    from trainer.schedule.drift_trigger import DriftTrigger

    asks: list[Callable[[LastRun], Awaitable[str | None]]] = []
    if chosen.when_none:
        asks.append(partial(no_model_yet, settings))
    if chosen.when_drifted is not None:
        asks.append(DriftTrigger(settings, redis, chosen.when_drifted, chosen.drift_interval_s, now_ms))
    return asks


async def no_model_yet(settings: DeploymentSettings, last: LastRun) -> str | None:
    """Return a reason to train now if no model is active. Raises PublishError.

    After the first successful run it returns None without reading the topic.
    """
    from trainer.registry.publish import active_model

    if last.last_success_ms is not None or await active_model(settings) is not None:
        return None
    return "no model is active yet"


@asynccontextmanager
async def _redis(settings: DeploymentSettings) -> AsyncIterator[Redis]:
    from stream.storage.client import connect, redis_client

    with redis_client(settings):
        pass  # what can't be reached now is more likely a wrong setting than a failure: say so, as a worker does
    redis = connect(settings, retries=1)
    try:
        yield redis
    finally:
        await redis.aclose()


def health_of(scheduler: Scheduler) -> dict[str, Any]:
    """Return whether the scheduler looks at its schedule, and its status. A failed run shows in the metrics instead."""
    from trainer.schedule.scheduler import LOOK_S

    healthy = scheduler.beaten_ms is not None and scheduler.clock() - scheduler.beaten_ms <= _LOOKS * LOOK_S * 1000
    return {"healthy": healthy, **scheduler.status()}
