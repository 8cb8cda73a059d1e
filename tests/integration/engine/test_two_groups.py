"""Two deployments on one output topic: one of them is refused before it publishes, or at its next takeover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from segmentation.step import Output
from stream.commands import shards
from stream.engine.ledger import Ledger, Publication
from stream.kafka import topics
from stream.kafka.streams import ForeignOutputs, streams_of
from stream.settings import Settings
from stream.storage.heads import GROUP_HEADER, MARK_HEADER, KafkaHead
from stream.storage.keys import ShardKeys
from tests.integration.engine.test_engine import ROWS, ran, redis_of
from tests.support.engine.toy_engine import engine, eventually, produce, read_all, verify


@pytest.fixture
async def settings(settings_for: Callable[..., Settings]) -> Settings:
    made = settings_for(partitions=1)
    await topics.create(made)
    return made


async def staging_of(settings: Settings, **own: str) -> Settings:
    """Return settings of another deployment that was pointed at these topics."""
    staging = settings.model_copy(update={"group": f"{settings.group}-staging", **own})
    await topics.create(staging)
    return staging


async def groups(settings: Settings, topic: str) -> list[str]:
    return [dict(r.headers)[GROUP_HEADER].decode() for r in await read_all(settings, topic)]


async def test_a_second_group_is_refused_and_can_not_rebuild(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    published = await verify(settings, ROWS)
    staging = await staging_of(settings)
    async with engine(staging) as running:
        await eventually(lambda: running.reasons() == {0: "foreign_outputs"})
        detail = running.board.shards[0].detail
    assert f"{settings.changes_topic}-0 has outputs of group {settings.group!r}" in detail
    assert "SEGSTREAM_CHANGES_TOPIC" in detail
    with pytest.raises(ForeignOutputs, match="two deployments can't share an output topic"):
        await shards._rebuild(staging, "scoring", None)
    with redis_of(staging) as redis:
        assert not redis.exists(*ShardKeys(staging.group, staging.orders_topic, 0).all())
    await produce(settings, ROWS)
    await ran(settings, 1200)
    assert await verify(settings, ROWS * 2) > published
    assert set(await groups(settings, settings.changes_topic)) == {settings.group}
    assert set(await groups(settings, settings.state_topic)) == {settings.group}


async def test_a_group_with_moves_of_its_own_may_not_share_the_latest_of_each_customer(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    staging = await staging_of(settings, changes_topic=f"{settings.changes_topic}-staging")
    async with engine(staging) as running:
        await eventually(lambda: running.reasons() == {0: "foreign_outputs"})
        assert "SEGSTREAM_STATE_TOPIC" in running.board.shards[0].detail
    with pytest.raises(ForeignOutputs, match=settings.state_topic):
        await shards._rebuild(staging, "scoring", None)


@pytest.mark.slow
async def test_of_two_groups_that_begin_at_once_the_second_to_publish_stops(settings: Settings) -> None:
    staging = await staging_of(settings)
    async with engine(settings) as first, engine(staging) as second:
        await eventually(lambda: first.states() == second.states() == {0: "running"})
        await produce(settings, ROWS)

        def decided() -> bool:
            stopped = [e for e in (first, second) if e.reasons() == {0: "foreign_outputs"}]
            going = [e for e in (first, second) if e.states() == {0: "running"} and e.board.warnings]
            return len(stopped) == len(going) == 1

        # Each notices at its next turn that the other has published.
        for _ in range(40):
            await produce(settings, ROWS[:50])
            if decided():
                break
        await eventually(decided, what="one of them stopped, the other warns and goes on")
        owner = (await groups(settings, settings.changes_topic))[0]
        going = settings if first.states() == {0: "running"} else staging
        assert owner == going.group
    # For good: at each takeover.
    async with engine(settings if owner != settings.group else staging) as again:
        await eventually(lambda: again.reasons() == {0: "foreign_outputs"})
    async with engine(going) as owning:
        await eventually(lambda: owning.states() == {0: "running"})


@pytest.mark.slow
async def test_outputs_without_a_group_are_ours(settings: Settings) -> None:
    """A version before this one wrote none."""
    await produce(settings, ROWS)
    await ran(settings, 600)
    published = await read_all(settings, settings.changes_topic)
    fields = [dict(r.headers) for r in published]
    old = await staging_of(settings, changes_topic=f"{settings.changes_topic}-old")
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for record, headers in zip(published, fields, strict=True):
            kept: Any = [(name, value) for name, value in headers.items() if name != GROUP_HEADER]
            await producer.send_and_wait(old.changes_topic, record.value, key=record.key, partition=0, headers=kept)
    upgraded = settings.model_copy(update={"changes_topic": old.changes_topic})
    await shards._rebuild(upgraded, "scoring", None)
    await produce(settings, ROWS)
    await ran(upgraded, 1200)
    assert await verify(upgraded, ROWS * 2) > len(published)


@pytest.mark.slow
async def test_a_record_of_somebody_else_costs_one_takeover(settings: Settings) -> None:
    await produce(settings, ROWS)
    async with engine(settings) as running:
        await eventually(lambda: running.taken() >= 600)
        async with AIOKafkaProducer(**settings.kafka_client()) as producer:
            for _ in range(2):
                await producer.send_and_wait(settings.changes_topic, b"by hand", partition=0)
        await produce(settings, ROWS)
        await eventually(lambda: running.taken() >= 1200)
        await produce(settings, ROWS)
        await eventually(lambda: running.taken() >= 1800)
        count = running.metrics.takeovers.labels("scoring", "foreign_outputs")._value.get()
    assert count == 1
    moves = [r for r in await read_all(settings, settings.changes_topic) if r.value != b"by hand"]
    numbers = [int(dict(r.headers)[MARK_HEADER].split(b":")[0]) for r in moves]
    assert numbers == list(range(1, len(moves) + 1))


async def test_offsets_of_turns_follow_each_other_with_one_marker_between(settings: Settings) -> None:
    """That nobody else has written is seen by this alone: also in several batches, and after an aborted turn."""
    streams = streams_of(settings, "scoring")

    def turn(first: int, count: int) -> Publication:
        outputs = [Output(b"k%d" % n, b"x" * 9_000, [], b"note", b"latest") for n in range(count)]
        return Publication(KafkaHead(first, first + count - 1, 0, 0), outputs)

    async def spans(ledger: Ledger, first: int, count: int) -> list[tuple[object, ...]]:
        published = await ledger.publish(turn(first, count))
        assert published
        return [tuple(w) for w in published.written]

    ledger = await Ledger.open(settings, streams, 0)
    output, latest = settings.changes_topic, settings.state_topic
    assert await spans(ledger, 1, 3) == [(output, 0, 2, 3), (latest, 0, 2, 3)]
    assert await ledger.publish(Publication(KafkaHead(2, 3, 0, 0))) is None
    # 350 rows of 9 kB are four batches.
    assert await spans(ledger, 4, 350) == [(output, 4, 353, 350), (latest, 4, 353, 350)]
    await ledger._producer.begin_transaction()
    for future, _ in await ledger._send_outputs(turn(354, 2)):
        await future
    await ledger.close()
    successor = await Ledger.open(settings, streams, 0)
    # A marker, two aborted records and their marker lie between.
    assert await spans(successor, 354, 1) == [(output, 358, 358, 1), (latest, 355, 355, 1)]
    assert await spans(successor, 355, 1) == [(output, 360, 360, 1), (latest, 357, 357, 1)]
    await successor.close()
