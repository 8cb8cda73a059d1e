"""`segstream rebuild`: Redis made anew from Kafka's logs, whole or truncated.

docs/explanation/exactly-once.md, sections 6 and 11.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.agreed import differences
from segmentation.event_text import iso
from segmentation.step import PROFILES
from stream.engine.agreement import settings_held, spoken
from stream.engine.log_reader import Bounds, LogReader
from stream.engine.store import ShardStore
from stream.engine.takeover import foreign_topic
from stream.errors import SegstreamError, ShardQuarantined
from stream.kafka.streams import ForeignOutputs
from stream.repair.step_over import cover_torn, step_kafka, stepped, while_fenced
from stream.storage.client import connect
from stream.storage.heads import NOTE_HEADER, KafkaHead, StoreHead, encode_head, first_head

if TYPE_CHECKING:
    from segmentation.step import Step
    from stream.engine.ledger import Ledger
    from stream.kafka.streams import Streams
    from stream.settings import Settings

LOST: Final = (
    "Lost for good: the records that the logs no longer have. Customers with later orders are scored by those."
    " Customers without keep the segment published last until their next order. Every chain of moves continues."
)


ELSEWHERE: Final = (
    "Lost besides: orders from before the last change of the number of partitions that lie on another partition than"
    " their customer's present one."
)


class OtherSettings(SegstreamError):
    """The shard was scored under other settings: read again under these, customers would move without a reason."""


class LogShortened(SegstreamError):
    """The logs no longer have all of their records."""


class WrongCount(SegstreamError):
    """The shards were worked on under another number of partitions than the settings say."""


@dataclass(frozen=True, slots=True)
class _Remains:
    """The part of one shard's logs that Kafka still has."""

    partition: int
    bounds: Bounds
    head: KafkaHead | None
    first: int | None  # number of the first output that is left; None: none is
    last: int | None

    @property
    def outputs(self) -> int:
        """S: how many outputs there have been."""
        return max(self.head.count if self.head else 0, self.last or 0)

    def shortened(self, streams: Streams) -> list[str]:
        """Return a line for each log that isn't whole."""
        p, lines = self.partition, []
        begin, end = self.bounds[streams.input]
        if begin:
            lines.append(f"{streams.input}-{p} starts at offset {begin}")
        if self.head and stepped(self.head, begin, end):
            lines.append(f"{streams.input}-{p} ends at offset {end}, and the shard had reached {self.head.offset}")
        if (self.first or self.outputs + 1) > 1:
            left = f"starts with output {self.first}" if self.first else "has no output any more"
            lines.append(f"{streams.output}-{p} {left}, of {self.outputs}")
        elif (self.last or 0) < self.outputs:
            lines.append(f"{streams.output}-{p} ends with output {self.last}, of {self.outputs}")
        profiles = streams.sides.get(PROFILES, "")
        if profiles and (begin := self.bounds[profiles][0]):
            # Nobody is to get a message because their "no" has expired.
            lines.append(f"{profiles}-{p} starts at offset {begin}: consents from before that would be forgotten")
        return lines


def _check_count(found: Sequence[_Remains], counts: Mapping[str, int], expected: int) -> None:
    """Raise WrongCount where the shards are those of another number of partitions than the settings say.

    Topics may have more, where they were given them by hand: then `segstream reshard` comes next.
    """
    smaller = {topic: count for topic, count in counts.items() if count < expected}
    others = {r.head.partitions for r in found if r.head} - {0, expected}
    if smaller or others:
        right = min(others or smaller.values())
        raise WrongCount(
            f"the shards are those of {right} partitions, not {expected}: customers would begin second chains.",
            hint=f"Set SEGSTREAM_PARTITIONS={right} and run the same command again. If the topics have more partitions "
            "by now, run `segstream reshard` after it.",
        )


