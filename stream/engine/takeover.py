"""The takeover of a shard: on every assignment, after every error, after a crash."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

from segmentation.step import Scope
from stream.engine.agreement import adopted, check_settings, must_read_again, read_again, scope_of_all
from stream.engine.catch_up import catch_up, cover, own_due
from stream.engine.ledger import Ledger
from stream.engine.leftovers import reported, reported_sides, restore_tombstones
from stream.engine.log_reader import Bounds, LogReader
from stream.engine.ownership import Owned, ShardContext, stepping
from stream.engine.side_inputs import SideInputs, side_offsets
from stream.engine.store import Loaded, Writes
from stream.errors import ShardLost, ShardQuarantined
from stream.kafka.clients import TopicUnusable, check_partition_count
from stream.kafka.streams import Streams, foreign_outputs
from stream.storage.heads import (
    Fingerprint,
    HeadChange,
    KafkaHead,
    StoreHead,
    TakeoverRecord,
    first_head,
)
from stream.storage.output_log import LoggedOutput
from stream.storage.reads import REBUILD, SKIP_LOST, TRUNCATED, HeadUnreadable, parse_head

log = logging.getLogger(__name__)

RESHARD: Final = "`segstream reshard --partitions {}` moves the customers to the shards that they belong to now."


async def take_over(shard: ShardContext, now_ms: int, stopping: asyncio.Event) -> Owned:
    """Make this worker the owner of a shard, and bring Redis forward to the Kafka head.

    docs/explanation/exactly-once.md, section 5:

    1. A new producer under the shard's transactional id fences the predecessor, and settles its open transaction.
       (Else there would be two publishers.)
    2. The Redis head, before the Kafka head, so that R <= N is certain. The records it remembers must be in the logs.
    3. The Kafka head: commit a barrier record, and read the heads up to it. (An end offset can be too low.)
    4. The output log from C until output S was seen and the end asked after step 1 is reached: the published moves.
    5. Compare-and-set on the Redis head of step 2: a fresh token, C, S, the published segments, T and M raised.
       5b. States under other settings than Kafka's head: empty them, and go back to the input's start.
    6. While R < N: absorb the input, publishing nothing, and mark the touched customers due now. (Scored at once, with
       half of their orders read, customers would be demoted wrongly; and moves by time would be forgotten.)
       4b. Outputs beyond S were there (a torn transaction): commit a head that covers them, with all else that their
       turn published, and go back to 2.

    Raises ShardQuarantined for the reasons of section 8, ShardLost and the clients' own errors where a fresh takeover
    helps.
    """
    owned, kafka, bounds = await follow(shard, now_ms)
    try:
        await _bring_forward(owned, kafka, bounds, stopping)
    except BaseException:
        await owned.close()
        raise
    return owned


async def _bring_forward(owned: Owned, kafka: KafkaHead, bounds: Bounds, stopping: asyncio.Event) -> None:
    """Perform steps 5b and 6."""
    begin, end = bounds[owned.shard.streams.input]
    if must_read_again(owned.head, kafka, owned.shard.step):
        await read_again(owned, kafka, begin)  # 5b
    await catch_up(owned, kafka, end, stopping)  # 6


async def follow(shard: ShardContext, now_ms: int) -> tuple[Owned, KafkaHead, Bounds]:
    """Perform steps 1 to 5. Return the shard, Kafka's head, and the bounds of the logs, as asked after step 1."""
    ledger = await Ledger.open(shard.settings, shard.streams, shard.partition)  # 1
    reader = LogReader(shard.settings)
    sides = SideInputs.of(shard)
    try:
        await reader.start()
        await sides.start()
        topics, letters = shard.streams.pinned(), shard.streams.dead_letters
        cluster, counts = await reader.describe([*topics, letters])
        if counts.pop(letters) > shard.partition:
            topics.append(letters)
        partitions = _check_partitions(shard, counts)
        # Asked once, after step 1: later the logs can only have grown.
        bounds = await reader.bounds(topics, shard.partition)
        while True:
            raw = await shard.store.read_head()  # 2
            head = None if raw is None else await _check(shard, reader, raw, cluster, partitions, bounds)
            kafka = await _read_kafka_head(shard, ledger, reader, bounds, now_ms)  # 3
            await check_settings(shard, kafka, head)
            if head is None:
                begin, end = bounds[shard.streams.input][0], bounds[shard.streams.output][1]
                if shard.settings.partitions > 1:
                    await _check_siblings(shard, reader)
                await _check_outputs(shard, reader, kafka, bounds)
                head = await _new_shard(shard, kafka, end, first_head(cluster, partitions, begin))
            owned = Owned(shard, ledger, reader, head, raw, sides)
            owned.reported = await reported(owned, kafka, bounds.get(letters, (0, 0)))
            offsets = await side_offsets(shard, reader, head, kafka, bounds)
            owned.reported_sides = await reported_sides(owned, offsets, bounds)
            if head.turn == 0:
                await restore_tombstones(owned, kafka)
            kafka = kafka or _as_far_as(head)
            owned.judged, owned.reread = kafka.judged, kafka.reread
            torn = await _follow_outputs(owned, kafka, bounds[shard.streams.output], offsets)  # 4, 5
            if not torn:
                sides.begin(offsets, bounds)
                owned.begins_at(max(owned.head.position, bounds[shard.streams.output][1]))
                return owned, kafka, bounds
            await _bring_forward(owned, kafka, bounds, asyncio.Event())
            await cover(owned, kafka, torn, bounds[shard.streams.input][1], now_ms)  # 4b
    except BaseException:
        await ledger.close()
        await reader.close()
        await sides.close()
        raise


