"""Reads of a shard from outside the engine: its head, its clock, its states (commands, trainer, benchmark)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Final, cast

import msgspec

from stream.errors import SegstreamError
from stream.storage.client import redis_client
from stream.storage.heads import StoreHead, decode_store_head
from stream.storage.keys import ShardKeys

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from stream.settings import Settings

PAGE: Final = 2_000
REBUILD: Final = "`segstream rebuild` makes Redis anew from Kafka."


class StoreUnreadable(SegstreamError):
    """Redis holds something that isn't a shard's head or a customer's state of this version."""


class HeadUnreadable(StoreUnreadable):
    """A shard's head isn't one of this version."""

    reason: ClassVar[str] = "redis_format"  # of the quarantine that its owner answers with


def parse_head(raw: bytes, shard: str) -> StoreHead:
    """Decode the head of a shard. `shard`: its name in messages. Raises HeadUnreadable."""
    try:
        return decode_store_head(raw)
    except msgspec.DecodeError as error:
        raise HeadUnreadable(
            f"the head of {shard} in Redis is unreadable: {error}.",
            hint=f"Check SEGSTREAM_REDIS_URL and SEGSTREAM_GROUP. {REBUILD}",
        ) from error


def read_head(redis: Redis, keys: ShardKeys) -> StoreHead | None:
    """Read the head of a shard; None: the shard has never been owned. Raises HeadUnreadable, RedisError."""
    raw = cast("bytes | None", redis.get(keys.head))
    return None if raw is None else parse_head(raw, keys.shard)


async def read_head_async(redis: AsyncRedis, keys: ShardKeys) -> StoreHead | None:
    """Read the head of a shard, as `read_head` does."""
    raw = cast("bytes | None", await redis.get(keys.head))
    return None if raw is None else parse_head(raw, keys.shard)


def read_clock(redis: Redis, keys: ShardKeys) -> int | None:
    """Read the clock of a shard (ms); None: it has had no record yet. Raises HeadUnreadable, RedisError."""
    head = read_head(redis, keys)
    return None if head is None else head.clock_ms


def read_states(redis: Redis, keys: ShardKeys) -> Iterator[tuple[bytes, bytes]]:
    """Yield each customer of a shard with the packed state, in the order of the customers' bytes.

    This isn't a snapshot: each customer is read once, at some instant during the read. Raises RedisError.
    """
    after = b"-"
    while True:
        page = cast("list[bytes]", redis.zrange(keys.customers, after, b"+", bylex=True, offset=0, num=PAGE))
        if not page:
            return
        values = cast("list[bytes | None]", redis.hmget(keys.states, cast("list[str]", page)))
        for customer, value in zip(page, values, strict=True):
            if value is not None:
                yield customer, value
        after = b"(" + page[-1]


def customers_stored(settings: Settings) -> int:
    """Count the customers in all shards. Raises RedisUnreachable."""
    with redis_client(settings) as redis:
        shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
        counts: list[int] = [redis.zcard(keys.customers) for keys in shards]
        return sum(counts)
