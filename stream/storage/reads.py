"""Reads of a shard from outside the engine: its head, its clock, its states (commands, trainer, benchmark)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from segmentation.agreed import WAYS, Way
from stream.errors import SegstreamError
from stream.storage.client import redis_client
from stream.storage.heads import Stored, StoreHead, decode_store_head
from stream.storage.keys import ShardKeys

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from stream.settings import DeploymentSettings, Settings

REBUILD: Final = "`segstream rebuild` makes Redis anew from Kafka."
TRUNCATED: Final = "`segstream rebuild --allow-truncated-logs` makes Redis anew from what Kafka still has."
SKIP_LOST: Final = "`segstream skip-lost` keeps the states and lets the shard go on where its input begins now."


class StoreUnreadable(SegstreamError):
    """Redis holds something that isn't a shard's head or a customer's state of this version."""


class ShardUnreadable(StoreUnreadable):
    """A shard can't be used as it is in Redis."""

    reason: ClassVar[str]  # of the quarantine that its owner answers with


class HeadUnreadable(ShardUnreadable):
    """A shard's head isn't one of this version."""

    reason: ClassVar[str] = "redis_format"


class ShardLostInPart(ShardUnreadable):
    """A shard's keys don't hold what its head counts: a part of it has vanished, or somebody else has written."""

    reason: ClassVar[str] = "redis_lost"


class SettingsDiffer(ShardUnreadable):
    """A shard's states are under other settings than the reader's: it would take them for something else."""

    reason: ClassVar[str] = "settings_changed"


def parse_head(raw: bytes, shard: str) -> StoreHead:
    """Decode the head of a shard. `shard`: its name in messages. Raises HeadUnreadable."""
    try:
        return decode_store_head(raw)
    except msgspec.DecodeError as error:
        raise HeadUnreadable(
            f"the head of {shard} in Redis is unreadable: {error}.",
            hint=f"Check SEGSTREAM_REDIS_URL and SEGSTREAM_GROUP. {REBUILD}",
        ) from error


class ShardMissing(ShardUnreadable):
    """Redis has no head for a shard: no worker has taken it over yet, or Redis has lost it."""

    reason: ClassVar[str] = "redis_lost"


def check_stored(counted: Stored | None, found: Sequence[int], shard: str) -> None:
    """Compare what a shard's keys hold with what its head counts. Raises ShardLostInPart. `counted` None: unknown."""
    if counted is None or tuple(found) == counted:
        return
    names = ("states", "entries in the list of customers", "due times", "tombstones", "pieces of large states")
    wrong = [
        f"{now:,} {name} instead of {then:,}"
        for name, now, then in zip(names, found, counted, strict=True)
        if now != then
    ]
    raise ShardLostInPart(
        f"Redis has lost a part of {shard}, or somebody else has written to it: it has {', '.join(wrong)}.",
        hint="Keep Redis from deleting keys (maxmemory-policy noeviction, no expiry, no other writer). Then restore a "
        "backup of Redis, or run `segstream rebuild`, which makes it anew from Kafka.",
    )


def _ask(pipe: Any, keys: ShardKeys) -> Any:
    """Ask for a shard's head and for what its keys hold, as of one instant. `pipe`: a transaction of either client."""
    pipe.get(keys.head)
    pipe.hlen(keys.states)
    pipe.zcard(keys.customers)
    pipe.zcard(keys.due)
    pipe.hlen(keys.tombstones)
    pipe.hlen(keys.pieces)
    return pipe.execute()


def _answer(answer: Sequence[Any], keys: ShardKeys) -> StoreHead | None:
    raw, *found = answer
    if raw is None:
        check_stored(Stored(0, 0, 0, 0), found, keys.shard)
        return None
    head = parse_head(raw, keys.shard)
    check_stored(head.stored, found, keys.shard)
    return head


def read_head(redis: Redis, keys: ShardKeys) -> StoreHead | None:
    """Read the head of a shard; None: the shard has never been owned. Raises ShardUnreadable, RedisError.

    ShardLostInPart where the shard's keys don't hold what the head counts.
    """
    return _answer(_ask(redis.pipeline(transaction=True), keys), keys)


async def read_head_async(redis: AsyncRedis, keys: ShardKeys) -> StoreHead | None:
    """Read the head of a shard, as `read_head` does."""
    return _answer(await _ask(redis.pipeline(transaction=True), keys), keys)


def read_clock(redis: Redis, keys: ShardKeys, settings: DeploymentSettings | None = None) -> int | None:
    """Read the clock of a shard (ms); None: it has had no record yet. Raises ShardUnreadable, RedisError.

    `settings`: those of a reader of the states. Raises SettingsDiffer where the states are under others.
    """
    head = read_head(redis, keys)
    if settings is not None:
        check_agreed(head, settings, keys.shard)
    return None if head is None else head.clock_ms


def check_agreed(head: StoreHead | None, settings: DeploymentSettings, shard: str) -> None:
    """Raise SettingsDiffer where a shard's states are under other settings than the reader's."""
    if head is None or head.agreed is None:
        return
    if head.stripped is not None:
        raise SettingsDiffer(
            f"{shard} is going over to other settings: its states are read again.",
            hint="`segstream status --wait 600` waits for the end.",
        )
    # Those that only judge records don't change what a state means, and the trainer doesn't read them.
    names = [name for name, way in WAYS.items() if way is not Way.ADOPT and hasattr(settings, name)]
    differ = [name for name in names if getattr(settings, name) != getattr(head.agreed, name)]
    if differ:
        texts = [
            f"SEGSTREAM_{name.upper()} is {getattr(settings, name)} here, but {getattr(head.agreed, name)}"
            for name in differ
        ]
        raise SettingsDiffer(
            f"{', '.join(texts)} for the workers of {shard}.",
            hint="Give this command the deployment's settings. To change them for good, run `segstream reconfigure`.",
        )


def require_head(redis: Redis, keys: ShardKeys, settings: DeploymentSettings) -> StoreHead:
    """Read the head of a shard whose customers are to be read. Raises ShardUnreadable, RedisError.

    ShardMissing where there is none: it isn't known whether there are customers. SettingsDiffer as `check_agreed`.
    """
    head = read_head(redis, keys)
    if head is None:
        raise ShardMissing(
            f"Redis has no head for {keys.shard}: no worker has taken this shard over yet, or Redis has lost it.",
            hint="`segstream status` says which. Check SEGSTREAM_REDIS_URL and SEGSTREAM_GROUP.",
        )
    check_agreed(head, settings, keys.shard)
    return head


def customers_stored(settings: Settings) -> int:
    """Count the customers in all shards. Raises RedisUnreachable."""
    with redis_client(settings) as redis:
        shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
        counts: list[int] = [redis.zcard(keys.customers) for keys in shards]
        return sum(counts)
