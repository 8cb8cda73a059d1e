"""Outcomes and dead letters, written to Kafka; each is waited for before its record counts as resolved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from segmentation.event_text import cloud_headers
from segmentation.events import Reason
from segmentation.step import DeadLetter
from stream.dead_letters.records import dead_record
from stream.delivery.outcomes import DeliveryEvent, decode_outcome, encode_outcome
from stream.delivery.window import Unresolved
from stream.kafka.clients import at_end, kafka_consumer
from stream.settings import Settings

_POLL_MS = 200
_WAIT_MS = 20


class Outbox:
    """The producer of this process, and where in the topic of deliveries a restart has to begin to read.

    A producer's records reach a partition in the order in which they were sent. So an outcome that Kafka hasn't
    acknowledged yet will get an offset behind all that were acknowledged when it was sent.
    """

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        """Send nothing yet. `producer`: started, idempotent."""
        self._settings = settings
        self._producer = producer
        self._acknowledged: dict[int, int] = {}  # by partition: an offset that all later outcomes will be behind
        self._under_way: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)  # that offset at the send
        self._numbers = count()

    def seen(self, partition: int, end: int) -> None:
        """Note that a partition of the topic of deliveries has been read up to `end`."""
        self._acknowledged[partition] = max(end, self._acknowledged.get(partition, 0))

    def outcomes_from(self, endpoint: str, partition: int) -> int:
        """Return the offset from which an endpoint's outcomes may be that its window doesn't know yet."""
        under_way = self._under_way[endpoint, partition].values()
        return min(under_way, default=self._acknowledged.get(partition, 0))

    async def outcome(self, event: DeliveryEvent) -> None:
        """Write an outcome, and wait until Kafka has it. Raises KafkaError."""
        partition = event.record.partition
        tag = str(type(event).__struct_config__.tag)
        headers = cloud_headers(tag, event.id, f"/segstream/{self._settings.group}", event.customer_id, event.at)
        with self._noted(event.endpoint, partition):
            stored = await self._producer.send_and_wait(
                self._settings.deliveries_topic,
                encode_outcome(event),
                key=event.customer_id.encode(),
                partition=partition,
                headers=headers,
            )
        self.seen(partition, stored.offset + 1)

    @contextmanager
    def _noted(self, endpoint: str, partition: int) -> Iterator[None]:
        number = next(self._numbers)
        sends = self._under_way[endpoint, partition]
        sends[number] = self._acknowledged.get(partition, 0)
        try:
            yield
        finally:
            del sends[number]

    async def dead_letter(self, endpoint: str, record: Unresolved, reason: Reason, why: str, now_ms: int) -> None:
        """Write a record to the dead letters, and wait until Kafka has it. Raises KafkaError."""
        settings, place = self._settings, record.place
        dead = dead_record(
            record,
            DeadLetter(0, reason.value, endpoint, why),
            place.topic,
            place.partition,
            now_ms=now_ms,
            max_bytes=settings.max_event_bytes,
            group=settings.group,
        )
        await self._producer.send_and_wait(
            settings.actions_dead_letters_topic,
            dead.value,
            key=dead.key,
            partition=place.partition,
            headers=dead.headers,
        )


async def outcomes_since(
    settings: Settings, endpoint: str, starts: dict[int, int]
) -> tuple[dict[int, list[DeliveryEvent]], dict[int, int]]:
    """Read an endpoint's outcomes from these offsets on, by partition. Return them, and the ends up to which.

    Raises KafkaUnreachable.
    """
    found: dict[int, list[DeliveryEvent]] = {partition: [] for partition in starts}

    def start(partition: int, first: int, end: int) -> int:
        # Beyond the end: of a topic of the same name that has been deleted.
        return first if starts[partition] > end else max(starts[partition], first)

    def take(partition: int, records: Sequence[Any]) -> None:
        found[partition] += (event for event in _events(records) if event.endpoint == endpoint)

    ends = await _read(settings, starts, start, take)
    return found, ends


async def latest_outcomes(settings: Settings, most: int) -> list[DeliveryEvent]:
    """Return the latest outcomes of all endpoints, up to so many of each partition, the oldest first.

    Raises KafkaUnreachable.
    """
    found: list[DeliveryEvent] = []

    def take(_partition: int, records: Sequence[Any]) -> None:
        found.extend(_events(records))

    await _read(settings, range(settings.partitions), lambda _partition, first, end: max(first, end - most), take)
    return sorted(found, key=lambda event: event.at)


async def _read(
    settings: Settings,
    wanted: Collection[int],
    start: Callable[[int, int, int], int],
    take: Callable[[int, Sequence[Any]], None],
) -> dict[int, int]:
    """Read partitions of the topic of deliveries to their present ends, which are returned.

    `start(partition, first offset, end)` says from where. `take(partition, records)` gets them.
    """
    partitions = [TopicPartition(settings.deliveries_topic, partition) for partition in wanted]
    # Read in a consumer of its own: one of aiokafka 0.14 that was assigned twice may hang when it is stopped.
    async with kafka_consumer(settings, fetch_max_wait_ms=_WAIT_MS) as consumer:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        firsts = await consumer.beginning_offsets(partitions)
        for tp in partitions:
            consumer.seek(tp, start(tp.partition, firsts[tp], ends[tp]))
        while not await at_end(consumer, ends):
            for tp, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                take(tp.partition, records)
    return {tp.partition: end for tp, end in ends.items()}


def _events(records: Sequence[Any]) -> Iterator[DeliveryEvent]:
    for record in records:
        if (event := decode_outcome(record.value)) is not None:
            yield event
