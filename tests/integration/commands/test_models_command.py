"""`segstream models`: the forecast of a model's activation comes true, and the limit on its moves is kept."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from bench.harness.model import bench_model
from segmentation.event_text import instant
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.model import SegmentModel
from segmentation.partitioners import murmur2
from stream.kafka import topics
from stream.models.listing import ModelUnknown, find_model
from stream.models.shadow import shadow
from stream.models.topic import read_published
from stream.orders.simulate import simulate
from stream.replay.publisher import replay
from stream.settings import Settings
from tests.support.command_line import run
from tests.support.engine.real_worker import activate, moves, processes, put, settled, states

DAY = 86_400_000
START = 1_600_000_000_000


def another() -> SegmentModel:
    """Return a model that would move some customers."""
    segments = tuple(
        s.model_copy(update={"centroid": (0.6 * s.centroid[0], 1.3 * s.centroid[1], s.centroid[2])})
        for s in bench_model().segments
    )
    return bench_model().model_copy(update={"segments": segments})


async def test_a_shadow_is_what_the_activation_does(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_for(time="event")
    await topics.create(settings)
    rows = list(itertools.takewhile(lambda row: row.at_ms < START + 200 * DAY, simulate(11, 150, START)))
    with processes(settings, tmp_path, "worker"):
        await asyncio.to_thread(activate, settings)
        await replay(settings, rows, until_ms=START + 200 * DAY)
        await settled(settings)
        with pytest.raises(ModelUnknown, match="no candidate"):
            find_model(await read_published(settings), None)
        version = another().version
        await asyncio.to_thread(put, settings, another(), active=False)
        published = await read_published(settings)
        report = await asyncio.to_thread(shadow, settings, published, find_model(published, None))
        shown = await asyncio.to_thread(run, settings, "models", "shadow", version[:6])
        listed = await asyncio.to_thread(run, settings, "models", "--json")
        before = sum(map(len, await moves(settings)))
        await asyncio.to_thread(put, settings, another(), active=True)
        await settled(settings)
        happened = [move for partition in await moves(settings) for move in partition]
    made = Counter((m["from"], m["to"]) for m in happened if m["cause"] == "model")
    assert sum(made.values()) == len(happened) - before > 5
    assert {(f.from_segment, f.to_segment): f.customers for f in report.flows} == dict(made)
    assert report.customers == len(states(settings))
    assert report.moving == pytest.approx(made.total() / report.customers)
    assert (
        sum(h.customers for h in report.segments) == sum(h.customers_after for h in report.segments) == report.customers
    )
    assert f"Activating {version} now would move {report.moving:.1%}" in shown.stdout
    first = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["state"], row["shards"]) for row in first if "state" in row] == [
        ("active", settings.partitions),
        ("candidate", 0),
    ]
    assert [row["rescored"] for row in first if "rescored" in row] == [None] * settings.partitions


@pytest.mark.slow
async def test_a_new_model_keeps_the_limit_of_moves_per_minute(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    """Orders continue meanwhile."""
    settings = settings_for(model_moves_per_minute=1_200)
    await topics.create(settings)
    names = [f"c{i}" for i in range(120)]
    now = instant(time.time_ns() // 1_000_000)
    with processes(settings, tmp_path, "worker"):
        async with AIOKafkaProducer(**settings.kafka_client()) as producer:
            for name in names:
                event = OrderPlaced(
                    id=name, order_id=name, customer_id=name, occurred_at=now, amount=Amount("90.00", "USD")
                )
                partition = murmur2(name.encode(), settings.partitions)
                await producer.send(settings.orders_topic, encode(event), key=name.encode(), partition=partition)
        await settled(settings)
        activation = await asyncio.to_thread(activate, settings)
        await settled(settings, activation=activation)
        published = await moves(settings, keep=("scored_at",))
    for rows in published:
        # 1,200 a minute over the shards: five a second each, and a slice of five at once.
        at = sorted(datetime.fromisoformat(move["scored_at"]).timestamp() for move in rows)
        assert len(at) > 10
        assert at[-1] - at[0] >= (len(at) - 10) / 5
    assert sum(map(len, published)) == len(names)
