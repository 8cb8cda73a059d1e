"""The mutants: the protocol without one of its ingredients, which the recovery tests must catch.

The numbers are those of `python -m tests.protocol_model --list`. Production code has no switches: `mutate` replaces
methods, in a worker process (RECOVERY_MUTANT=…) or in the process of a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, cast
from uuid import uuid4

import msgspec
from aiokafka import TopicPartition

from segmentation.scoring import ScoringStep
from segmentation.step import TurnContext
from stream.engine import catch_up, ledger, shard, takeover
from stream.engine.ledger import Ledger, Publication, PublishedOutputs
from stream.engine.log_reader import Bounds, LogReader
from stream.engine.ownership import Owned, ShardContext
from stream.engine.store import HEAD, Loaded, ShardStore, Writes
from stream.engine.turns import Turns
from stream.errors import ShardLost
from stream.kafka.aiokafka_internals import join_transaction
from stream.storage.heads import HEAD_KEY, NO_CLOCK, Fingerprint, KafkaHead, TakeoverRecord, encode_head
from stream.storage.output_log import LoggedOutput, OutputPage

TAKEN_OUT: Final = {
    1: "awaiting the sends of the moves",
    2: "awaiting the head's send",
    3: "the moves acknowledged before the head is sent",
    4: "comparing the head when Redis is written",
    5: "reading the output log until move S",
    6: "reading the output log to its end",
    7: "noting in Redis what was published",
    8: "absorbing R..N without publishing",
    9: "due now for the customers of R..N",
    10: "raising the clock at a takeover",
    11: "a turn's clock that never goes back",
    12: "raising the activation at a takeover",
    13: "refusing an older activation",
    14: "loading states under the head",
    15: "one transactional id per shard",
    16: "the producer's start before the heads are read",
    17: "Kafka before Redis",
    18: "comparing the head when nothing is due",
    19: "a transaction for a turn without moves",
    20: "a head that covers what a torn transaction left (4b)",
    21: "the broker's verification of a transaction's partitions",
    22: "the Redis head before the Kafka head",
    23: "comparing what the keys hold when states are loaded",
    24: "comparing what the keys hold when Redis is written",
    25: "ending a transaction with one request, never repeated",
    26: "all that a torn turn published, with the head that covers it (4b)",
    27: "leaving out the dead letters that a torn turn has left",
}
BY_THE_BROKER: Final = 21  # lacking in the broker, not in a worker


# Replaces an attribute, for good or until a test ends: (object, name, new value).
Replace = Callable[[Any, str, Any], None]


def for_good(where: Any, name: str, value: Any) -> None:
    """Replace an attribute for the life of the process."""
    assert hasattr(where, name)
    setattr(where, name, value)


def mutate(number: int, replace: Replace = for_good) -> None:
    """Take an ingredient out, by its number. Raises KeyError where it isn't an ingredient of a worker."""
    _MUTANTS[number](replace)


_MUTANTS: Final[dict[int, Callable[[Replace], None]]] = {}


def _mutant(number: int) -> Callable[[Callable[[Replace], None]], Callable[[Replace], None]]:
    def entered(take_out: Callable[[Replace], None]) -> Callable[[Replace], None]:
        _MUTANTS[number] = take_out
        return take_out

    return entered


def _publishing(*, outputs: bool = True, head: bool = True, in_order: bool = True) -> Any:
    """Return `Ledger.publish` without awaiting the outputs, or the head, or the outputs before the head."""

    async def publish(self: Ledger, turn: Publication) -> PublishedOutputs | None:
        producer, p = self._producer, self._partition
        async with self._in_time("a turn's transaction"):
            await producer.begin_transaction()
            join_transaction(producer, TopicPartition(self._streams.heads, p))
            sent = await self._send_outputs(turn)
            latest, dead, rest = await self._send_others(turn)
            everything = [*sent, *latest, *dead, *rest]
            acknowledged = asyncio.gather(*(future for future, _ in everything), return_exceptions=not outputs)
            if outputs and in_order:
                await acknowledged
            heads = await producer.send(self._streams.heads, encode_head(turn.head), key=HEAD_KEY, partition=p)
            heads.add_done_callback(ledger._mark_seen)
            if head:
                await heads
            if outputs and not in_order:
                await acknowledged
            await producer.commit_transaction()
        if not outputs or not sent:
            return None
        batch, rows = sent[-1]
        offset, last = (await batch).offset + rows - 1, turn.outputs[-1]
        return PublishedOutputs(offset + 1, Fingerprint.of(offset, 0, last.key, last.value))

    return publish


