"""The Faust app of `segstream adapters`: an agent for each topic, in a group of its own, apart from the order path.

Faust's own acknowledging loses records: an agent that raises has them committed, and a commit steps over a record that isn't
acknowledged (faust-streaming #606). So the agents here acknowledge by hand and in order (`stream/adapters/delivery.py`), and
`_Consumer` commits what was acknowledged and nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import faust
import uvloop
from aiohttp import web
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver

from segmentation.decoder import Reader
from segmentation.entries import DAY_MS
from stream.adapters.delivery import STEP, Lane, Outlet
from stream.adapters.mapping import AdapterError, Adapters, Route, rekeyed
from stream.clock import now_ms
from stream.errors import SegstreamError, SettingsError, WorkerFailed
from stream.kafka.aiokafka_internals import accept_any_header_name, read_committed_only
from stream.kafka.clients import kafka_consumer, kafka_producer, partitions_of
from stream.logs import logging_config
from stream.metrics import Metrics
from stream.settings import Settings

log = logging.getLogger(__name__)
_frame_log = logging.getLogger("faust.segstream")  # where stream/logs.py expects the frame's own chatter

_DRAIN_S: Final = 10.0  # to have the last records acknowledged before the end; without it they are read again
_LINGER_MS: Final = 5
_BATCH_BYTES: Final = 131_072
_BUFFERED: Final = 256  # records of a topic between consumer and agent; Faust's default of 4,096 may be gigabytes
_COMMIT_S: Final = 1.0


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    logger = _frame_log

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Read what has been committed: of a shop's aborted transaction no order may come. Faust has no setting for it."""
        consumer = super()._create_worker_consumer(transport)
        read_committed_only(consumer)
        return consumer


class _Consumer(driver.Consumer):
    """Commits behind the last acknowledged record: a lane acknowledges in order, so nothing unsent lies before it."""

    logger = _frame_log

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _new_offset(self, tp: Any) -> int | None:
        # Faust's own guesses at gaps, and commits over an unacknowledged head (#606).
        acked = self._acked[tp]
        if not acked:
            return None
        position = max(acked) + 1
        acked.clear()
        self._acked_index[tp].clear()
        return position

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Nothing: markers of transactions leave gaps, and no offset is derived from them here."""

    def on_buffer_full(self, tp: Any) -> None:
        """Nothing: a full buffer makes the conductor wait. Faust's pause lasts a second: 180 records/s with a small buffer."""

    def on_buffer_drop(self, tp: Any) -> None:
        """Nothing, as there was no pause."""


