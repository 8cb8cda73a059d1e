"""Redis' part of a reshard: customers by key from the former shards to those of the new count, in place.

Three passes over all shards, none of which begins before the one before has ended: copy those who leave, delete them
where they were, set the new heads. Each shard's head says how far it is, and every write compares the head that was
written last: whatever Redis goes back to meanwhile, the passes go on from what its heads say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

from segmentation.partitioners import Partitioner
from segmentation.rfm import muted_by, with_mute
from stream.engine.store import Writes
from stream.errors import SegstreamError, ShardLost
from stream.reshard.journal import Reshard, StepHandover
from stream.reshard.moving import ARRIVED, ARRIVING, MOVED, MovingShard, look_at
from stream.reshard.placement import later, targets
from stream.storage.keys import SALT_FIELD

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from stream.kafka.streams import Streams
    from stream.settings import Settings
    from stream.storage.heads import StoreHead

PAGE: Final = 2_000
ATTEMPTS: Final = 10


class RedisNotSealed(SegstreamError):
    """Redis isn't as the former shards were sealed, so nothing can be moved in it."""


def _seal(head: StoreHead) -> tuple[int, int, int, int]:
    """Return what shows that Redis is as it was sealed: nothing moves these back but an older Redis."""
    return head.offset, head.count, head.activation, head.changes


