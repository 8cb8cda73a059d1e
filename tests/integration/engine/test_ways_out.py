"""Each reason of a quarantine is provoked, and the commands of its entry in docs/runbook.md lead out again.

To add a reason: write its entry, with a block of commands for each way out, and for each block a function here that
provokes it, under `@provokes(reason, block)`. It may return what an operator does by hand before the commands.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from pydantic import SecretStr

from bench.harness.model import nearer_at_risk
from segmentation.events import CustomerErased
from segmentation.scoring import ScoringStep
from segmentation.step import Turn, TurnContext
from stream.engine import log_reader
from stream.kafka import topics
from stream.settings import Settings
from stream.storage.heads import GROUP_HEADER, HEAD_KEY, KafkaHead, decode_kafka_head
from tests.support.engine.deployment import Deployment, open_deployment
from tests.support.engine.real_worker import put
from tests.support.orders import send_events
from tests.support.runbook import blocks, entries
from tests.support.topics import add_partitions, cut, delete_topic, recreate

ByHand = Callable[[], Awaitable[None] | None]
Provoke = Callable[[Deployment, pytest.MonkeyPatch], Awaitable[ByHand | None]]
OUTPUTS: Final = ("changes_topic", "state_topic", "actions_topic")
WAYS: Final[dict[tuple[str, int], Provoke]] = {}


def provokes(reason: str, *numbers: int) -> Callable[[Provoke], Provoke]:
    """Register a function for blocks of a reason's entry; none: for the only one."""

    def register(function: Provoke) -> Provoke:
        for number in numbers or (0,):
            WAYS[reason, number] = function
        return function

    return register


def test_each_block_of_the_runbook_has_a_scenario_and_each_reason_a_block() -> None:
    there = blocks()
    assert [reason for reason, found in there.items() if not found] == [], "entries without commands"
    assert set(WAYS) == {(reason, at) for reason, found in there.items() for at in range(len(found))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "block"), [(name, at) for name, found in blocks().items() for at in range(len(found))]
)
async def test_the_commands_of_the_runbook_lead_out(
    settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, reason: str, block: int
) -> None:
    settings = settings_for(partitions=2, erasure_salt="salt", commit_timeout_s=5.0, backoff_max_s=1.0, currency="USD")
    async with open_deployment(settings) as shop:
        by_hand = await WAYS[reason, block](shop, monkeypatch)
        if shop.engine is None:
            await shop.start()
        assert await shop.quarantined() == {reason}
        assert shop.engine
        for command in re.findall("`(seg[^`]+)`", " ".join(s.detail for s in shop.engine.board.shards.values())):
            assert re.sub(r"\d+", "", command).strip() in entries()[reason], "the hint names a way that the runbook has"
        if by_hand and (pending := by_hand()) is not None:
            await pending
        await shop.run(blocks()[reason][block])
        await shop.works()


async def worked(shop: Deployment) -> None:
    """Let a worker score the first orders, and stop it."""
    await shop.start()
    await shop.order()
    await shop.settled()
    await shop.stop()


@provokes("redis_lost", 0)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> ByHand:
    await worked(shop)
    backup = shop.back_up()
    shop.empty()
    return lambda: shop.restore(backup)


