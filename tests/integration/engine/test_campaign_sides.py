"""The step of campaigns with its side inputs, on the real Kafka and Redis: consents, waits, orders, merges, faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from redis import Redis

from segmentation.campaign_state import CampaignState
from segmentation.event_text import instant, iso
from segmentation.events import Amount, CustomerMerged, OrderPlaced, encode
from segmentation.output_events import Cause, SegmentChanged
from segmentation.partitioners import murmur2
from stream.clock import now_ms
from stream.kafka import topics
from stream.kafka.streams import streams_of
from stream.repair.rebuild import Rebuilder
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_head
from stream.worker.steps import campaign_step
from tests.support.engine.toy_engine import Engine, engine, eventually, produce, read_all

pytestmark = pytest.mark.slow

RULES = """
version: 2
rules:
- name: hello
  when: {to: [Champions]}
  then: {action: Say hello, channel: email}
- name: win-back
  when: {to: [Lost]}
  then: {action: Win back, channel: email}
  delay: 1h
  unless: order
  goal: {order_within: 30d}
"""
WAIT_MS = 3_600_000
PARTITIONS = 2


@pytest.fixture
async def settings(settings_for: Callable[..., Settings], tmp_path: Path) -> Settings:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES, "utf-8")
    made = settings_for(partitions=PARTITIONS, due_poll_ms=200, rules_file=rules, time="wall")
    await topics.create(made)
    return made


def moved(customer: str, to: str, at: int, sequence: int = 1) -> tuple[bytes, bytes]:
    event = SegmentChanged(
        id=f"{customer}-{sequence}", customer_id=customer, sequence=sequence, from_=None, to=to, cause=Cause.SILENCE,
        occurred_at=iso(at), scored_at=iso(at), model_version="0123456789abcdef", rfm=None, before=None, distances={},
        next=None, causation_id=None,
    )  # fmt: skip
    return customer.encode(), encode(event)


async def move(settings: Settings, *moves: tuple[bytes, bytes]) -> None:
    await produce(settings, list(moves), settings.changes_topic)


async def deny(settings: Settings, *customers: str, word: str = "denied", at: int | None = None) -> None:
    rows: list[dict[str, Any]] = [
        {
            "type": "customer.profile", "id": f"{name}-{at}", "customer_id": name,
            "occurred_at": iso(at or now_ms()), "consent": {"email": word},
        }
        for name in customers
    ]  # fmt: skip
    await produce(
        settings, [(row["customer_id"].encode(), msgspec.json.encode(row)) for row in rows], settings.profiles_topic
    )


async def order(settings: Settings, customer: str, at: int) -> None:
    placed = OrderPlaced(
        id=f"o-{customer}-{at}", order_id=f"{customer}-{at}", customer_id=customer, amount=Amount("9.00", "EUR"),
        occurred_at=instant(at),
    )  # fmt: skip
    await produce(settings, [(customer.encode(), encode(placed))])


async def decisions(settings: Settings) -> list[str]:
    """Return what was decided, as "customer: type campaign reason"."""
    found = []
    for record in await read_all(settings, settings.actions_topic):
        event = msgspec.json.decode(record.value)
        kind = event["type"].removeprefix("campaign.")
        reason = event["reason"] if kind == "withheld" else ""
        found.append(f"{event['customer_id']}: {kind} {event['campaign']} {reason}".rstrip())
    return sorted(found)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Engine]:
    async with engine(settings, campaign_step(settings)) as shown:
        await eventually(lambda: list(shown.states().values()) == ["running"] * PARTITIONS, what="the takeovers")
        yield shown


async def decided(settings: Settings, *wanted: str) -> None:
    async def all_there() -> bool:
        return await decisions(settings) == sorted(wanted)

    try:
        await eventually(all_there, what="the decisions")
    except AssertionError:
        assert await decisions(settings) == sorted(wanted)
        raise


def of_redis(settings: Settings) -> dict[bytes, CampaignState]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        found: dict[bytes, Any] = {}
        for partition in range(PARTITIONS):
            found |= redis.hgetall(ShardKeys(settings.group, settings.changes_topic, partition).states)
    return {key: CampaignState.unpack(value) for key, value in found.items()}


def due_of(settings: Settings) -> dict[bytes, float]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        rows: list[Any] = []
        for partition in range(PARTITIONS):
            due = ShardKeys(settings.group, settings.changes_topic, partition).due
            rows += cast("Any", redis.zrange(due, 0, -1, withscores=True))
    return dict(rows)


async def test_a_consent_of_before_holds_from_the_first_decision_on(settings: Settings) -> None:
    names = [f"c{n}" for n in range(40)]
    await deny(settings, *names[::2])
    await move(settings, *(moved(name, "Champions", now_ms()) for name in names))
    async with running(settings):
        await decided(
            settings,
            *(f"{name}: withheld hello no_consent" for name in names[::2]),
            *(f"{name}: action hello" for name in names[1::2]),
        )


async def test_a_wait_ends_with_an_action_an_order_or_a_denial(settings: Settings) -> None:
    async with running(settings):
        began = now_ms() - WAIT_MS + 6_000  # it ends in six seconds
        await order(settings, "buys-before", began - 1_000)
        await move(settings, *(moved(name, "Lost", began) for name in ("waits", "buys", "denies", "buys-before")))
        scheduled = [f"{name}: scheduled win-back" for name in ("waits", "buys", "denies", "buys-before")]
        await decided(settings, *scheduled)
        await order(settings, "buys", now_ms())
        await deny(settings, "denies")
        await decided(
            settings,
            *scheduled,
            "waits: action win-back",
            "buys-before: action win-back",
            "buys: withheld win-back ordered",
            "denies: withheld win-back no_consent",
        )
        await order(settings, "waits", now_ms())
        await decided(
            settings,
            *scheduled,
            "waits: action win-back",
            "buys-before: action win-back",
            "buys: withheld win-back ordered",
            "denies: withheld win-back no_consent",
            "waits: converted win-back",
        )


async def test_a_dispatcher_that_was_away_reads_orders_before_anything_falls_due(settings: Settings) -> None:
    names = [f"c{n}" for n in range(30)]
    async with running(settings):
        began = now_ms() - WAIT_MS + 5_000
        await move(settings, *(moved(name, "Lost", began) for name in names))
        await decided(settings, *(f"{name}: scheduled win-back" for name in names))
    for name in names[::3]:
        await order(settings, name, now_ms())
    await deny(settings, *names[1::3])
    await eventually(lambda: now_ms() > began + WAIT_MS, what="the end of the wait")
    async with running(settings):
        await decided(
            settings,
            *(f"{name}: scheduled win-back" for name in names),
            *(f"{name}: withheld win-back ordered" for name in names[::3]),
            *(f"{name}: withheld win-back no_consent" for name in names[1::3]),
            *(f"{name}: action win-back" for name in names[2::3]),
        )


async def test_a_redis_that_is_lost_is_rebuilt_and_decides_nothing_twice(settings: Settings) -> None:
    async with running(settings) as shown:
        now = now_ms()
        await deny(settings, "ann", "silent")
        await eventually(lambda: {b"ann", b"silent"} <= of_redis(settings).keys(), what="the profiles")
        await move(settings, moved("ann", "Champions", now), moved("bob", "Lost", now), moved("cat", "Lost", now))
        await order(settings, "cat", now + 1)
        expected = (
            "ann: withheld hello no_consent", "bob: scheduled win-back", "cat: scheduled win-back",
            "cat: withheld win-back ordered",
        )  # fmt: skip
        await decided(settings, *expected)
        assert shown.reasons() == {}
    before, due = of_redis(settings), due_of(settings)
    assert len(before) == 4
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for partition in range(PARTITIONS):
            redis.delete(*ShardKeys(settings.group, settings.changes_topic, partition).all())
    rebuilder = Rebuilder(settings, streams_of(settings, "campaigns"), campaign_step(settings))
    assert [line async for line in rebuilder.rebuild()]
    async with running(settings):
        await eventually(lambda: of_redis(settings) == before, what="the states of before")
        # An entry may be early: of one whose wait an order has ended, only the shard that saw it live has one still.
        assert due_of(settings).items() <= due.items()
        assert due_of(settings).keys() == {b"bob"}
        await move(settings, moved("ann", "Champions", now, 2))
        await decided(settings, *expected, "ann: withheld hello no_consent")


async def test_what_is_known_of_a_merged_id_goes_to_the_other_shard(settings: Settings) -> None:
    one, other = b"one", next(name for n in range(99) if murmur2(name := b"other%d" % n, 2) != murmur2(b"one", 2))
    await deny(settings, "one")
    async with running(settings):
        await eventually(lambda: one in of_redis(settings), what="the profile")
        merged = CustomerMerged(id="m-1", from_="one", into=other.decode(), occurred_at=instant(now_ms()))
        await produce(settings, [(one, encode(merged))])
        await eventually(lambda: other in of_redis(settings), what="the profile of the other id")
        await move(settings, moved(other.decode(), "Champions", now_ms()))
        await decided(settings, f"{other.decode()}: withheld hello no_consent")


async def test_places_in_side_inputs_are_those_of_the_logs_at_rest(settings: Settings) -> None:
    async with running(settings):
        await deny(settings, "ann")
        for n in range(3):
            await order(settings, "ann", now_ms() + n)
        place = murmur2(b"ann", PARTITIONS)
        keys = ShardKeys(settings.group, settings.changes_topic, place)
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:

            def sides() -> dict[str, int]:
                head = read_head(redis, keys)
                return head.sides if head else {}

            await eventually(
                lambda: sides() == {settings.profiles_topic: 1, settings.orders_topic: 3}, what="the places"
            )
