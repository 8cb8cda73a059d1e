"""The worker, wired from all its parts in this one file: a Faust app hosts one step's shards as a service."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from mode import Service
from redis.asyncio import Redis

from segmentation.campaigns import CampaignStep
from segmentation.decisions import CompiledModel
from segmentation.model import SegmentModel
from segmentation.step import Step
from stream.clock import now_ms
from stream.engine.flow_control import TurnSlots
from stream.engine.ownership import ShardContext
from stream.engine.shard import Shard
from stream.engine.store import ShardStore
from stream.engine.supervisor import Supervisor
from stream.errors import SegstreamError, WorkerFailed
from stream.hosting.faust_launcher import HostedApp, app_options, run_app
from stream.hosting.http_server import http_server
from stream.kafka.clients import check_partition_count, kafka_consumer, partitions_of
from stream.kafka.membership import GroupMembership
from stream.kafka.streams import Streams, streams_of
from stream.metrics import Metrics
from stream.models.drift_monitor import DriftMonitor
from stream.models.feed import ModelFeed
from stream.rates.topic import RateReader
from stream.settings import Settings
from stream.status.board import REFRESH_S, StatusBoard
from stream.storage.client import connect, redis_client
from stream.storage.eviction import check_eviction, eviction_warning
from stream.worker.rules_file import RulesFile

log = logging.getLogger(__name__)

EVICTION_CHECK_S: Final = 15.0  # a policy may be changed while Redis runs
FIRST_DRIFT_SAMPLE_S: Final = 30.0  # after the start: the shards have been taken over by then


class ShardService(Service):
    """All of one step's shards that the group gives this worker, from start to drain."""

    def __init__(self, settings: Settings, step: Step, app: HostedApp, **kwargs: Any) -> None:
        """`app`: the Faust app that hosts the service. A failure that can't be survived ends it."""
        super().__init__(**kwargs)
        self._settings = settings
        self._step = step
        self._app = app
        self._metrics = Metrics()
        self._running: list[asyncio.Task[None]] = []
        self._http = AsyncExitStack()

    async def on_start(self) -> None:
        """Put the parts together, and serve `/health`. Raises PortUnavailable."""
        settings, step = self._settings, self._step
        self._redis: Redis = connect(settings)
        streams = streams_of(settings, step.name)
        owner = f"{socket.gethostname()}:{os.getpid()}"
        patience_s = settings.open_transaction_warn_s
        self._board = StatusBoard(self._redis, settings.group, streams.input, owner, now_ms, patience_s)
        self._feed = ModelFeed(settings, self._compile, self._metrics.refused.inc) if step.name == "scoring" else None
        membership = GroupMembership(settings, streams.input, settings.group_of(step.name))

        self._rates = RateReader(settings)
        slots = TurnSlots(settings.turns_at_once)

        def make_shard(partition: int) -> Shard:
            store = ShardStore.of(self._redis, settings, streams.input, partition)
            context = ShardContext(settings, streams, partition, step, store, membership, self._rates)
            return Shard(context, self._feed, self._metrics, self._board, slots, now_ms)

        self._supervisor = Supervisor(membership, make_shard, settings.partitions)
        await self._serve()

    def _compile(self, model: SegmentModel, names: dict[int, str]) -> CompiledModel:
        return CompiledModel.of(model, self._settings.group, names)

    @Service.task
    async def _work(self) -> None:
        try:
            if self._feed:
                self._running.append(asyncio.create_task(self._feed.run()))
            self._running.append(asyncio.create_task(self._supervisor.run()))
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except Exception as error:  # whatever it is, the worker reports it and ends with exit code 1
            if not isinstance(error, SegstreamError):
                log.exception("the worker failed")
            await self._app.fail(error)

    @Service.task
    async def _watch_drift(self) -> None:
        interval_s = self._settings.drift_interval_s
        if self._feed is None or not interval_s:
            return
        monitor = DriftMonitor(
            self._settings, self._redis, self._feed, self._metrics, lambda: self._supervisor.partitions, now_ms
        )
        await self.sleep(min(interval_s, FIRST_DRIFT_SAMPLE_S))
        while not self.should_stop:
            await monitor.look()
            await self.sleep(interval_s)

    @Service.task
    async def _watch_eviction(self) -> None:
        warning = ""
        while not self.should_stop:
            warning = await eviction_warning(self._redis, warning)
            self._board.warn("Redis", warning and f"Redis: {warning}")
            await self.sleep(EVICTION_CHECK_S)

    @Service.task
    async def _watch_rules(self) -> None:
        file = self._settings.rules_file
        if isinstance(self._step, CampaignStep) and file is not None:
            rules = RulesFile(file, self._step, self._metrics, self._warn_of_rules, self._settings.partitions)
            await rules.watch()

    def _warn_of_rules(self, warning: str) -> None:
        self._board.warn("rules", warning)

    @Service.timer(REFRESH_S)
    async def _refresh(self) -> None:
        self._metrics.owned.labels(self._step.name).set(self._supervisor.owned)
        await self._board.refresh()

    async def on_stop(self) -> None:
        """Finish the turns, leave the group, close what was opened."""
        self._supervisor.stop()
        if self._feed:
            self._feed.stop()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._http.aclose()
        await self._rates.close()
        await self._redis.aclose()

    async def _serve(self) -> None:
        settings = self._settings
        server = http_server(
            settings.http_host,
            settings.http_port,
            health=self._health,
            metrics=self._metrics.render,
            setting="SEGSTREAM_HTTP_PORT",
        )
        try:
            await self._http.enter_async_context(server)
        except SegstreamError as error:
            self._app.failure = error
            raise

    def _health(self) -> dict[str, Any]:
        """Return each shard's state; healthy while every shard here works or is being taken over.

        An open transaction of another producer doesn't make a worker unhealthy: another worker would wait as well.
        """
        shards = {
            str(p): {"state": s.state, "reason": s.reason, "detail": s.detail}
            for p, s in sorted(self._board.shards.items())
        }
        healthy = all(s.state not in {"quarantined", "failing"} for s in self._board.shards.values())
        return {
            "healthy": healthy,
            "waiting_for_transaction": self._board.waiting_for_transaction,
            "warnings": self._board.warnings,
            "step": self._step.name,
            **({"rules": self._step.table.digest} if isinstance(self._step, CampaignStep) else {}),
            "shards": shards,
        }


