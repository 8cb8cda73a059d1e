"""Kafka clients that connect within seconds or raise one error that says what to do, and small reads by them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from stream.errors import SegstreamError
from stream.kafka.aiokafka_internals import all_partitions, describe_topics, end_transactions_once, transaction_error
from stream.kafka.refusals import KafkaUnreachable, explained

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stream.settings import DeploymentSettings


CONNECT_TIMEOUT_S: Final = 10.0
_POLL_MS: Final = 200
_READ_TIMEOUT_S: Final = 30.0

__all__ = ["KafkaUnreachable"]
_DENIED: Final = TopicAuthorizationFailedError.errno

Client = TypeVar("Client", AIOKafkaConsumer, AIOKafkaProducer)


class TopicUnusable(SegstreamError):
    """A topic doesn't exist, or isn't what the settings say."""


@asynccontextmanager
async def kafka_consumer(settings: DeploymentSettings, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """Connect a consumer without a group that reads committed records. Raises KafkaUnreachable, also from the block."""
    consumer = AIOKafkaConsumer(
        **settings.kafka_client(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        # A dead letter carries its whole record.
        max_partition_fetch_bytes=2 * settings.max_event_bytes,
        **{"isolation_level": "read_committed", **options},
    )
    async with _connected(settings, consumer):
        yield consumer


@asynccontextmanager
async def kafka_producer(settings: DeploymentSettings, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Connect a producer that writes records once each, in the order of the sends. Raises KafkaUnreachable."""
    producer = AIOKafkaProducer(**settings.kafka_client(), acks="all", enable_idempotence=True, **options)
    end_transactions_once(producer)
    async with _connected(settings, producer):
        yield producer


@asynccontextmanager
async def _connected(settings: DeploymentSettings, client: Client) -> AsyncIterator[Client]:
    try:
        try:
            await asyncio.wait_for(client.start(), CONNECT_TIMEOUT_S)
        except OSError as error:
            raise await explained(settings, error) from error
        yield client
    # Other errors of the block aren't Kafka's: a file that can't be written, a closed stdout.
    except (KafkaError, TimeoutError) as error:
        first = transaction_error(client) if isinstance(client, AIOKafkaProducer) else None
        raise await explained(settings, first if isinstance(first, KafkaError) else error) from error
    finally:
        # After an error it may hang, or raise (a CancelledError too); the first error is the one to report.
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(client.stop(), return_exceptions=True), CONNECT_TIMEOUT_S)


async def partitions_of(client: AIOKafkaConsumer | AIOKafkaProducer, topics: Sequence[str]) -> list[TopicPartition]:
    """Return all partitions of these topics.

    Raises TopicUnusable where one doesn't exist, TopicAuthorizationFailedError where this user may not know it.
    """
    existing = await all_partitions(client)
    if missing := [topic for topic in topics if topic not in existing]:
        await raise_if_denied(client, missing)
        raise TopicUnusable(f"no topic {', '.join(missing)}.", hint="`segstream topics create` makes all of them.")
    return [TopicPartition(topic, p) for topic in topics for p in existing[topic]]


async def raise_if_denied(client: AIOKafkaConsumer | AIOKafkaProducer, topics: Sequence[str]) -> None:
    """Raise TopicAuthorizationFailedError where Kafka hides one of these topics from this user.

    A list of all topics leaves out those that the user may not describe, as if they didn't exist.
    """
    found = (await describe_topics(client, topics))["topics"]
    if denied := {topic["topic"] for topic in found if topic["error_code"] == _DENIED}:
        raise TopicAuthorizationFailedError(denied)


def check_partition_count(topic: str, found: int, expected: int) -> None:
    """Check that a topic has as many partitions as the settings say. Raises TopicUnusable."""
    if found != expected:
        raise TopicUnusable(
            f"topic {topic!r} has {found} partitions, expected {expected} (SEGSTREAM_PARTITIONS).",
            hint=f"Set SEGSTREAM_PARTITIONS={found} everywhere if the topic always had {found}. If partitions were "
            f"added, run `segstream reshard --partitions {found}`: customers change shards.",
        )


async def read_topic(settings: DeploymentSettings, topic: str) -> list[Any]:
    """Read a small topic to its present end. Return the committed records, those of a partition in their order.

    Raises KafkaUnreachable, TopicUnusable.
    """
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [topic])
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[Any] = []
        async with asyncio.timeout(_READ_TIMEOUT_S):
            while not await at_end(consumer, ends):
                for some in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                    records += some
        return records


async def at_end(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    """Return whether a consumer's positions have reached these offsets."""
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return False
    return True


async def end_offsets(settings: DeploymentSettings, topic: str) -> dict[int, int]:
    """Return the offset behind the last committed record by partition. Raises KafkaUnreachable, TopicUnusable."""
    async with kafka_consumer(settings) as consumer:
        ends = await consumer.end_offsets(await partitions_of(consumer, [topic]))
    return {tp.partition: end for tp, end in ends.items()}


async def input_ends(settings: DeploymentSettings, topic: str) -> dict[int, tuple[int, int]]:
    """Return (the last stable offset, the high watermark) by partition. Raises KafkaUnreachable, TopicUnusable.

    Between the two are the records of open transactions, and all behind them.
    """
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [topic])
        stable = await consumer.end_offsets(partitions)
    async with kafka_consumer(settings, isolation_level="read_uncommitted") as consumer:
        high = await consumer.end_offsets(partitions)
    return {tp.partition: (stable[tp], max(stable[tp], high[tp])) for tp in partitions}
