"""An id that would steer a terminal, through every command that shows ids: as text and as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis

from bench.harness.model import bench_model
from segmentation.events import encode
from segmentation.output_events import CampaignAction, Cause, Rfm, SegmentChanged
from segmentation.rfm import EMPTY, Kind, absorb_bytes, entry, with_announcement
from stream.clock import now_ms
from stream.kafka import topics
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from tests.support.command_line import run
from tests.support.data.redis_customers import head
from tests.support.engine.real_worker import put

STEERING = "\x1b[2J\x07\r\n\u202eann[/red]"
WHEN = "2011-03-03T14:20:05.123Z"


@pytest.fixture
async def steered(settings_for: Callable[..., Settings]) -> Settings:
    """A deployment with one customer of that id, in Redis and on the topics of moves and actions."""
    settings = settings_for(partitions=1)
    await topics.create(settings)
    model = bench_model()
    await asyncio.to_thread(put, settings, model, active=True)
    move = SegmentChanged(
        id="1", customer_id=STEERING, sequence=1, from_=None, to="x", cause=Cause.FIRST, causation_id=None,
        rfm=Rfm(1.0, 1, "1.00"), before=None, distances={}, next=None, model_version=model.version,
        occurred_at=WHEN, scored_at=WHEN,
    )  # fmt: skip
    action = CampaignAction(
        id="1", customer_id=STEERING, campaign="c", segment="x", action="a", channel="email", reason="first",
        change_id="1", occurred_at=WHEN,
    )  # fmt: skip
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        key = STEERING.encode()
        await producer.send_and_wait(settings.changes_topic, encode(move), key=key)
        await producer.send_and_wait(settings.actions_topic, encode(action), key=key)
        await producer.send_and_wait(settings.orders_dead_letters_topic, encode(move), key=key)
    at = now_ms()
    state, _ = absorb_bytes(EMPTY, entry(Kind.PLACED, "1", at, order="1", amount=10_000), at, settings.rules)
    keys = ShardKeys(settings.group, settings.orders_topic, 0)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.set(keys.head, head(at, 1))
        redis.hset(keys.states, STEERING, with_announcement(state, model.segments[0].id, 1, at))
        redis.zadd(keys.customers, {STEERING: 0})
    return settings


def ids(found: Any) -> list[str]:
    """Return the texts of decoded JSON that hold the customer's name."""
    if isinstance(found, dict):
        return [text for part in found.values() for text in ids(part)]
    if isinstance(found, list):
        return [text for part in found for text in ids(part)]
    return [found] if isinstance(found, str) and "ann" in found else []


TAIL = ("--from-beginning", "--until-idle", "0.2")


COMMANDS: dict[tuple[str, ...], int] = {  # with their exit codes
    ("tail", "changes", *TAIL): 0,
    ("tail", "actions", *TAIL): 0,
    ("tail", "dead-letters", *TAIL): 0,
    ("customer", STEERING): 0,
    ("forecast", "--each", "--days", "3650"): 0,
    ("models", "shadow", bench_model().version): 0,
    ("erase", STEERING, "--check"): 1,
}


async def test_no_command_lets_an_id_steer(steered: Settings) -> None:
    for command, code in COMMANDS.items():
        shown = (await asyncio.to_thread(run, steered, *command, code=code)).stdout
        assert all(line.isprintable() for line in shown.split("\n")), command
        as_json = (await asyncio.to_thread(run, steered, *command, "--json", code=code)).stdout
        assert all(line.isprintable() for line in as_json.split("\n")), command
        named = [text for line in as_json.splitlines() for text in ids(json.loads(line))]
        assert all(STEERING in text or json.loads(text) for text in named), command
        if command[0] != "models":  # which shows the id only where the customer would move
            assert "\\u202eann[/red]" in shown, command
            assert named, command
