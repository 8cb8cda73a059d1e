"""The mutants of the takeover: what it reads, brings forward and covers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from stream.engine import catch_up, shard, takeover
from stream.engine.ledger import Ledger, Publication
from stream.engine.log_reader import Bounds, LogReader
from stream.engine.ownership import Owned, ShardContext
from stream.engine.store import ShardStore, Writes
from stream.storage.heads import NO_CLOCK, KafkaHead, TakeoverRecord
from stream.storage.output_log import OutputPage
from tests.recovery.rig.replacing import Replace, TakeOut


def _reading(replace: Replace, *, to_s: bool = True, to_the_end: bool = True) -> None:
    read = LogReader.read_outputs

    def read_outputs(
        self: LogReader, topic: str, partition: int, start: int, seen: int, number: int, end: int
    ) -> AsyncIterator[OutputPage]:
        return read(self, topic, partition, start, seen, number if to_s else seen, end if to_the_end else 0)

    replace(LogReader, "read_outputs", read_outputs)


def _to_the_end_alone(replace: Replace) -> None:
    _reading(replace, to_s=False)


def _to_move_s_alone(replace: Replace) -> None:
    _reading(replace, to_the_end=False)


def _unpatched(replace: Replace) -> None:
    async def nothing(*_: Any) -> Writes:
        return Writes()

    replace(takeover, "_patches", nothing)


def _scored_as_usual(replace: Replace) -> None:
    async def from_where_redis_is(owned: Owned, *_: Any) -> None:
        owned.reader.seek(owned.shard.streams.input, owned.shard.partition, owned.head.offset)

    replace(catch_up, "catch_up", from_where_redis_is)
    replace(takeover, "catch_up", from_where_redis_is)


def _not_due(replace: Replace) -> None:
    def without_due(*lists: Any, due: Any = None, **others: Any) -> Writes:
        del due
        return Writes(*lists, **others)

    replace(catch_up, "Writes", without_due)


def _kafka_head_without(replace: Replace, **forgotten: Any) -> None:
    read = takeover._read_kafka_head

    async def read_(*arguments: Any) -> KafkaHead | None:
        head = await read(*arguments)
        return head and msgspec.structs.replace(head, **forgotten)

    replace(takeover, "_read_kafka_head", read_)


def _clock_not_raised(replace: Replace) -> None:
    _kafka_head_without(replace, clock=NO_CLOCK)


def _activation_not_raised(replace: Replace) -> None:
    _kafka_head_without(replace, activation=0, version="", cursor=None)


def _producer_last(replace: Replace) -> None:
    start, take_over = Ledger.open, Ledger.take_over

    async def unopened(_: type[Ledger], *arguments: Any) -> Ledger:
        return _Unopened(*arguments)

    async def opens_first(self: Ledger, record: Any) -> int:
        if isinstance(self, _Unopened):
            opened = await start(*self.arguments)
            self.__dict__ = opened.__dict__
            self.__class__ = Ledger  # type: ignore[assignment]  # from here on it is one
        return await take_over(self, record)

    async def heads_first(
        shard: ShardContext, ledger: Ledger, reader: LogReader, bounds: Bounds, now_ms: int
    ) -> KafkaHead | None:
        topic, p = shard.streams.heads, shard.partition
        begin, end = bounds[topic]
        # The last offset is the marker that ends a transaction.
        head, _ = await reader.read_kafka_head(topic, p, begin, end - 1) if end else (None, None)
        await ledger.take_over(TakeoverRecord(*shard.membership.identity(), now_ms))
        return head

    replace(Ledger, "open", classmethod(unopened))
    replace(Ledger, "take_over", opens_first)
    replace(takeover, "_read_kafka_head", heads_first)


class _Unopened(Ledger):
    """A ledger whose producer hasn't been started."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    async def close(self) -> None:
        """Do nothing: no producer was started."""


def _torn_uncovered(replace: Replace) -> None:
    read = takeover._read_kafka_head
    beyond: dict[Ledger, int] = {}

    async def note(self: Ledger, torn: Publication) -> None:
        beyond[self] = torn.head.count

    async def count_alone(shard: ShardContext, ledger: Ledger, *others: Any) -> KafkaHead | None:
        # The moves are noted in Redis, as in the protocol, but Kafka doesn't know that their orders are done.
        head = await read(shard, ledger, *others)
        if ledger in beyond:
            head = msgspec.structs.replace(head or KafkaHead(0, 0, NO_CLOCK, 0), count=beyond[ledger])
        return head

    replace(Ledger, "cover", note)
    replace(takeover, "_read_kafka_head", count_alone)


def _kafka_head_first(replace: Replace) -> None:
    take_over, open_, start = takeover.take_over, Ledger.open, LogReader.start
    read_head, read_kafka_head = ShardStore.read_head, takeover._read_kafka_head
    at_work: ContextVar[list[Any]] = ContextVar("at_work")  # shard, ledger, reader, and then Kafka's head

    async def taken_over(shard: ShardContext, now_ms: int, stopping: asyncio.Event) -> Owned:
        at_work.set([shard])
        return await take_over(shard, now_ms, stopping)

    async def opened(_: type[Ledger], *arguments: Any) -> Ledger:
        at_work.get().append(await open_(*arguments))
        return at_work.get()[-1]  # type: ignore[no-any-return]  # it is the ledger

    async def started(self: LogReader) -> None:
        await start(self)
        at_work.get().append(self)

    async def after_kafka(self: ShardStore) -> bytes | None:
        shard, ledger, reader = at_work.get()[:3]
        bounds = await reader.bounds(shard.streams.pinned(), shard.partition)
        at_work.set([shard, ledger, reader, await read_kafka_head(shard, ledger, reader, bounds, 0)])
        return await read_head(self)

    async def read_already(*_: Any) -> KafkaHead | None:
        return at_work.get()[3]  # type: ignore[no-any-return]  # it is the head

    replace(takeover, "take_over", taken_over)
    replace(shard, "take_over", taken_over)
    replace(Ledger, "open", classmethod(opened))
    replace(LogReader, "start", started)
    replace(ShardStore, "read_head", after_kafka)
    replace(takeover, "_read_kafka_head", read_already)


def _covered_by_a_head_alone(replace: Replace) -> None:
    cover = Ledger.cover

    async def head_alone(self: Ledger, torn: Publication) -> None:
        await cover(self, Publication(torn.head))

    replace(Ledger, "cover", head_alone)


def _reported_again(replace: Replace) -> None:
    async def nothing(*_: Any) -> frozenset[int]:
        return frozenset()

    replace(takeover, "reported", nothing)


TAKEOVER_MUTANTS: Final[dict[int, TakeOut]] = {
    5: _to_the_end_alone,
    6: _to_move_s_alone,
    7: _unpatched,
    8: _scored_as_usual,
    9: _not_due,
    10: _clock_not_raised,
    12: _activation_not_raised,
    16: _producer_last,
    20: _torn_uncovered,
    22: _kafka_head_first,
    26: _covered_by_a_head_alone,
    27: _reported_again,
}
