"""The conditions under which orders can be replayed, checked before anything is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from segmentation.event_text import iso
from stream.clock import now_ms
from stream.errors import SegstreamError
from stream.kafka.clients import check_partition_count, kafka_producer, partitions_of
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from stream.settings import Settings


class ReplayError(SegstreamError):
    """The orders can't be replayed with these settings or options."""


async def check_target(settings: Settings, until_ms: int | None = None) -> None:
    """Check what `replay` checks, so that it can be refused before a long file is read. Raises as `replay` does."""
    check_until(settings, until_ms, now_ms())
    async with kafka_producer(settings) as producer:
        await check_partitions(producer, settings)
    if settings.time == "event":
        await asyncio.to_thread(lowest_clock, settings)


def lowest_clock(settings: Settings) -> int | None:
    """Return the lowest of the shards' clocks, ms since 1970; None where no shard has one yet.

    A shard without a clock doesn't count: its first record sets the clock, however late. Raises ShardUnreadable
    and RedisUnreachable.
    """
    shards = [ShardKeys(settings.group, settings.orders_topic, partition) for partition in range(settings.partitions)]
    with redis_client(settings) as redis:
        clocks = [read_clock(redis, keys) for keys in shards]
    return min((clock for clock in clocks if clock is not None), default=None)


def check_until(settings: Settings, until_ms: int | None, at_ms: int) -> None:
    """Raise ReplayError where `until_ms` is later than an event may be dated at `at_ms`: the shards would refuse it."""
    if until_ms is not None and until_ms > at_ms + settings.future_tolerance_s * 1000:
        raise ReplayError(
            f"--until {iso(until_ms)} lies in the future.", hint="No event may be dated later than its arrival."
        )


async def check_partitions(producer: AIOKafkaProducer, settings: Settings) -> None:
    """Raise TopicUnusable where the topic of orders is missing or has other partitions than the settings say."""
    topic = settings.orders_topic
    check_partition_count(topic, len(await partitions_of(producer, [topic])), settings.partitions)
