"""`segstream erase` where an erasure isn't done: it says so, with the reason, and what is left where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis

from segmentation.campaign_state import Act, CampaignState, Decided, Facts, Merged, name_key
from segmentation.entries import DAY_MS
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.links import Edge, Links
from segmentation.partitioners import murmur2
from segmentation.profiles import DatedText, Profile
from segmentation.rfm import EMPTY, Kind, absorb_bytes, entry, pack, unpack
from stream.clock import now_ms
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.settings import Settings
from stream.storage.keys import ShardKeys, tombstone
from stream.storage.remains import stored_remains
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


@pytest.fixture
async def erased(settings_for: Callable[..., Settings]) -> Settings:
    """A deployment whose scoring step has erased Ann up to now."""
    settings = settings_for(partitions=PARTITIONS)
    await topics.create(settings)
    at = now_ms()
    left, _ = absorb_bytes(EMPTY, entry(Kind.ERASED, "2", at), at, settings.rules)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for partition in range(PARTITIONS):
            redis.set(ShardKeys(settings.group, settings.orders_topic, partition).head, head(at, PARTITIONS))
        keys = ShardKeys(settings.group, settings.orders_topic, 1 - elsewhere(ANN))
        redis.hset(keys.tombstones, cast("Any", tombstone(ANN.encode(), settings.salt)), left)
    return settings


def keep(settings: Settings, state: CampaignState, *, customer: str = ANN, gone: bool = False) -> None:
    keys, value = ShardKeys(settings.group, settings.changes_topic, 1 - elsewhere(customer)), state.pack()
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.delete(keys.states, keys.tombstones)
        if gone:
            name, value = stored_remains(value, customer.encode(), settings.salt, 1)
            redis.hset(keys.tombstones, cast("Any", name), value)
        else:
            redis.hset(keys.states, customer, value)


def profile(at_ms: int) -> Profile:
    return Profile(DatedText(at_ms, "Europe/Berlin"), consent=(("email", DatedText(at_ms, "denied")),))


async def test_what_campaigns_keep_from_before_the_erasure_is_reported(erased: Settings) -> None:
    before, after = now_ms() - DAY_MS, now_ms() + DAY_MS
    acts = (Act(name_key("win-back"), before), Act(name_key("win-back"), after))
    shard = f"shard {erased.changes_topic}-{1 - elsewhere(ANN)}"
    keep(erased, CampaignState(facts=Facts(profile(before))))
    found = await erase(erased, ANN, "--check", code=1)
    [reason] = found["reasons"]
    assert f"{shard} keeps fields of the profile (2) of '{ANN}', dated up to " in reason
    assert "no dispatcher has read an erasure under this id yet" in reason
    assert [left["profile"] for left in found["shards"] if left["step"] == "campaigns"] == [True]

    keep(erased, CampaignState(3, name_key("Lost"), 0, Facts(profile(after)), Decided(2, 0, acts)))
    [reason] = (await erase(erased, ANN, "--check", code=1))["reasons"]
    assert f"{shard} keeps actions (1) of '{ANN}'" in reason

    keep(erased, CampaignState(3, name_key("Lost")))
    [reason] = (await erase(erased, ANN, "--check", code=1))["reasons"]
    assert "no dispatcher has read the last move yet" in reason

    keep(erased, CampaignState(3, since=3, facts=Facts(profile(before))), gone=True)
    [reason] = (await erase(erased, ANN, "--check", code=1))["reasons"]
    assert f"{shard} keeps fields of the profile (2)" in reason

    with Redis.from_url(erased.redis_url.get_secret_value()) as redis:
        redis.hset(ShardKeys(erased.group, erased.changes_topic, 0).states, ANN, b"\xff")
    assert "can't be read" in " ".join((await erase(erased, ANN, "--check", code=1))["reasons"])


async def test_a_profile_from_after_the_erasure_is_kept(erased: Settings) -> None:
    keep(erased, CampaignState(facts=Facts(profile(now_ms() + DAY_MS))))
    shown = (await asyncio.to_thread(run, erased, "erase", ANN, "--check")).stdout
    assert f"{ANN}: erased, everything dated up to " in shown
    assert "Events and profiles that come later and are dated up to then are dropped.\n" in shown
    assert "  a profile dated after the erasure is kept.\n" in shown
    assert f"  {erased.profiles_topic} " in shown
    assert "the customer's time zone, consents and language" in shown


async def test_a_profile_without_an_erasure_is_reported(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=PARTITIONS)
    await topics.create(settings)
    keep(settings, CampaignState(facts=Facts(profile(1))))
    [reason] = (await erase(settings, ANN, "--check", code=1))["reasons"]
    assert f"keeps fields of the profile (2) of '{ANN}', and no shard knows an erasure" in reason


async def test_each_id_of_a_merged_customer_gets_the_erasure(settings_for: Callable[..., Settings]) -> None:
    """Campaigns keep under the id that went what its profile said: only an event of that id's reaches it."""
    settings = settings_for(partitions=PARTITIONS)
    await topics.create(settings)
    at = now_ms()
    edge = Edge(at, BOB, ANN)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for partition in range(PARTITIONS):
            redis.set(ShardKeys(settings.group, settings.orders_topic, partition).head, head(at, PARTITIONS))
        keys = ShardKeys(settings.group, settings.orders_topic, 1 - elsewhere(ANN))
        redis.hset(keys.states, ANN, pack(replace(unpack(EMPTY), links=Links(edges=(edge,)))))
    keep(settings, CampaignState(2, since=2, facts=Facts(profile(1), merged=Merged(at, ANN))), customer=BOB, gone=True)
    done = await erase(settings, ANN, "--wait", "0", code=1)
    assert [(sent["customer_id"], sent["partition"]) for sent in done["sent"]] == [
        (ANN, 1 - elsewhere(ANN)), (BOB, 1 - elsewhere(BOB)),
    ]  # fmt: skip
    records = await read_topic(settings, settings.orders_topic)
    assert sorted((r.key, json.loads(r.value)["customer_id"]) for r in records) == [
        (ANN.encode(), ANN), (BOB.encode(), BOB),
    ]  # fmt: skip
    assert any(f"keeps fields of the profile (2) of '{BOB}'" in reason for reason in done["reasons"])
