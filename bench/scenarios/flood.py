"""A flood: a million customers due within one second, as after a long outage, while orders arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from redis import Redis

from bench.harness.errors import BenchError
from bench.harness.meter import Meter
from bench.harness.worker_metrics import TurnHistogram, read
from bench.scenarios.due import LEAD_S, ORDERS_RATE, SEEDED_A_S, arrived, evenly
from bench.scenarios.moves_seen import DueWatch, LatencySpread, watching
from bench.scenarios.silence import Pattern, not_moved, seed
from stream.settings import Settings

_CALM_S: Final = 10.0  # before the flood, for comparison
_BEHIND_S: Final = 3.0  # orders are still sent after the flood
_LEAST_A_S: Final = 500  # moves a second, else the measurement is given up
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Flood:
    """The flood, and the latency of orders before it and while it drains."""

    customers: int
    orders_per_s: int
    drained_s: float  # from the first due instant until the last move was visible
    moves_per_s: float
    calm: LatencySpread  # of the orders before the flood
    during: LatencySpread  # of the orders sent while it drained
    turn_mean_ms: float | None  # of the worker's own metric
    turn_p99_bound_ms: float | None  # the bound of the metric's histogram that 99 of 100 turns keep
    rss_before_mb: float
    rss_peak_mb: float
    latest_send_ms: float
    checks: dict[str, list[str]]


async def measure_flood(
    settings: Settings,
    redis: Redis,
    meter: Meter,
    made: list[Pattern],
    *,
    customers: int,
    warm_up_s: float,
    report: Callable[[str], None],
) -> Flood:
    """Put the customers into Redis, and send orders until they are due and all their moves are published.

    The worker runs, owns all shards and serves `settings.http_port`. Raises BenchError where the time is too short.
    """
    begin = time.time() + LEAD_S + warm_up_s + customers / SEEDED_A_S
    cohort = evenly(0, int(begin * 1e3), 1.0, customers)
    seen, stop = DueWatch(cohort, made), asyncio.Event()
    report(f"putting {customers:,} customers, due within one second, into Redis")
    seed(settings, redis, cohort, made)
    if time.time() > begin - warm_up_s:
        raise BenchError(f"{customers:,} customers were due before all were in Redis.", hint="Choose fewer.")
    report(f"{ORDERS_RATE} orders/s; the flood begins in {begin - time.time():.0f} s")
    async with watching(settings, seen) as producer:
        sending = asyncio.create_task(seen.send(producer, settings, ORDERS_RATE, stop))
        await asyncio.sleep(begin - time.time())
        before, turns_before = meter.rss_mb(), await _turns(settings)
        peak, most_s = before, 30 + customers / _LEAST_A_S
        while seen.due_left and time.time() < begin + most_s:
            peak = max(peak, meter.rss_mb())
            await asyncio.sleep(_POLL_S)
        turns_behind = await _turns(settings)
        drained = seen.due_last_at
        await asyncio.sleep(_BEHIND_S)
        stop.set()
        await sending
        await arrived(seen, time.time() + 30)
    if not drained:
        raise BenchError(f"none of {customers:,} due customers was moved within {most_s:.0f} s.")
    meanwhile = turns_behind.since(turns_before)
    return Flood(
        customers=customers,
        orders_per_s=ORDERS_RATE,
        drained_s=round(drained - begin, 1),
        moves_per_s=round((customers - seen.due_left) / (drained - begin), 1),
        calm=seen.orders(begin - _CALM_S, begin),
        during=seen.orders(begin, drained),
        turn_mean_ms=meanwhile.mean_ms,
        turn_p99_bound_ms=meanwhile.bound_ms(0.99),
        rss_before_mb=round(before, 1),
        rss_peak_mb=round(peak, 1),
        latest_send_ms=round(seen.latest_send_ms, 1),
        checks={"problems": seen.problems + seen.missing() + not_moved(settings, redis, cohort, made)},
    )


async def _turns(settings: Settings) -> TurnHistogram:
    return TurnHistogram.of(await asyncio.to_thread(read, settings.http_port))
