"""`segstream skip-lost`: shards whose input has lost records go on where it begins now, with the states of Redis.

docs/explanation/exactly-once.md, section 11.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stream.engine.log_reader import Bounds, LogReader
from stream.engine.store import ShardStore, Writes
from stream.errors import SegstreamError
from stream.repair.step_over import step_kafka, stepped, while_fenced
from stream.storage.client import connect
from stream.storage.heads import Fingerprint, KafkaHead, StoreHead, encode_head
from stream.storage.keys import ShardKeys
from stream.storage.reads import REBUILD, TRUNCATED, parse_head

if TYPE_CHECKING:
    from segmentation.step import Step
    from stream.engine.ledger import Ledger
    from stream.kafka.streams import Streams
    from stream.settings import Settings


class NotToBeSkipped(SegstreamError):
    """Records aren't all that is lost, so that the shard can't go on with the states of Redis."""


class LossSkipper:
    """Lets the shards of one step go on behind the records that their input has lost."""

    def __init__(self, settings: Settings, streams: Streams, step: Step) -> None:
        """Call `skip`."""
        self._settings = settings
        self._streams = streams
        self._step = step
        self._reader = LogReader(settings)
        self._redis = connect(settings)

    async def skip(self, only: int | None = None) -> AsyncIterator[str]:
        """Skip shard by shard; yield a line about each. Raises NotToBeSkipped, SegstreamError."""
        try:
            await self._reader.start()
            cluster, counts = await self._reader.describe(self._streams.pinned())
            count = self._settings.partitions
            if smaller := {topic: found for topic, found in counts.items() if found < count}:
                raise NotToBeSkipped(
                    f"{smaller} partitions, but SEGSTREAM_PARTITIONS is {count}.",
                    hint="Set it to the number that the shards have.",
                )
            # Topics may have more, where they were given them by hand: `segstream reshard` needs the shards first.
            for partition in range(count):
                if only in {None, partition}:
                    yield await self._skip(partition, cluster, (count, count))
        finally:
            await self._reader.close()
            await self._redis.aclose()

    async def _skip(self, partition: int, cluster: str, partitions: tuple[int, int]) -> str:
        """Skip what one shard has lost; return a line about it. A shard that has lost nothing isn't disturbed."""
        settings, streams = self._settings, self._streams
        keys = ShardKeys(settings.group, streams.input, partition)
        store = ShardStore(self._redis, keys, settings.salt)
        _, head = await self._head(store, keys, cluster, partitions)
        bounds = await self._reader.bounds(streams.pinned(), partition)
        # What is found here is asked again under the fence.
        kafka = await self._reader.last_kafka_head(streams.heads, partition, *bounds[streams.heads])
        _check_not_sealed(kafka, partitions[0])
        unlike = await self._unlike(partition, head, bounds)
        within = bounds[streams.input]
        after = await self._behind_outputs(partition, _place(head, kafka, within, unlike), kafka, bounds)
        if after == head and not (kafka and stepped(kafka, *within)):
            return f"shard {partition}: has lost nothing; stays at offset {head.offset:,}"

        async def work(ledger: Ledger) -> tuple[StoreHead, StoreHead]:
            raw, head = await self._head(store, keys, cluster, partitions)
            bounds = await self._reader.bounds(streams.pinned(), partition)
            unlike = await self._unlike(partition, head, bounds)
            era = head.era if unlike else None
            _check_not_sealed(
                await self._reader.last_kafka_head(streams.heads, partition, *bounds[streams.heads]), partitions[0]
            )
            kafka = await step_kafka(ledger, self._reader, streams, self._step, partition, bounds, unlike=era)
            after = _place(head, kafka, bounds[streams.input], unlike and kafka is None)
            after = await self._behind_outputs(partition, after, kafka, bounds)
            after = replace(after, token=secrets.token_hex(8), turn=head.turn + 1, stored=None)
            await store.commit(raw, encode_head(after), Writes())
            return head, after

        before, after = await while_fenced(settings, streams, partition, work)
        line = f"shard {partition}: goes on at offset {after.offset:,}, not at {before.offset:,}; its states stay"
        return line if after.written == before.written else f"{line}; outputs go on with number {after.count + 1:,}"

    async def _head(
        self, store: ShardStore, keys: ShardKeys, cluster: str, partitions: tuple[int, int]
    ) -> tuple[bytes, StoreHead]:
        raw = await store.read_head()
        if raw is None:
            raise NotToBeSkipped(f"Redis has no head for {keys.shard}: there are no states to keep.", hint=REBUILD)
        head = parse_head(raw, keys.shard)
        if head.cluster != cluster:
            raise NotToBeSkipped(
                f"Redis follows cluster {head.cluster!r}, this is {cluster!r}.",
                hint="`segstream status` names the reason that comes first.",
            )
        if tuple(head.partitions) != partitions:
            raise NotToBeSkipped(
                f"{keys.shard} is one of {head.partitions[0]} shards, but SEGSTREAM_PARTITIONS is {partitions[0]}.",
                hint=f"Run the same command with SEGSTREAM_PARTITIONS={head.partitions[0]}.",
            )
        return raw, head

    async def _unlike(self, partition: int, head: StoreHead, bounds: Bounds) -> bool:
        """Return whether the input has another record at an offset than Redis remembers."""
        known, (begin, end) = head.read, bounds[self._streams.input]
        if known is None or not begin <= known.offset < end:
            return False
        return not await self._has(self._streams.input, partition, known, keep_time=True)

    async def _behind_outputs(
        self, partition: int, head: StoreHead, kafka: KafkaHead | None, bounds: Bounds
    ) -> StoreHead:
        """Return the head behind all outputs, where the log no longer has the last one that Redis remembers.

        Raises NotToBeSkipped where Redis doesn't know all moves of the log that is gone.
        """
        topic = self._streams.output
        known, (begin, end) = head.written, bounds[topic]
        if known is None or known.offset < begin:
            return head
        if known.offset < end and await self._has(topic, partition, known, keep_time=False):
            return head
        if kafka is None or kafka.count != head.count:
            raise NotToBeSkipped(
                f"{topic}-{partition} was made anew, and Redis knows only {head.count} of the outputs that it had.",
                hint=TRUNCATED,
            )
        return replace(head, position=end, written=None)

    async def _has(self, topic: str, partition: int, known: Fingerprint, *, keep_time: bool) -> bool:
        """Return whether the log has the record that Redis remembers. `keep_time`: its timestamp counts too."""
        found = await self._reader.record_at(topic, partition, known.offset)
        if found is None:
            return False
        return Fingerprint.of(found.offset, found.timestamp if keep_time else 0, found.key, found.value) == known


def _check_not_sealed(kafka: KafkaHead | None, partitions: int) -> None:
    """Raise NotToBeSkipped where a reshard has sealed the shard: its place is in the journal by now."""
    if kafka and kafka.partitions not in {0, partitions}:
        raise NotToBeSkipped(
            f"a reshard to {kafka.partitions} partitions has begun.",
            hint=f"Finish it first: `segstream reshard --partitions {kafka.partitions}`. Then run this again, with "
            f"SEGSTREAM_PARTITIONS={kafka.partitions}.",
        )


def _place(head: StoreHead, kafka: KafkaHead | None, bounds: tuple[int, int], unlike: bool) -> StoreHead:
    """Return Redis' head with its place in the input as it is now. `unlike`: the input has other records than then."""
    begin, end = bounds
    era = kafka.era if kafka else head.era
    if kafka and head.era == era and stepped(kafka, begin, end) is None and head.offset > kafka.offset:
        raise NotToBeSkipped(
            f"Redis stands at offset {head.offset}, Kafka's head at {kafka.offset}: Kafka has lost heads.", hint=REBUILD
        )
    if head.era == era and begin <= head.offset <= end and not unlike:
        return head
    return replace(head, offset=begin, era=era, read=None)
