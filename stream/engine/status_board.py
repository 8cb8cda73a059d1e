"""What each shard's owner says of it, for `segstream status` and /health. No decision is taken from it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stream.storage.keys import status_key

if TYPE_CHECKING:
    from stream.engine.ownership import Owned, ShardContext

log = logging.getLogger(__name__)
REFRESH_S = 2.0


@dataclass(slots=True)
class ShardStatus:
    """One shard, as its owner last told."""

    owner: str
    state: str  # taking over, running, waiting for model, failing, quarantined, released
    at: float  # seconds since 1970
    reason: str = ""
    detail: str = ""
    offset: int = 0
    clock: int = -1
    activation: int = 0
    version: str = ""
    rescoring: bool = False


class StatusBoard:
    """Keeps the statuses of this worker's shards, and shows them in Redis as far as Redis can be reached."""

    def __init__(self, redis: Redis, group: str, topic: str, owner: str) -> None:
        """`owner`: how this worker is called (host and process)."""
        self._redis = redis
        self._key = status_key(group, topic)
        self._owner = owner
        self.shards: dict[int, ShardStatus] = {}
        self._shown: dict[int, float] = {}

    async def put(
        self, shard: ShardContext, state: str, owned: Owned | None = None, *, reason: str = "", detail: str = ""
    ) -> bool:
        """Tell of a change of state. False: Redis couldn't be told."""
        status = ShardStatus(self._owner, state, time.time(), reason, detail)
        self.shards[shard.partition] = status
        if owned:
            self.note(shard, owned, state=state)
        return await self._show(shard.partition)

    def note(self, shard: ShardContext, owned: Owned, *, state: str = "running") -> None:
        """Keep what a turn has changed; shown with the next `refresh`."""
        head = owned.head
        status = self.shards[shard.partition]
        status.state, status.at = state, time.time()
        if state == "running":
            status.reason, status.detail = "", ""
        status.offset, status.clock = head.offset, head.clock
        status.activation, status.version, status.rescoring = head.activation, head.version, head.cursor is not None

    async def refresh(self) -> None:
        """Show what works, now and then: run by the worker's timer.

        What is quarantined is told once: its entry is taken away to ask for a retry.
        """
        for partition, status in list(self.shards.items()):
            if status.state not in {"quarantined", "released"}:
                status.at = time.time()
                await self._show(partition)

    async def retry_asked(self, shard: ShardContext) -> bool:
        """Whether somebody has taken the shard's entry away: `segstream retry`."""
        try:
            found = await cast("Awaitable[bytes | None]", self._redis.hget(self._key, str(shard.partition)))
        except RedisError:
            return False
        return found is None

    async def release(self, shard: ShardContext) -> None:
        """Say that the shard was let go, unless a successor has spoken already."""
        self.shards[shard.partition] = ShardStatus(self._owner, "released", time.time())
        try:
            found = await cast("Awaitable[bytes | None]", self._redis.hget(self._key, str(shard.partition)))
        except (RedisError, OSError):
            return
        if found is None or msgspec.json.decode(found, type=ShardStatus).owner == self._owner:
            await self._show(shard.partition)

    async def _show(self, partition: int) -> bool:
        status = self.shards[partition]
        try:
            text = msgspec.json.encode(asdict(status))
            await asyncio.wait_for(cast("Any", self._redis).hset(self._key, str(partition), text), 2)
        except (RedisError, TimeoutError, OSError) as error:
            log.debug("the status of partition %d can't be shown: %s", partition, error)
            return False
        return True
