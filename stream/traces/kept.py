"""The data that logs and files may still hold of an erased customer, and until when, as the broker and Redis say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import ResponseError

from segmentation.event_text import iso
from stream.kafka import topics
from stream.traces.places import topic_places

if TYPE_CHECKING:
    from redis import Redis

    from stream.kafka.topics import Retention
    from stream.settings import Settings


class RetainedData(msgspec.Struct, frozen=True):
    """Data of the customer that a log may still hold.

    `until`: the latest instant at which Kafka deletes what it holds today; None where no setting of the topic bounds
    it: with the policy "delete" it is kept for ever, with "compact" until a compaction.
    """

    topic: str
    holds: str
    policy: str  # Kafka's cleanup.policy
    until: str | None


class RedisFiles(msgspec.Struct, frozen=True):
    """Redis' own files, which hold earlier contents for a while. None: Redis doesn't say."""

    append_only_file: bool | None  # holds earlier commands until its next rewrite: BGREWRITEAOF begins one
    rewriting: bool | None  # a rewrite is under way or scheduled
    snapshot_at: str | None  # of the last snapshot file (RDB), which holds the contents of that time
    replicas: int | None  # connected ones: their files are as these


async def retained(settings: Settings, now_ms: int) -> list[RetainedData]:
    """Return what each log of the deployment may hold of a customer, by the log's retention. Raises TopicsError."""
    holds = {place.topic: place.holds for place in topic_places(settings) if place.holds}
    found = await topics.retention(settings, list(holds))
    return [_retained_in(topic, holds[topic], kept, now_ms) for topic, kept in found.items()]


def _retained_in(topic: str, holds: str, kept: Retention, now_ms: int) -> RetainedData:
    """Return what one log holds, and until when.

    >>> from stream.kafka.topics import Retention
    >>> _retained_in("orders", "events", Retention("delete", 86_400_000, 3_600_000, -1), 0).until
    '1970-01-02T01:00:00.000Z'
    """
    bounds = [after for after in (kept.deletes_after_ms(), kept.compacts_after_ms()) if after is not None]
    return RetainedData(topic, holds, kept.policy, iso(now_ms + min(bounds)) if bounds else None)


def redis_files(redis: Redis) -> RedisFiles:
    """Return the state of Redis' files. A Redis that doesn't allow INFO says nothing. Raises RedisError."""
    try:
        persistence: dict[str, Any] = redis.info("persistence")
        replication: dict[str, Any] = redis.info("replication")
    except ResponseError:
        return RedisFiles(None, None, None, None)
    saved_s = persistence.get("rdb_last_save_time")
    on = persistence.get("aof_enabled")
    busy = persistence.get("aof_rewrite_in_progress"), persistence.get("aof_rewrite_scheduled")
    return RedisFiles(
        append_only_file=None if on is None else bool(on),
        rewriting=None if busy == (None, None) else any(busy),
        snapshot_at=None if saved_s is None else iso(int(saved_s) * 1000),
        replicas=replication.get("connected_slaves"),
    )