def _check_partitions(shard: ShardContext, counts: dict[str, int]) -> tuple[int, int]:
    """Return the partitions of input and output. Raises ShardQuarantined unless the settings say the same number."""
    configured = shard.settings.partitions
    for topic, count in counts.items():
        if shard.handing_over and count >= configured:
            continue
        try:
            check_partition_count(topic, count, configured)
        except TopicUnusable as error:
            raise ShardQuarantined("partitions_changed", str(error)) from None
    return configured, configured


async def _check_siblings(shard: ShardContext, reader: LogReader) -> None:
    """Raise ShardQuarantined where a shard seems new, but others were worked on under another number of partitions.

    Its customers live there: it would begin a second chain of moves for each. (Shard 0 is in every count.)
    """
    counts = await shard.store.partition_counts(shard.settings.partitions)
    heads = shard.streams.heads
    first = await reader.last_kafka_head(heads, 0, *(await reader.bounds([heads], 0))[heads])
    counts |= {first.partitions} if first and first.partitions else set()
    if others := counts - {shard.settings.partitions}:
        raise ShardQuarantined(
            "partitions_changed",
            f"{shard} is new, but the shards of before were those of {min(others)} partitions.",
            hint=RESHARD.format(shard.settings.partitions),
        )


async def _check(
    shard: ShardContext, reader: LogReader, raw: bytes, cluster: str, partitions: tuple[int, int], bounds: Bounds
) -> StoreHead:
    """Return the Redis head. Raises ShardQuarantined where it doesn't belong to these logs."""
    try:
        head = parse_head(raw, str(shard))
    except HeadUnreadable as error:
        raise ShardQuarantined(error.reason, str(error)) from None
    if head.cluster != cluster:
        raise ShardQuarantined(
            "foreign_cluster",
            f"Redis belongs to Kafka cluster {head.cluster!r}, but this is cluster {cluster!r}.",
            hint=f"Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS and SEGSTREAM_REDIS_URL. {REBUILD}",
        )
    if tuple(head.partitions) != partitions:
        raise ShardQuarantined(
            "partitions_changed",
            f"{shard.streams.input} and {shard.streams.output} had {list(head.partitions)} partitions, "
            f"now they have {list(partitions)}.",
            hint=RESHARD.format(max(partitions)),
        )
    begin, end = bounds[shard.streams.input]
    if head.offset < begin:
        raise ShardQuarantined(
            "input_gone",
            f"Redis stands at offset {head.offset} of {shard}, which now starts at offset {begin}.",
            hint=f"Restore a newer backup of Redis, or lose those records: {SKIP_LOST} Raise the topic's retention, or "
            "this will happen again.",
        )
    input_, output, p = shard.streams.input, shard.streams.output, shard.partition
    if head.offset > (end := await reader.end_reaching(input_, p, end, head.offset)):
        raise ShardQuarantined(
            "input_truncated",
            f"Redis stands at offset {head.offset} of {shard}, which ends at offset {end}: "
            "was the topic truncated or recreated?",
            hint=SKIP_LOST,
        )
    await _check_record(reader, input_, p, bounds[input_], head.read, "input_changed", keep_time=True)
    await _check_record(reader, output, p, bounds[output], head.written, "output_changed", keep_time=False)
    return head


