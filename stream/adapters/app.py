"""The Faust app of `segstream adapters`: an agent for each topic, in a consumer group that no worker belongs to.

Faust loses records by default: an agent that raises acknowledges its record, and a commit steps over a record that
isn't acknowledged (faust-streaming #606). So the agents here acknowledge by hand and in order
(`stream/adapters/delivery.py`), and the consumer commits what was acknowledged and nothing more
(`stream/adapters/faust_internals.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import faust
from aiokafka.errors import KafkaError

from segmentation.decoder import Reader
from segmentation.entries import DAY_MS
from stream.adapters.delivery import STEP, DeliveryQueue, Outlet
from stream.adapters.faust_internals import use_in_order_commits
from stream.adapters.mapping import AdapterError, Adapters, Route, rekeyed
from stream.clock import now_ms
from stream.errors import SegstreamError, WorkerFailed
from stream.hosting.faust_launcher import HostedApp, app_options, framework_log, run_app
from stream.hosting.http_server import http_server
from stream.kafka.aiokafka_internals import accept_any_header_name
from stream.kafka.clients import check_partition_count, kafka_consumer, kafka_producer, partitions_of
from stream.kafka.refusals import denial, explained
from stream.metrics import Metrics
from stream.settings import Settings

log = logging.getLogger(__name__)

_DRAIN_S: Final = 10.0  # for the last acknowledgements before the end; what isn't acknowledged is read again
_LINGER_MS: Final = 5
_BATCH_BYTES: Final = 131_072
_BUFFERED: Final = 256  # records of a topic between consumer and agent; Faust's default of 4,096 may take gigabytes
_COMMIT_S: Final = 1.0
_PROBE_MS: Final = 400  # for a look at each topic at the start: a denial comes at once


class AdapterHost:
    """The parts that all agents share, from start to drain: the producer, the queues, `/health` and `/metrics`."""

    def __init__(self, settings: Settings, routes: Mapping[str, Route]) -> None:
        """Connect to nothing yet; `open` does."""
        self._settings = settings
        self.routes = routes
        self._metrics = Metrics()
        self._queues: list[DeliveryQueue] = []
        self._open = AsyncExitStack()
        self._outlet: Outlet | None = None

    async def open(self) -> None:
        """Start the producer, and serve. Raises KafkaUnreachable, PortUnavailable."""
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
        server = http_server(
            settings.http_host,
            settings.http_port,
            health=self._health,
            metrics=self._metrics.render,
            setting="SEGSTREAM_HTTP_PORT",
        )
        await self._open.enter_async_context(server)
        log.info("adapters of %s, for %s", ", ".join(sorted(self.routes)), settings.orders_topic)

    async def work(self, topic: str, events: AsyncIterator[Any]) -> None:
        """Map and send a topic's records until `events` ends. Raises WorkerFailed where Kafka refuses one."""
        assert self._outlet is not None, "Faust starts agents after the app"
        queue = DeliveryQueue(self.routes[topic], self._outlet)
        self._queues.append(queue)
        try:
            await queue.run(events)
        except ExceptionGroup as group:
            error = group.exceptions[0]
            if not isinstance(error, KafkaError):
                raise error from None
            if denied := denial(self._settings, error):
                raise denied from error
            raise WorkerFailed(
                f"Kafka refuses what becomes of {topic}: {error!r}.",
                hint="Nothing unsent was acknowledged: remove the cause, then start the adapters again.",
            ) from error

    async def drain(self) -> None:
        """Wait at most 10 s until all records taken so far are acknowledged."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await asyncio.gather(*(queue.drained() for queue in self._queues))

    async def close(self) -> None:
        """Stop serving and sending. Never raises: the error that ended the process is known already."""
        log.info("adapters end: %s", self.counts() or "no record taken")
        with suppress(Exception):
            await self._open.aclose()

    def counts(self) -> dict[str, int]:
        """Return the number of records since the start by their outcome: mapped, nothing, dead."""
        samples = [s for metric in self._metrics.events.collect() for s in metric.samples if s.name.endswith("_total")]
        return {s.labels["outcome"]: int(s.value) for s in samples}

    def _health(self) -> dict[str, Any]:
        """Return what was done; always healthy, because a failure ends the process."""
        return {"healthy": True, "step": STEP, "topics": sorted(self.routes), "records": self.counts()}


class AdapterApp(HostedApp):
    """A Faust app that opens its host before the agents start, and drains it before the last commit."""

    logger = framework_log
    host: AdapterHost

    async def on_start(self) -> None:
        """Start as Faust does, then open the host."""
        await super().on_start()
        try:
            await self.host.open()
        except SegstreamError as error:
            self.failure = error
            raise

    async def on_stop(self) -> None:
        """Stop the flow as Faust does, then wait for the last acknowledgements, to be committed at the end."""
        await super().on_stop()
        if self.failure is None:
            await self.host.drain()

    async def on_shutdown(self) -> None:
        """Shut down as Faust does, then close the host: nothing sends any more."""
        await super().on_shutdown()
        await self.host.close()


def reader_of(settings: Settings) -> Reader:
    """Return a reader that checks an event as a worker does, but in wall time: an adapter knows no shard's clock.

    Nor rates: an order waits for its rate in the worker's dead letters.
    """
    return Reader(
        currency=settings.currency,
        time="wall",
        tolerance_ms=settings.future_tolerance_s * 1000,
        max_jump_ms=settings.max_clock_jump_days * DAY_MS,
        max_event_bytes=settings.max_event_bytes,
        other_currencies=settings.all_currencies - {settings.currency},
    )


def all_routes(settings: Settings, own: list[Adapters]) -> dict[str, Route]:
    """Return the ready route of the unkeyed topic and the user's own.

    Raises AdapterError where two are for one topic, or one would read what adapters write.
    """
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
    """Return the settings' security in Faust's form; None where there is none."""
    client = settings.kafka_client()
    context = client.get("ssl_context")
    if "sasl_mechanism" not in client:
        return faust.SSLCredentials(context=context) if context is not None else None
    if "sasl_oauth_token_provider" in client:
        return faust.OAuthCredentials(oauth_cb=client["sasl_oauth_token_provider"], ssl_context=context)
    return faust.SASLCredentials(
        username=client["sasl_plain_username"],
        password=client["sasl_plain_password"],
        mechanism=client["sasl_mechanism"],
        ssl_context=context,
    )


def build_app(settings: Settings, routes: Mapping[str, Route], scratch: Path) -> AdapterApp:
    """Build the Faust app of one process, with an agent for each topic. `scratch`: a folder that Faust requires."""
    session_s = settings.session_timeout_ms / 1000
    app = AdapterApp(
        _group_of(settings),
        broker_credentials=credentials(settings),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 3,
        broker_request_timeout=max(90.0, session_s),
        broker_commit_interval=_COMMIT_S,
        stream_buffer_maxsize=_BUFFERED,
        stream_wait_empty=False,  # it would hold up a rebalance for as long as a broker refuses; the host drains
        consumer_auto_offset_reset="earliest",
        **app_options(settings, scratch),
    )
    app.host = AdapterHost(settings, routes)
    use_in_order_commits(app)
    for topic in routes:
        _add_agent(app, topic)
    return app


def _add_agent(app: AdapterApp, topic: str) -> None:
    source = app.topic(topic, key_serializer="raw", value_serializer="raw", allow_empty=True)

    async def adapt(stream: Any) -> None:
        # If Faust ended or restarted an agent, its unacknowledged records would neither be acknowledged nor read again.
        failure: Exception = WorkerFailed(f"Faust ended the agent of {topic}.", hint="Start the adapters again.")
        try:
            # Without `noack` Faust acknowledges each record that leaves the loop, even by an error.
            await app.host.work(topic, stream.noack().events())
        except Exception as error:  # whatever it is, the process reports it and ends with exit code 1
            if not isinstance(error, SegstreamError):
                log.exception("the adapter of %s failed", topic)
            failure = error
        finally:
            if not app.should_stop:
                await app.fail(failure)

    app.agent(source, name=f"adapter-{topic}", concurrency=1)(adapt)


def run_adapters(settings: Settings, own: list[Adapters]) -> int:
    """Run the adapters until a signal or a failure; return the exit code. Raises SegstreamError."""
    routes = all_routes(settings, own)
    asyncio.run(_check_topics(settings, routes))
    accept_any_header_name()  # otherwise one such record would stop its partition for good
    try:
        return run_app(lambda scratch: build_app(settings, routes, scratch), settings)
    except WorkerFailed as error:
        # Of Faust's own consumer, which isn't a client of ours.
        if isinstance(error.__cause__, KafkaError):
            raise asyncio.run(explained(settings, error.__cause__)) from error
        raise


async def _check_topics(settings: Settings, routes: Mapping[str, Route]) -> None:
    """Check that the topics are what the settings say, and that this user may read them in the adapters' group.

    Faust tries a group that is denied again and again. Raises KafkaUnreachable, TopicUnusable.
    """
    async with kafka_consumer(settings, group_id=_group_of(settings), fetch_max_wait_ms=_PROBE_MS // 2) as consumer:
        found = await partitions_of(consumer, [settings.orders_topic, settings.orders_dead_letters_topic, *routes])
        read = [partition for partition in found if partition.topic in routes]
        consumer.assign(read)
        for partition in read[:1]:
            await consumer.committed(partition)
        await consumer.seek_to_end(*read)
        await consumer.getmany(timeout_ms=_PROBE_MS)
    for topic in (settings.orders_topic, settings.orders_dead_letters_topic):
        check_partition_count(topic, sum(partition.topic == topic for partition in found), settings.partitions)


def _group_of(settings: Settings) -> str:
    return f"{settings.group}-adapters"
