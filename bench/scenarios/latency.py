"""Latency of a move: milliseconds from just before an order is sent until a read_committed consumer has the move."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from bench.harness.errors import BenchError
from bench.harness.followers import following_topics
from bench.harness.meter import CpuReading, Meter
from bench.harness.orders import new_order
from stream.settings import Settings

RATE: Final = 500  # orders/s
_ARRIVE_S: Final = 10.0  # patience for the last moves


@dataclass(frozen=True, slots=True)
class Latency:
    """The latency of the orders sent after the warm-up, each of which makes a move."""

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
    latest_send_ms: float  # the sender's greatest delay: latencies contain it


class _TimedMove(msgspec.Struct, gc=False):
    causation_id: str | None


class _LatencyProbe:
    """The times at which orders were sent, and their latencies."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}  # event id -> ns, of orders without a visible move yet
        self.took_ms: list[float] = []
        self.latest_ms = 0.0

    async def watch(self, consumer: Any) -> None:
        """Note every move as it becomes visible."""
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
        """Send orders at an even rate, each of a new customer, so that each makes a move; return how many."""
        began = time.perf_counter()
        count = int(seconds * RATE)
        for number in range(count):
            due = began + number / RATE
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            body, key, event_id = new_order(number)
            if counted:
                self.latest_ms = max(self.latest_ms, (time.perf_counter() - due) * 1000)
                self.sent[event_id] = time.perf_counter_ns()
            await producer.send(settings.orders_topic, body, key=key)
        return count


async def measure_latency(settings: Settings, meter: Meter, *, warm_up_s: float, seconds: float) -> Latency:
    """Send 500 orders/s for a warm-up and then for `seconds`, and time the latter.

    Raises BenchError where moves are missing.
    """
    probe = _LatencyProbe()
    async with following_topics(settings, [settings.changes_topic], probe.watch) as producer:
        await probe.send(producer, settings, warm_up_s, counted=False)
        first = meter.read()
        count = await probe.send(producer, settings, seconds, counted=True)
        last = meter.read()
        await _until_seen(probe)
    return _latency(probe, count, first, last)


async def _until_seen(probe: _LatencyProbe) -> None:
    deadline = time.monotonic() + _ARRIVE_S
    while probe.sent:
        if time.monotonic() > deadline:
            raise BenchError(f"{len(probe.sent)} orders have no visible move after {_ARRIVE_S:.0f} s.")
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
        **last.cores_since(first),
        load_average=round(os.getloadavg()[0], 2),
        latest_send_ms=round(probe.latest_ms, 1),
    )
