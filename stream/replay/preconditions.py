"""TODO: contract."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from segmentation.events import iso
from stream.errors import SegstreamError
from stream.kafka.clients import check_partition_count, kafka_producer, partitions_of
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from stream.settings import Settings


class ReplayError(SegstreamError):
    """These rows can't be replayed so."""


async def check_target(settings: Settings, until_ms: int | None = None) -> None:
    """Refuse in time what `replay` would refuse, before a long file is read. Raises as it does."""
    check_until(settings, until_ms)
    async with kafka_producer(settings) as producer:
        await check_partitions(producer, settings)
    if settings.time == "event":
        await asyncio.to_thread(lowest_clock, settings)


def lowest_clock(settings: Settings) -> int | None:
    """Read how far (ms) the shard that is furthest behind has come. None: no shard has begun. Raises as `replay` does.

    A shard that hasn't begun doesn't count: its first record sets its clock, wherever that lies.
    """
    shards = [ShardKeys(settings.group, settings.orders_topic, partition) for partition in range(settings.partitions)]
    with redis_client(settings) as redis:
        clocks = [read_clock(redis, keys) for keys in shards]
    return min((clock for clock in clocks if clock is not None), default=None)


def check_until(settings: Settings, until_ms: int | None) -> None:
    """Refuse a clock that the shards would refuse. Raises ReplayError."""
    now_ms = time.time_ns() // 1_000_000
    if until_ms is not None and until_ms > now_ms + settings.future_tolerance_s * 1000:
        raise ReplayError(
            f"--until {iso(until_ms)} lies in the future.", hint="No event may be dated later than its arrival."
        )


async def check_partitions(producer: AIOKafkaProducer, settings: Settings) -> None:
    """Refuse a topic in which a customer's partition would be another than the shards expect. Raises TopicUnusable."""
    topic = settings.orders_topic
    check_partition_count(topic, len(await partitions_of(producer, [topic])), settings.partitions)
