"""Latency of moves by silence, from the due instant until the move is visible, among a million customers at rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from redis import Redis

from bench.harness.errors import BenchError
from bench.harness.meter import CpuReading, Meter
from bench.scenarios.moves_seen import DueWatch, LatencySpread, watching
from bench.scenarios.silence import Cohort, Pattern, not_moved, seed
from segmentation.entries import DAY_MS
from stream.settings import Settings

ORDERS_RATE: Final = 500  # orders/s in the first of the two spans
SEEDED_A_S: Final = 20_000  # customers put into Redis a second, on a busy machine
LEAD_S: Final = 6.0  # the owners take their shards over again meanwhile
_HOUR_MS: Final = 3_600_000
_REST_DAYS: Final = 5  # customers at rest are due within this: no pattern waits for less
_PAUSE_S: Final = 1.0
_ARRIVE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Span:
    """Latencies in one span of time, and the cores that each process used."""

    orders_per_s: int
    due: LatencySpread
    orders: LatencySpread
    worker_cores: float
    broker_cores: float
    valkey_cores: float
    others_cores: float  # everything else, the sender and the reader included


@dataclass(frozen=True, slots=True)
class DueMoves:
    """Customers due at an even rate, in a span with orders and in one without."""

    customers: int
    rate_per_s: int
    seconds: float  # of each span
    busy: Span
    quiet: Span
    latest_send_ms: float
    checks: dict[str, list[str]]


def at_rest(first: int, count: int, now_ms: int) -> Cohort:
    """Return customers who become due evenly over some days, the first in an hour."""
    return Cohort(first, np.linspace(now_ms + _HOUR_MS, now_ms + _REST_DAYS * DAY_MS, count).astype(np.int64))


def evenly(first: int, begin_ms: int, seconds: float, rate: int) -> Cohort:
    """Return customers who become due at an even rate from an instant on.

    >>> evenly(7, 1_000, 0.01, 400).due_ms.tolist()
    [1000, 1002, 1005, 1007]
    """
    return Cohort(first, begin_ms + np.arange(round(seconds * rate)) * 1_000 // rate)


async def measure_due(
    settings: Settings,
    redis: Redis,
    meter: Meter,
    made: list[Pattern],
    *,
    customers: int,
    rate: int,
    seconds: float,
    warm_up_s: float,
    report: Callable[[str], None],
) -> DueMoves:
    """Let `rate` customers a second become due, for `seconds` with orders and as long without; then check each move.

    The worker runs and owns all shards. Raises BenchError where the customers can't be put into Redis in time.
    """
    total_s = warm_up_s + 2 * seconds + 2 * _PAUSE_S
    moving = round(total_s * rate)
    report(f"putting {customers - moving:,} customers at rest into Redis")
    seed(settings, redis, at_rest(moving, max(customers - moving, 0), _now_ms()), made)
    begin = time.time() + LEAD_S + moving / SEEDED_A_S
    cohort = evenly(0, int(begin * 1e3), total_s, rate)
    seed(settings, redis, cohort, made)
    if time.time() > begin:
        raise BenchError(f"{moving:,} customers were due before all were in Redis.", hint="Choose fewer.")
    seen, stop = DueWatch(cohort, made), asyncio.Event()
    report(f"{rate:,} customers due a second for {total_s:.0f} s, from {LEAD_S:.0f} s on")
    async with watching(settings, seen) as producer:
        sending = asyncio.create_task(seen.send(producer, settings, ORDERS_RATE, stop))
        begin += warm_up_s
        busy = await _span(meter, begin, seconds)
        stop.set()
        await sending
        begin += seconds + _PAUSE_S
        quiet = await _span(meter, begin, seconds)
        await arrived(seen, begin + seconds + _PAUSE_S + _ARRIVE_S)
    return DueMoves(
        customers=max(customers, moving),
        rate_per_s=rate,
        seconds=seconds,
        busy=_summary(seen, *busy, ORDERS_RATE),
        quiet=_summary(seen, *quiet, 0),
        latest_send_ms=round(seen.latest_send_ms, 1),
        checks={"problems": seen.problems + seen.missing() + not_moved(settings, redis, cohort, made)},
    )


async def arrived(seen: DueWatch, until: float) -> None:
    """Wait for missing moves until an instant (seconds since 1970), then for Redis, which is written after Kafka."""
    while not seen.all_seen():
        if time.time() > until:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(_PAUSE_S)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _span(meter: Meter, begin: float, seconds: float) -> tuple[float, float, CpuReading, CpuReading]:
    await asyncio.sleep(begin - time.time())
    first = meter.read()
    await asyncio.sleep(begin + seconds - time.time())
    return begin, begin + seconds, first, meter.read()


def _summary(seen: DueWatch, begin: float, end: float, first: CpuReading, last: CpuReading, rate: int) -> Span:
    return Span(
        orders_per_s=rate,
        due=seen.due(begin, end),
        orders=seen.orders(begin, end),
        **last.cores_since(first),
    )