async def _check_record(
    reader: LogReader,
    topic: str,
    partition: int,
    bounds: tuple[int, int],
    known: Fingerprint | None,
    reason: str,
    *,
    keep_time: bool,
) -> None:
    """Raise ShardQuarantined where the log has another record than the head remembers. It may have expired."""
    if known is None:
        return
    begin, end = bounds
    if known.offset < begin:
        return
    end = await reader.end_reaching(topic, partition, end, known.offset + 1)
    record = await reader.record_at(topic, partition, known.offset) if known.offset < end else None
    found = record and Fingerprint.of(record.offset, record.timestamp if keep_time else 0, record.key, record.value)
    if found != known:
        raise ShardQuarantined(
            reason,
            f"{topic}-{partition} has another record at offset {known.offset} than Redis remembers: was the topic "
            "recreated, or is this another deployment's Redis?",
            hint=SKIP_LOST,
        )


async def _read_kafka_head(
    shard: ShardContext, ledger: Ledger, reader: LogReader, bounds: Bounds, now_ms: int
) -> KafkaHead | None:
    """Return the last head before our own barrier record. Raises ShardLost where a later generation took over."""
    generation, member = shard.membership.identity()
    barrier = await ledger.take_over(TakeoverRecord(generation, member, now_ms))
    begin, _ = bounds[shard.streams.heads]
    head, other = await reader.read_kafka_head(shard.streams.heads, shard.partition, begin, barrier)
    # Generations start again when a group has been empty for long: the coordinator decides.
    if other and other.generation > generation and not await shard.membership.confirm(shard.partition):
        raise ShardLost("superseded", f"{shard} was taken over by {other.member} in generation {other.generation}.")
    if head and head.partitions not in {0, shard.settings.partitions} and not shard.handing_over:
        raise ShardQuarantined(
            "partitions_changed",
            f"the head of {shard} is that of {head.partitions} partitions, not {shard.settings.partitions}.",
            hint=RESHARD.format(shard.settings.partitions),
        )
    return head


async def _new_shard(shard: ShardContext, kafka: KafkaHead | None, end: int, head: StoreHead) -> StoreHead:
    """Return the head of a shard that never had an owner.

    Raises ShardQuarantined where it had one, ShardLost where another has become the first one meanwhile.
    """
    if kafka is not None or end > 0 or not await shard.store.is_empty():
        if await shard.store.read_head() is not None:
            raise ShardLost("redis_head", f"another worker has taken {shard} over for the first time.")
        raise ShardQuarantined(
            "redis_lost", f"Redis has no head for {shard}, though the shard was in use before.", hint=REBUILD
        )
    return head


async def _check_outputs(shard: ShardContext, reader: LogReader, kafka: KafkaHead | None, bounds: Bounds) -> None:
    """Raise ShardQuarantined where another group has published before a shard that hasn't: the topics are that group's.

    Each output of ours came with a head.
    """
    if kafka is None:
        found = await foreign_topic(reader, shard.streams, shard.partition, bounds[shard.streams.output])
        if found:
            raise foreign_outputs(shard.settings, found[0], shard.partition, found[1])


async def foreign_topic(
    reader: LogReader, streams: Streams, partition: int, outputs: tuple[int, int]
) -> tuple[str, str] | None:
    """Return (an output topic, the other group that wrote to it last); None: there is none. `outputs`: the bounds."""
    if group := await reader.last_group(streams.output, partition, outputs):
        return streams.output, group
    if streams.latest is None:
        return None
    bounds = await reader.bounds([streams.latest], partition)
    group = await reader.last_group(streams.latest, partition, bounds[streams.latest])
    return (streams.latest, group) if group else None


def _as_far_as(head: StoreHead) -> KafkaHead:
    """Return a Kafka head that stands where Redis does: of a shard without a turn yet."""
    return KafkaHead(
        head.offset, head.count, head.clock, head.activation, head.version, head.cursor, era=head.era,
        changes=head.changes,
    )  # fmt: skip


