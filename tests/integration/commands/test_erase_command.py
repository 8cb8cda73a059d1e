"""`segstream erase` where an erasure isn't done: it says so, with the reason, and what is left where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis

from segmentation.events import Amount, OrderPlaced, encode
from segmentation.partitioners import murmur2
from segmentation.rfm import EMPTY, Kind, absorb_bytes, entry
from stream.clock import now_ms
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from tests.support.command_line import run
from tests.support.data.redis_customers import head
from tests.support.engine.real_worker import activate, processes, settled

PARTITIONS = 2
ANN, BOB = "ann-of-the-test", "bob-of-the-test"


def elsewhere(customer: str) -> int:
    """Return a partition that murmur2 doesn't choose."""
    return 1 - murmur2(customer.encode(), PARTITIONS)


async def send(settings: Settings, customer: str, partition: int) -> None:
    event = OrderPlaced(
        id=f"{customer}-1",
        order_id=f"{customer}-1",
        customer_id=customer,
        occurred_at=datetime.now(UTC),
        amount=Amount("10.00", "USD"),
    )
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        await producer.send_and_wait(settings.orders_topic, encode(event), key=customer.encode(), partition=partition)


def keys_naming(settings: Settings, customer: str) -> list[str]:
    """Return the keys of the deployment that name a customer."""
    found = []
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for name in cast("list[bytes]", redis.keys(f"*{settings.group}*")):
            raw = cast("bytes | None", redis.dump(name)) or b""
            if redis.type(name) == b"hash":
                raw = b"|".join(part for row in cast("dict[bytes, bytes]", redis.hgetall(name)).items() for part in row)
            elif redis.type(name) == b"zset":
                raw = b"|".join(cast("list[bytes]", redis.zrange(name, 0, -1)))
            if customer.encode() in raw:
                found.append(name.decode())
    return found


async def erase(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = await asyncio.to_thread(run, settings, "erase", *arguments, "--json", code=code)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
async def test_an_erasure_reads_back_every_shard_and_the_dead_letters(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=PARTITIONS, partitioner="none")
    await topics.create(settings)
    with processes(settings, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, settings)
        for customer in (ANN, BOB):
            await send(settings, customer, elsewhere(customer))
        await settled(settings, activation=activation)
        assert keys_naming(settings, ANN)

        done = await erase(settings, ANN)
        assert done["done"]
        assert keys_naming(settings, ANN) == [], "where no partitioner is known, any shard may hold the customer"
        assert [event["partition"] for event in done["sent"]] == [0, 1]
        assert done["shards_read"] == 2 * PARTITIONS
        assert all(shard["tombstone"] and not shard["state"] for shard in done["shards"])
        assert (await erase(settings, ANN, "--check"))["sent"] == []

        # As by a producer whose clock is ahead.
        refused = await erase(settings, BOB, "--at", "2099-01-01", code=1)
        assert not refused["done"]
        assert sum("became a dead letter: dated_ahead: " in reason for reason in refused["reasons"]) == 2
        assert any("keeps events of the customer (1)" in reason for reason in refused["reasons"])
        assert refused["dead_letters"] == 2
        assert keys_naming(settings, BOB)
        shown = (await asyncio.to_thread(run, settings, "erase", BOB, "--check", code=1)).stdout
        assert f"{BOB}: not erased.\n" in shown
        assert "no shard knows an erasure" in shown
        assert "Dead letters that name the customer: 2." in shown
        assert "BGREWRITEAOF" in shown or "append-only" not in shown
        assert "backups" in shown


async def test_where_no_worker_runs_the_erasure_is_sent_and_not_done(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(partitions=1)
    await topics.create(settings)
    shown = (await asyncio.to_thread(run, settings, "erase", ANN, "--wait", "0", code=1)).stdout
    assert f"{ANN}: not erased yet.\n" in shown
    assert "hasn't read up to the erasure at offset 0 yet" in shown
    assert "`segstream erase ID --check` looks again" in shown
    assert "a worker will" in shown

    keys = ShardKeys(settings.group, settings.orders_topic, 0)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.set(keys.head, b"{}")
    error = await asyncio.to_thread(run, settings, "erase", ANN, "--wait", "0", code=1)
    assert "is sent (partition 0, offset 1), but it can't be seen whether it is done: the head of" in str(
        error.exception
    )
    assert "`segstream erase ID --check` looks again" in str(error.exception)
    assert len(await read_topic(settings, settings.orders_topic)) == 2


async def test_a_customer_in_a_shard_that_the_partitioner_does_not_choose_is_found(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(partitions=PARTITIONS)
    await topics.create(settings)
    at = now_ms()
    state, _ = absorb_bytes(EMPTY, entry(Kind.PLACED, "1", at, order="1", amount=1), at, settings.rules)
    tombstone, _ = absorb_bytes(EMPTY, entry(Kind.ERASED, "2", at), at, settings.rules)
    found = await erase(settings, ANN, "--check", code=1)
    assert found["reasons"] == ["no shard knows an erasure of this id, or holds anything else of it: check the id"]
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for partition in range(PARTITIONS):
            redis.set(ShardKeys(settings.group, settings.orders_topic, partition).head, head(at, PARTITIONS))
        keys = ShardKeys(settings.group, settings.orders_topic, elsewhere(ANN))
        redis.hset(keys.states, ANN, state)
        redis.hset(ShardKeys(settings.group, settings.orders_topic, 1 - elsewhere(ANN)).states, ANN, tombstone)
    found = await erase(settings, ANN, "--check", code=1)
    assert len(found["reasons"]) == 1
    assert f"shard {keys.shard} keeps events of the customer (1)" in found["reasons"][0]
    assert "SEGSTREAM_PARTITIONER=murmur2 puts this id into another shard" in found["reasons"][0]
