"""The records in Kafka that are about one customer, topic by topic, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from aiokafka import TopicPartition

from stream.kafka.aiokafka_internals import accept_any_header_name, all_partitions
from stream.kafka.clients import KafkaUnreachable, kafka_consumer
from stream.kafka.stretches import PATIENCE_S, ReadingStalled, pages_between
from stream.traces.mentions import Mention
from stream.traces.places import TopicPlace, shards_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from aiokafka import AIOKafkaConsumer

    from stream.settings import Settings
    from stream.traces.mentions import AnyMentions, Mentions

_BATCH: Final = 5_000


class SearchedPartition(msgspec.Struct, frozen=True):
    """A partition that was read: the committed records from one offset to before another."""

    partition: int
    first: int
    end: int


class TopicSearch:
    """The search of one topic: the bounds are known at its beginning, the counts at its end."""

    def __init__(self, place: TopicPlace) -> None:
        """`place`: the topic, and whether its records are keyed by customer."""
        self.place = place
        self.exists = False
        self.partitions: list[SearchedPartition] = []
        self.records = 0
        self.failure: str | None = None  # why the topic couldn't be read to its end


class FoundRecord(NamedTuple):
    """A record that is, or may be, about the customer."""

    record: Any  # aiokafka's
    mention: Mention


async def records_about(
    settings: Settings,
    search: TopicSearch,
    mentions: Mentions | AnyMentions,
    *,
    progress: Callable[[int], None] | None = None,
) -> AsyncIterator[FoundRecord]:
    """Yield a topic's records about a customer, from the oldest to the present end.

    Fills in `search`. A topic that this user can't read is a failure noted there; the records read before it have been
    yielded. `progress` gets the number of records read.
    """
    accept_any_header_name()
    try:
        async with kafka_consumer(settings) as consumer:
            partitions = await partitions_about(consumer, settings, search.place, mentions.customer_id)
            search.exists = bool(partitions)
            if not partitions:
                return
            ends = await consumer.end_offsets(partitions)
            first = await consumer.beginning_offsets(partitions)
            search.partitions = [SearchedPartition(tp.partition, first[tp], ends[tp]) for tp in partitions]
            async for record in _read(consumer, search, first, ends):
                mention = mentions.in_record(record.key, record.value, record.headers, search.place.key)
                if mention is not None:
                    yield FoundRecord(record, mention)
                if progress and search.records % _BATCH == 0:
                    progress(search.records)
    except KafkaUnreachable as error:
        search.failure = str(error)


async def _read(
    consumer: AIOKafkaConsumer, search: TopicSearch, first: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> AsyncIterator[Any]:
    """Yield the committed records between these offsets, and count them."""
    try:
        async for page in pages_between(consumer, first, ends, _BATCH):
            for tp, records in page.items():
                for record in records:
                    search.records += 1
                    if record.offset < ends[tp]:
                        yield record
    except ReadingStalled:
        search.failure = f"no record of {search.place.topic} arrived for {PATIENCE_S:.0f} s"


async def records_to_read(settings: Settings, places: list[TopicPlace], customer_id: str) -> int:
    """Return how many records the searches of these topics will read, at most. Raises KafkaUnreachable."""
    async with kafka_consumer(settings) as consumer:
        partitions = [tp for p in places for tp in await partitions_about(consumer, settings, p, customer_id)]
        if not partitions:
            return 0
        ends, first = await consumer.end_offsets(partitions), await consumer.beginning_offsets(partitions)
    return sum(ends[tp] - first[tp] for tp in partitions)


async def partitions_about(
    consumer: AIOKafkaConsumer, settings: Settings, place: TopicPlace, customer_id: str
) -> list[TopicPartition]:
    """Return the partitions that can hold the customer's records; none where the topic doesn't exist."""
    topics = await all_partitions(consumer)
    existing = topics.get(place.topic, [])
    # More partitions than the settings say, or than before `segstream reshard`: earlier records may be in any of them.
    if place.sharded and len(existing) == settings.partitions and not await _was_resharded(consumer, settings, topics):
        existing = [p for p in existing if p in shards_of(settings, customer_id)]
    return [TopicPartition(place.topic, p) for p in existing]


async def _was_resharded(consumer: AIOKafkaConsumer, settings: Settings, topics: Mapping[str, Sequence[int]]) -> bool:
    """Return whether the group has had another number of partitions: its journal of reshards has a record."""
    journal = TopicPartition(settings.reshards_topic, 0)
    return settings.reshards_topic in topics and (await consumer.end_offsets([journal]))[journal] > 0
