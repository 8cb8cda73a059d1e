"""A rolling restart under load: how long each shard pauses, as an order in it feels it; nothing lost, nothing told twice."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from bench.harness.children import MeasuredProcess
from bench.harness.errors import BenchError
from bench.scenarios.latency import order_of
from stream.kafka.clients import kafka_consumer, partitions_of
from stream.settings import Settings

WORKERS: Final = 3
NEW: Final = 10  # one in so many orders is of a new customer, and so makes a move at once: these are timed
REGULARS: Final = 20_000  # make the others
_EVERY_S: Final = 0.002
_READY_S: Final = 60.0
_ARRIVE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rolling:
    """Three workers, each stopped and started again. `pause`: of a shard, the longest an order in it waited, for each change."""

    orders: int
    timed: int  # those of new customers
    rate_per_s: float
    changes: int  # a worker that leaves, or comes
    pauses: int  # shards times changes
    calm_p99_ms: float  # between the changes
    pause_p50_ms: float
    pause_p99_ms: float
    pause_max_ms: float
    lost: int
    doubled: int


class _RollingMove(msgspec.Struct, gc=False):
    customer_id: str
    causation_id: str | None
    sequence: int


@dataclass(slots=True)
class _RollingWatch:
    """What was sent, and what was seen of it: by partition, (when sent in ns, how long it took in ms)."""

    sent: dict[str, int] = field(default_factory=dict)
    took: dict[int, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    last: dict[str, int] = field(default_factory=dict)  # customer -> number of its last move
    orders: int = 0
    doubled: int = 0
    skipped: int = 0

    async def follow(self, consumer: Any) -> None:
        decoder = msgspec.json.Decoder(_RollingMove)
        while True:
            answer = await consumer.getmany(timeout_ms=1_000)
            now = time.perf_counter_ns()
            for tp, records in answer.items():
                for record in records:
                    move = decoder.decode(record.value)
                    before = self.last.get(move.customer_id, 0)
                    self.last[move.customer_id] = max(before, move.sequence)
                    self.doubled += move.sequence <= before
                    self.skipped += max(move.sequence - before - 1, 0)
                    if (sent := self.sent.pop(move.causation_id or "", None)) is not None:
                        self.took[tp.partition].append((sent, (now - sent) / 1e6))

    async def send(self, producer: Any, settings: Settings, rate: int, stop: asyncio.Event) -> None:
        began = time.perf_counter()
        while not stop.is_set():
            due = int((time.perf_counter() - began) * rate)
            for number in range(self.orders, due):
                regular = None if number % NEW == 0 else f"regular-{number * 7_919 % REGULARS}"
                body, key, event_id = order_of(number, regular)
                if regular is None:
                    self.sent[event_id] = time.perf_counter_ns()
                await producer.send(settings.orders_topic, body, key=key)
            self.orders = max(self.orders, due)
            await asyncio.sleep(_EVERY_S)

    def longest(self, begin: int, end: int) -> list[float]:
        """Of each partition, the longest that an order sent in this span (ns) took, ms."""
        return [max((ms for at, ms in rows if begin <= at < end), default=0.0) for rows in self.took.values()]


async def measure_rolling(
    settings: Settings,
    start: Callable[[int], MeasuredProcess],
    ready: Callable[[], bool],
    *,
    rate: int,
    warm_up_s: float,
    calm_s: float,
) -> Rolling:
    """Restart each of the workers that `start` starts, under `rate` orders/s, `calm_s` behind each change and again before the next.

    The first `warm_up_s` are not looked at: a broker that has just started works off its own start first.

    Raises BenchError where a worker doesn't end well.
    """
    workers = [start(number) for number in range(WORKERS)]
    watch, stop, spans = _RollingWatch(), asyncio.Event(), list[tuple[int, int]]()
    producer = AIOKafkaProducer(**settings.kafka_client(), linger_ms=5, acks="all")
    try:
        await _until(ready)
        await producer.start()
        async with kafka_consumer(settings) as consumer:
            partitions = await partitions_of(consumer, [settings.changes_topic])
            consumer.assign(partitions)
            await consumer.seek_to_end(*partitions)
            gc.disable()
            tasks = [
                asyncio.create_task(watch.follow(consumer)),
                asyncio.create_task(watch.send(producer, settings, rate, stop)),
            ]
            await asyncio.sleep(warm_up_s)
            warm = time.perf_counter_ns()
            await asyncio.sleep(2 * calm_s)
            for number in range(WORKERS):
                for change in ("leave", "come"):
                    begin = time.perf_counter_ns()
                    if change == "leave":
                        await asyncio.to_thread(_end, workers[number])
                    else:
                        workers[number] = start(number)
                    await asyncio.sleep(calm_s)
                    spans.append((begin, time.perf_counter_ns()))
                    await asyncio.sleep(calm_s)
            stop.set()
            await tasks[1]
            await producer.flush()
            await _until(lambda: not watch.sent, _ARRIVE_S)
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        gc.enable()
        await producer.stop()
        for worker in workers:
            await asyncio.to_thread(worker.end)
    return _rolling(watch, warm, spans)


def _end(worker: MeasuredProcess) -> None:
    if code := worker.end():
        raise BenchError(f"{worker.name} ended with {code}, expected 0.", hint=f"Look at {worker.log}.")


async def _until(condition: Callable[[], bool], within_s: float = _READY_S) -> None:
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.05)


def _rolling(watch: _RollingWatch, warm: int, spans: list[tuple[int, int]]) -> Rolling:
    pauses = np.array([ms for begin, end in spans for ms in watch.longest(begin, end)])
    changing = [(begin - 1_000_000_000, end) for begin, end in spans]
    calm = [
        ms
        for rows in watch.took.values()
        for at, ms in rows
        if at >= warm and not any(b <= at < e for b, e in changing)
    ]
    at = sorted(at for rows in watch.took.values() for at, _ in rows)
    p50, p99 = np.percentile(pauses, [50, 99]).tolist()
    return Rolling(
        orders=watch.orders,
        timed=len(at),
        rate_per_s=round(NEW * len(at) / ((at[-1] - at[0]) / 1e9), 1),
        changes=len(spans),
        pauses=pauses.size,
        calm_p99_ms=round(float(np.percentile(calm, 99)), 1),
        pause_p50_ms=round(p50, 1),
        pause_p99_ms=round(p99, 1),
        pause_max_ms=round(float(pauses.max()), 1),
        lost=len(watch.sent) + watch.skipped,
        doubled=watch.doubled,
    )
