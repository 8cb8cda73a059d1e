"""The mutants of the turn: what it sends, in which order, and what it compares."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final, cast
from uuid import uuid4

import msgspec
from aiokafka import TopicPartition

from segmentation.scoring import ScoringStep
from segmentation.step import TurnContext
from stream.engine import ledger, takeover
from stream.engine.ledger import Ledger, Publication, PublishedOutputs
from stream.engine.ownership import Owned
from stream.engine.store import Loaded, ShardStore, Writes
from stream.engine.turns import Turns
from stream.errors import ShardLost
from stream.kafka.aiokafka_internals import join_transaction
from stream.storage.heads import HEAD_KEY, Fingerprint, KafkaHead, encode_head
from stream.storage.output_log import LoggedOutput
from stream.storage.scripts import HEAD
from tests.recovery.rig.replacing import Replace, TakeOut


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


def _without_awaiting_outputs(replace: Replace) -> None:
    replace(Ledger, "publish", _publishing(outputs=False))


def _without_awaiting_the_head(replace: Replace) -> None:
    replace(Ledger, "publish", _publishing(head=False))


def _head_at_any_time(replace: Replace) -> None:
    replace(Ledger, "publish", _publishing(in_order=False))


def _ids_of_their_own(replace: Replace) -> None:
    open_ = Ledger.open

    async def opened(_: type[Ledger], settings: Any, *others: Any) -> Ledger:
        return await open_(settings.model_copy(update={"group": f"{settings.group}-{uuid4().hex}"}), *others)

    replace(Ledger, "open", classmethod(opened))


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


def _no_quiet_transactions(replace: Replace) -> None:
    publish, follow = Ledger.publish, takeover._follow_outputs

    async def only_with_something(self: Ledger, turn: Publication) -> PublishedOutputs | None:
        return await publish(self, turn) if turn.outputs or turn.dead or turn.tombstones else None

    async def redis_may_be_ahead(
        owned: Owned, kafka: KafkaHead, bounds: tuple[int, int], sides: dict[str, int]
    ) -> list[LoggedOutput]:
        # Kafka's head is that of the last turn with moves: Redis may be ahead of it.
        if kafka.offset < owned.head.offset:
            kafka = msgspec.structs.replace(kafka, offset=owned.head.offset)
        return await follow(owned, kafka, bounds, sides)

    replace(Ledger, "publish", only_with_something)
    replace(takeover, "_follow_outputs", redis_may_be_ahead)


async def _head_of(store: ShardStore) -> list[Any]:
    """Return the head, and what the other keys hold."""
    keys = store._keys.all()
    return cast("list[Any]", await store._redis.evalsha(store._sha[HEAD], len(keys), *keys))


def _blind_writes(replace: Replace) -> None:
    commit = ShardStore.commit

    async def blind(self: ShardStore, _: bytes | None, head: bytes, writes: Writes) -> bytes:
        return await commit(self, (await _head_of(self))[0], head, writes)

    replace(ShardStore, "commit", blind)


def _loads_what_is_left(replace: Replace) -> None:
    def head_alone(self: ShardStore, found: Sequence[Any], head: bytes) -> None:
        del self
        if found[0] != head:
            raise ShardLost("redis_head", "another head")

    replace(ShardStore, "_compare", head_alone)


def _writes_to_what_is_left(replace: Replace) -> None:
    def unknown(_: bytes | None) -> None: ...

    replace(ShardStore, "_counted", staticmethod(unknown))


def _loads_under_any_head(replace: Replace) -> None:
    def agree(*_: Any) -> None: ...

    replace(ShardStore, "_compare", agree)


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


def _ends_again(replace: Replace) -> None:
    def as_aiokafka_does(_: Any) -> None: ...

    replace(ledger, "end_transactions_once", as_aiokafka_does)


def _own_clock(replace: Replace) -> None:
    clock = ScoringStep._clock

    def own(self: ScoringStep, context: TurnContext) -> int:
        return clock(self, context) if self._event_time else context.now

    replace(ScoringStep, "_clock", own)


def _any_model(replace: Replace) -> None:
    start_record = Turns._start_record

    async def start_any(self: Turns, owned: Owned, start: Any, records: list[Any]) -> None:
        if self._models is None or self._models.compiled(start.version) is None:
            await start_record(self, owned, start, records)
            return
        await self._start(owned, start, records[0].offset + 1, records[:1])
        del self._pending[:1]

    replace(Turns, "_start_record", start_any)


TURN_MUTANTS: Final[dict[int, TakeOut]] = {
    1: _without_awaiting_outputs,
    2: _without_awaiting_the_head,
    3: _head_at_any_time,
    4: _blind_writes,
    11: _own_clock,
    13: _any_model,
    14: _loads_under_any_head,
    15: _ids_of_their_own,
    17: _redis_before_kafka,
    18: _idle_without_a_look,
    19: _no_quiet_transactions,
    23: _loads_what_is_left,
    24: _writes_to_what_is_left,
    25: _ends_again,
}
