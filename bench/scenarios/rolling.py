"""A rolling restart under load: how long orders of each shard wait; no move is lost or published twice."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from bench.harness.children import MeasuredProcess
from bench.harness.errors import BenchError
from bench.harness.followers import following_topics
from bench.harness.orders import new_order
from bench.harness.worker_run import end_worker
from stream.settings import Settings

WORKERS: Final = 3
NEW: Final = 10  # one in so many orders is of a new customer and makes a move at once: these are timed
REGULARS: Final = 20_000  # customers of the other orders
_EVERY_S: Final = 0.002
_READY_S: Final = 60.0
_ARRIVE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rolling:
    """Three workers, each stopped and started again. A pause is the longest wait of an order, by shard and change."""

    orders: int
    timed: int  # those of new customers
    rate_per_s: float
    changes: int  # stops and starts of a worker
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
    """The orders sent, and the latencies of their moves by partition: (when sent in ns, latency in ms)."""

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
                body, key, event_id = new_order(number, regular)
                if regular is None:
                    self.sent[event_id] = time.perf_counter_ns()
                await producer.send(settings.orders_topic, body, key=key)
            self.orders = max(self.orders, due)
            await asyncio.sleep(_EVERY_S)

    def longest(self, begin: int, end: int) -> list[float]:
        """Return each partition's longest latency (ms) of the orders sent in this span (ns)."""
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
    """Start workers by `start`, and restart each under `rate` orders/s, with twice `calm_s` between two changes.

    Orders of the first `warm_up_s` don't count: the broker is still busy with its own start. Raises BenchError where a
    worker ends with an error, or the workers aren't ready within a minute.
    """
    workers = [start(number) for number in range(WORKERS)]
    watch, stop, spans = _RollingWatch(), asyncio.Event(), list[tuple[int, int]]()
    try:
        if not await _holds(ready, _READY_S):
            raise BenchError(f"the workers aren't ready after {_READY_S:.0f} s.", hint="Look at their logs.")
        topics = [settings.changes_topic]
        async with following_topics(settings, topics, watch.follow, linger_ms=5) as producer:
            sending = asyncio.create_task(watch.send(producer, settings, rate, stop))
            await asyncio.sleep(warm_up_s)
            warm = time.perf_counter_ns()
            await asyncio.sleep(2 * calm_s)
            for number in range(WORKERS):
                for change in ("leave", "come"):
                    begin = time.perf_counter_ns()
                    if change == "leave":
                        await asyncio.to_thread(end_worker, workers[number])
                    else:
                        workers[number] = start(number)
                    await asyncio.sleep(calm_s)
                    spans.append((begin, time.perf_counter_ns()))
                    await asyncio.sleep(calm_s)
            stop.set()
            await sending
            await producer.flush()
            # An order that doesn't arrive in this time counts as lost.
            await _holds(lambda: not watch.sent, _ARRIVE_S)
    finally:
        for worker in workers:
            await asyncio.to_thread(worker.end)
    return _rolling(watch, warm, spans)


async def _holds(condition: Callable[[], bool], within_s: float) -> bool:
    """Wait until a condition holds. Return False where it doesn't within this time."""
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


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
