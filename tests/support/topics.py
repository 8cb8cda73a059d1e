"""Topics as operators and retention change them: cut, deleted, made anew, with more partitions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete

from stream.kafka import topics
from stream.kafka.clients import end_offsets
from stream.settings import Settings
from tests.support.engine.toy_engine import eventually


@asynccontextmanager
async def admin_of(settings: Settings) -> AsyncIterator[Any]:
    """Connect an admin client."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def cut(settings: Settings, topic: str, ends: Mapping[int, int] | None = None) -> None:
    """Delete the records of the topic before these offsets, as its retention would. None: all records."""
    before = await end_offsets(settings, topic) if ends is None else ends
    wanted = {TopicPartition(topic, p): RecordsToDelete(before_offset=end) for p, end in before.items()}
    async with admin_of(settings) as admin:
        await admin.delete_records(wanted)


async def delete_topic(settings: Settings, topic: str) -> None:
    """Delete the topic, and wait until it is gone."""
    async with admin_of(settings) as admin:
        await admin.delete_topics([topic])

        async def deleted() -> bool:
            return topic not in await admin.list_topics()

        await eventually(deleted, what=f"the deletion of {topic}")


async def recreate(settings: Settings, topic: str) -> None:
    """Delete the topic, and create it anew as `segstream topics create` does."""
    await delete_topic(settings, topic)
    await topics.create(settings)


async def add_partitions(settings: Settings, topic: str, count: int) -> None:
    """Let the topic have so many partitions."""
    async with admin_of(settings) as admin:
        await admin.create_partitions({topic: NewPartitions(total_count=count)})
