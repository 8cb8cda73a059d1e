"""`segstream customer ID --everything FILE`: all that is held of one customer, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr
from redis import Redis

from segmentation.campaign_state import CampaignState, Facts
from segmentation.partitioners import murmur2
from segmentation.profiles import DatedText, Profile
from segmentation.rfm import EMPTY, Kind, absorb_bytes, entry
from stream.clock import now_ms
from stream.dead_letters.records import CONNECT
from stream.kafka import topics
from stream.kafka.topics import TopicSpec, specs
from stream.settings import Settings
from stream.storage.keys import ShardKeys, status_key, tombstone
from stream.traces.mentions import Mentions
from stream.traces.places import topic_places
from stream.traces.record_traces import TopicSearch, records_about
from tests.support.command_line import run
from tests.support.data.redis_customers import head

ANN = "ann-of-the-test"
HOME = murmur2(ANN.encode(), 2)


@pytest.fixture
async def held(settings_for: Callable[..., Settings]) -> Settings:
    """A deployment of two shards that has something of Ann, and of others, in every place."""
    settings = settings_for(partitions=2, erasure_salt=SecretStr("of the test"))
    await topics.create(settings)
    grave = tombstone(ANN.encode(), b"of the test")
    value, other = json.dumps({"customer_id": ANN}).encode(), b'{"customer_id": "bob"}'
    records: list[tuple[str, int, bytes | None, bytes | None]] = [
        (settings.orders_topic, HOME, ANN.encode(), value),
        (settings.orders_topic, 1 - HOME, ANN.encode(), value),  # by another partitioner
        (settings.orders_topic, 0, b"bob", other),
        (settings.orders_topic, 0, b"bob", json.dumps({"customer_id": "bob", "order_id": ANN}).encode()),
        (settings.unkeyed_topic, 1 - HOME, None, value),
        (settings.orders_dead_letters_topic, 1 - HOME, b"a wrong key", value),
        (settings.orders_dead_letters_topic, 0, b"\xff", b'{"customer_id": "' + ANN.encode() + b'", "cut off'),
        (settings.changes_topic, HOME, ANN.encode(), value),
        (settings.changes_topic, 0, b"bob", other),
        (settings.state_topic, HOME, ANN.encode(), None),
        (settings.changes_dead_letters_topic, 0, ANN.encode(), b"\xff"),
        (settings.actions_topic, HOME, ANN.encode(), value),
        (settings.profiles_topic, HOME, ANN.encode(), value),
        (settings.profiles_topic, 1 - HOME, ANN.encode(), value),  # by another partitioner
        (settings.profiles_topic, 0, b"bob", other),
        (settings.tombstones_topic, HOME, grave, b"\x01"),
        (settings.tombstones_topic, HOME, b"of another", b"\x01"),
        (settings.heads_topic("scoring"), HOME, b"head", b'{"cursor": "bob"}'),
    ]
    producer = AIOKafkaProducer(**settings.kafka_client(), transactional_id=f"{settings.group}-test")
    async with producer, producer.transaction():
        for topic, partition, key, content in records:
            headers = [(f"{CONNECT}topic", b"orders")] if "dead" in topic else []
            await producer.send(topic, content, key=key, partition=partition, headers=headers)
    at = now_ms()
    state, _ = absorb_bytes(EMPTY, entry(Kind.PLACED, "1", at, order="1", amount=125_000), at, settings.rules)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        keys = ShardKeys(settings.group, settings.orders_topic, HOME)
        for partition in range(2):
            redis.set(ShardKeys(settings.group, settings.orders_topic, partition).head, head(at, 2))
        redis.hset(keys.states, ANN, state)
        redis.zadd(keys.customers, {ANN: 0, "bob": 0})
        redis.zadd(keys.due, {ANN: at + 1})
        campaigns = ShardKeys(settings.group, settings.changes_topic, HOME)
        profile = Profile(time_zone=DatedText(at, "Europe/Berlin"))
        redis.hset(campaigns.states, ANN, CampaignState(facts=Facts(profile)).pack())
        redis.hset(status_key(settings.group, settings.orders_topic), "0", f"no step for {ANN}!")
    return settings


def lines(archive: zipfile.ZipFile, name: str) -> list[Any]:
    return [json.loads(line) for line in archive.read(name).splitlines()]


async def everything(settings: Settings, *arguments: str, code: int = 0) -> Any:
    return await asyncio.to_thread(run, settings, "customer", ANN, "--everything", *arguments, code=code)


async def test_all_that_is_held_of_a_customer_is_written(held: Settings, tmp_path: Path) -> None:
    out = tmp_path / "ann.zip"
    report = json.loads((await everything(held, str(out), "--json")).stdout)
    assert report["complete"]
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        found = {topic["topic"]: lines(archive, topic["file"]) for topic in manifest["topics"]}
        keys, [state] = lines(archive, "redis/keys.jsonl"), lines(archive, "redis/states.jsonl")
        [campaigns] = lines(archive, "redis/campaigns.jsonl")
        everything_in_it = b"".join(archive.read(name) for name in archive.namelist())
    assert {topic: len(rows) for topic, rows in found.items() if rows} == {
        held.orders_topic: 2,
        held.unkeyed_topic: 1,
        held.orders_dead_letters_topic: 2,
        held.changes_topic: 1,
        held.state_topic: 1,
        held.changes_dead_letters_topic: 1,
        held.actions_topic: 1,
        held.profiles_topic: 2,
        held.tombstones_topic: 1,
    }
    assert b"bob" not in everything_in_it
    assert b"of another" not in everything_in_it
    assert found[held.orders_topic][0]["key"] == ANN
    assert json.loads(found[held.orders_topic][0]["value"]) == {"customer_id": ANN}
    assert (state["frequency"], state["monetary"], len(state["entries"])) == (1, "12.50", 1)
    assert len(keys) == 5
    assert (manifest["states"], manifest["tombstones"], manifest["shards_read"]) == (2, 0, 4)
    assert campaigns["profile"]["time_zone"]["text"] == "Europe/Berlin"
    searched = {topic["topic"]: topic for topic in manifest["topics"]}
    assert sorted(searched) == sorted(spec.name for spec in specs(held))
    assert [p["partition"] for p in searched[held.orders_topic]["partitions"]] == [0, 1]
    assert [p["partition"] for p in searched[held.changes_topic]["partitions"]] == [HOME]
    assert searched[held.orders_topic]["possible"] == 1, "an order of Bob's with Ann's id as its own"
    assert searched[held.orders_topic]["coordinates"][0]["partition"] == 0
    assert any("backups" in place for place in manifest["not_searched"])


async def test_the_file_is_its_owners_and_replaces_nothing(held: Settings, tmp_path: Path) -> None:
    out, target = tmp_path / "ann.zip", tmp_path / "target"
    target.write_text("precious")
    out.symlink_to(target)
    refused = await everything(held, str(out), code=1)
    assert "exists. Choose another name, or replace it with --force." in str(refused.exception)
    shown = (await everything(held, str(out), "--force")).stdout
    assert f"{ANN}: 5 keys of Redis and 12 records in {out}\n" in shown
    assert "records with the id that may be somebody else's: 1;" in shown
    assert "not searched: backups" in shown
    assert target.read_text() == "precious"
    assert not out.is_symlink()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["ann.zip", "target"]  # noqa: PTH208  # Path would block, says another rule


async def test_a_place_that_is_new_is_walked(held: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a later version: a topic and keys that nobody has described yet."""
    extra = f"{{{held.group}}}:extra"
    before = ShardKeys.all
    monkeypatch.setattr(ShardKeys, "all", lambda keys: (*before(keys), f"{extra}-set", f"{extra}-list"))
    more = [*specs(held), TopicSpec(f"{held.group}-new", 1, 1, {})]
    for module in ("stream.kafka.topics", "stream.traces.places"):
        monkeypatch.setattr(f"{module}.specs", lambda _: more)
    await topics.create(held)
    async with AIOKafkaProducer(**held.kafka_client()) as producer:
        await producer.send_and_wait(f"{held.group}-new", b"{}", key=ANN.encode())
    with Redis.from_url(held.redis_url.get_secret_value()) as redis:
        redis.sadd(f"{extra}-set", ANN)
        redis.rpush(f"{extra}-list", ANN)
    done = json.loads((await everything(held, str(tmp_path / "ann.zip"), "--json", code=1)).stdout)
    assert not done["complete"]
    new = next(topic for topic in done["manifest"]["topics"] if topic["topic"] == f"{held.group}-new")
    assert new["found"] == 1
    assert f"the key {extra}-list has a type that can't be searched" in done["manifest"]["not_searched"]
    with zipfile.ZipFile(tmp_path / "ann.zip") as archive:
        assert f"{extra}-set" in {row["key"] for row in lines(archive, "redis/keys.jsonl")}
    checked = await asyncio.to_thread(run, held, "erase", ANN, "--check", "--json", code=1)
    assert f"{extra}-list has a type that can't be searched" in json.loads(checked.stdout)["reasons"]


async def test_a_topic_that_the_user_may_not_read_is_named(held: Settings) -> None:
    """A search that fails says so: here at a broker that nobody can reach."""
    search = TopicSearch(topic_places(held)[0])
    broken = held.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    assert [found async for found in records_about(broken, search, Mentions(ANN, b""))] == []
    assert "Kafka at 127.0.0.1:1" in (search.failure or "")