class Rebuilder:
    """Empties the shards of one step, and sets heads from which their owners take them over again."""

    def __init__(
        self, settings: Settings, streams: Streams, step: Step, *, resharded: Sequence[StoreHead] = ()
    ) -> None:
        """Call `rebuild`. `resharded`: the heads that the shards began with at the last reshard; none: there was none.

        After a reshard a shard is made anew from what its own partition holds, and so never completely.
        """
        self._settings = settings
        self._streams = streams
        self._step = step
        self._resharded = resharded
        self._reader = LogReader(settings)
        self._redis = connect(settings)

    async def rebuild(self, only: int | None = None, *, allow_truncated_logs: bool = False) -> AsyncIterator[str]:
        """Rebuild shard by shard; yield a line about each.

        Raises LogShortened, ForeignOutputs or OtherSettings before anything is changed.
        """
        try:
            await self._reader.start()
            cluster, counts = await self._reader.describe(self._streams.pinned())
            count = self._settings.partitions
            found = [await self._look(p) for p in range(min(count, *counts.values())) if only in {None, p}]
            _check_count(found, counts, count)
            for remains in found:
                await self._check_outputs(remains)
                await self._check_settings(remains)
            shortened = [line for remains in found for line in remains.shortened(self._streams)]
            if shortened and not allow_truncated_logs:
                raise LogShortened(
                    f"{'; '.join(shortened)}: records are gone, so Redis can't be restored completely.",
                    hint="If Redis still has the states, keep them: `segstream skip-lost`. Otherwise restore a backup "
                    "of Redis whose offset is still in the log. If you have none, run "
                    "`segstream rebuild --allow-truncated-logs`.",
                )
            for remains in found:
                yield await self._rebuild(remains, cluster, (count, count))
            if shortened or self._resharded:
                yield LOST
            if self._resharded:
                yield ELSEWHERE
        finally:
            await self._reader.close()
            await self._redis.aclose()

    async def _look(self, partition: int) -> _Remains:
        streams, reader = self._streams, self._reader
        bounds = await reader.bounds(streams.pinned(), partition)
        head = await reader.last_kafka_head(streams.heads, partition, *bounds[streams.heads])
        first = await reader.first_output(streams.output, partition, bounds[streams.output])
        last = await reader.last_output(streams.output, partition, bounds[streams.output])
        return _Remains(partition, bounds, head, first, last.number if last else None)

    async def _check_outputs(self, remains: _Remains) -> None:
        """Raise ForeignOutputs where another group published first: a rebuild would continue that group's chains."""
        streams, partition = self._streams, remains.partition
        bounds = remains.bounds[streams.output]
        group = "" if bounds[0] else await self._reader.first_group(streams.output, partition, bounds)
        found = (streams.output, group) if group else None
        if found is None and remains.head is None:
            found = await foreign_topic(self._reader, streams, partition, bounds)
        if found:
            raise ForeignOutputs(self._settings, found[0], partition, found[1])

    async def _rebuild(self, remains: _Remains, cluster: str, partitions: tuple[int, int]) -> str:
        """Rebuild one shard; return a line about it. Killed anywhere, the command is run again.

        1. Move Kafka's head to where the input begins now, where it isn't within the input any more.
        2. Empty Redis, and write what is known of the customers where the logs have lost a part. An owner that still
           works loses the shard at its next commit.
        3. Set Redis' head: without one, none takes the shard over.
        """
        settings, partition, streams = self._settings, remains.partition, self._streams
        store = self._store(partition)
        if self._resharded:
            await while_fenced(settings, streams, partition, self._cover_torn(partition))
            remains = await self._look(partition)
        begin, end = remains.bounds[streams.input]
        head = first_head(cluster, partitions, begin)
        published: Mapping[bytes, bytes] = {}
        line = f"shard {partition}: emptied; {end - begin:,} offsets to read again"
        if self._resharded or remains.shortened(streams):
            await _check_salt(store)
            published = await self._published(partition)
            head = self._behind(head, remains)
            since = await self._since(partition, begin, end)
            line += f", from {begin:,} on{since}; {len(published):,} customers with a segment"
        if kafka := remains.head:
            if stepped(kafka, begin, end):
                kafka = await while_fenced(settings, streams, partition, self._step_over(partition)) or kafka
                line += f"; goes on at offset {kafka.offset:,}, not at {remains.head.offset:,}"
            head = msgspec.structs.replace(head, era=kafka.era, changes=kafka.changes)
        await store.start_anew(
            encode_head(head), {key: self._step.patch(None, note) for key, note in published.items()}
        )
        return line

    def _store(self, partition: int) -> ShardStore:
        return ShardStore.of(self._redis, self._settings, self._streams.input, partition)

    async def _check_settings(self, remains: _Remains) -> None:
        """Raise OtherSettings where Kafka's head (or the group, before the first turn) has others than these."""
        own = self._step.agreed
        held = await settings_held(self._store(remains.partition), remains.head, None) if own else None
        if own is not None and held is not None and differences(held, own):
            raise OtherSettings(
                f"{spoken(held, own)} in Kafka's head of {self._streams.input}-{remains.partition}: rebuilt under "
                "other settings, its customers would move as if they had done something.",
                hint="Restore the settings for the rebuild. To change them for good, run `segstream reconfigure`.",
            )

    def _cover_torn(self, partition: int) -> Callable[[Ledger], Awaitable[None]]:
        async def cover(ledger: Ledger) -> None:
            bounds = await self._reader.bounds(self._streams.pinned(), partition)
            await cover_torn(ledger, self._reader, self._streams, self._step, partition, bounds)

        return cover

    def _step_over(self, partition: int) -> Callable[[Ledger], Awaitable[KafkaHead | None]]:
        async def step(ledger: Ledger) -> KafkaHead | None:
            bounds = await self._reader.bounds(self._streams.pinned(), partition)
            return await step_kafka(ledger, self._reader, self._streams, self._step, partition, bounds)

        return step

    async def _published(self, partition: int) -> Mapping[bytes, bytes]:
        """Return the note of each customer's last move, from all of the compacted topic: no move is missing."""
        if self._streams.latest is None:
            return {}
        return await self._reader.read_latest(
            self._streams.latest, partition, lambda record: dict(record.headers).get(NOTE_HEADER)
        )

    def _behind(self, head: StoreHead, remains: _Remains) -> StoreHead:
        """Return the head as it was where the output log starts now; where it lacks its end, as it is there.

        After a reshard it is at the end too: the log has moves of customers who live in other shards now. So has the
        campaigns' input, from before: unlike orders, moves don't show where their customer lives.
        """
        begin, end = remains.bounds[self._streams.output]
        if self._resharded:
            was = self._resharded[remains.partition]
            if self._streams.latest is None and (remains.head is None or remains.head.era == was.era):
                head = msgspec.structs.replace(head, offset=max(head.offset, was.offset))
            return msgspec.structs.replace(head, position=end, count=remains.outputs, former=was.former)
        if remains.first is None or (remains.last or 0) < remains.outputs:
            return msgspec.structs.replace(head, position=end, count=remains.outputs)
        return msgspec.structs.replace(head, position=begin, count=remains.first - 1)

    async def _since(self, partition: int, begin: int, end: int) -> str:
        if begin >= end:
            return ""
        self._reader.seek(self._streams.input, partition, begin)
        records = await self._reader.read_on(1)
        return f" ({iso(records[0].timestamp)})" if records else ""


async def _check_salt(store: ShardStore) -> None:
    """Raise ShardQuarantined where customers were erased under another salt.

    The erasures themselves may have left the log, and no late event of these customers would be recognised.
    """
    try:
        await store.read_head()
    except ShardQuarantined as stop:
        if stop.reason == "salt_changed":
            raise
