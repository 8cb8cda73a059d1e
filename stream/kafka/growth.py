"""More partitions for the topics of a deployment, and whether anyone still works on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka.admin import NewPartitions
from aiokafka.errors import for_code

from stream.kafka.topics import TopicsError, await_leaders, connected_admin, described_topics, specs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.settings import Settings


async def partition_counts(settings: Settings) -> dict[str, int]:
    """Return the partition counts of the deployment's topics that exist and have one partition a shard."""
    async with connected_admin(settings) as admin:
        existing = await described_topics(admin)
    sharded = [spec.name for spec in specs(settings) if spec.partitions == settings.partitions != 1]
    return {name: len(existing[name]) for name in sharded if name in existing}


async def grow(settings: Settings) -> dict[str, int]:
    """Give every topic as many partitions as the settings say. Return the former counts of those that had fewer.

    No record moves, and Kafka can't undo it. Raises TopicsError.
    """
    counts = await partition_counts(settings)
    smaller = {name: count for name, count in counts.items() if count < settings.partitions}
    if smaller:
        async with connected_admin(settings) as admin:
            await admin.create_partitions({name: NewPartitions(settings.partitions) for name in smaller})
            await await_leaders(admin, dict.fromkeys(smaller, settings.partitions))
    return smaller


async def members(settings: Settings, groups: Sequence[str]) -> dict[str, int]:
    """Return how many consumers each of these groups has now. Groups without any are left out. Raises TopicsError."""
    found: dict[str, int] = {}
    async with connected_admin(settings) as admin:
        for group in groups:
            for response in await admin.describe_consumer_groups([group]):
                for description in response.groups:
                    if code := description[0]:
                        raise TopicsError(
                            f"the group {group} can't be described: {for_code(code).__name__}.",
                            hint="Try again; if it stays so, look at the brokers' logs.",
                        )
                    if count := len(description[5]):
                        found[group] = count
    return found