class RedisPart:
    """Moves the customers of one step in Redis."""

    def __init__(
        self,
        settings: Settings,
        streams: Streams,
        redis: Redis,
        partitioner: Partitioner,
        reshard: Reshard,
        report: Callable[[str], None],
    ) -> None:
        """Call `move`."""
        self._settings = settings
        self._streams = streams
        self._redis = redis
        self._partitioner = partitioner
        self._reshard = reshard
        self._handover: StepHandover = reshard.steps[streams.step]
        self._report = report
        self._shards: Mapping[int, MovingShard] = {}

    async def move(self) -> int:
        """Move all customers; return how many. Where Redis changes under it, begin with a look at it again.

        Raises RedisNotSealed.
        """
        moved = 0
        for attempt in range(ATTEMPTS):
            self._shards = await look_at(self._settings, self._streams, self._redis, range(self._reshard.partitions))
            try:
                if not self._have_arrived():
                    moved = await self._copy()
                await self._clean()
                await self._set_heads()
            except ShardLost:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                break
        return moved

    def _have_arrived(self) -> bool:
        """Return whether all customers are copied already. Raises RedisNotSealed where they can't be."""
        r = self._reshard
        shards = self._shards.values()
        if all(s.stage in {ARRIVED, MOVED} or s.is_ready(r.partitions) for s in shards):
            return True
        for p, sealed in enumerate(shard.head for shard in self._handover.sealed):
            head = self._shards[p].head
            if head is None or _seal(head) != _seal(sealed) or head.partitions[0] != r.former:
                raise RedisNotSealed(
                    f"{self._shards[p].keys.shard} in Redis is not as it was sealed: Redis was restored, or lost it.",
                    hint=f"`segstream rebuild --step {self._streams.step}`, with SEGSTREAM_PARTITIONS={r.partitions}, "
                    "makes Redis anew from Kafka. Then run the same command again.",
                )
        if any(s.stage == MOVED or s.is_ready(r.partitions) for s in shards):
            raise RedisNotSealed(
                f"some shards of {self._streams.input} in Redis are moved and some aren't: Redis was restored in part.",
                hint=f"`segstream rebuild --step {self._streams.step}`, with SEGSTREAM_PARTITIONS={r.partitions}, "
                "makes Redis anew from Kafka. Then run the same command again.",
            )
        return False

    async def _copy(self) -> int:
        """Copy those who leave to where they belong. Return how many."""
        r, cluster = self._reshard, self._handover.sealed[0].head.cluster
        for p in range(r.former, r.partitions):
            await self._shards[p].empty(cluster, r.former)
        moved = 0
        for p in range(r.former):
            await self._copy_tombstones(p)
            async for page, due in self._leaving(p):
                for target, keys in self._by_target(page).items():
                    states = {key: self._state(p, target, page[key]) for key in keys}
                    times = {key: due[key] for key in keys if key in due}
                    writes = Writes(states, created=keys, due=times)
                    await self._shards[target].write(writes, ARRIVING)
                    moved += len(keys)
        for p in range(r.partitions):
            await self._shards[p].write(Writes(), ARRIVED)
        self._report(f"{self._streams.input}: {moved:,} customers copied to their new shards")
        return moved

    def _by_target(self, page: Mapping[bytes, bytes]) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for key in page:
            found.setdefault(self._partitioner(key, self._reshard.partitions), []).append(key)
        return found

    def _state(self, source: int, target: int, value: bytes) -> bytes:
        """Return a customer's state with its backfill's slot in the new shard."""
        slots = self._handover.inherited[target].slots.get(source)
        return with_mute(value, slots[muted_by(value)]) if slots and muted_by(value) in slots else value

    async def _leaving(self, partition: int) -> AsyncIterator[tuple[dict[bytes, bytes], dict[bytes, int]]]:
        """Yield (states, due times) of a shard's customers who live elsewhere now, in pages."""
        shard, after = self._shards[partition], b"-"
        while True:
            # The head too: a page must not come from a Redis that went back.
            pipe = self._redis.pipeline(transaction=True)
            pipe.get(shard.keys.head)
            pipe.zrange(shard.keys.customers, cast("str", after), "+", bylex=True, offset=0, num=PAGE)
            raw, names = await pipe.execute()
            if raw != shard.raw:
                raise ShardLost("redis_head", f"{shard.keys.shard} has another head than before.")
            if not names:
                return
            leaving = [n for n in names if self._partitioner(n, self._reshard.partitions) != partition]
            if leaving:
                # By way of the store, which then knows the pieces of large states that `_clean` deletes.
                loaded = await shard.store.load(raw, leaving, None, 0)
                present = loaded.present(leaving)
                scores = await self._redis.zmscore(shard.keys.due, cast("list[str]", leaving))
                yield (
                    {key: value for key, value in zip(leaving, loaded.values, strict=True) if key in present},
                    {key: int(at) for key, at in zip(leaving, scores, strict=True) if at is not None},
                )
            after = b"(" + names[-1]

    async def _copy_tombstones(self, partition: int) -> None:
        r, keys = self._reshard, self._shards[partition].keys
        others = [t for t in targets(partition, r.former, r.partitions) if t != partition]
        scanned = self._redis.hscan_iter(keys.tombstones, count=PAGE)
        found = {name: value async for name, value in scanned if name != SALT_FIELD}
        names = list(found)
        for begin in range(0, len(names), PAGE):
            page = names[begin : begin + PAGE]
            for target in others:
                there = self._shards[target]
                known = await self._redis.hmget(there.keys.tombstones, cast("list[str]", page))
                remains = {n: later(found[n], k) for n, k in zip(page, cast("list[bytes | None]", known), strict=True)}
                await there.write(Writes(tombstones=remains), ARRIVING)

    async def _clean(self) -> None:
        """Delete those who left each shard. No customer is deleted before all have arrived."""
        for p, shard in self._shards.items():
            if shard.stage != ARRIVED:
                continue
            if p < self._reshard.former:
                async for page, _ in self._leaving(p):
                    await shard.write(Writes(deleted=list(page)), ARRIVED)
            await shard.write(Writes(), MOVED)

    async def _set_heads(self) -> None:
        for p, shard in self._shards.items():
            if shard.stage == MOVED:
                await shard.write(Writes(), "", self._handover.inherited[p].head)
        self._report(f"{self._streams.input}: {len(self._shards)} shards are ready for workers of the new count")
