"""What is known of each shard from outside: read from Redis and Kafka, for `segstream status` and for whoever waits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from segmentation.backfills import Backfill
from segmentation.events import iso
from stream.engine.status_board import ShardStatus
from stream.engine.step_name import StepName
from stream.kafka.clients import end_offsets
from stream.settings import Settings
from stream.storage.client import redis_client
from stream.storage.heads import StoreHead, decode_store_head
from stream.storage.keys import ShardKeys, status_key

STALE_S: Final = 10.0  # an owner that hasn't shown itself for this long is gone, or can't reach Redis


@dataclass(frozen=True, slots=True)
class ShardReport:
    """One shard, as Redis and Kafka see it."""

    step: str
    partition: int
    owner: str
    state: str
    reason: str
    detail: str
    offset: int
    end: int
    lag: int
    clock: str | None
    model: str
    rescoring: bool
    customers: int
    due: int
    backfills: tuple[Backfill, ...]  # those that mute their customers


def input_topic(settings: Settings, step: str) -> str:
    """What a step reads. Raises ValueError where there is no such step."""
    return settings.orders_topic if StepName(step) is StepName.SCORING else settings.changes_topic


def report(settings: Settings, step: str) -> list[ShardReport]:
    """Every shard of a step, in the order of the partitions."""
    topic = input_topic(settings, step)
    ends = asyncio.run(end_offsets(settings, topic))
    rows = []
    with redis_client(settings) as redis:
        shown = cast("dict[bytes, bytes]", redis.hgetall(status_key(settings.group, topic)))
        for partition in sorted(ends):
            keys = ShardKeys(settings.group, topic, partition)
            raw = redis.get(keys.head)
            head = decode_store_head(raw) if isinstance(raw, bytes) else None
            told = shown.get(str(partition).encode())
            status = msgspec.json.decode(told, type=ShardStatus) if told else None
            rows.append(
                _row(step, partition, ends[partition], head, status, redis.hlen(keys.states), redis.zcard(keys.due))
            )
    return rows


def _row(
    step: str, partition: int, end: int, head: StoreHead | None, status: ShardStatus | None, customers: Any, due: Any
) -> ShardReport:
    gone = status is None or time.time() - status.at > STALE_S
    state = "no owner" if status is None or (gone and status.state != "quarantined") else status.state
    offset = head.offset if head else 0
    return ShardReport(
        step=step,
        partition=partition,
        owner=status.owner if status else "",
        state=state,
        reason=status.reason if status else "",
        detail=status.detail if status else "",
        offset=offset,
        end=end,
        lag=max(end - offset, 0),
        clock=iso(head.clock) if head and head.clock >= 0 else None,
        model=head.version if head else "",
        rescoring=head is not None and head.cursor is not None,
        customers=customers,
        due=due,
        backfills=tuple(row for row in head.backfills.rows if not row.closed) if head else (),
    )


def settled(rows: list[ShardReport]) -> bool:
    """Whether everything that was sent has been scored."""
    return all(row.lag == 0 and not row.rescoring for row in rows)


def open_backfills(rows: list[ShardReport], expiry_ms: int) -> list[str]:
    """A line for each back-fill that isn't finished everywhere."""
    found: dict[str, list[Backfill]] = {}
    for row in rows:
        for backfill in row.backfills:
            found.setdefault(backfill.id, []).append(backfill)
    return [
        f"back-fill {name} is open on {len(parts)} of {len(rows)} shards since {iso(min(p.since for p in parts))}, its last record came at "
        f"{iso(max(p.last for p in parts))}: its customers are muted until `segstream backfill` ends it, or until "
        f"{iso(max(p.last for p in parts) + expiry_ms)} if nothing more comes"
        for name, parts in sorted(found.items())
    ]
