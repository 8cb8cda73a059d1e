"""`segtrainer schedule`: train by the clock, for as long as this runs."""

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
from stream.errors import SettingsError
from stream.renamed_options import accepting
from trainer.commands.models import settings_and_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

    from stream.settings import DeploymentSettings
    from trainer.schedule.policy import DueRun, LastRun
    from trainer.schedule.scheduler import RunResult, Scheduler
    from trainer.schedule.settings import ScheduleSettings

log = logging.getLogger(__name__)

# A heart that stands still for so many looks at the clock isn't well.
_LOOKS = 4


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schedule", cls=accepting({"--when-none": "--when-no-model"}))(schedule_command)


def schedule_command(
    context: typer.Context,
    run_options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS OF RUN]", help="Handed to each `segtrainer run`.")
    ] = None,
    *,
    cron: Annotated[
        str | None, typer.Option(help='When: "minute hour day month weekday".', show_default="0 3 * * *")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Time zone of --cron.", show_default="UTC")] = None,
    jitter_s: Annotated[
        int | None, typer.Option(min=0, help="Begin up to so many seconds later.", show_default="0")
    ] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Attempts after a failure.", show_default="3")] = None,
    retry_s: Annotated[
        int | None, typer.Option(min=1, help="Seconds before the next attempt.", show_default="600")
    ] = None,
    when_no_model: Annotated[
        bool | None,
        typer.Option("--when-no-model", help="Train also while no model is active yet.", show_default=False),
    ] = None,
    when_drifted: Annotated[
        float | None,
        typer.Option(
            metavar="INDEX",
            help="Train also where a stability index of the customers is above this; 0.25 is usual. Once between two scheduled runs.",
        ),
    ] = None,
    on_failure: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Run this after each attempt that failed.")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of /health and /metrics; 0: none.", show_default="setting")
    ] = None,
) -> None:
    """Train by a cron expression, until stopped.

    Of several schedulers of a deployment one trains.
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
    """Refuse now what `segtrainer run` would refuse at night. Raises click.UsageError."""
    assert context.parent is not None
    program: Any = context.parent.command  # a group of commands, of click or of Typer's own copy of it
    run = program.get_command(context.parent, "run")
    with run.make_context("run", list(options), parent=context.parent):
        pass


async def _schedule(settings: DeploymentSettings, chosen: ScheduleSettings, options: list[str]) -> None:
    """Run the scheduler until SIGTERM or SIGINT. A run under way is stopped then, and begun again by the next one."""
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
            log.info("the next training is planned for %s", scheduler.told()["next_run"])
            task = asyncio.ensure_future(scheduler.run(stopping))

            def stop() -> None:
                stopping.set()
                task.cancel()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            with suppress(asyncio.CancelledError):
                await task


def _build(
    settings: DeploymentSettings, chosen: ScheduleSettings, options: list[str], redis: Redis, stopping: asyncio.Event
) -> Scheduler:
    """Put a scheduler together from the settings, the real clock and real processes."""
    from trainer.schedule.policy import Policy, Schedule
    from trainer.schedule.process import tell, train_once
    from trainer.schedule.scheduler import Scheduler
    from trainer.schedule.state import RunMemory

    command = shlex.split(chosen.on_failure or "")

    async def train(run: DueRun) -> RunResult:
        return await train_once(options, run, chosen.timeout_s)

    async def alarm(last: LastRun) -> None:
        if command:
            await tell(command, last)

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
    """Give what may ask for a training before the schedule does."""
    from trainer.schedule.drift_trigger import WhenDrifted

    asks: list[Callable[[LastRun], Awaitable[str | None]]] = []
    if chosen.when_none:
        asks.append(partial(no_model_yet, settings))
    if chosen.when_drifted is not None:
        asks.append(WhenDrifted(settings, redis, chosen.when_drifted, chosen.drift_interval_s, now_ms))
    return asks


async def no_model_yet(settings: DeploymentSettings, last: LastRun) -> str | None:
    """Say to train now because no model is active. The topic is only asked before the first success. Raises PublishError."""
    from trainer.registry.publish import active_model

    if last.last_success_ms is not None or await active_model(settings) is not None:
        return None
    return "no model is active yet"


@asynccontextmanager
async def _redis(settings: DeploymentSettings) -> AsyncIterator[Redis]:
    from redis.asyncio import Redis

    timeout_s = settings.redis_timeout_s
    try:
        redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            protocol=2,
        )
    except ValueError as error:
        raise SettingsError(f"SEGSTREAM_REDIS_URL isn't a Redis URL: {error}.") from None
    try:
        yield redis
    finally:
        await redis.aclose()


def health_of(scheduler: Scheduler) -> dict[str, Any]:
    """Tell whether the schedule is kept. A run that failed doesn't make the scheduler ill: its metrics tell of it."""
    from trainer.schedule.scheduler import LOOK_S

    well = scheduler.beaten_ms is not None and scheduler.clock() - scheduler.beaten_ms <= _LOOKS * LOOK_S * 1000
    return {"healthy": well, **scheduler.told()}
