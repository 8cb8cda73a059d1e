"""Campaigns in a storm: profiles while it rages, and the check of the decisions at its end."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

from stream.kafka.clients import end_offsets
from tests.recovery.rig import checker
from tests.recovery.rig.campaign_checker import DecidedRun, violations
from tests.recovery.rig.campaign_table import ReadTable
from tests.recovery.rig.profile_feed import ProfileFeed
from tests.recovery.rig.world import PROGRESS_S, SETTLE_S, RecoveryWorld
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from stream.settings import Settings

RULES: Final = ROOT / "tests" / "simulation" / "rules.yaml"
LAST_ORDERS: Final = 200
INTERVAL_S: Final = 0.3


async def keep_sending_profiles(world: RecoveryWorld, enough: asyncio.Event) -> None:
    """Send profiles of the customers who order."""
    feed = ProfileFeed(world.rng.randrange(1 << 30), world.settings.partitions)
    while world.fleet.dispatchers and not enough.is_set():
        if customers := world.orders.customers():
            await world.feeder.send_profiles(feed.some(customers, world.orders.at_ms, time.time_ns() // 1_000_000))
        await asyncio.sleep(INTERVAL_S)


async def have_last_words(world: RecoveryWorld) -> None:
    """Let customers order once more, when it is known what each of them consents to."""
    await settled(world)
    feed = ProfileFeed(random.Random(world.rng.random()).randrange(1 << 30), world.settings.partitions)
    await world.feeder.send_profiles(feed.last(world.orders.customers(), world.orders.at_ms))
    await settled(world)
    world.rests.append(time.time_ns() // 1_000_000)
    await world.feed(LAST_ORDERS)


async def settled(world: RecoveryWorld) -> None:
    """Wait until all is decided, and read, that was sent and scored so far. Start dispatchers that are missing."""
    await world.at_rest()
    settings = world.settings
    topics = settings.changes_topic, settings.profiles_topic, settings.orders_topic
    ends = {topic: await end_offsets(settings, topic) for topic in topics}
    before: object = None
    deadline = time.monotonic() + SETTLE_S
    while True:
        world.fleet.restart_ended()
        for index in world.fleet.dispatchers - set(world.fleet.running):
            world.fleet.start(index)
        heads = [shard.head for shard in await asyncio.to_thread(_shards, settings)]
        if all(_is_there(head, {topic: end.get(p, 0) for topic, end in ends.items()}, settings)
               for p, head in enumerate(heads)):  # fmt: skip
            return
        now = [(head.get("offset"), head.get("sides")) for head in heads]
        if now != before:
            before, deadline = now, time.monotonic() + SETTLE_S
        if time.monotonic() > deadline:
            raise AssertionError(f"no progress of campaigns: heads {heads}, ends {ends}; {world.stuck()}")
        await asyncio.sleep(PROGRESS_S)


def _is_there(head: dict[str, object], ends: dict[str, int], settings: Settings) -> bool:
    sides = head.get("sides", {})
    assert isinstance(sides, dict)
    reached = {**sides, settings.changes_topic: head.get("offset", 0)}
    return bool(head) and all(reached.get(topic, 0) >= end for topic, end in ends.items())


def _shards(settings: Settings) -> list[checker.ShardContent]:
    return checker.read_shards(settings, settings.changes_topic)


async def judge_campaigns(world: RecoveryWorld) -> int:
    """Check what was decided. Return the number of decisions. Raises AssertionError."""
    await settled(world)
    settings = world.settings
    dead = await checker.rows_of(settings, settings.changes_dead_letters_topic)
    run = DecidedRun(
        moves=await checker.rows_of(settings, settings.changes_topic),
        decisions=await checker.rows_of(settings, settings.actions_topic),
        dead=dead,
        heads=await checker.rows_of(settings, settings.heads_topic("campaigns")),
        shards=await asyncio.to_thread(_shards, settings),
        profiles=await checker.rows_of(settings, settings.profiles_topic),
        orders=await checker.rows_of(settings, settings.orders_topic),
        rests=world.rests,
    )
    adopts = settings.model_moves == "adopt"
    if wrong := violations(
        run, ReadTable(RULES.read_text("utf-8")), adopts=adopts, event_time=settings.time == "event"
    ):
        raise AssertionError("\n".join([f"{len(wrong)} violations of campaigns:", *wrong]))
    return len(run.decisions)