def build_app(settings: Settings, step: Step, scratch: Path) -> HostedApp:
    """Build the Faust app of one worker process. `scratch`: a folder that Faust requires and nothing uses."""
    app = HostedApp(f"{settings.group_of(step.name)}-worker", **app_options(settings, scratch))
    app.producer_only = True  # without agents the conductor fails on an empty subscription
    app.service(_service_class(settings, step, app))
    return app


def _service_class(settings: Settings, step: Step, app: HostedApp) -> type[Service]:
    """Return a class with these arguments bound, for Faust makes instances of its services itself."""

    class BoundShardService(ShardService):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(settings, step, app, **kwargs)

    return BoundShardService


def run_worker(settings: Settings, step: Step) -> int:
    """Run a worker until a signal or a failure; return the exit code. Raises SegstreamError."""
    if not __debug__:
        raise WorkerFailed("python -O strips the checks of aiokafka that fencing relies on.", hint="Start without -O.")
    asyncio.run(_check_servers(settings, streams_of(settings, step.name)))
    # A turn makes and drops hundreds of thousands of small objects, none of them in cycles: look for cycles seldom.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    return run_app(lambda scratch: build_app(settings, step, scratch), settings)


async def _check_servers(settings: Settings, streams: Streams) -> None:
    """Check that Kafka, the topics and Redis are there.

    Raises KafkaUnreachable, TopicUnusable, RedisUnreachable, RedisEvicts.
    """
    topics = [streams.input, streams.output, streams.heads, streams.dead_letters]
    if streams.step == "scoring":
        topics += [settings.models_topic, *([settings.rates_topic] if settings.other_currencies else [])]
    async with kafka_consumer(settings) as consumer:
        found = await partitions_of(consumer, topics)
    count = sum(partition.topic == streams.input for partition in found)
    check_partition_count(streams.input, count, settings.partitions)
    with redis_client(settings) as redis:
        check_eviction(settings, redis)
