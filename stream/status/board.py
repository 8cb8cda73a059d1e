"""Each shard's status, as its owner shows it: for `segstream status` and /health. No decision is taken from it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stream.errors import error_text
from stream.storage.keys import status_key

if TYPE_CHECKING:
    from stream.storage.heads import StoreHead

log = logging.getLogger(__name__)
REFRESH_S = 2.0
OPEN_TRANSACTION: Final = "open_transaction"  # a reason to wait, which stops nothing


class ShownShard(Protocol):
    """A shard, as far as its status needs it; its text is its name."""

    @property
    def partition(self) -> int:
        """The partition of the step's input."""


@dataclass(slots=True)
class ShardStatus:
    """One shard, as its owner last showed it."""

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
    held_back: int = 0  # records behind the last stable offset of the input
    held_back_s: float = 0.0  # how long that offset hasn't moved
    warning: str = ""  # the shard works, but somebody should look


class StatusBoard:
    """Keeps the statuses of this worker's shards, and shows them in Redis while Redis can be reached."""

    def __init__(
        self, redis: Redis, group: str, topic: str, owner: str, now_ms: Callable[[], int], patience_s: float = math.inf
    ) -> None:
        """`owner`: this worker's name (host and process). `now_ms`: the wall clock.

        `patience_s`: how long an open transaction may hold records back before the shard's status names it.
        """
        self._redis = redis
        self._now_ms = now_ms
        self._key = status_key(group, topic)
        self._owner = owner
        self._patience_s = patience_s
        self.shards: dict[int, ShardStatus] = {}
        self._warnings: dict[int | str, str] = {}  # by partition; by a word: of all

    async def put(
        self, shard: ShownShard, state: str, head: StoreHead | None = None, *, reason: str = "", detail: str = ""
    ) -> bool:
        """Show a change of state. Return False where Redis couldn't be reached."""
        status = ShardStatus(self._owner, state, self._now_s(), reason, detail)
        self.shards[shard.partition] = status
        if head:
            self.note(shard, head, state=state)
        return await self._show(shard.partition)

    def note(self, shard: ShownShard, head: StoreHead, *, state: str = "running") -> None:
        """Keep the changes of a turn. The next `refresh` shows them."""
        status = self.shards[shard.partition]
        status.state, status.at = state, self._now_s()
        if state == "running" and status.reason != OPEN_TRANSACTION:
            status.reason, status.detail = "", ""
        status.offset, status.clock = head.offset, head.clock
        status.activation, status.version, status.rescoring = head.activation, head.version, head.cursor is not None

    def hold(self, shard: ShownShard, stable: int, records: int, seconds: float) -> None:
        """Keep what an open transaction of another producer holds back. The next `refresh` shows it.

        The shard stays healthy: to restart its worker would help nobody.
        """
        status = self.shards[shard.partition]
        status.held_back, status.held_back_s = records, seconds
        if records and seconds >= self._patience_s:
            status.reason = OPEN_TRANSACTION
            status.detail = (
                f"an open transaction has held {shard} at offset {stable} for {seconds:.0f} s: {records:,} records "
                "wait behind it. End the producer's transaction, or abort it (docs/runbook.md)."
            )
        elif status.reason == OPEN_TRANSACTION:
            status.reason, status.detail = "", ""

    @property
    def waiting_for_transaction(self) -> list[int]:
        """The partitions whose input an open transaction holds back, for longer than is usual."""
        return sorted(p for p, status in self.shards.items() if status.reason == OPEN_TRANSACTION)

    def warn(self, about: int | str, warning: str) -> None:
        """Keep a warning about a shard, or about what all of them need, until another one replaces it; "": none."""
        self._warnings[about] = warning

    @property
    def warnings(self) -> list[str]:
        """The present warnings about this worker's shards."""
        return [w for p, w in self._warnings.items() if w and (isinstance(p, str) or p in self.shards)]

    async def refresh(self) -> None:
        """Show the shards at work again: the worker's timer calls this.

        A quarantined shard is shown once: `segstream retry` removes its entry.
        """
        for partition, status in list(self.shards.items()):
            if status.state not in {"quarantined", "released"}:
                status.at = self._now_s()
                await self._show(partition)

    async def retry_asked(self, shard: ShownShard) -> bool:
        """Return whether `segstream retry` has removed the shard's entry.

        Another entry comes from a backup of Redis, or from a worker that has lost the shard and doesn't know it yet.
        The quarantine is shown again, for `segstream retry` to see it.
        """
        try:
            found = await cast("Awaitable[bytes | None]", self._redis.hget(self._key, str(shard.partition)))
        except RedisError:
            return False
        if found is None:
            return True
        status = msgspec.json.decode(found, type=ShardStatus)
        if (status.owner, status.state) != (self._owner, "quarantined"):
            await self._show(shard.partition)
        return False

    async def release(self, shard: ShownShard) -> None:
        """Show that the shard was released, unless a successor has shown itself already."""
        self.shards[shard.partition] = ShardStatus(self._owner, "released", self._now_s())
        self._warnings.pop(shard.partition, None)
        try:
            found = await cast("Awaitable[bytes | None]", self._redis.hget(self._key, str(shard.partition)))
        except (RedisError, OSError):
            return
        if found is None or msgspec.json.decode(found, type=ShardStatus).owner == self._owner:
            await self._show(shard.partition)

    def _now_s(self) -> float:
        return self._now_ms() / 1000

    async def _show(self, partition: int) -> bool:
        status = self.shards[partition]
        status.warning = " ".join(w for p, w in self._warnings.items() if w and (p == partition or isinstance(p, str)))
        try:
            text = msgspec.json.encode(asdict(status))
            await asyncio.wait_for(self._redis.hset(self._key, str(partition), cast("str", text)), 2)
        except (RedisError, TimeoutError, OSError) as error:
            log.debug("the status of partition %d can't be shown: %s", partition, error_text(error))
            return False
        return True
