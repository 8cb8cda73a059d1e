"""A back-fill through real servers and workers: muted, shown, resumed after a crash, told of once; or given up."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from segmentation.events import CONTROL_KEY, Amount, BackfillFinished, CustomerEvent, OrderPlaced, encode, instant
from segmentation.partitioners import murmur2
from stream.clock import now_ms
from stream.customers.lookup import customer
from stream.engine.shard_report import open_backfills, report
from stream.kafka import topics
from stream.models.topic import read_published
from stream.settings import Settings
from tests.support.engine.real_worker import activate, check_chains, launch, moves, processes, settled, states
from tests.support.engine.toy_engine import eventually

DAY_MS = 86_400_000
START_MS = 1_500_000_000_000
OLD = [f"old-{i}" for i in range(40)]
LIVE = [f"live-{i}" for i in range(40)]
HOUR_MS = 3_600_000


def order(name: str, number: int, day: float, backfill: str | None = None) -> OrderPlaced:
    text = f"{name}-{number}"
    return OrderPlaced(
        id=text, order_id=text, customer_id=name, occurred_at=instant(START_MS + int(day * DAY_MS)),
        amount=Amount(f"{20 + number * 7}.00", "USD"), backfill=backfill,
    )  # fmt: skip


async def send(settings: Settings, *events: CustomerEvent) -> None:
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for event in events:
            key = event.customer_id.encode()
            await producer.send(
                settings.orders_topic, encode(event), key=key, partition=murmur2(key, settings.partitions)
            )


async def finish(settings: Settings, name: str) -> None:
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for partition in range(settings.partitions):
            event = encode(BackfillFinished(id=f"{name} ends", backfill=name))
            await producer.send(settings.orders_topic, event, key=CONTROL_KEY, partition=partition)


def of(everything: list[list[dict[str, Any]]], names: list[str]) -> list[dict[str, Any]]:
    return [move for partition in everything for move in partition if move["customer_id"] in names]


def archive(numbers: range, backfill: str | None = "archive") -> list[CustomerEvent]:
    return [order(name, n, 3 * n, backfill) for n in numbers for name in OLD]


async def test_history_is_loaded_while_the_shop_goes_on(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(time="event", rescore_slice=7)
    await topics.create(settings)
    await asyncio.to_thread(activate, settings)
    worker = launch(settings, tmp_path, "worker")
    try:
        await send(settings, *(order(name, 0, 0) for name in [*LIVE, *OLD[:20]]))
        await settled(settings)
        before = of(await moves(settings), OLD)
        assert len(before) == 20
        await send(settings, *archive(range(1, 6)), *(order(name, 1, 16) for name in LIVE))
        await settled(settings)
        told = await moves(settings)
        assert of(told, OLD) == before
        assert len(of(told, LIVE)) > len(LIVE)
        rows = await asyncio.to_thread(report, settings, "scoring", now_ms())
        [line] = open_backfills(rows, 24 * HOUR_MS)
        assert line.startswith(f"backfill archive is open on {settings.partitions} of {settings.partitions} shards")
        shown = await asyncio.to_thread(customer, settings, await read_published(settings), OLD[0])
        assert (shown.backfill, shown.next, shown.frequency) == ("archive", None, 6)
        # It crashes, and so does the worker; it is sent again from its beginning, and to its end.
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        await send(settings, *archive(range(1, 10)))
        await finish(settings, "archive")
        worker = launch(settings, tmp_path, "worker")
        await settled(settings)
        told = await moves(settings)
        check_chains(told)
        released = [move for move in of(told, OLD) if move not in before]
        assert {move["cause"] for move in released} == {"backfill"}
        assert len(released) == len({move["customer_id"] for move in released})
        assert {move["customer_id"] for move in of(told, OLD)} == set(OLD)
        assert open_backfills(await asyncio.to_thread(report, settings, "scoring", now_ms()), HOUR_MS) == []
        # From here on they are customers like any other.
        await send(settings, *(order(name, 10, 100) for name in OLD))
        await settled(settings)
        causes = {move["cause"] for move in of(await moves(settings), OLD) if move not in released + before}
        assert {"order", "silence"} & causes
    finally:
        worker.kill()
        worker.wait()
    stored, log = states(settings), settings.orders_topic
    # The same log without a crash: the same moves, the same states.
    twin = settings_for(time="event", orders_topic=log, models_topic=settings.models_topic)
    await topics.create(twin)
    with processes(twin, tmp_path / "twin", "worker"):
        await settled(twin)
    assert await moves(twin) == await moves(settings)
    assert states(twin) == stored


async def test_a_back_fill_that_nobody_ends_expires(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(backfill_expiry_hours=3 / 3_600)
    await topics.create(settings)
    now = time.time_ns() // 1_000_000
    events = [
        OrderPlaced(
            id=name,
            order_id=name,
            customer_id=name,
            occurred_at=instant(now),
            amount=Amount("90.00", "USD"),
            backfill="b",
        )
        for name in OLD
    ]
    with processes(settings, tmp_path, "worker"):
        activation = await asyncio.to_thread(activate, settings)
        await settled(settings, activation=activation)
        sent = time.monotonic()
        await send(settings, *events)
        told: list[dict[str, Any]] = []

        async def all_told() -> bool:
            nonlocal told
            told = of(await moves(settings), OLD)
            return len(told) == len(OLD)

        await eventually(all_told, 60, "everyone is told of")
        assert time.monotonic() - sent >= 3
    assert {move["cause"] for move in told} == {"backfill"}
