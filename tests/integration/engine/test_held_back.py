"""Records that wait behind an open transaction of another producer are shown: status, health and metrics."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from stream.kafka import topics
from stream.local.machine import free_port
from stream.settings import Settings
from tests.support.command_line import run
from tests.support.engine.real_worker import processes
from tests.support.engine.toy_engine import Engine, engine, eventually, produce

WAITING = [(b"k%d" % i, b"x") for i in range(100)]


@asynccontextmanager
async def open_transaction(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """Send a record to each partition in a transaction that stays open; abort it at the end."""
    producer = AIOKafkaProducer(**settings.kafka_client(), transactional_id=f"{settings.group}-upstream")
    await producer.start()
    try:
        await producer.begin_transaction()
        for p in range(settings.partitions):
            await producer.send_and_wait(settings.orders_topic, b"x", key=b"open", partition=p)
        yield producer
        await producer.abort_transaction()
    finally:
        await producer.stop()


def sample(running: Engine, name: str) -> list[float]:
    rows = [s for metric in running.metrics.registry.collect() for s in metric.samples if s.name == name]
    return [row.value for row in rows]


async def test_records_behind_an_open_transaction_are_shown(settings: Settings) -> None:
    patient = settings.model_copy(update={"open_transaction_warn_s": 0.5})
    count = settings.partitions
    async with engine(patient) as running:
        await eventually(lambda: set(running.states().values()) == {"running"} and len(running.states()) == count)
        async with open_transaction(settings):
            await produce(settings, WAITING)
            # By the last stable offset nothing lags.
            await eventually(lambda: sum(sample(running, "segstream_held_back_records")) == len(WAITING) + count)
            assert sample(running, "segstream_lag_records") == [0.0] * count
            await eventually(lambda: running.board.waiting_for_transaction == list(range(count)))
            assert min(sample(running, "segstream_held_back_seconds")) >= 0.5
            assert set(running.states().values()) == {"running"}, "no other worker would do better"
            await running.board.refresh()
            shown = await asyncio.to_thread(run, settings, "status", "--json")
            rows = [json.loads(line) for line in shown.stdout.splitlines()]
            assert sum(row["held_back"] for row in rows) == len(WAITING) + count
            assert {(row["state"], row["reason"]) for row in rows} == {("running", "open_transaction")}
            assert all(row["high_watermark"] == row["end"] + row["held_back"] for row in rows)
            table = (await asyncio.to_thread(run, settings, "status")).stdout
            assert "held back)" in table
            assert "an open transaction has held" in table
            late = await asyncio.to_thread(run, settings, "status", "--wait", "0.5", code=1)
            assert "records wait" in late.stderr
        await eventually(lambda: running.taken() >= len(WAITING))
        await eventually(lambda: running.board.waiting_for_transaction == [])
        assert sample(running, "segstream_held_back_seconds") == [0.0] * count
        await running.board.refresh()
        assert (await asyncio.to_thread(run, settings, "status", "--wait", "20")).exit_code == 0


async def test_gauges_leave_with_their_shard(settings: Settings) -> None:
    await produce(settings, WAITING)
    async with engine(settings) as one:
        await eventually(lambda: one.taken() == len(WAITING))
        await eventually(lambda: len(sample(one, "segstream_clock_seconds")) == settings.partitions)
        async with engine(settings) as two:
            await eventually(lambda: len(one.membership.assigned) == len(two.membership.assigned) == 2)
            for name in ("segstream_lag_records", "segstream_held_back_records", "segstream_clock_seconds"):
                await eventually(lambda name=name: len(sample(one, name)) == 2, what=name)  # type: ignore[misc]


@pytest.mark.slow
async def test_health_names_the_partitions_and_stays_healthy(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, open_transaction_warn_s=0.5, http_port=free_port())
    await topics.create(settings)

    def health() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.http_port}/health") as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    async def waiting(partitions: list[int]) -> bool:
        try:
            found = await asyncio.to_thread(health)  # raises where it isn't 200
        except OSError:
            return False
        states = {shard["state"] for shard in found["shards"].values()}
        return states == {"running"} and found["healthy"] and found["waiting_for_transaction"] == partitions

    with processes(settings, tmp_path, "worker"):
        await eventually(lambda: waiting([]), 60, "a healthy worker")
        async with open_transaction(settings):
            await eventually(lambda: waiting([0, 1]), 30, "partitions that wait")
        await eventually(lambda: waiting([]), 30, "nothing waits")
