"""Read a shard's clock and states from outside the engine (export, trainer, status)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

import msgspec

from stream.errors import SegstreamError
from stream.storage.client import redis_client
from stream.storage.heads import NO_CLOCK, decode_store_head
from stream.storage.keys import ShardKeys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.settings import Settings
if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from stream.settings import Settings


PAGE: Final = 2_000


class StatesUnreadable(SegstreamError):
    """Something in Redis isn't a shard's head or a customer's state."""


def read_clock(redis: Redis, keys: ShardKeys) -> int | None:
    """The shard's clock in ms; None before its first record. Raises msgspec.DecodeError where the head isn't one."""
    head = cast("bytes | None", redis.get(keys.head))
    clock = NO_CLOCK if head is None else decode_store_head(head).clock
    return None if clock == NO_CLOCK else clock


def read_states(redis: Redis, keys: ShardKeys) -> Iterator[tuple[bytes, bytes]]:
    """Each customer of a shard and its packed state, in the order of the customers' bytes.

    Not a snapshot: a customer is read once, at some instant during the read.
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


def shard_clock(redis: Redis, keys: ShardKeys) -> int | None:
    """Read a shard's clock (ms). None: it hasn't had a record yet. Raises StatesUnreadable."""
    try:
        return read_clock(redis, keys)
    except msgspec.DecodeError as error:
        raise StatesUnreadable(
            f"{keys.head} isn't a shard's head: {error}.", hint="Check SEGSTREAM_REDIS_URL and SEGSTREAM_GROUP."
        ) from error
