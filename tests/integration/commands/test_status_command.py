"""`segstream status` where no worker shows itself: it ends with 1, and says why."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from redis import Redis

from stream.local.machine import free_port
from stream.settings import Settings
from stream.status.board import ShardStatus
from stream.storage.keys import status_key
from tests.support.command_line import run
from tests.support.engine.toy_engine import eventually
from tests.support.topics import add_partitions


@contextmanager
def full(redis: Redis) -> Iterator[None]:
    redis.config_set("maxmemory", "1000")
    try:
        yield
    finally:
        redis.config_set("maxmemory", "0")


@contextmanager
def read_only(redis: Redis) -> Iterator[None]:
    redis.replicaof("127.0.0.1", free_port())
    try:
        yield
    finally:
        redis.replicaof("NO", "ONE")


def rows(settings: Settings) -> list[tuple[str, str]]:
    shown = run(settings, "status", "--json", code=1).stdout.splitlines()
    return [(row["state"], row["reason"]) for row in map(json.loads, shown)]


def test_no_worker_at_all(settings: Settings) -> None:
    shown = run(settings, "status", code=1)
    assert shown.stderr == (
        "segstream: all 4 shards are without an owner: no worker shows itself. Start `segstream worker`.\n"
    )
    assert "segstream dispatch" in run(settings, "status", "--step", "campaigns", code=1).stderr
    assert rows(settings) == [("no owner", "")] * 4
    run(settings, "status", "--wait", "0.1", code=1)


def test_wait_ends_only_after_the_takeovers(settings: Settings) -> None:
    taking = msgspec.json.encode(ShardStatus("me", "taking over", time.time()))
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.hset(status_key(settings.group, settings.orders_topic), mapping={str(p): taking for p in range(4)})
    assert run(settings, "status").stderr == ""
    assert (
        "0 records wait, 0 shards are being rescored, 4 taken over"
        in run(settings, "status", "--wait", "0.3", code=1).stderr
    )


@pytest.mark.parametrize(("fault", "word"), [(full, "maxmemory"), (read_only, "read only replica")])
def test_a_redis_that_takes_no_writes_is_named(settings: Settings, fault: object, word: str) -> None:
    assert callable(fault)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis, fault(redis):
        assert rows(settings) == [("no owner", "redis_refuses_writes")] * 4
        assert word in run(settings, "status", code=1).stdout.replace("\n", " ")
    assert rows(settings) == [("no owner", "")] * 4


async def test_added_partitions_are_named_without_an_owner(settings: Settings) -> None:
    await add_partitions(settings, settings.orders_topic, 6)

    async def named() -> bool:
        return await asyncio.to_thread(rows, settings) == [("quarantined", "partitions_changed")] * 6

    await eventually(named, what="the new count")
    assert "segstream reshard --partitions 6" in (await asyncio.to_thread(run, settings, "status", code=1)).stdout
