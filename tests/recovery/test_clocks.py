"""Workers with a wrong wall clock, and workers that return after a week."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.event_text import instant
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.forecast import Ahead, moves_ahead
from segmentation.partitioners import murmur2
from stream.kafka.clients import read_topic
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.storage.states import read_states
from tests.recovery.rig.feed import DAY_MS, FeedRecord, variant
from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.world import eventually, settings_on, world

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(600)]

CUSTOMERS = 400
WEEK_MS = 7 * DAY_MS


async def test_a_clock_that_jumps_never_takes_a_shard_back(servers: RigServers, tmp_path: Path, seed: int) -> None:
    """In wall time moves depend on the worker's clock: one owner's jumps ahead, the next owner's is right."""
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
        # The checker reads the moves' marks: the clock never goes back.
        assert await made.wrong_alone() == []


def orders(settings: Settings, now_ms: int) -> list[FeedRecord]:
    """Return one order for each customer, up to 25 days old."""
    sent = []
    for number in range(CUSTOMERS):
        name, at_ms = f"customer-{number}", now_ms - number * (DAY_MS // 16 + 7_919)
        event = OrderPlaced(
            id=name, order_id=name, customer_id=name, occurred_at=instant(at_ms), amount=Amount("90.00", "USD")
        )
        sent.append(FeedRecord(name.encode(), encode(event), murmur2(name.encode(), settings.partitions)))
    return sent


def foreseen(servers: RigServers, settings: Settings, as_of_ms: int, until_ms: int) -> list[Ahead]:
    """Return the moves that time alone will make until then."""
    model = CompiledModel.of(variant(0), settings.group, {})
    with servers.redis() as redis:
        keys = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
        rows = [row for shard in keys for row in read_states(redis, shard)]
    return sorted(moves_ahead(rows, as_of_ms, until_ms, ScoringContext.of(model, 1, settings.rules)))


async def published(settings: Settings) -> list[dict[str, Any]]:
    return [msgspec.json.decode(record.value) for record in await read_topic(settings, settings.changes_topic)]


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


async def test_after_a_week_without_workers_each_overdue_move_is_published_once_with_its_own_instant(
    servers: RigServers, tmp_path: Path, seed: int
) -> None:
    settings = settings_on(servers, partitions=2, time="wall")
    async with world(servers, tmp_path, seed, settings, garbage=False) as rig:
        rig.fleet.start(0)
        await rig.feeder.send(orders(settings, time.time_ns() // 1_000_000))
        assert await rig.feeder.activate()
        await rig.settled()

        async def everyone() -> bool:
            return len(await published(settings)) >= CUSTOMERS

        await eventually(everyone, 60.0, "everyone has a segment")
        rig.fleet.kill(0)
        before = await published(settings)
        last = max(ms_of(move["scored_at"]) for move in before)
        expected = foreseen(servers, settings, last, last + WEEK_MS)
        assert len(expected) > 50
        rig.fleet.set_clock(0, WEEK_MS)
        rig.fleet.start(0)

        async def caught_up() -> bool:
            return len(await published(settings)) >= len(before) + len(expected)

        await eventually(caught_up, 60.0, "publication of the week's moves")
        rig.fleet.kill(0)
        # The forecast doesn't cover the time after the week, while this test ran.
        overdue = [move for move in await published(settings) if last < ms_of(move["occurred_at"]) <= last + WEEK_MS]
        found = sorted((move["customer_id"].encode(), ms_of(move["occurred_at"])) for move in overdue)
        assert found == [(move.key, move.at) for move in expected]
        assert {move["cause"] for move in overdue} <= {"silence", "window"}
        assert all(ms_of(move["scored_at"]) >= last + WEEK_MS - 1_000 for move in overdue)
        # The clock is right again, a week behind the published moves: none is published twice, and nothing goes back.
        rig.fleet.set_clock(0, 0)
        rig.fleet.start(0)
        await rig.feed(30)
        await rig.settled()
        assert await rig.wrong_alone() == []
