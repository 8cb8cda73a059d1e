"""The erasure of a customer: its event, the wait until a worker has done it, and what the logs still hold."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec

from segmentation.events import CustomerErased, encode, instant, iso
from segmentation.partitioners import PARTITIONERS, murmur2
from stream.errors import SegstreamError
from stream.kafka import topics
from stream.kafka.clients import kafka_producer
from stream.replay.preconditions import check_target
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock, read_head

if TYPE_CHECKING:
    from stream.settings import Settings

_POLL_S: Final = 0.05
_LONGEST_ID: Final = 256


class ErasureRefused(SegstreamError):
    """The id can't be one of a customer."""


class RetainedData(msgspec.Struct, frozen=True):
    """Data of the customer that a log still holds. `until`: None if the log keeps it without limit."""

    topic: str
    holds: str
    policy: str  # Kafka's cleanup.policy
    until: str | None


class Erasure(msgspec.Struct, frozen=True):
    """The erasure that was sent, whether a worker has done it, and the data that logs still hold."""

    customer_id: str
    erased_until: str
    partition: int
    offset: int
    done: bool
    kept: list[RetainedData]


async def erase(settings: Settings, customer_id: str, at_ms: int | None, *, now_ms: int, wait_s: float) -> Erasure:
    """Send customer.erased for everything dated up to `at_ms`, and wait until a worker has done it.

    `at_ms` None: now; in event time the clock of the customer's shard. Instants in ms. Raises ErasureRefused,
    KafkaUnreachable, TopicMissing, RedisUnreachable.
    """
    key = customer_id.encode()
    if not 1 <= len(customer_id) <= _LONGEST_ID:
        raise ErasureRefused(f"the customer's id has {len(customer_id)} characters, expected 1 to {_LONGEST_ID}.")
    # SEGSTREAM_PARTITIONER=none asks for no particular partitioner: Kafka's default will do.
    partition = (PARTITIONERS[settings.partitioner] or murmur2)(key, settings.partitions)
    with redis_client(settings) as redis:
        keys = ShardKeys(settings.group, settings.orders_topic, partition)
        clock = await asyncio.to_thread(read_clock, redis, keys)
        if at_ms is None:
            at_ms = clock if settings.time == "event" and clock is not None else now_ms
        offset = await _send(settings, customer_id, at_ms, partition)
        done = await _processed(redis, keys, offset, wait_s)
    return Erasure(customer_id, iso(at_ms), partition, offset, done, await _retained(settings, now_ms))


async def _send(settings: Settings, customer_id: str, at_ms: int, partition: int) -> int:
    event = CustomerErased(id=f"erasure-{uuid.uuid4()}", customer_id=customer_id, occurred_at=instant(at_ms))
    await check_target(settings)
    async with kafka_producer(settings) as producer:
        sent = await producer.send_and_wait(
            settings.orders_topic, encode(event), key=customer_id.encode(), partition=partition
        )
    return int(sent.offset)


async def _processed(redis: Any, keys: ShardKeys, offset: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        head = await asyncio.to_thread(read_head, redis, keys)
        if head is not None and head.offset > offset:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_S)


async def _retained(settings: Settings, now_ms: int) -> list[RetainedData]:
    """Return what each log of the deployment may hold of a customer, by the log's retention."""
    orders = "the customer's events, as they were sent"
    moves = "the customer's moves, with their figures"
    holds = {
        settings.orders_topic: orders,
        settings.unkeyed_topic: orders,
        settings.orders_dead_letters_topic: "the customer's events that could not be used",
        settings.changes_topic: moves,
        settings.state_topic: "the latest move, which a tombstone now replaces",
        settings.changes_dead_letters_topic: "the customer's moves that could not be used",
        settings.actions_topic: "the campaign actions for the customer",
    }
    return [
        _retained_in(topic, holds[topic], policy, retention_ms, now_ms)
        for topic, (policy, retention_ms) in (await topics.retention(settings, list(holds))).items()
    ]


def _retained_in(topic: str, holds: str, policy: str, retention_ms: int, now_ms: int) -> RetainedData:
    """Return what one log holds, and until when.

    >>> _retained_in("orders", "events", "delete", 86_400_000, 0).until
    '1970-01-02T00:00:00.000Z'
    """
    ends = policy == "delete" and retention_ms >= 0
    return RetainedData(topic, holds, policy, iso(now_ms + retention_ms) if ends else None)
