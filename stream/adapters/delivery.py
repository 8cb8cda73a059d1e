"""Delivery of adapters' records: orders are sent at once, and records acknowledged in order once Kafka has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaProducer

from segmentation.decoder import Reader
from segmentation.events import RejectedEvent
from segmentation.partitioners import PARTITIONERS, murmur2
from segmentation.step import DeadLetter
from stream.adapters.mapping import Route, SourceRecord, order_records
from stream.dead_letters.records import dead_record
from stream.metrics import Metrics
from stream.settings import Settings

STEP: Final = "adapters"  # the label of the metrics
_UNDER_WAY: Final = 256  # records of a topic sent and not yet acknowledged: enough to fill batches, and bounded


class FaustEvent(Protocol):
    """A consumed message that can be acknowledged, as Faust gives it to an agent."""

    message: Any

    def ack(self) -> bool:
        """Allow its offset to be committed."""


def to_record(message: Any) -> SourceRecord:
    """Return a Faust message as a mapping gets it: untouched bytes, and the time in milliseconds."""
    return SourceRecord(
        message.topic,
        message.partition,
        message.offset,
        round((message.timestamp or 0.0) * 1000),
        message.key,
        message.value,
        tuple(message.headers or ()),
    )


class Outlet:
    """Sends the orders that a record becomes to the topic of orders, or the record itself to its dead letters."""

    def __init__(
        self,
        settings: Settings,
        reader: Reader,
        producer: AIOKafkaProducer,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        """`reader`: in wall time; `producer`: started; `now_ms`: the wall clock."""
        self._settings = settings
        self._reader = reader
        self._producer = producer
        self._metrics = metrics
        self._now_ms = now_ms
        # "none" requires no particular partitioner, so Kafka's usual one is taken.
        self._partitioner = PARTITIONERS[settings.partitioner] or murmur2

    async def send(self, record: SourceRecord, route: Route) -> list[asyncio.Future[Any]]:
        """Send what a record becomes; the futures are done when Kafka has it. Raises KafkaError, as they do."""
        now_ms = self._now_ms()
        try:
            orders = order_records(record, route, self._reader, now_ms)
        except RejectedEvent as why:
            dead_letter = DeadLetter(0, why.reason.value, why.field, why.message)
            return [await self._send_dead(record, dead_letter, now_ms)]
        self._metrics.events.labels(STEP, "mapped" if orders else "nothing").inc()
        self._metrics.outputs.labels(STEP).inc(len(orders))
        topic, partitions = self._settings.orders_topic, self._settings.partitions
        return [
            await self._producer.send(
                topic, o.value, key=o.key, partition=self._partitioner(o.key, partitions), headers=o.headers
            )
            for o in orders
        ]

    async def _send_dead(self, record: SourceRecord, dead_letter: DeadLetter, now_ms: int) -> asyncio.Future[Any]:
        settings = self._settings
        dead = dead_record(
            record, dead_letter, record.topic, record.partition, now_ms=now_ms, max_bytes=settings.max_event_bytes
        )
        self._metrics.events.labels(STEP, "dead").inc()
        self._metrics.dead_letters.labels(STEP, dead_letter.reason).inc()
        partition = record.partition % settings.partitions
        sent: asyncio.Future[Any] = await self._producer.send(
            settings.orders_dead_letters_topic, dead.value, key=dead.key, partition=partition, headers=dead.headers
        )
        return sent


class DeliveryQueue:
    """One topic's records between the agent and the acknowledgement.

    They are acknowledged in the order in which they were taken, and none after a record whose orders could not be sent.
    So no record before an acknowledged one is unsent, and a commit can't step over a record.
    """

    def __init__(self, route: Route, outlet: Outlet) -> None:
        """Send nothing yet; call `run` once."""
        self._route = route
        self._outlet = outlet
        self._under_way: asyncio.Queue[tuple[FaustEvent, Sequence[asyncio.Future[Any]]]] = asyncio.Queue(_UNDER_WAY)

    async def run(self, events: AsyncIterator[FaustEvent]) -> None:
        """Take events until they end, and acknowledge them. Raises the error of a failed send."""
        async with asyncio.TaskGroup() as tasks:
            acknowledging = tasks.create_task(self._acknowledge())
            async for event in events:
                sent = await self._outlet.send(to_record(event.message), self._route)
                for future in sent:
                    future.add_done_callback(_mark_seen)
                await self._under_way.put((event, sent))
            await self._under_way.join()
            acknowledging.cancel()

    async def drained(self) -> None:
        """Return when all records taken so far are acknowledged."""
        await self._under_way.join()

    async def _acknowledge(self) -> None:
        while True:
            event, sent = await self._under_way.get()
            for future in sent:
                await future
            event.ack()
            self._under_way.task_done()


def _mark_seen(future: asyncio.Future[Any]) -> None:
    """Mark an error as seen: after the first failed send nobody awaits the later ones."""
    if not future.cancelled():
        future.exception()
