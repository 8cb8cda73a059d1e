"""The compacted topic of the endpoints' positions and states: written by `segstream deliver`, followed by all of them.

The consumer groups' offsets wouldn't do: they expire a week after an endpoint was disabled, and hold no attempts.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream.delivery.positions import DeliveryPosition, EndpointState, encode_kept, position_key, state_key
from stream.delivery.window import LogPartition
from stream.kafka.clients import kafka_consumer, partitions_of, read_topic
from stream.settings import Settings

_BARRIER: Final = b"barrier"
_POLL_MS: Final = 500
_WAIT_MS: Final = 50  # of a fetch without records: a barrier is seen that soon
_CATCH_UP_S: Final = 60.0


class DeliveryJournal:
    """The topic's latest record of each key. `run` follows it; other methods may be called meanwhile."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        """Read nothing yet. `producer`: started."""
        self._settings = settings
        self._producer = producer
        self._latest: dict[bytes, bytes] = {}
        self._barriers: dict[bytes, asyncio.Event] = {}
        self._watchers: list[Callable[[], None]] = []

    def watch(self, changed: Callable[[], None]) -> None:
        """Call this whenever the topic has something new."""
        self._watchers.append(changed)

    async def run(self) -> None:
        """Follow the topic from its beginning, for ever. Raises KafkaUnreachable."""
        async with kafka_consumer(self._settings, fetch_max_wait_ms=_WAIT_MS) as consumer:
            await self._follow(consumer)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        partitions = await partitions_of(consumer, [self._settings.positions_topic])
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        while True:
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    self._take(record)
                for changed in self._watchers:
                    changed()

    def _take(self, record: Any) -> None:
        key, value = record.key or b"", record.value
        if key == _BARRIER:
            if reached := self._barriers.pop(value or b"", None):
                reached.set()
        elif value is None:
            self._latest.pop(key, None)
        else:
            self._latest[key] = value

    async def caught_up(self) -> None:
        """Return when all that was written before this call has been read. Raises KafkaError, TimeoutError."""
        token = uuid.uuid4().hex.encode()
        reached = self._barriers[token] = asyncio.Event()
        try:
            await self._write(_BARRIER, token)
            async with asyncio.timeout(_CATCH_UP_S):
                await reached.wait()
        finally:
            self._barriers.pop(token, None)

    def position(self, endpoint: str, place: LogPartition) -> DeliveryPosition | None:
        """Return the last known position; None: there is none."""
        return position_in(self._latest, endpoint, place)

    def state(self, endpoint: str) -> EndpointState:
        """Return an endpoint's state."""
        return state_in(self._latest, endpoint)

    async def keep_position(self, endpoint: str, place: LogPartition, position: DeliveryPosition) -> None:
        """Write a position, and wait until Kafka has it. Raises KafkaError."""
        key, value = position_key(endpoint, place), encode_kept(position)
        self._latest[key] = value
        await self._write(key, value)

    async def keep_state(self, endpoint: str, state: EndpointState) -> None:
        """Write an endpoint's state, and wait until Kafka has it. Raises KafkaError."""
        key, value = state_key(endpoint), encode_kept(state)
        self._latest[key] = value
        await self._write(key, value)

    async def _write(self, key: bytes, value: bytes) -> None:
        await self._producer.send_and_wait(self._settings.positions_topic, value, key=key, partition=0)


async def read_journal(settings: Settings) -> dict[bytes, bytes]:
    """Return what the topic says now, key by key. Raises KafkaUnreachable, TopicUnusable."""
    latest: dict[bytes, bytes] = {}
    for record in await read_topic(settings, settings.positions_topic):
        if record.value is None:
            latest.pop(record.key, None)
        elif record.key is not None:
            latest[record.key] = record.value
    return latest


def position_in(latest: dict[bytes, bytes], endpoint: str, place: LogPartition) -> DeliveryPosition | None:
    """Return a position out of the topic's content; None: there is none."""
    value = latest.get(position_key(endpoint, place))
    return None if value is None else msgspec.json.decode(value, type=DeliveryPosition)


def state_in(latest: dict[bytes, bytes], endpoint: str) -> EndpointState:
    """Return an endpoint's state out of the topic's content: enabled, if it says nothing."""
    value = latest.get(state_key(endpoint))
    return EndpointState() if value is None else msgspec.json.decode(value, type=EndpointState)