@_mutant(1)
def _without_awaiting_outputs(replace: Replace) -> None:
    replace(Ledger, "publish", _publishing(outputs=False))


@_mutant(2)
def _without_awaiting_the_head(replace: Replace) -> None:
    replace(Ledger, "publish", _publishing(head=False))


@_mutant(3)
def _head_at_any_time(replace: Replace) -> None:
    replace(Ledger, "publish", _publishing(in_order=False))


@_mutant(15)
def _ids_of_their_own(replace: Replace) -> None:
    open_ = Ledger.open

    async def opened(_: type[Ledger], settings: Any, *others: Any) -> Ledger:
        return await open_(settings.model_copy(update={"group": f"{settings.group}-{uuid4().hex}"}), *others)

    replace(Ledger, "open", classmethod(opened))


@_mutant(17)
def _redis_before_kafka(replace: Replace) -> None:
    commit, publish = Owned.commit, Ledger.publish
    waiting: dict[Ledger, Publication] = {}

    async def later(self: Ledger, turn: Publication) -> PublishedOutputs | None:
        waiting[self] = turn
        return None

    async def commit_first(self: Owned, writes: Writes, **changes: Any) -> None:
        await commit(self, writes, **changes)
        if turn := waiting.pop(self.ledger, None):
            await publish(self.ledger, turn)

    replace(Ledger, "publish", later)
    replace(Owned, "commit", commit_first)


@_mutant(19)
def _no_quiet_transactions(replace: Replace) -> None:
    publish, follow = Ledger.publish, takeover._follow_outputs

    async def only_with_something(self: Ledger, turn: Publication) -> PublishedOutputs | None:
        return await publish(self, turn) if turn.outputs or turn.dead or turn.tombstones else None

    async def redis_may_be_ahead(owned: Owned, kafka: KafkaHead, bounds: tuple[int, int]) -> list[LoggedOutput]:
        # Kafka's head is that of the last turn with moves: Redis may be ahead of it.
        if kafka.offset < owned.head.offset:
            kafka = msgspec.structs.replace(kafka, offset=owned.head.offset)
        return await follow(owned, kafka, bounds)

    replace(Ledger, "publish", only_with_something)
    replace(takeover, "_follow_outputs", redis_may_be_ahead)


async def _head_of(store: ShardStore) -> list[Any]:
    """Return the head, and what the other keys hold."""
    return cast("list[Any]", await store._redis.evalsha(store._sha[HEAD], 5, *store._keys.all()))


@_mutant(4)
def _blind_writes(replace: Replace) -> None:
    commit = ShardStore.commit

    async def blind(self: ShardStore, _: bytes | None, head: bytes, writes: Writes) -> bytes:
        return await commit(self, (await _head_of(self))[0], head, writes)

    replace(ShardStore, "commit", blind)


@_mutant(23)
def _loads_what_is_left(replace: Replace) -> None:
    def head_alone(self: ShardStore, found: Sequence[Any], head: bytes) -> None:
        del self
        if found[0] != head:
            raise ShardLost("redis_head", "another head")

    replace(ShardStore, "_compare", head_alone)


@_mutant(24)
def _writes_to_what_is_left(replace: Replace) -> None:
    def unknown(_: bytes | None) -> None: ...

    replace(ShardStore, "_counted", staticmethod(unknown))


