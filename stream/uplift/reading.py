"""The records of topics from a time on, in bounded memory: each is handed over as it comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from stream.errors import SegstreamError
from stream.kafka.clients import at_end, kafka_consumer, partitions_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.settings import Settings

_POLL_MS: Final = 200
_BATCH: Final = 5_000
_STALLED_S: Final = 60.0


class ReadingStalled(SegstreamError):
    """Kafka has more records, and sends none."""


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
        consumer.assign(partitions)
        for tp, offset in firsts.items():
            consumer.seek(tp, offset)
        read, last_s = 0, time.monotonic()
        while not await at_end(consumer, ends):
            answer = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH)
            for tp, records in answer.items():
                for record in records:
                    if record.offset < ends[tp]:
                        take(record)
                read += len(records)
            if answer:
                last_s = time.monotonic()
                progress(read)
            elif time.monotonic() - last_s > _STALLED_S:
                raise ReadingStalled(
                    f"no record of {topic} arrived for {_STALLED_S:.0f} s.",
                    hint="Look at the brokers, and run the command again.",
                )
