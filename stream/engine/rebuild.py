"""`segstream rebuild`: Redis made anew from Kafka's logs, whole or truncated.

docs/explanation/exactly-once.md, section 6.
"""

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
    "Lost for good: the orders before these offsets. Customers with later orders are scored by those. Customers without"
    " keep the segment published last until their next order. Every chain of moves continues."
)


class LogShortened(SegstreamError):
    """The logs don't start with their first record any more."""


@dataclass(frozen=True, slots=True)
class _Remains:
    """The part of one shard's logs that Kafka still has."""

    partition: int
    bounds: Bounds
    shortened: list[str]  # "topic-partition starts at offset n"


class Rebuilder:
    """Empties the shards of one step, and sets heads from which their owners take them over again."""

    def __init__(self, settings: Settings, streams: Streams, step: Step) -> None:
        """Call `rebuild`."""
        self._settings = settings
        self._streams = streams
        self._step = step
        self._reader = LogReader(settings)
        self._redis = connect(settings)

    async def rebuild(self, only: int | None = None, *, allow_truncated_logs: bool = False) -> AsyncIterator[str]:
        """Rebuild shard by shard; yield a line about each. Raises LogShortened before anything is changed."""
        try:
            await self._reader.start()
            cluster, counts = await self._reader.describe(self._streams.pinned())
            partitions = (counts[self._streams.input], counts[self._streams.output])
            found = [await self._look(p) for p in range(partitions[0]) if only in {None, p}]
            shortened = [line for remains in found for line in remains.shortened]
            if shortened and not allow_truncated_logs:
                raise LogShortened(
                    f"{'; '.join(shortened)}: earlier records are gone, so Redis can't be restored completely.",
                    hint="Restore a backup of Redis whose offset is still in the log. If you have none, run "
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
        """Rebuild one shard; return a line about it. The head is set last: without it no owner takes the shard over."""
        settings, partition = self._settings, remains.partition
        keys = ShardKeys(settings.group, self._streams.input, partition)
        store = ShardStore(self._redis, keys, settings.erasure_salt.get_secret_value().encode())
        begin, end = remains.bounds[self._streams.input]
        published: Mapping[bytes, bytes] = {}
        line = f"shard {partition}: emptied; {end - begin:,} offsets to read again"
        if remains.shortened:
            published = await self._published(partition)
            head = await self._behind(head, remains, remains.bounds[self._streams.output][0])
            since = await self._since(partition, begin, end)
            line += f", from {begin:,} on{since}; {len(published):,} customers with a segment"
        await store.start_anew(
            encode_head(head), {key: self._step.patch(None, note) for key, note in published.items()}
        )
        return line

    async def _published(self, partition: int) -> Mapping[bytes, bytes]:
        """Return the note of each customer's last move, from all of the compacted topic: no move is missing."""
        if self._streams.latest is None:
            return {}
        return await self._reader.read_latest(
            self._streams.latest, partition, lambda record: dict(record.headers).get(NOTE_HEADER)
        )

    async def _behind(self, head: StoreHead, remains: _Remains, position: int) -> StoreHead:
        """Return the head as it was where the output log starts now."""
        partition, streams = remains.partition, self._streams
        first = await self._reader.first_output(streams.output, partition, remains.bounds[streams.output])
        if first is None:
            begin, end = remains.bounds[streams.heads]
            # The last offset is the marker that ends a transaction.
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
