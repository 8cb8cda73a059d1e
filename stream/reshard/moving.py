"""A shard of the new count while it is filled in Redis: every write compares the head that was written last."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace
from redis.exceptions import RedisError

from stream.engine.store import ShardStore, Writes
from stream.errors import ShardLost
from stream.storage.heads import StoreHead, encode_head, first_head
from stream.storage.keys import ShardKeys
from stream.storage.reads import parse_head

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from stream.kafka.streams import Streams
    from stream.settings import Settings

PREFIX: Final = "reshard"  # of the token, while a shard is filled
ARRIVING: Final = "arriving"
ARRIVED: Final = "arrived"  # all customers that belong here are here
MOVED: Final = "moved"  # and those that don't are gone


class MovingShard:
    """One shard's part of Redis. No worker can own it: its head names the former number of partitions."""

    def __init__(self, settings: Settings, streams: Streams, redis: Redis, partition: int) -> None:
        """Call `look` first. The settings may be of either count."""
        self.partition = partition
        self.keys = ShardKeys(settings.group, streams.input, partition)
        self.store = ShardStore(redis, self.keys, settings.salt)
        self.head: StoreHead | None = None
        self.raw: bytes | None = None

    async def look(self) -> None:
        """Read the head. Raises HeadUnreadable, ShardQuarantined (salt_changed), RedisError."""
        self.raw = await self.store.read_head()
        self.head = None if self.raw is None else parse_head(self.raw, self.keys.shard)

    @property
    def stage(self) -> str:
        """ARRIVING, ARRIVED or MOVED; "" before that and after."""
        prefix, _, rest = (self.head.token if self.head else "").partition(":")
        return rest.partition(":")[0] if prefix == PREFIX else ""

    def is_ready(self, partitions: int) -> bool:
        """Return whether a worker of this count may own it."""
        return self.head is not None and self.head.partitions[0] == partitions

    async def empty(self, cluster: str, former: int) -> None:
        """Delete all that the shard holds, and set a head that no worker can own."""
        head = replace(first_head(cluster, (former, former), 0), token=_token(ARRIVING))
        await self.store.start_anew(encode_head(head), {})
        await self.look()

    async def write(self, writes: Writes, stage: str, head: StoreHead | None = None) -> None:
        """Commit, with a head that nobody else has written. Raises ShardLost where Redis isn't as it was left."""
        base = head or self.head
        assert base is not None
        turn = (self.head.turn if self.head else 0) + 1
        following = replace(base, token=_token(stage), turn=turn, stored=None)
        sent = encode_head(following)
        raw: bytes | None
        try:
            raw = await self.store.commit(self.raw, sent, writes)
        except RedisError as error:
            raw = await self.store.committed(sent)
            if raw is None:
                raise ShardLost("redis_commit", f"the commit to Redis failed: {error}.") from error
        self.head, self.raw = following, raw


def _token(stage: str) -> str:
    """Return a token that no other write has. `stage` "": of a head that a worker may take over."""
    return f"{PREFIX}:{stage}:{secrets.token_hex(8)}" if stage else secrets.token_hex(8)


async def look_at(
    settings: Settings, streams: Streams, redis: Redis, partitions: Sequence[int]
) -> dict[int, MovingShard]:
    """Return these shards with the heads that they have now."""
    shards = {p: MovingShard(settings, streams, redis, p) for p in partitions}
    for shard in shards.values():
        await shard.look()
    return shards
