"""The worker's membership in a consumer group: which partitions it is assigned, and the group's offsets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition

from stream.kafka.aiokafka_internals import StickyPartitionAssignor, describe_topics, group_identity
from stream.kafka.refusals import denial, explained
from stream.settings import Settings

log = logging.getLogger(__name__)

START_S: Final = 60.0
UNKNOWN_TOPIC: Final = 3  # Kafka's UNKNOWN_TOPIC_OR_PARTITION
HEARTBEAT_MS: Final = 300  # a rebalance is learnt from a heartbeat's answer: for so long a shard may have no owner


class GroupMembership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """This worker's membership in a consumer group."""

    def __init__(self, settings: Settings, topic: str, group: str) -> None:
        """Connect to nothing yet; `start` does."""
        self._settings = settings
        self._topic = topic
        self._group = group
        self._consumer = AIOKafkaConsumer(
            **settings.kafka_client(),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # nothing is read, but "none" raises where no offset is committed
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=min(HEARTBEAT_MS, settings.session_timeout_ms // 5),
            max_partition_fetch_bytes=1_024,
        )
        self.assigned: frozenset[int] = frozenset()
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Join the group. Raises KafkaUnreachable."""
        try:
            await asyncio.wait_for(self._consumer.start(), START_S)
        except (aiokafka.errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise await explained(self._settings, error) from error
        self._consumer.subscribe([self._topic], listener=self)

    async def stop(self) -> None:
        """Leave the group."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._consumer.stop(), 10)

    async def poll(self) -> None:
        """Poll once to stay a member. No record comes, because all partitions are paused. Raises KafkaDenied."""
        try:
            await self._consumer.getmany(timeout_ms=500)
        except aiokafka.errors.KafkaError as error:
            if denied := denial(self._settings, error, f"the consumer group {self._group}"):
                raise denied from error
            raise

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Do nothing: every rebalance revokes all partitions first, also those that the worker keeps."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Publish the assignment and no more: this call delays heartbeats, and aiokafka swallows its exceptions."""
        self._consumer.pause(*assigned)
        self.assigned = frozenset(tp.partition for tp in assigned)
        self.changed.set()

    def identity(self) -> tuple[int, str]:
        """Return the generation and this worker's member id, as of now."""
        return group_identity(self._consumer)

    async def count_partitions(self) -> int | None:
        """Return how many partitions the topic has now, 0 where it doesn't exist; None: Kafka doesn't say."""
        try:
            metadata = await asyncio.wait_for(describe_topics(self._consumer, [self._topic]), 5)
        # An assertion of aiokafka: the broker that it chose has just left the cluster.
        except (aiokafka.errors.KafkaError, TimeoutError, OSError, AssertionError) as error:
            log.info("%s: its partitions can't be counted: %s", self._topic, error)
            return None
        (topic,) = metadata["topics"]
        if topic["error_code"] == UNKNOWN_TOPIC:
            return 0
        return None if topic["error_code"] else len(topic["partitions"])

    async def confirm(self, partition: int) -> bool:
        """Return whether the coordinator still accepts an offset of this partition from this member and generation.

        The offset is the committed one; nothing reads it back. Raises KafkaDenied: asking again wouldn't help.
        """
        tp = TopicPartition(self._topic, partition)
        if partition not in self.assigned:
            return False
        try:
            offset = await asyncio.wait_for(self._consumer.committed(tp), 5)
            await asyncio.wait_for(self._consumer.commit({tp: OffsetAndMetadata(offset or 0, "")}), 5)
        except (aiokafka.errors.KafkaError, TimeoutError, OSError) as error:
            if denied := denial(self._settings, error):
                raise denied from error
            log.info("%s-%d: the membership can't be confirmed: %s", self._topic, partition, error)
            return False
        return True

    async def report(self, offsets: Mapping[int, int]) -> bool:
        """Commit the shards' offsets, which only lag monitors read. Return whether Kafka accepted them."""
        assigned = {
            TopicPartition(self._topic, p): OffsetAndMetadata(n, "") for p, n in offsets.items() if p in self.assigned
        }
        try:
            if assigned:
                await asyncio.wait_for(self._consumer.commit(assigned), 5)
        except (aiokafka.errors.KafkaError, TimeoutError, OSError) as error:
            log.info("%s: the group's offsets can't be committed: %s", self._topic, error)
            return False
        return True