@provokes("redis_lost", 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    with shop.redis() as redis:
        for keys in shop.shards:
            redis.delete(keys.states)


@provokes("redis_ahead")
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    await shop.order()
    shop.edit_heads(offset=lambda head: head.offset + 1, read=None)


@provokes("redis_format")
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    with shop.redis() as redis:
        for keys in shop.shards:
            redis.set(keys.head, b'{"format": 2}')


@provokes("head_format")
async def _(shop: Deployment, monkeypatch: pytest.MonkeyPatch) -> ByHand:
    """A newer version has another format of heads, and reads the old one too."""
    await worked(shop)
    topic = shop.settings.heads_topic("scoring")
    async with AIOKafkaProducer(**shop.settings.kafka_client()) as producer:
        for p, keys in enumerate(shop.shards):
            head = _kafka_head(shop, keys.head)
            value = json.dumps({"format": 2, "head": msgspec.to_builtins(head)}).encode()
            await producer.send_and_wait(topic, value, key=HEAD_KEY, partition=p)

    def newer(value: bytes) -> KafkaHead:
        found = json.loads(value)
        return decode_kafka_head(json.dumps(found["head"]).encode() if found["format"] == 2 else value)

    return lambda: monkeypatch.setattr(log_reader, "decode_kafka_head", newer)


@provokes("foreign_cluster", 0)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    """The workers are pointed at another Redis, of another deployment."""
    await worked(shop)
    backup, own = shop.back_up(), shop.settings.redis_url
    other = SecretStr(f"{own.get_secret_value().rpartition('/')[0]}/7")
    shop.redis_url = other
    shop.restore(backup)
    shop.edit_heads(cluster="another")
    shop.redis_url = own
    shop.workers = shop.settings.model_copy(update={"redis_url": other})


@provokes("foreign_cluster", 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    shop.edit_heads(cluster="the one before")


@provokes("partitions_changed", 0)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    shop.workers = shop.settings.model_copy(update={"partitions": 3})


@provokes("partitions_changed", 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> ByHand:
    await worked(shop)
    await shop.start()
    await add_partitions(shop.settings, shop.settings.orders_topic, 12)
    grown = shop.settings.model_copy(update={"partitions": 12})
    for producer in (grown, shop.settings):  # one knows the new partitions already, the other not yet
        await shop.order(routed_by=producer)

    async def stop_workers() -> None:
        await shop.stop()
        shop.settings = grown

    return stop_workers


@provokes("input_gone", 0, 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    await shop.order()
    await cut(shop.settings, shop.settings.orders_topic)
    await shop.order()


@provokes("input_truncated", 0, 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    await recreate(shop.settings, shop.settings.orders_topic)
    await shop.order(number=1)


@provokes("input_changed")
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    await recreate(shop.settings, shop.settings.orders_topic)
    await shop.order(number=4)


@provokes("outputs_gone")
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    backup = shop.back_up()
    shop.customers += [f"new-{i}" for i in range(8)]  # each of them moves at the first order
    await worked(shop)
    shop.restore(backup)
    await cut(shop.settings, shop.settings.changes_topic)


@provokes("outputs_missing")
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    running = await shop.start()
    while set(running.states().values()) != {"running"}:
        await shop.order(["c0"], 1)
    backup = shop.back_up()
    await shop.stop()
    await worked(shop)
    shop.restore(backup)
    shop.edit_heads(count=0, position=0, written=None)
    await recreate(shop.settings, shop.settings.changes_topic)


@provokes("output_changed", 0, 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    await recreate(shop.settings, shop.settings.changes_topic)


@provokes("foreign_outputs", 0)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    """A staging worker is pointed at production's output topics."""
    await worked(shop)
    production, own = shop.settings, {name: f"staging-{getattr(shop.settings, name)}" for name in OUTPUTS}
    shop.settings = production.model_copy(update={"group": f"{production.group}-staging", **own})
    shop.workers = shop.settings.model_copy(update={name: getattr(production, name) for name in OUTPUTS})
    shop.forget_moves()
    await topics.create(shop.workers)


@provokes("foreign_outputs", 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    shop.workers = shop.settings.model_copy(update={"group": f"{shop.settings.group}-renamed"})
    await topics.create(shop.workers)


@provokes("foreign_outputs", 2)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    """Somebody else writes to the topic of the latest outputs while the owner works."""
    await worked(shop)
    await shop.start()
    shop.customers += [f"early-{i}" for i in range(8)]
    await shop.order()
    await shop.settled()
    async with AIOKafkaProducer(**shop.settings.kafka_client()) as producer:
        for p in range(shop.settings.partitions):
            headers = [(GROUP_HEADER, b"another")]
            await producer.send_and_wait(shop.settings.state_topic, b"x", key=b"x", partition=p, headers=headers)
    shop.customers += [f"new-{i}" for i in range(8)]  # each of them moves at the first order
    await shop.order()


@provokes("topic_missing")
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    await delete_topic(shop.settings, shop.settings.tombstones_topic)


@provokes("state_format")
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    with shop.redis() as redis:
        for keys in shop.shards:
            for name, value in redis.hgetall(keys.states).items():
                redis.hset(keys.states, name, b"\x09" + value[1:])
    await shop.order()


@provokes("salt_changed", 0, 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    gone = shop.erased = [f"gone-{i}" for i in range(8)]
    await shop.start()
    await shop.order([*shop.customers, *gone])
    now = datetime.now(UTC)
    await send_events(shop.settings, *(CustomerErased(id=f"e-{c}", customer_id=c, occurred_at=now) for c in gone))
    await shop.order()
    await shop.settled()
    await shop.stop()
    shop.workers = shop.settings.model_copy(update={"erasure_salt": SecretStr("another")})


@provokes("settings_changed", 0)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    shop.workers = shop.settings.model_copy(update={"window_days": 180})


@provokes("settings_changed", 1)
async def _(shop: Deployment, _: pytest.MonkeyPatch) -> None:
    await worked(shop)
    shop.settings = shop.workers = shop.settings.model_copy(update={"window_days": 180})


class FailsOn(ScoringStep):
    """A step that a model makes raise, whatever the record."""

    version = ""

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        """Raise under that model."""
        if context.activation.version == self.version:
            raise ZeroDivisionError("the model")
        return super().rescore(rows, quiet, context)


@provokes("step_failed")
async def _(shop: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = nearer_at_risk(0.25)
    monkeypatch.setattr("tests.support.engine.deployment.scoring_step", _failing(bad.version))
    await worked(shop)
    await shop.start()
    await asyncio.to_thread(put, shop.settings, bad, active=True)


def _failing(version: str) -> Any:
    from stream.worker.steps import scoring_step

    def make(settings: Settings) -> ScoringStep:
        step = scoring_step(settings)
        step.__class__ = FailsOn
        step.version = version  # type: ignore[attr-defined]
        return step

    return make


def _kafka_head(shop: Deployment, key: str) -> KafkaHead:
    from stream.storage.heads import decode_store_head

    with shop.redis() as redis:
        raw = redis.get(key)
    assert isinstance(raw, bytes)
    head = decode_store_head(raw)
    return KafkaHead(head.offset, head.count, head.clock, head.activation, head.version, head.cursor, head.scope)