class AdapterHost:
    """What the agents need, from start to drain: the producer, the lanes, `/health` and `/metrics`."""

    def __init__(self, settings: Settings, routes: Mapping[str, Route]) -> None:
        """Connects to nothing; `open` does."""
        self._settings = settings
        self.routes = routes
        self._metrics = Metrics()
        self._lanes: list[Lane] = []
        self._open = AsyncExitStack()
        self._outlet: Outlet | None = None
        self.failure: Exception | None = None

    async def open(self) -> None:
        """Start the producer, and serve. Raises KafkaUnreachable, WorkerFailed."""
        settings = self._settings
        producer = await self._open.enter_async_context(
            kafka_producer(
                settings,
                linger_ms=_LINGER_MS,
                # A batch that is larger than a topic's limit is refused whole.
                max_batch_size=min(_BATCH_BYTES, settings.max_event_bytes),
                max_request_size=settings.max_event_bytes + 131_072,  # a dead letter is larger than its record
            )
        )
        self._outlet = Outlet(settings, reader_of(settings), producer, self._metrics, now_ms)
        if settings.http_port:
            await self._serve()
        log.info("adapters of %s, for %s", ", ".join(sorted(self.routes)), settings.orders_topic)

    async def work(self, topic: str, events: AsyncIterator[Any]) -> None:
        """Take a topic's records to the end of `events`. Raises WorkerFailed where Kafka refuses what becomes of them."""
        assert self._outlet is not None, "Faust starts agents behind the app"
        lane = Lane(self.routes[topic], self._outlet)
        self._lanes.append(lane)
        try:
            await lane.run(events)
        except ExceptionGroup as group:
            error = group.exceptions[0]
            if not isinstance(error, KafkaError):
                raise error from None
            raise WorkerFailed(
                f"Kafka refuses what becomes of {topic}: {error!r}.",
                hint="Nothing unsent is acknowledged: when the cause is gone, start the adapters again.",
            ) from error

    async def drain(self) -> None:
        """Wait for what is under way, for a while; after a failure, don't."""
        if self.failure is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await asyncio.gather(*(lane.drained() for lane in self._lanes))

    async def close(self) -> None:
        """Stop serving and sending. Never raises: what ended the process is told already."""
        log.info("adapters end: %s", self.counts() or "no record taken")
        with suppress(Exception):
            await self._open.aclose()

    def counts(self) -> dict[str, int]:
        """Records since the start, by what became of them: mapped, nothing, dead."""
        samples = [s for metric in self._metrics.events.collect() for s in metric.samples if s.name.endswith("_total")]
        return {s.labels["outcome"]: int(s.value) for s in samples}

    async def _serve(self) -> None:
        routes = web.Application()
        routes.router.add_get("/health", self._health)
        routes.router.add_get("/metrics", self._scrape)
        runner = web.AppRunner(routes, access_log=None)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        host, port = self._settings.http_host, self._settings.http_port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            self.failure = WorkerFailed(f"{host}:{port} can't be opened: {error}.", hint="Set SEGSTREAM_HTTP_PORT.")
            raise self.failure from error

    async def _health(self, _: web.Request) -> web.Response:
        """200: it ends where it can't go on."""
        told = {"healthy": True, "step": STEP, "topics": sorted(self.routes), "records": self.counts()}
        return web.json_response(told)

    async def _scrape(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), content_type="text/plain", charset="utf-8")


class AdapterApp(faust.App):
    """A Faust app that opens its host before the agents start, and drains it before the last commit."""

    logger = _frame_log
    host: AdapterHost

    async def on_start(self) -> None:
        """As Faust, and open the host."""
        await super().on_start()
        await self.host.open()

    async def on_stop(self) -> None:
        """As Faust, which stops the flow; then the last acknowledgements, which the consumer commits when it stops."""
        await super().on_stop()
        await self.host.drain()

    async def on_shutdown(self) -> None:
        """As Faust; nothing sends any more."""
        await super().on_shutdown()
        await self.host.close()


def reader_of(settings: Settings) -> Reader:
    """The worker's check of an event, without a shard's clock: only the shard knows that."""
    return Reader(
        currency=settings.currency,
        time="wall",
        tolerance_ms=settings.future_tolerance_s * 1000,
        max_jump_ms=settings.max_clock_jump_days * DAY_MS,
        max_event_bytes=settings.max_event_bytes,
    )


def all_routes(settings: Settings, own: list[Adapters]) -> dict[str, Route]:
    """The ready route for the unkeyed topic, and one's own. Raises AdapterError where two are for one topic, or one makes a loop."""
    every = Adapters()
    every.add(settings.unkeyed_topic, Route(rekeyed, keep_headers=True))
    for adapters in own:
        for topic, route in adapters.routes.items():
            every.add(topic, route)
    for ours in (settings.orders_topic, settings.orders_dead_letters_topic):
        if ours in every.routes:
            raise AdapterError(f"a mapping of {ours}, which adapters write to.", hint="Map another topic.")
    return dict(every.routes)


def credentials(settings: Settings) -> Any:
    """Faust's word for the settings' security; None where there is none."""
    client = settings.kafka_client()
    context = client.get("ssl_context")
    if "sasl_mechanism" not in client:
        return faust.SSLCredentials(context=context) if context is not None else None
    return faust.SASLCredentials(
        username=client["sasl_plain_username"],
        password=client["sasl_plain_password"],
        mechanism=client["sasl_mechanism"],
        ssl_context=context,
    )


