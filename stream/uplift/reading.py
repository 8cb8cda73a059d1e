"""The records of topics from a time on, in bounded memory: each is handed over as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stream.kafka.clients import kafka_consumer, partitions_of
from stream.kafka.stretches import pages_between

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.settings import Settings

_BATCH: Final = 5_000


async def read_since(
    settings: Settings,
    topic: str,
    since_ms: int | None,
    take: Callable[[Any], None],
    progress: Callable[[int], None] = lambda _records: None,
) -> None:
    """Hand over a topic's committed records, up to the end that it has now.

    `since_ms`: from the first record of each partition with this timestamp or a later one; None: all. Raises
    KafkaUnreachable, TopicUnusable, ReadingStalled.
    """
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [topic])
        ends = await consumer.end_offsets(partitions)
        firsts = await consumer.beginning_offsets(partitions)
        if since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, max(since_ms, 0)))
            firsts = {tp: ends[tp] if found.get(tp) is None else found[tp].offset for tp in partitions}
        read = 0
        async for page in pages_between(consumer, firsts, ends, _BATCH):
            for tp, records in page.items():
                for record in records:
                    if record.offset < ends[tp]:
                        take(record)
                read += len(records)
            progress(read)
