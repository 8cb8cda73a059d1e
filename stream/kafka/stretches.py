"""Stretches of topics, read from some offsets to others in pages: nothing ever waits for ever."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from stream.errors import SegstreamError
from stream.kafka.clients import at_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiokafka import AIOKafkaConsumer, TopicPartition

PATIENCE_S: Final = 60.0
_POLL_MS: Final = 200


class ReadingStalled(SegstreamError):
    """Kafka has more records, and sends none."""


async def pages_between(
    consumer: AIOKafkaConsumer,
    first: Mapping[TopicPartition, int],
    ends: dict[TopicPartition, int],
    most: int,
    *,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[dict[TopicPartition, list[Any]]]:
    """Yield the committed records from the first offsets on, `most` at a time, until the ends are reached.

    The last page may have records that lie behind the ends. Raises ReadingStalled after `patience_s` without any.
    """
    consumer.assign(list(first))
    for tp, offset in first.items():
        consumer.seek(tp, offset)
    last_s = time.monotonic()
    while not await at_end(consumer, ends):
        if answer := await consumer.getmany(timeout_ms=_POLL_MS, max_records=most):
            yield answer
            last_s = time.monotonic()
        elif time.monotonic() - last_s > patience_s:
            topics = ", ".join(sorted({tp.topic for tp in ends}))
            raise ReadingStalled(
                f"no record of {topics} arrived for {patience_s:.0f} s.",
                hint="Look at the brokers, and run the command again.",
            )
