"""The real engine over the toy step, in this process or in a worker process, and checks of its results."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from aiokafka import AIOKafkaProducer

from segmentation.step import Step
from stream.clock import now_ms
from stream.engine.flow_control import TurnSlots
from stream.engine.ownership import ShardContext
from stream.engine.shard import Shard
from stream.engine.store import ShardStore
from stream.engine.supervisor import Supervisor
from stream.engine.turns import Models
from stream.kafka.clients import read_topic
from stream.kafka.membership import GroupMembership
from stream.kafka.streams import streams_of
from stream.metrics import Metrics
from stream.rates.topic import RateReader
from stream.settings import Settings, load_settings
from stream.status.board import StatusBoard
from stream.storage.client import connect
from stream.storage.keys import ShardKeys
from stream.worker.app import run_worker
from tests.support.engine.toy_step import LEVEL, STATE, ToyStep

__all__ = ["LEVEL", "STATE", "Engine", "ToyStep", "counts", "engine", "eventually", "produce", "read_all", "verify"]


class Engine:
    """A running supervisor, and its statuses."""

    def __init__(self, board: StatusBoard, metrics: Metrics, intake: Supervisor, membership: GroupMembership) -> None:
        self.board = board
        self.metrics = metrics
        self.intake = intake
        self.membership = membership

    def states(self) -> dict[int, str]:
        return {p: s.state for p, s in self.board.shards.items()}

    def reasons(self) -> dict[int, str]:
        return {p: s.reason for p, s in self.board.shards.items() if s.state == "quarantined"}

    def taken(self) -> int:
        return sum(s.offset for s in self.board.shards.values())


@asynccontextmanager
async def engine(settings: Settings, step: Step | None = None, models: Models | None = None) -> AsyncIterator[Engine]:
    redis = connect(settings)
    step = step or ToyStep()
    streams = streams_of(settings, step.name)
    board = StatusBoard(redis, settings.group, streams.input, "test", now_ms, settings.open_transaction_warn_s)
    metrics = Metrics()
    membership = GroupMembership(settings, streams.input, settings.group)

    slots, rates = TurnSlots(settings.turns_at_once), RateReader(settings)

    def make(partition: int) -> Shard:
        store = ShardStore.of(redis, settings, streams.input, partition)
        return Shard(
            ShardContext(settings, streams, partition, step, store, membership, rates),
            models,
            metrics,
            board,
            slots,
            now_ms,
        )

    intake = Supervisor(membership, make, settings.partitions)
    running = asyncio.create_task(intake.run())
    try:
        yield Engine(board, metrics, intake, membership)
    finally:
        intake.stop()
        await running
        await rates.close()
        await redis.aclose()


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 40.0, what: str = "it") -> None:
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        assert time.monotonic() < deadline, f"{what} didn't come about within {within_s} s"
        await asyncio.sleep(0.02)


async def produce(settings: Settings, rows: list[tuple[bytes, bytes]], topic: str | None = None) -> None:
    """Send records, by default to the topic of orders. All are there when it returns."""
    topic = topic or settings.orders_topic
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for future in [await producer.send(topic, value, key=key) for key, value in rows]:
            await future


async def read_all(settings: Settings, topic: str) -> list[Any]:
    """Read all committed records of a topic, partition by partition."""
    return sorted(await read_topic(settings, topic), key=lambda r: (r.partition, r.offset))


async def counts(settings: Settings) -> dict[bytes, int]:
    """Read the number of records in each key's state."""
    redis = connect(settings)
    try:
        seen: dict[bytes, int] = {}
        for partition in range(settings.partitions):
            key = ShardKeys(settings.group, settings.orders_topic, partition).states
            rows = cast("dict[bytes, bytes]", await redis.hgetall(key))
            seen |= {key: STATE.unpack(value)[0] for key, value in rows.items()}
        return seen
    finally:
        await redis.aclose()


async def verify(settings: Settings, sent: list[tuple[bytes, bytes]]) -> int:
    """Check that each record counts once, and each key's outputs are 1, 2, 3... to its level. Return their number."""
    good = Counter(key for key, value in sent if value not in {b"bad", b"poison"})
    assert await counts(settings) == dict(good)
    outputs = await read_all(settings, settings.changes_topic)
    last: dict[bytes, int] = {}
    for record in outputs:
        parts = re.fullmatch(rb"(.+):(\d+):(\d+)", record.value)
        assert parts is not None, record.value
        key, sequence, level = parts.groups()
        assert int(sequence) == last.get(key, 0) + 1, (key, sequence)
        assert int(level) == int(sequence)
        last[key] = int(sequence)
    assert last == {key: count // LEVEL for key, count in good.items() if count >= LEVEL}
    return len(outputs)


if __name__ == "__main__":
    sys.exit(run_worker(load_settings(), ToyStep()))
