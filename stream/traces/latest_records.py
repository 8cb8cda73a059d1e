"""The newest records of a topic about one customer: backwards in windows, so that a long log isn't read to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from segmentation.event_text import iso
from stream.kafka.aiokafka_internals import accept_any_header_name
from stream.kafka.clients import KafkaUnreachable, kafka_consumer, raise_if_denied
from stream.kafka.stretches import ReadingStalled, pages_between
from stream.traces.mentions import Mention
from stream.traces.record_traces import partitions_about

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiokafka import AIOKafkaConsumer, TopicPartition

    from stream.settings import Settings
    from stream.traces.mentions import AnyMentions
    from stream.traces.places import TopicPlace

_WINDOW: Final = 5_000  # offsets of a partition
_STALLED_S: Final = 30.0


class LookBack(msgspec.Struct, frozen=True):
    """How far a search went back.

    `records`: read of these partitions; `since`: of what is younger nothing was left out; None: nothing was read.
    `complete`: all that the topic has was read. `failure`: why it couldn't be read.
    """

    topic: str
    partitions: list[int]
    records: int
    since: str | None
    complete: bool
    failure: str | None = None


class LatestRecords(NamedTuple):
    """Records about a customer, the newest first, and how far the search for them went."""

    records: list[Any]  # aiokafka's
    looked: LookBack


async def latest_about(
    settings: Settings, place: TopicPlace, ids: Sequence[str], mentions: AnyMentions, *, most: int, back: int
) -> LatestRecords:
    """Return the newest records about a customer, `most` at most, among the `back` newest of the topic or a few more.

    `ids`: all ids of the customer. A topic that this user can't read is a failure noted in the result.
    """
    accept_any_header_name()
    search = _BackwardSearch(place.topic)
    try:
        async with kafka_consumer(settings) as consumer:
            found = {tp for one in ids for tp in await partitions_about(consumer, settings, place, one)}
            await search.begin(consumer, sorted(found))
            while search.open and search.read < back and len(search.found) < most:
                for record in await search.window(consumer):
                    mention = mentions.in_record(record.key, record.value, record.headers, place.key)
                    if mention is Mention.CERTAIN:
                        search.found.append(record)
    except KafkaUnreachable as error:
        search.failure = str(error)
    search.found.sort(key=lambda record: (record.timestamp, record.offset), reverse=True)
    return LatestRecords(search.found[:most], search.looked())


class _BackwardSearch:
    """The windows read so far, of some partitions of a topic."""

    def __init__(self, topic: str) -> None:
        self.found: list[Any] = []
        self.read = 0
        self.failure: str | None = None
        self._topic = topic
        self._first: Mapping[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}  # the end of the next window
        self._oldest: dict[TopicPartition, int] = {}  # timestamp (ms)

    @property
    def open(self) -> list[TopicPartition]:
        """The partitions that have more, if no read has failed."""
        return [tp for tp, end in self._next.items() if end > self._first[tp]] if self.failure is None else []

    async def begin(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        """Ask for the bounds of the partitions."""
        if not partitions:
            await raise_if_denied(consumer, [self._topic])
            self.failure = f"there is no topic {self._topic}"
            return
        self._next = dict(await consumer.end_offsets(partitions))
        self._first = await consumer.beginning_offsets(partitions)

    async def window(self, consumer: AIOKafkaConsumer) -> list[Any]:
        """Return the committed records of the next window of each partition."""
        ends = {tp: self._next[tp] for tp in self.open}
        starts = {tp: max(self._first[tp], end - _WINDOW) for tp, end in ends.items()}
        records = list[Any]()
        try:
            async for page in pages_between(consumer, starts, ends, _WINDOW, patience_s=_STALLED_S):
                for tp, some in page.items():
                    records += (record for record in some if record.offset < ends[tp])
        except ReadingStalled:
            self.failure = f"no record of {self._topic} arrived for {_STALLED_S:.0f} s"
        self._next |= starts
        self.read += len(records)
        for record in records:
            tp = next(tp for tp in starts if tp.partition == record.partition)
            self._oldest[tp] = min(record.timestamp, self._oldest.get(tp, record.timestamp))
        return records

    def looked(self) -> LookBack:
        """Return how far the search went."""
        left = self.open
        # Of a partition that was read to its beginning nothing is missing.
        bounds = [self._oldest[tp] for tp in left if tp in self._oldest] or list(self._oldest.values())
        return LookBack(
            self._topic,
            sorted(tp.partition for tp in self._next),
            self.read,
            iso(max(bounds) if left else min(bounds)) if bounds else None,
            complete=not left and self.failure is None,
            failure=self.failure,
        )
