"""The faults that the simulation has found, put back: each case in cases/ must fail with its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from redis.exceptions import RedisError

from stream.engine import takeover
from stream.engine.log_reader import LogReader
from stream.engine.ownership import ShardContext
from stream.engine.status_board import StatusBoard
from stream.errors import ShardQuarantined
from stream.storage.heads import KafkaHead, StoreHead
from tests.recovery.rig.mutants import Replace
from tests.simulation.runs import Change
from tests.simulation.world import SimulatedWorld


def _believing_ends(replace: Replace, _: SimulatedWorld) -> None:
    async def at_once(*arguments: int) -> int:
        return arguments[3]

    replace(LogReader, "end_reaching", at_once)


def _stopping_a_late_first_owner(replace: Replace, _: SimulatedWorld) -> None:
    async def new_shard(shard: ShardContext, kafka: KafkaHead | None, end: int, head: StoreHead, *_: Any) -> StoreHead:
        if kafka is not None or end > 0 or not await shard.store.is_empty():
            raise ShardQuarantined("redis_lost", "no head")
        return head

    replace(takeover, "_new_shard", new_shard)


def _leaving_a_quarantine_hidden(replace: Replace, _: SimulatedWorld) -> None:
    async def missing(self: StatusBoard, shard: ShardContext) -> bool:
        with suppress(RedisError):
            redis: Any = self._redis
            return await redis.hget(self._key, str(shard.partition)) is None
        return False

    replace(StatusBoard, "retry_asked", missing)


# The name of a case's file -> the change that brings its fault back.
UNMENDED: Final[dict[str, Change]] = {
    "an_end_offset_is_too_low": _believing_ends,
    "a_first_owner_wakes_up_late": _stopping_a_late_first_owner,
    "a_zombie_hides_a_quarantine": _leaving_a_quarantine_hidden,
}
