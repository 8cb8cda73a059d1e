"""`segstream rebuild`: Redis made anew from Kafka; from all of it, or from what is left of it (PROTOCOL, "Redis lost altogether")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.events import iso
from stream.engine.log_reader import Bounds, LogReader
from stream.engine.store import ShardStore
from stream.errors import SegstreamError
from stream.storage.client import connect
from stream.storage.heads import NOTE_HEADER, StoreHead, encode_head, first_head
from stream.storage.keys import ShardKeys

if TYPE_CHECKING:
    from segmentation.step import Step
    from stream.kafka.streams import Streams
    from stream.settings import Settings

LOST: Final = (
    "Gone for good: whatever stood before these offsets. A customer with an order left is scored by what is left; one with"
    " none keeps the segment that was told last, until its next order. Every chain of moves goes on."
)


class LogShortened(SegstreamError):
    """The logs no longer start with their first record."""


@dataclass(frozen=True, slots=True)
class _Remains:
    """What Kafka still has of one shard."""

    partition: int
    bounds: Bounds
    shortened: list[str]  # "topic-partition starts at offset n"


class Rebuilder:
    """Empties the shards of one step, and puts a head in place from which their owners take them over again."""

    def __init__(self, settings: Settings, streams: Streams, step: Step) -> None:
        """Call `rebuild`."""
        self._settings = settings
        self._streams = streams
        self._step = step
        self._reader = LogReader(settings)
        self._redis = connect(settings.redis_url.get_secret_value(), settings.redis_timeout_s)

    async def rebuild(self, only: int | None = None, *, allow_truncated_logs: bool = False) -> AsyncIterator[str]:
        """Do it shard by shard, telling of each. Raises LogShortened before anything is touched."""
        try:
            await self._reader.start()
            cluster, counts = await self._reader.describe(self._streams.pinned())
            partitions = (counts[self._streams.input], counts[self._streams.output])
            found = [await self._look(p) for p in range(partitions[0]) if only in {None, p}]
            shortened = [line for remains in found for line in remains.shortened]
            if shortened and not allow_truncated_logs:
                raise LogShortened(
                    f"{'; '.join(shortened)}: what stood before is gone, and Redis can't be made as it was.",
                    hint="Restore a back-up of Redis whose offset is still in the log; or, if there is none, "
                    "`segstream rebuild --allow-truncated-logs`.",
                )
            for remains in found:
                begin = remains.bounds[self._streams.input][0]
                yield await self._rebuild(remains, first_head(cluster, partitions, begin))
            if shortened:
                yield LOST
        finally:
            await self._reader.close()
            await self._redis.aclose()

    async def _look(self, partition: int) -> _Remains:
        streams = self._streams
        bounds = await self._reader.bounds(streams.pinned(), partition)
        starts = {topic: bounds[topic][0] for topic in (streams.input, streams.output)}
        return _Remains(
            partition, bounds, [f"{t}-{partition} starts at offset {begin}" for t, begin in starts.items() if begin]
        )

    async def _rebuild(self, remains: _Remains, head: StoreHead) -> str:
        """The head last: until it is there, no owner takes the shard over."""
        settings, partition = self._settings, remains.partition
        keys = ShardKeys(settings.group, self._streams.input, partition)
        store = ShardStore(self._redis, keys, settings.erasure_salt.get_secret_value().encode())
        begin, end = remains.bounds[self._streams.input]
        await store.clear()
        told = f"shard {partition}: emptied; {end - begin:,} offsets to read again"
        if remains.shortened:
            announced = await self._announced(partition)
            await store.seed({key: self._step.patch(None, note) for key, note in announced.items()})
            position = remains.bounds[self._streams.output][0]
            head = await self._behind(head, remains, position)
            told += f", from {begin:,} on{await self._since(partition, begin, end)}; {len(announced):,} customers with a segment"
        await self._redis.set(keys.head, encode_head(head))
        return told

    async def _announced(self, partition: int) -> Mapping[bytes, bytes]:
        """Customer -> the note of its last move. Read to the end, so that no move is missing before the outputs' begin."""
        if self._streams.latest is None:
            return {}
        return await self._reader.read_latest(
            self._streams.latest, partition, lambda record: dict(record.headers).get(NOTE_HEADER)
        )

    async def _behind(self, head: StoreHead, remains: _Remains, position: int) -> StoreHead:
        """The head as it stood where the output log starts now."""
        partition, streams = remains.partition, self._streams
        first = await self._reader.first_output(streams.output, partition, remains.bounds[streams.output])
        if first is None:
            begin, end = remains.bounds[streams.heads]
            # The last offset is that of a transaction's end.
            kafka, _ = (
                await self._reader.read_kafka_head(streams.heads, partition, begin, end - 1)
                if end > begin
                else (None, None)
            )
            first = kafka.count + 1 if kafka else 1
        return msgspec.structs.replace(head, position=position, count=first - 1)

    async def _since(self, partition: int, begin: int, end: int) -> str:
        if begin >= end:
            return ""
        self._reader.seek(self._streams.input, partition, begin)
        records = await self._reader.read_on(1)
        return f" ({iso(records[0].timestamp)})" if records else ""
