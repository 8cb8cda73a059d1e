"""The process of `segstream deliver`, wired from all its parts in this one file: a courier for each endpoint.

It isn't a Faust app as the worker and the adapters are: each endpoint is a consumer group of its own, so that none
holds up another, and Faust has one for a process (docs/adr/0043-webhooks-with-a-window.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from aiokafka.errors import KafkaError

from stream.clock import now_ms
from stream.delivery.courier import Courier, Office
from stream.delivery.journal import DeliveryJournal
from stream.delivery.metrics import DeliveryMetrics
from stream.delivery.outbox import Outbox
from stream.errors import SegstreamError, WorkerFailed
from stream.hosting.http_server import http_server
from stream.kafka.aiokafka_internals import accept_any_header_name
from stream.kafka.clients import check_partition_count, kafka_consumer, kafka_producer, partitions_of
from stream.kafka.refusals import explained
from stream.settings import Settings
from stream.webhooks.client import WebhookClient
from stream.webhooks.endpoints import Endpoint
from stream.webhooks.signing_keys import signing_keys

log = logging.getLogger(__name__)

_LINGER_MS: Final = 2
_MORE_BYTES: Final = 131_072  # by which a dead letter may be larger than its record
_POSITION_BYTES: Final = 1_048_576  # of a position with a full window of waiting records, twice


class DeliveryHost:
    """All endpoints of a process, from start to drain."""

    def __init__(self, settings: Settings, endpoints: Sequence[Endpoint], keys: Mapping[str, Sequence[bytes]]) -> None:
        """`keys`: the signing keys of each endpoint. Connects to nothing yet."""
        self._settings = settings
        self._endpoints = endpoints
        self._keys = keys
        self._metrics = DeliveryMetrics()
        self._couriers: dict[str, Courier] = {}
        self._journal: DeliveryJournal | None = None
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Start nothing any more; `run` returns when the attempts under way have their outcomes."""
        self._stop.set()
        for courier in self._couriers.values():
            courier.end()

    async def run(self) -> None:
        """Deliver until `stop`. Raises SegstreamError."""
        async with AsyncExitStack() as stack:
            settings = self._settings
            await _check_topics(settings)
            producer = await stack.enter_async_context(
                kafka_producer(
                    settings,
                    linger_ms=_LINGER_MS,
                    max_request_size=max(settings.max_event_bytes + _MORE_BYTES, _POSITION_BYTES),
                )
            )
            self._journal = DeliveryJournal(settings, producer)
            office = Office(settings, self._journal, Outbox(settings, producer), self._metrics, now_ms)
            server = http_server(
                settings.http_host,
                settings.http_port,
                health=self._health,
                metrics=self._metrics.render,
                setting="SEGSTREAM_HTTP_PORT",
            )
            await stack.enter_async_context(server)
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._journal.run())
                hosting = [tasks.create_task(self._host(office, endpoint)) for endpoint in self._endpoints]
                await asyncio.gather(*hosting)
                following.cancel()

    async def _host(self, office: Office, endpoint: Endpoint) -> None:
        """Deliver to an endpoint whenever it is enabled, until `stop`."""
        changed = asyncio.Event()
        office.journal.watch(changed.set)
        await office.journal.caught_up()
        client = WebhookClient(endpoint, self._keys[endpoint.name], now_ms)
        try:
            while not self._stop.is_set():
                state = office.journal.state(endpoint.name)
                self._metrics.disabled.labels(endpoint.name).set(state.disabled_at is not None)
                if state.disabled_at is None:
                    await self._deliver(office, endpoint, client, changed)
                    continue
                log.warning(
                    "%s: disabled since %s: %s. `segstream deliveries enable %s` enables it",
                    endpoint.name, state.disabled_at, state.why, endpoint.name,
                )  # fmt: skip
                # Every outcome of any endpoint is news of the journal. Only another state of this one is worth a line.
                while not self._stop.is_set() and office.journal.state(endpoint.name) == state:
                    await self._until(changed)
        finally:
            await client.close()

    async def _deliver(self, office: Office, endpoint: Endpoint, client: WebhookClient, changed: asyncio.Event) -> None:
        """Deliver until `stop`, or until somebody, perhaps another process, has disabled the endpoint."""
        courier = self._couriers[endpoint.name] = Courier(office, endpoint, client)
        running = asyncio.create_task(courier.run())
        watching = asyncio.create_task(self._until_disabled(office, endpoint, changed))
        try:
            await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
            courier.end()
            await running
        finally:
            watching.cancel()
            running.cancel()
            del self._couriers[endpoint.name]

    async def _until_disabled(self, office: Office, endpoint: Endpoint, changed: asyncio.Event) -> None:
        while not self._stop.is_set() and office.journal.state(endpoint.name).disabled_at is None:
            await self._until(changed)

    async def _until(self, changed: asyncio.Event) -> None:
        """Wait for news of the journal, or for `stop`."""
        waits = [asyncio.create_task(event.wait()) for event in (changed, self._stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        changed.clear()

    def _health(self) -> dict[str, Any]:
        """Return each endpoint's state. Always healthy: an endpoint that fails is no reason to restart this process."""
        endpoints: dict[str, Any] = {}
        for endpoint in self._endpoints:
            courier = self._couriers.get(endpoint.name)
            if courier is not None:
                endpoints[endpoint.name] = courier.state()
            elif self._journal is not None:
                state = self._journal.state(endpoint.name)
                shown = "starting" if state.disabled_at is None else "disabled"
                endpoints[endpoint.name] = {"state": shown, "since": state.disabled_at, "last_failure": state.why}
        return {"healthy": True, "step": "delivery", "endpoints": endpoints}


async def run_deliveries(settings: Settings, endpoints: Sequence[Endpoint], stop: asyncio.Event) -> None:
    """Deliver until `stop` is set. Raises SegstreamError: the process ends, and a restart goes on where it was."""
    keys = {endpoint.name: signing_keys(endpoint) for endpoint in endpoints}
    accept_any_header_name()  # otherwise one such record would stop its partition for good
    host = DeliveryHost(settings, endpoints, keys)
    stopping = asyncio.create_task(_stop_later(stop, host))
    try:
        await host.run()
    except Exception as error:  # whatever it is, the process reports it and ends with exit code 1
        raise await _failure(settings, _first(error)) from error
    finally:
        stopping.cancel()


async def _stop_later(stop: asyncio.Event, host: DeliveryHost) -> None:
    await stop.wait()
    host.stop()


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _failure(settings: Settings, error: Exception) -> SegstreamError:
    """Return what ends the process, in our words."""
    if isinstance(error, SegstreamError):
        return error
    if isinstance(error, KafkaError | TimeoutError):
        return await explained(settings, error)
    log.error("deliveries failed", exc_info=error)
    return WorkerFailed(f"deliveries failed: {error} ({type(error).__name__}).", hint="The log has the traceback.")


async def _check_topics(settings: Settings) -> None:
    """Check that the topics are there, and have one partition a shard. Raises TopicUnusable, KafkaUnreachable."""
    sharded = [
        settings.actions_topic,
        settings.deliveries_topic,
        settings.actions_dead_letters_topic,
        settings.redeliveries_topic,
    ]
    async with kafka_consumer(settings) as consumer:
        found = await partitions_of(consumer, [*sharded, settings.positions_topic])
    for topic in sharded:
        check_partition_count(topic, sum(partition.topic == topic for partition in found), settings.partitions)
