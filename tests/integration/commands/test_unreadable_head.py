"""Every command that reads a shard's head, where Redis holds a head that can't be read."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from bench.harness.model import bench_model
from segmentation.partitioners import murmur2
from segmentation.rfm import EMPTY, Kind, absorb_bytes, entry, with_mute
from stream.kafka import topics
from stream.settings import Settings
from stream.storage.heads import encode_head, first_head
from stream.storage.keys import ShardKeys, status_key
from tests.support.command_line import run, start
from tests.support.data.redis_customers import head
from tests.support.engine.real_worker import put
from trainer.errors import SnapshotError
from trainer.schedule.drift_trigger import DriftTrigger
from trainer.schedule.policy import LastRun

START: Final = 1_600_000_000_000
BROKEN: Final = 1  # the shard with the unreadable head
CUSTOMER: Final = next(name for name in map(str, range(9)) if murmur2(name.encode(), 2) == BROKEN)  # of that shard
HEADS: Final = {
    "not JSON": b"\xff\xfe",
    "no text": b'{"token":"\xff"}',
    "fields are missing": b"{}",
    "empty": b"",
    "of a newer version": encode_head(first_head("cluster", (2, 2), 0)).replace(b'"format":2', b'"format":3'),
}


@pytest.fixture
def broken(settings_for: Callable[..., Settings]) -> Settings:
    """Two shards with a customer each and an active model. The head of shard 1 is unreadable."""
    settings = settings_for(time="event", partitions=2)
    asyncio.run(topics.create(settings))
    put(settings, bench_model(), active=True)
    placed = entry(Kind.PLACED, "1", START, order="1", amount=500_000)
    state, _ = absorb_bytes(EMPTY, placed, START, settings.rules)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for keys, name in zip(_shards(settings), ("other", CUSTOMER), strict=True):
            redis.hset(keys.states, name, with_mute(state, 1))
            redis.zadd(keys.customers, {name: 0})
            redis.set(keys.head, head(START, settings.partitions))
    _break(settings, b"{}")
    return settings


def _shards(settings: Settings) -> list[ShardKeys]:
    return [ShardKeys(settings.group, settings.orders_topic, partition) for partition in range(settings.partitions)]


def _break(settings: Settings, raw: bytes) -> None:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.set(_shards(settings)[BROKEN].head, raw)


@pytest.mark.parametrize("raw", HEADS.values(), ids=HEADS)
def test_status_shows_the_quarantine_of_an_unreadable_head(broken: Settings, raw: bytes) -> None:
    _break(broken, raw)
    rows = [json.loads(line) for line in run(broken, "status", "--json", code=1).stdout.splitlines()]
    assert [(row["partition"], row["state"], row["reason"]) for row in rows] == [
        (0, "no owner", ""),
        (BROKEN, "quarantined", "redis_format"),
    ]
    assert f"the head of {broken.orders_topic}-{BROKEN} in Redis is unreadable" in rows[BROKEN]["detail"]
    assert "`segstream rebuild`" in rows[BROKEN]["detail"]
    shown = run(broken, "status", code=1).stdout
    assert f"shard {BROKEN}: redis_format: the head of {broken.orders_topic}-{BROKEN}" in shown


def test_models_shows_the_quarantine_of_an_unreadable_head(broken: Settings) -> None:
    shown = run(broken, "models", code=1).stdout
    assert bench_model().version in shown, "the models are listed all the same"
    assert f"shard {BROKEN}: quarantined: redis_format: the head of {broken.orders_topic}-{BROKEN}" in shown
    rows = [json.loads(line) for line in run(broken, "models", "--json", code=1).stdout.splitlines()]
    shards = {row["partition"]: row for row in rows if "partition" in row}
    assert "quarantined" not in shards[0]
    assert shards[BROKEN]["quarantined"].startswith("redis_format: ")


def test_retry_asks_the_owner_of_an_unreadable_head_to_try_again(broken: Settings) -> None:
    key = status_key(broken.group, broken.orders_topic)
    entry_ = {"owner": "me", "state": "quarantined", "at": time.time(), "reason": "redis_format", "detail": "as above"}
    with Redis.from_url(broken.redis_url.get_secret_value()) as redis:
        redis.hset(key, str(BROKEN), json.dumps(entry_))
        assert run(broken, "retry").stdout == f"trying again: {BROKEN}\n"
        assert redis.hget(key, str(BROKEN)) is None


def test_a_rebuild_replaces_an_unreadable_head(broken: Settings) -> None:
    assert run(broken, "rebuild", "--yes", "--partition", "0").stdout.endswith(
        "trying again: no shard, as none is quarantined\n"
    )
    assert run(broken, "rebuild", "--yes", "--partition", str(BROKEN)).exit_code == 0
    assert [json.loads(row)["state"] for row in run(broken, "status", "--json", code=1).stdout.splitlines()] == [
        "no owner"
    ] * 2


COMMANDS: Final = (
    ("export", "--out", "DIR/customers.csv"),
    ("customer", CUSTOMER),
    ("forecast",),
    ("forecast", "--each"),
    ("erase", CUSTOMER, "--wait", "0"),
    ("models", "drift"),
    ("models", "shadow", bench_model().version),
    ("replay", "DIR/orders.csv"),
    ("backfill", "DIR/orders.csv", "--id", "archive"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_other_commands_end_with_one_line(broken: Settings, command: tuple[str, ...], tmp_path: Path) -> None:
    orders = tmp_path / "orders.csv"
    orders.write_text("order_id,customer_id,at,amount\n1,c,2020-09-20T00:00:00Z,10\n", encoding="utf-8")
    _assert_one_line(broken, *(argument.replace("DIR", str(tmp_path)) for argument in command))


def test_a_muted_customer_of_an_unreadable_head_ends_with_one_line(broken: Settings) -> None:
    """In wall time the head is only read for the id of the backfill."""
    _assert_one_line(broken.model_copy(update={"time": "wall"}), "customer", CUSTOMER)


async def test_the_trainers_look_at_drift_fails_with_the_same_message(broken: Settings) -> None:
    message = f"the head of {broken.orders_topic}-{BROKEN} in Redis is unreadable"
    async with AsyncRedis.from_url(broken.redis_url.get_secret_value(), protocol=2) as redis:
        with pytest.raises(SnapshotError, match=re.escape(message)):
            await DriftTrigger(broken, redis, 0.25, 3600, lambda: START)(LastRun(instant_ms=START))


def _assert_one_line(settings: Settings, *command: str) -> None:
    with start(settings, *command) as process:
        _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.decode().splitlines() if line.startswith("segstream: ")]
    assert process.returncode == 1, errors.decode()
    assert len(lines) == 1
    assert lines[0].startswith(f"segstream: the head of {settings.orders_topic}-{BROKEN} in Redis is unreadable: ")
    assert "`segstream rebuild`" in lines[0]
    assert "Traceback" not in errors.decode()
