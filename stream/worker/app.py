"""The worker: the one file that knows everyone. A Faust app hosts the intake of one step's shards as a service."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import faust
import uvloop
from aiohttp import web
from mode import Service
from redis.asyncio import Redis

from segmentation.decisions import CompiledModel
from segmentation.model import SegmentModel
from segmentation.step import Step
from stream.clock import now_ms
from stream.engine.flow_control import TurnSlots
from stream.engine.ownership import ShardContext
from stream.engine.shard import Shard
from stream.engine.status_board import REFRESH_S, StatusBoard
from stream.engine.store import ShardStore
from stream.engine.supervisor import Supervisor
from stream.errors import SegstreamError, SettingsError, WorkerFailed
from stream.kafka.clients import kafka_consumer, partitions_of
from stream.kafka.membership import GroupMembership
from stream.kafka.streams import Streams, streams_of
from stream.logs import logging_config
from stream.metrics import Metrics
from stream.models.drift_monitor import DriftMonitor
from stream.models.feed import ModelFeed
from stream.settings import Settings
from stream.storage.client import connect, redis_client
from stream.storage.keys import ShardKeys

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 30.0  # at the drift, when the shards have been taken over


class ShardService(Service):
    """All of one step's shards that the group gives this worker, from start to drain."""

    def __init__(self, settings: Settings, step: Step, app: Any, **kwargs: Any) -> None:
        """`app`: the Faust app that hosts it, crashed where going on is impossible."""
        super().__init__(**kwargs)
        self._settings = settings
        self._step = step
        self._app = app
        self._metrics = Metrics()
        self._parts: list[asyncio.Task[None]] = []
        self._http: web.AppRunner | None = None

    async def on_start(self) -> None:
        """Put the parts together. Raises WorkerFailed where the port of /health is taken."""
        settings, step = self._settings, self._step
        self._redis: Redis = connect(settings.redis_url.get_secret_value(), settings.redis_timeout_s)
        streams = streams_of(settings, step.name)
        owner = f"{socket.gethostname()}:{os.getpid()}"
        self._board = StatusBoard(self._redis, settings.group, streams.input, owner)
        self._feed = ModelFeed(settings, self._compile, self._metrics.refused.inc) if step.name == "scoring" else None
        membership = GroupMembership(settings, streams.input, settings.group_of(step.name))

        slots = TurnSlots(settings.turns_at_once)

        def make_shard(partition: int) -> Shard:
            keys = ShardKeys(settings.group, streams.input, partition)
            store = ShardStore(self._redis, keys, settings.erasure_salt.get_secret_value().encode())
            context = ShardContext(settings, streams, partition, step, store, membership)
            return Shard(context, self._feed, self._metrics, self._board, slots, now_ms)

        self._intake = Supervisor(membership, make_shard)
        self._http = await self._serve()

    def _compile(self, model: SegmentModel, names: dict[int, str]) -> CompiledModel:
        return CompiledModel.of(model, self._settings.group, names)

    @Service.task
    async def _work(self) -> None:
        try:
            if self._feed:
                self._parts.append(asyncio.create_task(self._feed.run()))
            running = asyncio.create_task(self._intake.run())
            self._parts.append(running)
            done, _ = await asyncio.wait(self._parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        except Exception as error:  # whatever it is, the worker ends with rc 1 and says it
            if not isinstance(error, SegstreamError):
                log.exception("the worker failed")
            self._app.failure = error
            await self._app.crash(error)

    @Service.task
    async def _watch_drift(self) -> None:
        interval_s = self._settings.drift_interval_s
        if self._feed is None or not interval_s:
            return
        watch = DriftMonitor(
            self._settings, self._redis, self._feed, self._metrics, lambda: self._intake.partitions, now_ms
        )
        await self.sleep(min(interval_s, FIRST_LOOK_S))
        while not self.should_stop:
            await watch.look()
            await self.sleep(interval_s)

    @Service.timer(REFRESH_S)
    async def _refresh(self) -> None:
        self._metrics.owned.labels(self._step.name).set(self._intake.owned)
        await self._board.refresh()

    async def on_stop(self) -> None:
        """Drain: finish the turns, leave the group."""
        self._intake.stop()
        if self._feed:
            self._feed.stop()
        await asyncio.gather(*self._parts, return_exceptions=True)
        if self._http:
            await self._http.cleanup()
        await self._redis.aclose()

    async def _serve(self) -> web.AppRunner | None:
        """`/health` and `/metrics`, where a port is set."""
        if not self._settings.http_port:
            return None
        routes = web.Application()
        routes.router.add_get("/health", self._health)
        routes.router.add_get("/metrics", self._scrape)
        runner = web.AppRunner(routes, access_log=None)
        await runner.setup()
        host, port = self._settings.http_host, self._settings.http_port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            self._app.failure = WorkerFailed(
                f"{host}:{port} can't be opened: {error}.", hint="Set SEGSTREAM_HTTP_PORT."
            )
            raise self._app.failure from error
        return runner

    async def _health(self, _: web.Request) -> web.Response:
        """200 while every shard here works (or is being taken over), else 503; each shard's state and reason."""
        shards = {
            str(p): {"state": s.state, "reason": s.reason, "detail": s.detail}
            for p, s in sorted(self._board.shards.items())
        }
        well = all(s.state not in {"quarantined", "failing"} for s in self._board.shards.values())
        return web.json_response(
            {"healthy": well, "step": self._step.name, "shards": shards}, status=200 if well else 503
        )

    async def _scrape(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), content_type="text/plain", charset="utf-8")


