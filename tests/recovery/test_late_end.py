"""The end of a transaction arrives late, in a later transaction of the same producer: on each version of Kafka."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import InvalidTxnState
from aiokafka.protocol.transaction import EndTxnRequest

from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.local.jars import KAFKA_VERSIONS
from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.world import settings_on, world

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(600)]

LATE = 8  # ends that must have arrived late
ROUNDS = 120  # at most
CHANCE = 0.4  # of an end to be stranded
PACE_S = 0.2  # between two rounds: turns follow orders, as in production, instead of working off a backlog


@pytest.fixture(params=KAFKA_VERSIONS)
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RigServers]:
    """Return servers with this version of Kafka."""
    if request.param == KAFKA_VERSIONS[0]:
        yield request.getfixturevalue("servers")
        return
    with RigServers(tmp_path_factory.mktemp("newest"), 1, kafka_version=request.param) as made:
        yield made


async def test_an_end_that_arrives_late_ends_no_other_transaction(kafka: RigServers, tmp_path: Path, seed: int) -> None:
    settings = settings_on(kafka, partitions=1, turn_max_orders=25)
    async with world(kafka, tmp_path, seed, settings, customers=300) as made:
        await made.feed(200)
        assert await made.feeder.activate()
        made.fleet.start(0)
        await made.settled()
        wire = kafka.wires[0].kafka
        wire.late_answers.clear()
        wire.strand_ends(random.Random(seed), CHANCE)
        for _ in range(ROUNDS):
            await made.feed(50, size=25)
            await asyncio.sleep(PACE_S)
            if len(wire.late_answers) >= LATE:
                break
        wire.heal()
        assert len(wire.late_answers) >= LATE
        run = await made.judge(rebuild=False)
    assert len(run.moves) > 100
    assert not made.fleet.grep("covering a torn transaction")
    # Each late end came from an owner that Kafka had fenced by then.
    assert 0 not in wire.late_answers


async def test_a_client_that_repeats_an_end_tears_a_transaction(kafka: RigServers) -> None:
    """Kafka alone doesn't prevent it, whatever its `transaction.version`: once it does, ADR 22 can be thought over."""
    settings = settings_on(kafka, partitions=1)
    await topics.create(settings)
    changes, state = settings.changes_topic, settings.state_topic
    async with AIOKafkaProducer(**settings.kafka_client(), transactional_id=settings.group) as producer:
        async with producer.transaction():
            await producer.send_and_wait(changes, b"of the first", partition=0)
        manager = producer._txn_manager
        coordinator = await producer._sender._find_coordinator(CoordinationType.TRANSACTION, settings.group)
        await producer.begin_transaction()
        await producer.send_and_wait(changes, b"of the second", partition=0)
        late = EndTxnRequest(settings.group, manager.producer_id, manager.producer_epoch, 1)
        answer = await producer.client.send(coordinator, late, group=ConnectionGroup.COORDINATION)
        assert answer.error_code == 0
        visible = [record.value for record in await read_topic(settings, changes)]
        assert visible == [b"of the first", b"of the second"], "half of the second transaction"
        with pytest.raises(InvalidTxnState):
            await producer.send_and_wait(changes, b"of the second, too", partition=0)
    assert await read_topic(settings, state) == []