@_mutant(14)
def _loads_under_any_head(replace: Replace) -> None:
    def agree(*_: Any) -> None: ...

    replace(ShardStore, "_compare", agree)


@_mutant(18)
def _idle_without_a_look(replace: Replace) -> None:
    load, compare = ShardStore.load, ShardStore._compare
    asked: ContextVar[bool] = ContextVar("asked", default=True)

    async def load_(self: ShardStore, head: bytes, keys: Any, *bounds: Any) -> Loaded:
        asked.set(bool(keys))
        loaded = await load(self, head, keys, *bounds)
        if loaded.fired and not keys:
            compare(self, await _head_of(self), head)
        return loaded

    def compare_(self: ShardStore, found: Sequence[Any], head: bytes) -> None:
        if asked.get():
            compare(self, found, head)

    replace(ShardStore, "load", load_)
    replace(ShardStore, "_compare", compare_)


def _reading(replace: Replace, *, to_s: bool = True, to_the_end: bool = True) -> None:
    read = LogReader.read_outputs

    def read_outputs(
        self: LogReader, topic: str, partition: int, start: int, seen: int, number: int, end: int
    ) -> AsyncIterator[OutputPage]:
        return read(self, topic, partition, start, seen, number if to_s else seen, end if to_the_end else 0)

    replace(LogReader, "read_outputs", read_outputs)


@_mutant(5)
def _to_the_end_alone(replace: Replace) -> None:
    _reading(replace, to_s=False)


@_mutant(6)
def _to_move_s_alone(replace: Replace) -> None:
    _reading(replace, to_the_end=False)


@_mutant(7)
def _unpatched(replace: Replace) -> None:
    async def nothing(*_: Any) -> Writes:
        return Writes()

    replace(takeover, "_patches", nothing)


@_mutant(8)
def _scored_as_usual(replace: Replace) -> None:
    async def from_where_redis_is(owned: Owned, *_: Any) -> None:
        owned.reader.seek(owned.shard.streams.input, owned.shard.partition, owned.head.offset)

    replace(catch_up, "catch_up", from_where_redis_is)
    replace(takeover, "catch_up", from_where_redis_is)


@_mutant(9)
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


@_mutant(10)
def _clock_not_raised(replace: Replace) -> None:
    _kafka_head_without(replace, clock=NO_CLOCK)


@_mutant(12)
def _activation_not_raised(replace: Replace) -> None:
    _kafka_head_without(replace, activation=0, version="", cursor=None)


@_mutant(16)
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


@_mutant(20)
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


@_mutant(22)
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


@_mutant(25)
def _ends_again(replace: Replace) -> None:
    def as_aiokafka_does(_: Any) -> None: ...

    replace(ledger, "end_transactions_once", as_aiokafka_does)


@_mutant(26)
def _covered_by_a_head_alone(replace: Replace) -> None:
    cover = Ledger.cover

    async def head_alone(self: Ledger, torn: Publication) -> None:
        await cover(self, Publication(torn.head))

    replace(Ledger, "cover", head_alone)


@_mutant(27)
def _reported_again(replace: Replace) -> None:
    async def nothing(*_: Any) -> frozenset[int]:
        return frozenset()

    replace(takeover, "_reported", nothing)


@_mutant(11)
def _own_clock(replace: Replace) -> None:
    clock = ScoringStep._clock

    def own(self: ScoringStep, context: TurnContext) -> int:
        return clock(self, context) if self._event_time else context.now

    replace(ScoringStep, "_clock", own)


@_mutant(13)
def _any_model(replace: Replace) -> None:
    start_record = Turns._start_record

    async def start_any(self: Turns, owned: Owned, start: Any, records: list[Any]) -> None:
        if self._models is None or self._models.compiled(start.version) is None:
            await start_record(self, owned, start, records)
            return
        await self._start(owned, start, records[0].offset + 1, records[:1])
        del self._pending[:1]

    replace(Turns, "_start_record", start_any)
