"""A customer id that very many orders share: nobody else waits for it, and the shard isn't lost over it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from segmentation.events import Amount, OrderPlaced, encode
from segmentation.rfm import headers
from stream.kafka import topics
from stream.kafka.clients import kafka_producer
from stream.kafka.streams import streams_of
from stream.repair.rebuild import Rebuilder
from stream.settings import Settings
from stream.worker.steps import scoring_step
from tests.support.engine.real_worker import activate, check_chains, moves, processes, settled, states

ORDERS = 4_000  # as many as the largest batch
LOST = ("taking over afresh", "superseded", "the consumer group")


@pytest.mark.slow
async def test_thousands_of_orders_of_one_new_customer_lose_no_shard(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    """In any order of their dates: in a first batch, and again in the takeover after a rebuild."""
    settings = settings_for(partitions=1, partitioner="none")
    await topics.create(settings)
    await asyncio.to_thread(activate, settings)
    rng, now = random.Random(1), datetime.now(UTC)
    async with kafka_producer(settings) as producer:
        for n in range(ORDERS + 100):
            customer = "guest" if n < ORDERS else f"c-{n}"
            order = OrderPlaced(
                id=f"e-{n}",
                order_id=f"o-{n}",
                customer_id=customer,
                occurred_at=now - timedelta(days=rng.uniform(0.01, 700)),
                amount=Amount(value=f"{rng.randint(1, 90)}", currency="USD"),
            )
            await producer.send(settings.orders_topic, encode(order), key=customer.encode(), partition=0)
        await producer.flush()
    with processes(settings, tmp_path, "worker"):
        await settled(settings, activation=1)
    before = states(settings)
    guest = headers([before[b"guest"]])[0]
    assert len(before) == 101
    assert 1_500 < guest["frequency"] < 2_500  # those of the last year, about half
    async for _ in Rebuilder(settings, streams_of(settings, "scoring"), scoring_step(settings)).rebuild():
        pass
    with processes(settings, tmp_path, "worker"):
        await settled(settings, activation=1)
    assert states(settings).keys() == before.keys()
    check_chains(await moves(settings))
    log = (tmp_path / "worker.log").read_text()
    assert [line for line in log.splitlines() if any(text in line for text in LOST)] == []
    assert log.count("owned from offset") == 2
