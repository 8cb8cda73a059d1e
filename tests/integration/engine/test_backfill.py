"""A backfill on real servers and workers: no moves while it runs, a crash in it, its moves at its end, its expiry."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from segmentation.event_text import instant
from segmentation.events import CONTROL_KEY, Amount, BackfillFinished, CustomerEvent, OrderPlaced, encode
from stream.clock import now_ms
from stream.customers.lookup import customer
from stream.kafka import topics
from stream.models.topic import read_published
from stream.settings import Settings
from stream.status.report import open_backfills, report
from tests.support.engine.real_worker import activate, check_chains, launch, moves, processes, settled, states
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events

DAY_MS = 86_400_000
START_MS = 1_500_000_000_000
OLD = [f"old-{i}" for i in range(40)]
LIVE = [f"live-{i}" for i in range(40)]
HOUR_MS = 3_600_000


def order(name: str, number: int, day: float, backfill: str | None = None) -> OrderPlaced:
    text = f"{name}-{number}"
    return OrderPlaced(
        id=text,
        order_id=text,
        customer_id=name,
        occurred_at=instant(START_MS + int(day * DAY_MS)),
        amount=Amount(f"{20 + number * 7}.00", "USD"),
        backfill=backfill,
    )


async def finish(settings: Settings, name: str) -> None:
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for partition in range(settings.partitions):
            event = encode(BackfillFinished(id=f"{name} ends", backfill=name))
            await producer.send(settings.orders_topic, event, key=CONTROL_KEY, partition=partition)


def moves_of(names: list[str], moves: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [move for partition in moves for move in partition if move["customer_id"] in names]


def archive(numbers: range, backfill: str | None = "archive") -> list[CustomerEvent]:
    return [order(name, n, 3 * n, backfill) for n in numbers for name in OLD]


@pytest.mark.slow
async def test_history_is_loaded_while_orders_arrive(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(time="event", rescore_slice=7)
    await topics.create(settings)
    await asyncio.to_thread(activate, settings)
    worker = launch(settings, tmp_path, "worker")
    try:
        await send_events(settings, *(order(name, 0, 0) for name in [*LIVE, *OLD[:20]]))
        await settled(settings)
        before = moves_of(OLD, await moves(settings))
        assert len(before) == 20
        await send_events(settings, *archive(range(1, 6)), *(order(name, 1, 16) for name in LIVE))
        await settled(settings)
        published = await moves(settings)
        assert moves_of(OLD, published) == before
        assert len(moves_of(LIVE, published)) > len(LIVE)
        rows = await asyncio.to_thread(report, settings, "scoring", now_ms())
        [line] = open_backfills(rows, 24 * HOUR_MS)
        assert line.startswith(f"backfill archive is open on {settings.partitions} of {settings.partitions} shards")
        shown = await asyncio.to_thread(customer, settings, await read_published(settings), OLD[0], now_ms())
        assert (shown.backfill, shown.next, shown.frequency) == ("archive", None, 6)
        # The backfill and the worker crash; then the backfill is sent again from its beginning to its end.
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        await send_events(settings, *archive(range(1, 10)))
        await finish(settings, "archive")
        worker = launch(settings, tmp_path, "worker")
        await settled(settings)
        published = await moves(settings)
        check_chains(published)
        released = [move for move in moves_of(OLD, published) if move not in before]
        assert {move["cause"] for move in released} == {"backfill"}
        assert len(released) == len({move["customer_id"] for move in released})
        assert {move["customer_id"] for move in moves_of(OLD, published)} == set(OLD)
        assert open_backfills(await asyncio.to_thread(report, settings, "scoring", now_ms()), HOUR_MS) == []
        # After the backfill they are moved like all other customers.
        await send_events(settings, *(order(name, 10, 100) for name in OLD))
        await settled(settings)
        causes = {move["cause"] for move in moves_of(OLD, await moves(settings)) if move not in released + before}
        assert {"order", "silence"} & causes
    finally:
        worker.kill()
        worker.wait()
    stored, log = states(settings), settings.orders_topic
    # The same log without a crash gives the same moves and states.
    second = settings_for(time="event", orders_topic=log, models_topic=settings.models_topic)
    await topics.create(second)
    with processes(second, tmp_path / "second", "worker"):
        await settled(second)
    assert await moves(second) == await moves(settings)
    assert states(second) == stored


async def test_a_backfill_without_an_end_expires(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
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
        await send_events(settings, *events)
        published: list[dict[str, Any]] = []

        async def all_published() -> bool:
            nonlocal published
            published = moves_of(OLD, await moves(settings))
            return len(published) == len(OLD)

        await eventually(all_published, 60, "a move of every customer")
        assert time.monotonic() - sent >= 3
    assert {move["cause"] for move in published} == {"backfill"}
