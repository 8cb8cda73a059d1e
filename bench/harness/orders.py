"""The benchmark's orders: seeded, and preloaded into Kafka."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaProducer

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.partitioners import murmur2
from stream.settings import Settings

START_MS = 1_735_689_600_000  # 2025-01-01
SPAN_MS = 180 * DAY_MS


def bodies(count: int, customers: int, start_ms: int = START_MS, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of orders in time order, evenly over half a year, with amounts of 1 to 400."""
    rng = random.Random(seed)
    step = SPAN_MS / count
    for i in range(count):
        customer = f"c{rng.randrange(customers)}"
        cents = rng.randrange(100, 40_000)
        yield (
            customer.encode(),
            (
                f'{{"type":"order.placed","id":"{rng.getrandbits(128):032x}","order_id":"o{i}","customer_id":"{customer}",'
                f'"occurred_at":"{iso(start_ms + int(i * step))}",'
                f'"amount":{{"value":"{cents // 100}.{cents % 100:02d}","currency":"USD"}}}}'
            ).encode(),
        )


async def preload(settings: Settings, orders: Iterable[tuple[bytes, bytes]]) -> None:
    """Send these (key, value), compressed with lz4, each to its customer's partition."""
    producer = AIOKafkaProducer(
        **settings.kafka_client(), compression_type="lz4", max_batch_size=262_144, linger_ms=5, acks=1
    )
    await producer.start()
    partition_of: dict[bytes, int] = {}
    open_batches: dict[int, Any] = {}
    waiting: list[Any] = []
    for key, value in orders:
        partition = partition_of.get(key)
        if partition is None:
            partition = partition_of[key] = murmur2(key, settings.partitions)
        batch = open_batches.get(partition)
        if batch is None or batch.append(key=key, value=value, timestamp=None) is None:
            if batch is not None:
                waiting.append(await producer.send_batch(batch, settings.orders_topic, partition=partition))
            batch = open_batches[partition] = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    for partition, batch in open_batches.items():
        waiting.append(await producer.send_batch(batch, settings.orders_topic, partition=partition))
    await asyncio.gather(*waiting)
    await producer.stop()


def new_order(number: int, customer: str | None = None) -> tuple[bytes, bytes, str]:
    """Return (body, key, event id) of an order placed now; `customer` None: by a new one."""
    name = uuid.uuid4().hex
    order = OrderPlaced(
        id=f"event-{name}",
        order_id=f"order-{name}",
        customer_id=customer or f"customer-{name}",
        occurred_at=datetime.now(UTC),
        amount=Amount(f"{1 + number % 400}.00", "USD"),
    )
    return encode(order), order.customer_id.encode(), order.id
