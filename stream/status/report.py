"""The state of each shard as seen from outside, read from Redis and Kafka: for `segstream status` and the demo."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, cast

import msgspec
from redis.exceptions import NoPermissionError, ResponseError

from segmentation.backfills import Backfill
from segmentation.event_text import iso
from stream.kafka.clients import TopicUnusable, check_partition_count, input_ends
from stream.kafka.step_name import StepName
from stream.kafka.streams import streams_of
from stream.settings import Settings
from stream.status.board import ShardStatus
from stream.storage.client import redis_client
from stream.storage.heads import StoreHead
from stream.storage.keys import ShardKeys, probe_key, status_key
from stream.storage.reads import ShardUnreadable, read_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis

STALE_S: Final = 10.0  # an owner whose status is older has died, or can't reach Redis
QUARANTINED: Final = "quarantined"
UNOWNED: Final = frozenset({"no owner", "released"})
TAKING_OVER: Final = "taking over"


@dataclass(frozen=True, slots=True)
class ShardReport:
    """One shard, as Redis and Kafka have it. An unreadable head: quarantined, with offset 0 and no model."""

    step: str
    partition: int
    owner: str
    state: str
    reason: str
    detail: str
    offset: int
    end: int
    lag: int  # to `end`, the last stable offset
    high_watermark: int
    held_back: int  # records between the two: an open transaction holds them back
    held_back_s: float  # how long `end` hasn't moved meanwhile, as its owner has seen it
    clock: str | None
    model: str
    rescoring: bool
    customers: int
    due: int
    backfills: tuple[Backfill, ...]  # those that mute their customers
    side_lag: dict[str, int] = field(default_factory=dict)  # records of side inputs that aren't joined, by source
    former_states: int = 0  # not yet looked at for `segstream migrate`: they may be of a former format
    warning: str = ""  # the shard works, but somebody should look


def input_topic(settings: Settings, step: str) -> str:
    """Return the input topic of a step. Raises ValueError where there is no such step."""
    return settings.orders_topic if StepName(step) is StepName.SCORING else settings.changes_topic


def report(settings: Settings, step: str, now_ms: int) -> list[ShardReport]:
    """Read every shard of a step, in the order of the partitions. Raises KafkaUnreachable, RedisUnreachable."""
    topic = input_topic(settings, step)
    ends = asyncio.run(input_ends(settings, topic))
    sides = _side_ends(settings, step)
    resized = _resized(settings, topic, len(ends))
    with redis_client(settings) as redis:
        found = cast("dict[bytes, bytes]", redis.hgetall(status_key(settings.group, topic)))
        shown = {int(partition): msgspec.json.decode(text, type=ShardStatus) for partition, text in found.items()}
        statuses = {p: resized or _current(shown.get(p), now_ms) for p in ends}
        unowned = [status for status in statuses.values() if status.state in UNOWNED]
        if unowned and (refusal := _refusal(redis, settings, topic)):
            for status in unowned:
                status.reason, status.detail = "redis_refuses_writes", refusal
        return [
            _row(redis, ShardKeys(settings.group, topic, partition), step, ends[partition], statuses[partition], sides)
            for partition in sorted(ends)
        ]


def _side_ends(settings: Settings, step: str) -> dict[str, tuple[str, dict[int, tuple[int, int]]]]:
    """Return each side input's topic and its ends, by source. Without a topic that doesn't exist: its owners say so."""
    found = {}
    for source, topic in streams_of(settings, step).sides.items():
        with suppress(TopicUnusable):
            found[source] = topic, asyncio.run(input_ends(settings, topic))
    return found


def _resized(settings: Settings, topic: str, found: int) -> ShardStatus | None:
    """Return the status of every shard where the input has another number of partitions; None: it hasn't.

    Their owners show the same within seconds. There may be none now.
    """
    try:
        check_partition_count(topic, found, settings.partitions)
    except TopicUnusable as error:
        return ShardStatus("", QUARANTINED, 0, "partitions_changed", str(error))
    return None


def _refusal(redis: Redis, settings: Settings, topic: str) -> str:
    """Return why Redis takes no writes, so that no owner can show itself; empty: it takes them, or says nothing."""
    try:
        redis.set(probe_key(settings.group, topic), b"", px=1)
    except NoPermissionError:  # it may be a user who reads only
        return ""
    except ResponseError as error:
        return f"Redis refuses writes: {error}. An owner can neither work nor show itself."
    return ""


def _current(status: ShardStatus | None, now_ms: int) -> ShardStatus:
    """Return the status as of now: a shard has no owner where the status is stale, but stays quarantined."""
    if status is None:
        return ShardStatus("", "no owner", 0)
    stale = now_ms / 1000 - status.at > STALE_S
    return replace(status, state="no owner") if stale and status.state != QUARANTINED else replace(status)


def _row(
    redis: Redis,
    keys: ShardKeys,
    step: str,
    ends: tuple[int, int],
    status: ShardStatus,
    sides: Mapping[str, tuple[str, dict[int, tuple[int, int]]]],
) -> ShardReport:
    end, high = ends
    head: StoreHead | None = None
    state, reason, detail = status.state, status.reason, status.detail
    try:
        head = read_head(redis, keys)
    except ShardUnreadable as error:
        # The owner shows the same once it reads the head. There may be no owner now.
        state, reason, detail = QUARANTINED, error.reason, str(error)
    offset = head.offset if head else 0
    return ShardReport(
        step=step,
        partition=keys.partition,
        owner=status.owner,
        state=state,
        reason=reason,
        detail=detail,
        offset=offset,
        end=end,
        lag=max(end - offset, 0),
        high_watermark=high,
        held_back=high - end,
        held_back_s=status.held_back_s if high > end else 0.0,
        clock=iso(head.clock_ms) if head and head.clock_ms is not None else None,
        model=head.version if head else "",
        rescoring=head is not None and head.cursor is not None,
        customers=redis.hlen(keys.states),
        due=redis.zcard(keys.due),
        backfills=tuple(row for row in head.backfills.rows if not row.closed) if head else (),
        side_lag={
            source: max(found[keys.partition][0] - head.sides[side], 0)
            for source, (side, found) in sides.items()
            if head and side in head.sides and keys.partition in found
        },
        former_states=_former_states(redis, keys, head),
        warning=status.warning,
    )


def _former_states(redis: Redis, keys: ShardKeys, head: StoreHead | None) -> int:
    """Count the customers whose states may be of a former format: those behind the cursor."""
    if head is None or head.rewritten is None:
        return 0
    begin = "(" + head.rewritten if head.rewritten else "-"
    return redis.zlexcount(keys.customers, begin, "+")


def settled(rows: list[ShardReport]) -> bool:
    """Return whether all records are taken, those of open transactions too, and no rescore is under way."""
    return all(row.lag == row.held_back == 0 and not any(row.side_lag.values()) and not row.rescoring for row in rows)


def migrated(rows: list[ShardReport]) -> bool:
    """Return whether every state is in the present format: each shard's head says so."""
    return all(row.reason != "redis_format" and not row.former_states for row in rows)


