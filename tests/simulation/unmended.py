"""The faults that the simulation has found, put back: each case in cases/ must fail with its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import RedisError

from segmentation import scoring
from segmentation.customers import Customer, search_fired
from segmentation.decisions import ScoringContext
from stream.engine import catch_up, log_reader, takeover
from stream.engine.log_reader import LogReader
from stream.engine.ownership import ShardContext
from stream.engine.store import ShardStore
from stream.errors import ShardQuarantined
from stream.status.board import StatusBoard
from stream.storage.heads import KafkaHead, StoreHead
from stream.storage.keys import tombstone
from tests.recovery.rig.replacing import Replace
from tests.simulation.runs import Change
from tests.simulation.world import SimulatedWorld


def _believing_ends(replace: Replace, _: SimulatedWorld) -> None:
    async def at_once(*arguments: int) -> int:
        return arguments[3]

    replace(LogReader, "end_reaching", at_once)


def _counting_seconds_not_answers(replace: Replace, _: SimulatedWorld) -> None:
    async def end_reaching(self: LogReader, topic: str, partition: int, end: int, wanted: int) -> int:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 2
        while end < wanted and loop.time() < deadline:
            await asyncio.sleep(0.1)
            end = (await self.bounds([topic], partition))[topic][1]
        return end

    replace(LogReader, "end_reaching", end_reaching)


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


def _reading_tombstones_under_no_head(replace: Replace, _: SimulatedWorld) -> None:
    async def fill_in(self: Any, head: bytes, keys: Sequence[bytes], values: list[bytes | None]) -> frozenset[bytes]:
        del head
        absent = [index for index, value in enumerate(values) if value is None]
        if not absent:
            return frozenset()
        names = [tombstone(keys[index], self._salt) for index in absent]
        for index, value in zip(absent, await self._redis.hmget(self._keys.tombstones, names), strict=True):
            values[index] = None if value is None else self._opened(keys[index], value)
        return frozenset(keys[index] for index in absent if values[index] is not None)

    replace(ShardStore, "_fill_in_erased", fill_in)


def _restoring_any_tombstone(replace: Replace, _: SimulatedWorld) -> None:
    replace(log_reader, "tombstone_as_of", lambda record, _: record.value)


def _searching_from_stale_entries(replace: Replace, _: SimulatedWorld) -> None:
    def search_from_entry(customers: Sequence[Customer], _: int, context: ScoringContext) -> None:
        search_fired(customers, 0, context)

    replace(scoring, "search_fired", search_from_entry)


def _looking_at_the_clock_itself(replace: Replace, _: SimulatedWorld) -> None:
    replace(catch_up, "due_now", lambda turn, clock: dict.fromkeys(turn.states, max(clock, 0)))


# The name of a case's file -> the change that brings its fault back.
UNMENDED: Final[dict[str, Change]] = {
    "an_end_offset_is_too_low": _believing_ends,
    "a_suspended_worker_asks_an_end_once": _counting_seconds_not_answers,
    "a_first_owner_wakes_up_late": _stopping_a_late_first_owner,
    "a_zombie_hides_a_quarantine": _leaving_a_quarantine_hidden,
    "tombstones_are_read_after_a_rollback": _reading_tombstones_under_no_head,
    "a_tombstone_alone_is_torn_off_before_a_rebuild": _restoring_any_tombstone,
    "a_due_entry_is_older_than_the_settings": _searching_from_stale_entries,
    "a_customer_scored_at_the_clock_moves_once_more_at_it": _looking_at_the_clock_itself,
}
