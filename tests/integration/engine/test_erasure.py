"""An erased customer: deleted from Redis, one move, not restored by old orders, and a new customer with new orders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr
from redis import Redis

from segmentation.events import Amount, OrderPlaced
from segmentation.profiles import CustomerProfile
from stream.clock import now_ms
from stream.commands import shards
from stream.customers.campaigns import campaign_states
from stream.customers.erase import erase
from stream.customers.erasure_report import Erasure
from stream.customers.lookup import customer
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.models.topic import read_published
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.traces.mentions import CustomerIdRefused
from tests.support.engine.real_worker import activate, check_chains, moves, processes, settled, states
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events, send_profiles

ANN, BOB = "ann-of-the-test", "bob-of-the-test"


def order(name: str, number: int) -> OrderPlaced:
    return OrderPlaced(
        id=f"{name}-{number}",
        order_id=f"{name}-{number}",
        customer_id=name,
        occurred_at=datetime.now(UTC),
        amount=Amount(f"{10 + 90 * number}.00", "USD"),
    )


async def of_ann(settings: Settings) -> list[dict[str, Any]]:
    everyone = await moves(settings)
    check_chains(everyone)
    return [move for partition in everyone for move in partition if move["customer_id"] == ANN]


async def say(settings: Settings, at: datetime, *, zone: str = "Europe/Berlin") -> None:
    await send_profiles(settings, CustomerProfile(id=f"{at}", customer_id=ANN, occurred_at=at, time_zone=zone))


def known_to_campaigns(settings: Settings) -> str:
    """The knowledge that the campaigns' shards have of Ann, by id or hash."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        return str([state for _, state in campaign_states(redis, settings, ANN)])


def everything_stored(settings: Settings) -> dict[str, bytes]:
    """Return the content of each key of the deployment in Redis, as bytes in which a customer can be searched."""
    found: dict[str, bytes] = {}
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for name in cast("list[bytes]", redis.keys(f"*{settings.group}*")):
            kind = cast("bytes", redis.type(name))
            if kind == b"hash":
                rows = cast("dict[bytes, bytes]", redis.hgetall(name))
                found[name.decode()] = b"|".join(part for row in sorted(rows.items()) for part in row)
            elif kind == b"zset":
                found[name.decode()] = b"|".join(sorted(cast("list[bytes]", redis.zrange(name, 0, -1))))
    return found


def tombstones(settings: Settings, topic: str) -> dict[bytes, bytes]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        rows: dict[bytes, bytes] = {}
        for p in range(settings.partitions):
            rows |= cast("dict[bytes, bytes]", redis.hgetall(ShardKeys(settings.group, topic, p).tombstones))
    return {name: value for name, value in rows.items() if name != b"salt"}


async def test_an_erased_customer_is_forgotten_and_can_return(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(erasure_salt=SecretStr("of the test"))
    await topics.create(settings)
    life = [order(ANN, 1), order(ANN, 2), order(BOB, 1)]
    with processes(settings, tmp_path, "worker", "dispatch"):
        activation = await asyncio.to_thread(activate, settings)
        await send_events(settings, *life)
        await settled(settings, activation=activation)
        before = await of_ann(settings)
        assert before[-1]["to"]
        said = datetime.now(UTC)
        await say(settings, said)
        await eventually(lambda: "Berlin" in known_to_campaigns(settings), 60, "the profile is known")
        erasure = await erase(settings, ANN, None, now_ms=now_ms(), wait_s=60)
        assert erasure.done
        await settled(settings, topic=settings.changes_topic)
        check_report(settings, erasure)
        after = await of_ann(settings)
        assert after[:-1] == before
        last = after[-1]
        assert (last["to"], last["cause"], last["rfm"], last["next"]) == (None, "erasure", None, None)
        assert not [name for name, text in everything_stored(settings).items() if ANN.encode() in text]
        assert len(tombstones(settings, settings.orders_topic)) == 1
        assert len(tombstones(settings, settings.changes_topic)) == 1
        assert "Berlin" not in known_to_campaigns(settings)
        check_the_other_customer(settings)
        report = customer(settings, await read_published(settings), ANN, now_ms())
        assert report.erased_at == erasure.sent[0].until
        assert (report.frequency, report.entries[0].kind) == (0, "erased")

        # Old orders, profiles and repeated ones don't bring the customer back; nor does the erasure of one unknown.
        await send_events(settings, *life)
        await say(settings, said)
        await say(settings, datetime.now(UTC), zone="Europe/Vienna")
        await eventually(lambda: "Vienna" in known_to_campaigns(settings), 60, "the profiles are read")
        assert "Berlin" not in known_to_campaigns(settings)
        assert (await erase(settings, "never-seen", None, now_ms=now_ms(), wait_s=60)).done
        await settled(settings)
        assert await of_ann(settings) == after
        assert len(tombstones(settings, settings.orders_topic)) == 2

        await send_events(settings, order(ANN, 3))
        await settled(settings)
        await settled(settings, topic=settings.changes_topic)
        again = (await of_ann(settings))[len(after) :]
        assert [(m["from"], m["cause"], m["rfm"]["frequency"]) for m in again] == [(None, "first", 1)]
        assert len(tombstones(settings, settings.orders_topic)) == 1
        erasure = await erase(settings, ANN, None, now_ms=now_ms(), wait_s=60)
    kept, stored = tombstones(settings, settings.orders_topic), states(settings)
    latest = [r for r in await read_topic(settings, settings.state_topic) if r.key == ANN.encode()]
    assert latest[-1].value is None

    await shards._rebuild(settings, "scoring", None)
    with processes(settings, tmp_path, "worker"):
        await settled(settings)
        final = await of_ann(settings)
    assert [(m["cause"], m["to"]) for m in final[-2:]] == [("first", final[-2]["to"]), ("erasure", None)]
    assert tombstones(settings, settings.orders_topic) == kept
    assert states(settings) == stored


def check_report(settings: Settings, erasure: Erasure) -> None:
    kept = {k.topic: k for k in erasure.kept}
    assert kept[settings.orders_topic].until is None
    assert kept[settings.orders_topic].policy == "delete"
    letters = kept[settings.orders_dead_letters_topic].until
    assert letters is not None
    assert letters > datetime.now(UTC).isoformat()
    assert kept[settings.state_topic].policy == "compact"


def check_the_other_customer(settings: Settings) -> None:
    assert list(states(settings)) == [BOB.encode()]


async def test_the_erasure_waits_for_a_worker(settings: Settings) -> None:
    began = time.monotonic()
    erasure = await erase(settings, ANN, None, now_ms=now_ms(), wait_s=0.2)
    assert not erasure.done
    assert time.monotonic() - began < 20
    assert len(await read_topic(settings, settings.orders_topic)) == 1


async def test_an_empty_id_is_refused(settings: Settings) -> None:
    with pytest.raises(CustomerIdRefused, match="0 characters, expected 1 to 256"):
        await erase(settings, "", None, now_ms=now_ms(), wait_s=0)
