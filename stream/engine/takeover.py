"""Taking a shard over: on every assignment, after every error, after a crash. PROTOCOL's "Takeover", step by step."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, Final

import msgspec

from segmentation.step import Scope
from stream.engine.catch_up import catch_up
from stream.engine.ledger import Ledger
from stream.engine.log_reader import Bounds, LogReader
from stream.engine.ownership import Owned, ShardContext, stepping
from stream.engine.store import Loaded, Writes
from stream.errors import ShardLost, ShardQuarantined
from stream.kafka.clients import TopicUnusable, check_partition_count
from stream.storage.heads import (
    Fingerprint,
    KafkaHead,
    StoreHead,
    TakeoverRecord,
    decode_store_head,
    first_head,
)

log = logging.getLogger(__name__)

REBUILD: Final = "`segstream rebuild` makes Redis anew from Kafka."


async def take_over(shard: ShardContext, now_ms: int, stopping: asyncio.Event) -> Owned:
    """Make this worker the owner of a shard, with Redis brought forward to the Kafka head.

    1. A new producer under the shard's transactional id fences the predecessor, and settles its open transaction.
       (Else two publishers.)
    2. The Redis head, before the Kafka head, so that R <= N is certain. What it recognises of the logs must be there.
    3. The Kafka head: commit a barrier record, and read the heads up to it. No trust in an end offset.
    4. The output log from C until output S was seen and the end asked after step 1 is reached: what was announced.
       4b. Outputs beyond S (a torn transaction): commit a head that covers them, and go back to 2.
    5. Compare-and-set on the Redis head of step 2: a fresh token, C, S, what was announced, T and M raised.
    6. While R < N: absorb the input in silence, mark the touched customers due now. (Else false demotions by scoring
       with fewer orders than were told already; a move by time forgotten.)

    Raises ShardQuarantined where PROTOCOL says stop, ShardLost and the clients' own errors where a fresh takeover helps.
    """
    ledger = await Ledger.open(shard.settings, shard.streams, shard.partition)  # 1
    reader = LogReader(shard.settings)
    try:
        await reader.start()
        cluster, counts = await reader.describe(shard.streams.pinned())
        partitions = (counts[shard.streams.input], counts[shard.streams.output])
        _equally_many(counts, shard.settings.partitions)
        # Once: each log's begin and end as they are after step 1. Later they can only have grown.
        bounds = await reader.bounds(shard.streams.pinned(), shard.partition)
        while True:
            raw = await shard.store.read_head()  # 2
            head = await _check(shard, reader, raw, cluster, partitions, bounds) if raw else None
            kafka = await _read_kafka_head(shard, ledger, reader, bounds, now_ms)  # 3
            if head is None:
                begin, end = bounds[shard.streams.input][0], bounds[shard.streams.output][1]
                head = await _new_shard(shard, kafka, end, first_head(cluster, partitions, begin))
            owned = Owned(shard, ledger, reader, head, raw)
            if head.turn == 0:
                await _remember_erased(owned)
            if await _follow_outputs(owned, kafka, bounds[shard.streams.output]):  # 4, 5
                await catch_up(owned, kafka, bounds[shard.streams.input][1], stopping)  # 6
                return owned
    except BaseException:
        await ledger.close()
        await reader.close()
        raise


def _equally_many(counts: dict[str, int], configured: int) -> None:
    for topic, count in counts.items():
        try:
            check_partition_count(topic, count, configured)
        except TopicUnusable as error:
            raise ShardQuarantined("partitions_changed", str(error)) from None


async def _check(
    shard: ShardContext, reader: LogReader, raw: bytes, cluster: str, partitions: tuple[int, int], bounds: Bounds
) -> StoreHead:
    """The Redis head, if it belongs to these logs (C4)."""
    try:
        head = decode_store_head(raw)
    except msgspec.DecodeError as error:
        raise ShardQuarantined(
            "redis_format", f"the head of {shard} in Redis is unreadable: {error}.", hint=REBUILD
        ) from None
    if head.cluster != cluster:
        raise ShardQuarantined(
            "foreign_cluster", f"Redis follows Kafka cluster {head.cluster!r}, this one is {cluster!r}.", hint=REBUILD
        )
    if tuple(head.partitions) != partitions:
        raise ShardQuarantined(
            "partitions_changed",
            f"{shard.streams.input} and {shard.streams.output} had {list(head.partitions)} partitions, now {list(partitions)}.",
            hint="Put the counts back: customers would change shards.",
        )
    begin, end = bounds[shard.streams.input]
    if head.offset < begin:
        raise ShardQuarantined(
            "input_gone", f"Redis stands at offset {head.offset} of {shard}, which now starts at {begin}.",
            hint="Restore a newer back-up of Redis, or raise the topic's retention before it happens again.",
        )  # fmt: skip
    if head.offset > end:
        raise ShardQuarantined(
            "input_truncated", f"Redis stands at offset {head.offset} of {shard}, which ends at {end}: truncated or recreated?",
            hint=REBUILD,
        )  # fmt: skip
    input_, output, p = shard.streams.input, shard.streams.output, shard.partition
    await _recognise(reader, input_, p, bounds[input_], head.read, "input_changed", keep_time=True)
    await _recognise(reader, output, p, bounds[output], head.written, "output_changed", keep_time=False)
    return head


async def _recognise(
    reader: LogReader,
    topic: str,
    partition: int,
    bounds: tuple[int, int],
    known: Fingerprint | None,
    reason: str,
    *,
    keep_time: bool,
) -> None:
    """The record that the head remembers is still the same, or has left the log by retention."""
    if known is None:
        return
    begin, end = bounds
    if known.offset < begin:
        return
    record = await reader.record_at(topic, partition, known.offset) if known.offset < end else None
    found = record and Fingerprint.of(record.offset, record.timestamp if keep_time else 0, record.key, record.value)
    if found != known:
        raise ShardQuarantined(
            reason,
            f"{topic}-{partition} offset {known.offset} is another record than the one that Redis remembers: recreated, or foreign?",
            hint=REBUILD,
        )


async def _read_kafka_head(
    shard: ShardContext, ledger: Ledger, reader: LogReader, bounds: Bounds, now_ms: int
) -> KafkaHead | None:
    """The head before our own barrier; stand down before a takeover of a later generation."""
    generation, member = shard.membership.identity()
    barrier = await ledger.take_over(TakeoverRecord(generation, member, now_ms))
    begin, _ = bounds[shard.streams.heads]
    head, other = await reader.read_kafka_head(shard.streams.heads, shard.partition, begin, barrier)
    # Generations start again when a group has been empty for long: the coordinator has the last word.
    if other and other.generation > generation and not await shard.membership.confirm(shard.partition):
        raise ShardLost("superseded", f"{shard} was taken over by {other.member} in generation {other.generation}.")
    return head


async def _new_shard(shard: ShardContext, kafka: KafkaHead | None, end: int, head: StoreHead) -> StoreHead:
    """The head of a shard that nobody ever had. Raises ShardQuarantined where Kafka says that somebody had it."""
    if kafka is not None or end > 0 or await shard.store.has_states():
        raise ShardQuarantined(
            "redis_lost", f"Redis has no head for {shard}, though it was worked on before.", hint=REBUILD
        )
    return head


async def _remember_erased(owned: Owned) -> None:
    """Before anything is read again: who was erased. The records that said so may have left the input."""
    topic = owned.shard.streams.tombstones
    found = await owned.reader.read_latest(topic, owned.shard.partition) if topic else {}
    if found:
        await owned.commit(Writes(tombstones=found))


async def _follow_outputs(owned: Owned, kafka: KafkaHead | None, bounds: tuple[int, int]) -> bool:
    """Steps 4 and 5. False: a torn transaction was covered (4b), so back to 2. `bounds`: of the output log."""
    shard, head = owned.shard, owned.head
    target = kafka or KafkaHead(head.offset, head.count, head.clock, head.activation, head.version, head.cursor)
    if head.offset > target.offset:
        raise ShardQuarantined(
            "redis_ahead",
            f"Redis stands at offset {head.offset} of {shard}, Kafka's head at {target.offset}: Kafka lost records, or Redis is another's.",
            hint=REBUILD,
        )
    begin, end = bounds
    if head.position < begin and target.count > head.count:
        raise ShardQuarantined(
            "outputs_gone", f"outputs {head.count + 1} to {target.count} of {shard} have partly left the log.",
            hint="Restore a newer back-up of Redis, and retain the output topic longer.",
        )  # fmt: skip
    raised = target.activation > head.activation
    changes: dict[str, Any] = {
        "token": secrets.token_hex(8),
        "clock": max(head.clock, target.clock),
        "activation": max(head.activation, target.activation),
        "version": target.version if raised else head.version,
    }
    if raised:
        # Everyone needs a due time under the new model; those whom Kafka's cursor has passed were told already.
        changes |= {"cursor": "", "quiet": target.cursor, "scope": _also_due(target)}
    elif head.cursor is not None:
        # Never fewer than before: a crash in this very rescore may have left Kafka's cursor behind what was told.
        told = None if head.quiet is None or target.cursor is None else max(head.quiet, target.cursor)
        changes |= {"quiet": told, "scope": head.scope if head.scope is Scope.RELEASED else _also_due(target)}
    pages = owned.reader.read_outputs(
        shard.streams.output, shard.partition, max(head.position, begin), head.count, target.count, end
    )
    async for page in pages:
        if page.mark and page.mark.number > target.count:
            count, offset, clock, activation, version = page.mark
            log.warning(
                "%s: outputs up to %d beyond the head's %d: a torn transaction is covered", shard, count, target.count
            )
            await owned.ledger.cover(
                msgspec.structs.replace(
                    target,
                    offset=max(target.offset, offset),
                    count=count,
                    clock=max(target.clock, clock),
                    activation=max(target.activation, activation),
                    version=version if activation > target.activation else target.version,
                )
            )
            return False
        changes |= {"position": page.position}
        if page.mark:
            changes |= {"count": page.mark.number, "written": page.last}
        await owned.commit(await _patches(owned, page.notes), **changes)
        changes = {}
    if changes:
        await owned.commit(Writes(), **changes)
    return True


def _also_due(target: KafkaHead) -> Scope:
    """Whom a rescore is about that gives everyone a due time again.

    Where Kafka has come to one for the released alone, the one for everyone before it has ended: all were told.
    """
    under_way = target.cursor is not None and target.scope is not Scope.EVERYONE
    return Scope.RELEASED_AND_DUE if under_way else Scope.EVERYONE


async def _patches(owned: Owned, notes: dict[bytes, bytes]) -> Writes:
    """The announced segment and sequence of everyone whose outputs were found."""
    if not notes:
        return Writes()
    keys = list(notes)
    loaded = Loaded([None] * len(keys), [])
    if owned.raw is not None:
        loaded = await owned.shard.store.load(owned.raw, keys, None, 0)
    patch = owned.shard.step.patch
    states = {key: stepping(patch, value, notes[key]) for key, value in zip(keys, loaded.values, strict=True)}
    there = loaded.present(keys)
    writes = Writes(states, created=[key for key in keys if key not in there])
    return owned.shard.store.with_tombstones(writes, owned.shard.step.is_erased)
