"""The way of adapters' records into Kafka: sent at once, acknowledged one after the other, when Kafka has what became of them."""

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


class Taken(Protocol):
    """What Faust gives an agent: a consumed message that can be acknowledged."""

    message: Any

    def ack(self) -> bool:
        """Let its offset be committed."""


def to_record(message: Any) -> SourceRecord:
    """A Faust message as the mapping sees it: untouched bytes, and the time in milliseconds."""
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
    """What comes of a record goes out here: to the topic of orders, or to its dead letters."""

    def __init__(
        self,
        settings: Settings,
        reader: Reader,
        producer: AIOKafkaProducer,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        """`reader` and `producer`: in wall time, and started."""
        self._settings = settings
        self._reader = reader
        self._producer = producer
        self._metrics = metrics
        self._now_ms = now_ms
        # "none" asks for no particular partitioner, so the usual one will do.
        self._partitioner = PARTITIONERS[settings.partitioner] or murmur2

    async def send(self, record: SourceRecord, route: Route) -> list[asyncio.Future[Any]]:
        """Hand over what becomes of a record; the futures tell when Kafka has it. Raises KafkaError, as they do."""
        now_ms = self._now_ms()
        try:
            orders = order_records(record, route, self._reader, now_ms)
        except RejectedEvent as why:
            letter = DeadLetter(0, why.reason.value, why.field, why.message)
            return [await self._send_dead(record, letter, now_ms)]
        self._metrics.events.labels(STEP, "mapped" if orders else "nothing").inc()
        self._metrics.outputs.labels(STEP).inc(len(orders))
        topic, partitions = self._settings.orders_topic, self._settings.partitions
        return [
            await self._producer.send(
                topic, o.value, key=o.key, partition=self._partitioner(o.key, partitions), headers=o.headers
            )
            for o in orders
        ]

    async def _send_dead(self, record: SourceRecord, letter: DeadLetter, now_ms: int) -> asyncio.Future[Any]:
        settings = self._settings
        dead = dead_record(
            record, letter, record.topic, record.partition, now_ms=now_ms, max_bytes=settings.max_event_bytes
        )
        self._metrics.events.labels(STEP, "dead").inc()
        self._metrics.dead_letters.labels(STEP, letter.reason).inc()
        partition = record.partition % settings.partitions
        sent: asyncio.Future[Any] = await self._producer.send(
            settings.orders_dead_letters_topic, dead.value, key=dead.key, partition=partition, headers=dead.headers
        )
        return sent


class Lane:
    """One topic's records under way.

    They are acknowledged in the order in which they were taken, and none after one whose sending has failed. So whatever
    is acknowledged has nothing unsent before it, and a commit can't step over a record.
    """

    def __init__(self, route: Route, outlet: Outlet) -> None:
        """`run` it once."""
        self._route = route
        self._outlet = outlet
        self._under_way: asyncio.Queue[tuple[Taken, Sequence[asyncio.Future[Any]]]] = asyncio.Queue(_UNDER_WAY)

    async def run(self, events: AsyncIterator[Taken]) -> None:
        """Take events until they end, and acknowledge them. Raises what a sending raised."""
        async with asyncio.TaskGroup() as tasks:
            acknowledging = tasks.create_task(self._acknowledge())
            async for event in events:
                sent = await self._outlet.send(to_record(event.message), self._route)
                for future in sent:
                    future.add_done_callback(_look_at)
                await self._under_way.put((event, sent))
            await self._under_way.join()
            acknowledging.cancel()

    async def drained(self) -> None:
        """Return when all that was taken is acknowledged."""
        await self._under_way.join()

    async def _acknowledge(self) -> None:
        while True:
            event, sent = await self._under_way.get()
            for future in sent:
                await future
            event.ack()
            self._under_way.task_done()


def _look_at(future: asyncio.Future[Any]) -> None:
    """Mark an error as seen: where one sending fails, nobody awaits those behind it."""
    if not future.cancelled():
        future.exception()
