"""Read a small topic of one partition to its end, and run a producer that always stops."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.kafka.clients import raise_if_denied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stream.settings import DeploymentSettings

REQUEST_MS: Final = 10_000
_STOP_S: Final = 5.0  # a fenced producer can hang in stop()
_POLL_MS: Final = 200


async def read_whole(
    settings: DeploymentSettings, topic: str, expect: Callable[[set[str]], None], *, past: int | None = None
) -> list[Any]:
    """Read the committed records to the end, or past an offset, when all transactions before it are decided.

    `expect(existing topics)` may raise before the topic is named to a broker, which might create it with its own
    settings. Raises KafkaError.
    """
    consumer = AIOKafkaConsumer(
        **settings.kafka_client(),
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=REQUEST_MS,
    )
    partition = TopicPartition(topic, 0)
    try:
        await consumer.start()
        await raise_if_denied(consumer, [topic])
        expect(await consumer.topics())
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition] if past is None else past + 1
        records: list[Any] = []
        while await consumer.position(partition) < end:
            records += (await consumer.getmany(partition, timeout_ms=_POLL_MS)).get(partition, [])
    finally:
        # After an error its tasks may be cancelled, and `stop` raises that; the first error is the one to report.
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(consumer.stop(), return_exceptions=True), _STOP_S)
    return [record for record in records if record.offset < end]


@asynccontextmanager
async def started(producer: Any) -> AsyncIterator[Any]:
    """Start a producer for the block, and stop it in any case."""
    try:
        await producer.start()
        yield producer
    finally:
        with suppress(Exception):
            await asyncio.wait_for(producer.stop(), _STOP_S)
