"""How long an order takes until its move can be seen: milliseconds from just before `send` to a read_committed consumer."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from bench.harness.errors import BenchError
from bench.harness.meter import CpuReading, Meter
from segmentation.events import Amount, OrderPlaced, encode
from stream.kafka.clients import kafka_consumer, partitions_of
from stream.settings import Settings

RATE: Final = 500  # orders/s
_ARRIVE_S: Final = 10.0  # for the last moves to arrive


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the orders sent after the warm-up, each of which made a move."""

    orders: int
    moves: int
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    worker_cores: float
    broker_cores: float
    valkey_cores: float
    others_cores: float  # everything else, the sender and the reader included
    load_average: float  # one minute's, at the end
    latest_send_ms: float  # how far the sender fell behind its schedule at worst: what it measures then is its own


class _TimedMove(msgspec.Struct, gc=False):
    causation_id: str | None


class _LatencyProbe:
    """When each order was sent, and how long each took."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}  # event id -> ns, of those that are still to be seen
        self.took_ms: list[float] = []
        self.latest_ms = 0.0

    async def watch(self, consumer: Any) -> None:
        """Take every move as it becomes visible."""
        decoder = msgspec.json.Decoder(_TimedMove)
        while True:
            answer = await consumer.getmany(timeout_ms=1_000)
            now = time.perf_counter_ns()
            for records in answer.values():
                for record in records:
                    sent = self.sent.pop(decoder.decode(record.value).causation_id or "", None)
                    if sent is not None:
                        self.took_ms.append((now - sent) / 1e6)

    async def send(self, producer: Any, settings: Settings, seconds: float, *, counted: bool) -> int:
        """Send at an even pace, each order of a customer never seen before: everyone makes a move. Gives the number."""
        began = time.perf_counter()
        count = int(seconds * RATE)
        for number in range(count):
            due = began + number / RATE
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            body, key, event_id = order_of(number)
            if counted:
                self.latest_ms = max(self.latest_ms, (time.perf_counter() - due) * 1000)
                self.sent[event_id] = time.perf_counter_ns()
            await producer.send(settings.orders_topic, body, key=key)
        return count


def order_of(number: int, customer: str | None = None) -> tuple[bytes, bytes, str]:
    """(body, key, event id) of an order placed now; `customer` None: by one never seen before."""
    name = uuid.uuid4().hex
    order = OrderPlaced(
        id=f"event-{name}",
        order_id=f"order-{name}",
        customer_id=customer or f"customer-{name}",
        occurred_at=datetime.now(UTC),
        amount=Amount(f"{1 + number % 400}.00", "USD"),
    )
    return encode(order), order.customer_id.encode(), order.id


async def measure_latency(settings: Settings, meter: Meter, *, warm_up_s: float, seconds: float) -> Latency:
    """Send 500 orders/s for `warm_up_s` + `seconds`, and time those of the latter. Raises BenchError where moves are missing."""
    probe = _LatencyProbe()
    producer = AIOKafkaProducer(**settings.kafka_client(), linger_ms=0, acks="all")
    await producer.start()
    async with kafka_consumer(settings) as consumer:
        partitions = await partitions_of(consumer, [settings.changes_topic])
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        watching = asyncio.create_task(probe.watch(consumer))
        # A collection in this process would count as latency of the worker.
        gc.collect()
        gc.disable()
        try:
            await probe.send(producer, settings, warm_up_s, counted=False)
            first = meter.read()
            count = await probe.send(producer, settings, seconds, counted=True)
            last = meter.read()
            await _until_seen(probe)
        finally:
            gc.enable()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await producer.stop()
    return _latency(probe, count, first, last)


async def _until_seen(probe: _LatencyProbe) -> None:
    deadline = time.monotonic() + _ARRIVE_S
    while probe.sent:
        if time.monotonic() > deadline:
            raise BenchError(f"{len(probe.sent)} orders have made no move that can be seen after {_ARRIVE_S:.0f} s.")
        await asyncio.sleep(0.02)


def _latency(probe: _LatencyProbe, count: int, first: CpuReading, last: CpuReading) -> Latency:
    took, seconds = np.array(probe.took_ms), last.at_s - first.at_s
    p50, p99 = np.percentile(took, [50, 99]).tolist()
    return Latency(
        orders=count,
        moves=took.size,
        rate_per_s=round(count / seconds, 1),
        p50_ms=round(p50, 1),
        p99_ms=round(p99, 1),
        max_ms=round(float(took.max()), 1),
        worker_cores=round((last.own_s - first.own_s) / seconds, 3),
        broker_cores=round((last.broker_s - first.broker_s) / seconds, 3),
        valkey_cores=round((last.valkey_s - first.valkey_s) / seconds, 3),
        others_cores=round((last.others_s - first.others_s) / seconds, 3),
        load_average=round(os.getloadavg()[0], 2),
        latest_send_ms=round(probe.latest_ms, 1),
    )
