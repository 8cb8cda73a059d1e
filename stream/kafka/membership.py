"""The worker's membership in a consumer group: which partitions are its own, and the group's offsets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition

from stream.kafka.aiokafka_internals import StickyPartitionAssignor, group_identity
from stream.settings import Settings

log = logging.getLogger(__name__)

HEARTBEAT_MS: Final = 300  # a heartbeat's answer tells of a rebalance: so long a shard may be nobody's


class GroupMembership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """This worker's membership in a consumer group."""

    def __init__(self, settings: Settings, topic: str, group: str) -> None:
        """Call `start`."""
        self._topic = topic
        self._consumer = AIOKafkaConsumer(
            **settings.kafka_client(),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # never used, but "none" raises without a committed offset
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=min(HEARTBEAT_MS, settings.session_timeout_ms // 5),
            max_partition_fetch_bytes=1_024,
        )
        self.assigned: frozenset[int] = frozenset()
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Join the group."""
        await self._consumer.start()
        self._consumer.subscribe([self._topic], listener=self)

    async def stop(self) -> None:
        """Leave the group."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._consumer.stop(), 10)

    async def poll(self) -> None:
        """Stay a member. No record comes: all partitions are paused."""
        await self._consumer.getmany(timeout_ms=500)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Every rebalance revokes everything: a revocation stops nothing."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Only handed on: there is no heartbeat while this runs, and its exceptions are swallowed."""
        self._consumer.pause(*assigned)
        self.assigned = frozenset(tp.partition for tp in assigned)
        self.changed.set()

    def identity(self) -> tuple[int, str]:
        """Return the generation and this worker's member id, as of now."""
        return group_identity(self._consumer)

    async def confirm(self, partition: int) -> bool:
        """Whether the coordinator still takes an offset of this partition from this member and generation.

        The offset is the one that is committed already; nobody reads it back.
        """
        tp = TopicPartition(self._topic, partition)
        if partition not in self.assigned:
            return False
        try:
            offset = await asyncio.wait_for(self._consumer.committed(tp), 5)
            await asyncio.wait_for(self._consumer.commit({tp: OffsetAndMetadata(offset or 0, "")}), 5)
        except (aiokafka.errors.KafkaError, TimeoutError, OSError) as error:
            log.info("%s-%d: membership isn't confirmed: %s", self._topic, partition, error)
            return False
        return True

    async def report(self, offsets: Mapping[int, int]) -> bool:
        """Commit how far the shards are, for lag monitors alone; whether that went well. Nobody reads it back."""
        mine = {
            TopicPartition(self._topic, p): OffsetAndMetadata(n, "") for p, n in offsets.items() if p in self.assigned
        }
        try:
            if mine:
                await asyncio.wait_for(self._consumer.commit(mine), 5)
        except (aiokafka.errors.KafkaError, TimeoutError, OSError) as error:
            log.info("%s: the group's offsets aren't reported: %s", self._topic, error)
            return False
        return True