async def _follow_outputs(
    owned: Owned, target: KafkaHead, bounds: tuple[int, int], sides: dict[str, int]
) -> list[LoggedOutput]:
    """Perform steps 4 and 5, up to S. Return the outputs beyond S.

    `bounds`: of the output log. `sides`: where to read the side inputs on.
    """
    shard, head = owned.shard, owned.head
    if head.era < target.era:
        raise ShardQuarantined(
            "input_changed",
            f"{shard} was made anew (era {target.era}), and Redis still has its place in the one before (era "
            f"{head.era}).",
            hint=SKIP_LOST,
        )
    if head.era > target.era or head.offset > target.offset:
        raise ShardQuarantined(
            "redis_ahead",
            f"Redis stands at offset {head.offset} of {shard}, but Kafka's head at {target.offset}: Kafka has lost "
            "records, or this is another deployment's Redis.",
            hint=REBUILD,
        )
    begin, end = bounds
    if head.position < begin and target.count > head.count:
        raise ShardQuarantined(
            "outputs_gone",
            f"some of the outputs {head.count + 1} to {target.count} of {shard} have expired.",
            hint=f"Restore a newer backup of Redis, and raise the retention of the output topic. {TRUNCATED}",
        )
    change, torn = _raised(head, target) | adopted(head, target, shard.step), list[LoggedOutput]()
    change |= {"sides": sides}
    pages = owned.reader.read_outputs(
        shard.streams.output, shard.partition, max(head.position, begin), head.count, target.count, end
    )
    async for page in pages:
        if page.foreign:
            owned.warning = f"group {page.foreign!r} has published to {shard.streams.output}-{shard.partition} as well."
            log.warning("%s: %s Its outputs are left out", shard, owned.warning)
        if torn:
            torn += page.outputs
            continue
        torn = page.cut_behind(target.count)
        change |= {"position": page.position}
        if mark := page.mark:
            change |= {"count": mark.number, "written": page.last}
        await owned.commit(await _patches(owned, page.notes), **change)
        change = {}
    if change:
        await owned.commit(Writes(), **change)
    return torn


def _raised(head: StoreHead, target: KafkaHead) -> HeadChange:
    """Return step 5's change of the Redis head, without C and S: a fresh token, T and M raised, the rescore's scope."""
    raised = target.activation > head.activation
    change: HeadChange = {
        "token": secrets.token_hex(8),
        "clock": max(head.clock, target.clock),
        "activation": max(head.activation, target.activation),
        "version": target.version if raised else head.version,
    }
    if raised:
        # All customers need a due time under the new model. The moves up to Kafka's cursor are published already.
        change |= {"cursor": "", "quiet": target.cursor, "scope": scope_of_all(target)}
    elif head.cursor is not None:
        # Never less than before: a crash in this very rescore may have left Kafka's cursor behind the published moves.
        quiet = None if head.quiet is None or target.cursor is None else max(head.quiet, target.cursor)
        change |= {"quiet": quiet, "scope": head.scope if head.scope is Scope.RELEASED else scope_of_all(target)}
    elif target.cursor is not None and target.scope in {Scope.EVERYONE, Scope.SETTINGS}:
        # Of a change of settings that Redis hasn't seen, though the settings agree: two changes that cancel out.
        change |= {"cursor": "", "quiet": target.cursor, "scope": scope_of_all(target)}
    return change


async def _patches(owned: Owned, notes: dict[bytes, bytes]) -> Writes:
    """Return the states of the customers whose outputs were found, with the published segment and sequence."""
    if not notes:
        return Writes()
    keys = list(notes)
    loaded = Loaded([None] * len(keys), [])
    if owned.raw is not None:
        loaded = await owned.shard.store.load(owned.raw, keys, None, 0)
    patch = owned.shard.step.patch
    states = {key: stepping(patch, value, notes[key]) for key, value in zip(keys, loaded.values, strict=True)}
    present = loaded.present(keys)
    created = [key for key in keys if key not in present]
    writes = Writes(states, created=created, earlier=own_due(owned.shard.step, states))
    return owned.shard.store.with_tombstones(writes, owned.shard.step)