def build_app(settings: Settings, step: Step, scratch: Path) -> Any:
    """The Faust app of one worker process. `scratch`: a folder that Faust wants and nothing needs."""
    app: Any = faust.App(
        f"{settings.group_of(step.name)}-worker",
        broker="aiokafka://" + settings.kafka_bootstrap_servers.replace(",", ";aiokafka://"),
        web_enabled=False,  # its default is an open port with /table and /router
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        store="memory://",
        autodiscover=False,
        worker_redirect_stdouts=False,
        datadir=scratch,
    )
    app.producer_only = True  # without agents the conductor fails on an empty subscription
    app.failure = None
    app.service(_service_class(settings, step, app))
    return app


def _service_class(settings: Settings, step: Step, app: Any) -> type[Service]:
    """Faust builds its services itself: a class with its arguments bound."""

    class BoundShardService(ShardService):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(settings, step, app, **kwargs)

    return BoundShardService


def run_worker(settings: Settings, step: Step) -> int:
    """Run until a signal or a failure; returns the exit code. Raises SegstreamError, saying what to do."""
    if not __debug__:
        raise WorkerFailed("python -O strips the checks of aiokafka that fencing relies on.", hint="Start without -O.")
    asyncio.run(_reach(settings, streams_of(settings, step.name)))
    # A turn makes and drops hundreds of thousands of small objects, none of them in cycles: look for cycles seldom.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    with TemporaryDirectory(prefix="segstream-") as scratch:
        return _execute(settings, step, Path(scratch))


def _execute(settings: Settings, step: Step, scratch: Path) -> int:
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    app = build_app(settings, step, scratch)
    worker = faust.Worker(
        app,
        loop=loop,
        loglevel=settings.log_level,
        logging_config=logging_config(settings.log_level),
        redirect_stdouts=False,
        quiet=True,
        stderr=sys.stderr,
    )
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception as error:  # noqa: BLE001  # the frame raises what crashed it; what is told is our own word for it
        code, app.failure = 1, app.failure or error
    if isinstance(app.failure, SegstreamError):
        raise app.failure
    return 1 if app.failure else code


async def _reach(settings: Settings, streams: Streams) -> None:
    topics = [streams.input, streams.output, streams.heads, streams.dead_letters, settings.models_topic]
    async with kafka_consumer(settings) as consumer:
        found = await partitions_of(consumer, topics)
        count = sum(partition.topic == streams.input for partition in found)
        if count != settings.partitions:
            raise SettingsError(
                f"topic {streams.input!r} has {count} partitions, SEGSTREAM_PARTITIONS is {settings.partitions}.",
                hint="Set it to what the topic has: it says which shard a customer belongs to.",
            )
    with redis_client(settings):
        pass