def owned(rows: list[ShardReport]) -> bool:
    """Return whether each shard has an owner that shows itself, and has taken it over or can't."""
    return all(row.state not in {*UNOWNED, TAKING_OVER} for row in rows)


def problems(rows: list[ShardReport]) -> list[str]:
    """Return a line for each kind of problem, with its shards: for them `segstream status` ends with 1."""
    found: list[str] = []
    for what, states in (("quarantined", {QUARANTINED}), ("failing", {"failing"}), ("without an owner", UNOWNED)):
        if shards := [str(row.partition) for row in rows if row.state in states]:
            which = f"all {len(rows)} shards are" if len(shards) == len(rows) else f"shards {', '.join(shards)}:"
            found.append(f"{which} {what}")
    if found and all(row.state in UNOWNED for row in rows):
        command = "worker" if rows[0].step == StepName.SCORING else "dispatch"
        found[-1] += f": no worker shows itself. Start `segstream {command}`"
    return found


def open_backfills(rows: list[ShardReport], expiry_ms: int) -> list[str]:
    """Return a line for each backfill that is open on any shard."""
    found: dict[str, list[Backfill]] = {}
    for row in rows:
        for backfill in row.backfills:
            found.setdefault(backfill.id, []).append(backfill)
    return [_open_line(name, parts, len(rows), expiry_ms) for name, parts in sorted(found.items())]


def _open_line(name: str, parts: list[Backfill], shards: int, expiry_ms: int) -> str:
    last = max(part.last for part in parts)
    return (
        f"backfill {name} is open on {len(parts)} of {shards} shards since {iso(min(part.since for part in parts))}, "
        f"its last record came at {iso(last)}: its customers are muted until `segstream backfill` ends it, or until "
        f"{iso(last + expiry_ms)} if nothing more comes"
    )


def retry_quarantined(settings: Settings, step: str, now_ms: int, only: int | None = None) -> list[int]:
    """Let the quarantined shards of a step, or one of them, try again; return their partitions."""
    asked = [
        row.partition
        for row in report(settings, step, now_ms)
        if row.state == "quarantined" and only in {None, row.partition}
    ]
    if asked:
        with redis_client(settings) as redis:
            redis.hdel(status_key(settings.group, input_topic(settings, step)), *map(str, asked))
    return asked
