"""Workers whose wall clock is wrong, or who come back after a week."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.events import Amount, OrderPlaced, encode, instant
from segmentation.forecast import Ahead, moves_ahead
from segmentation.partitioners import murmur2
from stream.kafka.clients import read_topic
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_states
from tests.recovery.rig.feed import DAY_MS, FeedRecord, variant
from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.world import eventually, settings_on, world

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(600)]

CUSTOMERS = 400
WEEK_MS = 7 * DAY_MS


async def test_a_clock_that_jumps_never_takes_a_shard_back(servers: RigServers, tmp_path: Path, seed: int) -> None:
    """In wall time, where moves go by the worker's clock: it jumps ahead under one owner, the next one's is right."""
    hour_ms = 3_600_000
    settings = settings_on(servers, partitions=1, time="wall")
    async with world(servers, tmp_path, seed, settings, garbage=False) as made:
        made.fleet.start(0)
        await made.feed(100)
        assert await made.feeder.activate()
        await made.settled()
        for number, jump_ms in enumerate((-hour_ms, 50 * hour_ms, -50 * hour_ms, 0)):
            made.fleet.set_clock(0, jump_ms)
            await made.feed(60)
            await made.settled()
            if number % 2:
                made.fleet.kill(0)
                made.fleet.start(0)
        await made.feed(60)
        await made.settled()
        # The checker's marks: the clock behind the moves never goes back.
        assert await made.wrong_alone() == []


def orders(settings: Settings, now_ms: int) -> list[FeedRecord]:
    """One order each, up to 25 days old."""
    sent = []
    for number in range(CUSTOMERS):
        name, at_ms = f"customer-{number}", now_ms - number * (DAY_MS // 16 + 7_919)
        event = OrderPlaced(
            id=name, order_id=name, customer_id=name, occurred_at=instant(at_ms), amount=Amount("90.00", "USD")
        )
        sent.append(FeedRecord(name.encode(), encode(event), murmur2(name.encode(), settings.partitions)))
    return sent


def foreseen(servers: RigServers, settings: Settings, as_of_ms: int, until_ms: int) -> list[Ahead]:
    """What time alone will do to them until then."""
    model = CompiledModel.of(variant(0), settings.group, {})
    with servers.redis() as redis:
        keys = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
        rows = [row for shard in keys for row in read_states(redis, shard)]
    return sorted(moves_ahead(rows, as_of_ms, until_ms, ScoringContext.of(model, 1, settings.rules)))


async def told(settings: Settings) -> list[dict[str, Any]]:
    return [msgspec.json.decode(record.value) for record in await read_topic(settings, settings.changes_topic)]


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


async def test_after_a_week_without_workers_each_overdue_move_is_told_once_with_its_own_instant(
    servers: RigServers, tmp_path: Path, seed: int
) -> None:
    settings = settings_on(servers, partitions=2, time="wall")
    async with world(servers, tmp_path, seed, settings, garbage=False) as shop:
        shop.fleet.start(0)
        await shop.feeder.send(orders(settings, time.time_ns() // 1_000_000))
        assert await shop.feeder.activate()
        await shop.settled()

        async def everyone() -> bool:
            return len(await told(settings)) >= CUSTOMERS

        await eventually(everyone, 60.0, "everyone has a segment")
        shop.fleet.kill(0)
        before = await told(settings)
        last = max(ms_of(move["scored_at"]) for move in before)
        expected = foreseen(servers, settings, last, last + WEEK_MS)
        assert len(expected) > 50
        shop.fleet.set_clock(0, WEEK_MS)
        shop.fleet.start(0)

        async def caught_up() -> bool:
            return len(await told(settings)) >= len(before) + len(expected)

        await eventually(caught_up, 60.0, "the week is told")
        shop.fleet.kill(0)
        # Of the instants after the week, as long as this test took, nothing was foreseen.
        overdue = [move for move in await told(settings) if last < ms_of(move["occurred_at"]) <= last + WEEK_MS]
        found = sorted((move["customer_id"].encode(), ms_of(move["occurred_at"])) for move in overdue)
        assert found == [(move.key, move.at) for move in expected]
        assert {move["cause"] for move in overdue} <= {"silence", "window"}
        assert all(ms_of(move["scored_at"]) >= last + WEEK_MS - 1_000 for move in overdue)
        # The clock is right again, a week behind what was told: nothing is told a second time, or goes back.
        shop.fleet.set_clock(0, 0)
        shop.fleet.start(0)
        await shop.feed(30)
        await shop.settled()
        assert await shop.wrong_alone() == []