def build_app(settings: Settings, routes: Mapping[str, Route], scratch: Path) -> AdapterApp:
    """The Faust app of one process: an agent for each topic. `scratch`: a folder that Faust wants and nothing needs."""
    session_s = settings.session_timeout_ms / 1000
    app = AdapterApp(
        f"{settings.group}-adapters",
        broker="aiokafka://" + settings.kafka_bootstrap_servers.replace(",", ";aiokafka://"),
        broker_credentials=credentials(settings),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 3,
        broker_request_timeout=max(90.0, session_s),
        broker_commit_interval=_COMMIT_S,
        stream_buffer_maxsize=_BUFFERED,
        stream_wait_empty=False,  # it would hold up a rebalance for as long as a broker refuses; the host drains
        consumer_auto_offset_reset="earliest",
        web_enabled=False,  # its default is an open port with /table and /router
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        store="memory://",
        autodiscover=False,
        worker_redirect_stdouts=False,
        datadir=scratch,
    )
    app.host = AdapterHost(settings, routes)
    transport: Any = app.transport
    transport.Consumer = _Consumer
    for topic in routes:
        _add_agent(app, topic)
    return app


def _add_agent(app: AdapterApp, topic: str) -> None:
    source = app.topic(topic, key_serializer="raw", value_serializer="raw", allow_empty=True)

    async def adapt(stream: Any) -> None:
        # Should Faust end or restart an agent, what is under way would be neither acknowledged nor read again.
        failure: Exception = WorkerFailed(f"Faust ended the agent of {topic}.", hint="Start the adapters again.")
        try:
            # By hand: Faust acknowledges whatever leaves the loop, by an error too.
            await app.host.work(topic, stream.noack().events())
        except Exception as error:  # whatever it is, the process ends with exit code 1 and says it
            if not isinstance(error, SegstreamError):
                log.exception("the adapter of %s failed", topic)
            failure = error
        finally:
            if not app.should_stop:
                app.host.failure = app.host.failure or failure
                await app.crash(app.host.failure)

    app.agent(source, name=f"adapter-{topic}", concurrency=1)(adapt)


def run_adapters(settings: Settings, own: list[Adapters]) -> int:
    """Run until a signal or a failure; returns the exit code. Raises SegstreamError, saying what to do."""
    routes = all_routes(settings, own)
    asyncio.run(_reach(settings, routes))
    accept_any_header_name()  # or one such record would stop its partition for good
    with TemporaryDirectory(prefix="segstream-") as scratch:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        app = build_app(settings, routes, Path(scratch))
        worker = faust.Worker(
            app,
            loop=loop,
            loglevel=settings.log_level,
            logging_config=logging_config(settings.log_level),
            redirect_stdouts=False,
            quiet=True,
            stderr=sys.stderr,
        )
        return _execute(worker, app.host)


def _execute(worker: faust.Worker, host: AdapterHost) -> int:
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception as error:  # noqa: BLE001  # the frame raises what crashed it; what is told is our own word for it
        code, host.failure = 1, host.failure or error
    if isinstance(host.failure, SegstreamError):
        raise host.failure
    return 1 if host.failure else code


async def _reach(settings: Settings, routes: Mapping[str, Route]) -> None:
    """Refuse topics that aren't there, or not as the settings say. Raises KafkaUnreachable, TopicMissing, SettingsError."""
    async with kafka_consumer(settings) as consumer:
        found = await partitions_of(consumer, [settings.orders_topic, settings.orders_dead_letters_topic, *routes])
    for topic in (settings.orders_topic, settings.orders_dead_letters_topic):
        count = sum(partition.topic == topic for partition in found)
        if count != settings.partitions:
            raise SettingsError(
                f"topic {topic!r} has {count} partitions, SEGSTREAM_PARTITIONS is {settings.partitions}.",
                hint="Set it to what the topic has: it says which shard a customer belongs to.",
            )
