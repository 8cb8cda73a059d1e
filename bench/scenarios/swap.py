"""A change of the model: the time until all customers are rescored, at rest and under load, and orders' latency."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from redis import Redis

from bench.harness.children import ROOT
from bench.harness.deployment import activate_model, environment
from bench.harness.errors import BenchError
from bench.harness.meter import Meter
from bench.harness.model import bench_model, nearer_at_risk
from bench.harness.worker_run import Heads
from bench.scenarios.due import at_rest
from bench.scenarios.moves_seen import LatencySpread
from bench.scenarios.silence import Pattern, seed
from bench.scenarios.swap_checks import judge
from bench.scenarios.swap_watch import SwapWatch, following
from segmentation.decisions import CompiledModel
from stream.settings import Settings
from stream.storage.keys import ShardKeys
from stream.storage.states import read_states

# By how much the second and the third model move "At Risk": each moves about one customer in twenty.
SECOND: Final = 0.1
THIRD: Final = -0.3
PLAIN_RUNS: Final = 3  # of the plain loop: the median counts
_POLL_S: Final = 0.02
_LEAST_A_S: Final = 2_000  # customers rescored a second, else the measurement is given up
_BEHIND_S: Final = 3.0  # orders are still sent after the swap
_ARRIVE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Swap:
    """One activation of a model, until the last shard has rescored its last customer."""

    orders_per_s: float  # sent during the swap
    customers: int
    started_s: float  # from the instant at which the activation is visible until each shard has started it
    seconds: float  # from the same instant until the last shard was done
    customers_per_s: float
    plain_per_s: float  # of the plain loop over the same keys, under the same load
    ratio: float
    calm: LatencySpread  # of orders before the swap
    during: LatencySpread
    most_behind: int  # orders sent and not yet stored, at most
    behind: int  # the same at the end
    worker_cores: float
    broker_cores: float
    valkey_cores: float
    others_cores: float  # everything else, the sender and the reader included
    rss_before_mb: float
    rss_peak_mb: float
    # Customers without orders: moved once, as they must; unchanged, to the byte; moved by time during the swap.
    moves: int = 0
    stayed: int = 0
    by_time: int = 0


@dataclass(frozen=True, slots=True)
class Shadow:
    """`segstream models shadow` under load: a separate process that reads every state."""

    seconds: float  # with the start of the process
    customers: int
    during: LatencySpread  # of orders at that time
    most_behind: int


@dataclass(frozen=True, slots=True)
class Swaps:
    """One swap at rest, one under load, and a preview of the moves of a third model."""

    customers: int  # put into Redis
    rate_per_s: int
    calm_s: float
    rest: Swap
    load: Swap
    shadow: Shadow
    latest_send_ms: float
    causes: dict[str, int]
    checks: dict[str, list[str]]


@dataclass(slots=True)
class SwapRun:
    """The deployment under measurement and its meters."""

    settings: Settings
    redis: Redis
    meter: Meter
    heads: Heads
    watch: SwapWatch
    report: Callable[[str], None]
    offsets: int = 0  # sum over the heads before the first order
    moves: int = 0  # likewise: moves published

    def begin(self) -> None:
        """Read the heads before the first order."""
        found = self.heads.read()
        self.offsets, self.moves = sum(head.offset for head in found), sum(head.count for head in found)

    async def plain(self) -> float:
        """Return the plain loop's customers a second, in a separate process: the median of some runs."""
        rates = []
        for _ in range(PLAIN_RUNS):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "bench.scenarios.plain_rescore", str(SECOND)),
                cwd=ROOT,
                env=environment(self.settings),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            if process.returncode:
                raise BenchError(f"the plain loop ended with {process.returncode}, expected 0.")
            done: dict[str, float] = json.loads(out)
            rates.append(done["customers"] / done["seconds"])
        return statistics.median(rates)

    def states(self) -> dict[bytes, bytes]:
        """Return the states of the customers without orders."""
        return {
            key: value
            for partition in range(self.settings.partitions)
            for key, value in read_states(self.redis, self._keys(partition))
            if key.decode() in self.watch.cohort
        }

    def customers(self) -> int:
        """Return the number of customers."""
        return sum(int(self.redis.zcard(self._keys(p).customers)) for p in range(self.settings.partitions))

    def _keys(self, partition: int) -> ShardKeys:
        return ShardKeys(self.settings.group, self.settings.orders_topic, partition)

    def behind(self) -> int:
        """Return how many orders are sent and not yet stored."""
        return self.watch.orders - (sum(head.offset for head in self.heads.read()) - self.offsets)

    async def swap(self, by: float, plain_per_s: float, calm_s: float) -> tuple[Swap, tuple[int, int]]:
        """Activate `nearer_at_risk(by)`, wait for the last shard; return the swap and its span (ms)."""
        asked, customers, rss_mb = time.time(), self.customers(), self.meter.rss_mb()
        deadline = asked + _ARRIVE_S + customers / _LEAST_A_S
        publishing = asyncio.create_task(asyncio.to_thread(activate_model, self.settings, nearer_at_risk(by)))
        known = len(self.watch.activated)
        await self._until(lambda: len(self.watch.activated) > known, deadline, _POLL_S / 10)
        first, sent = self.meter.read(), self.watch.orders
        activation = max(self.watch.activated)
        begun, started, peak, most_behind = self.watch.activated[activation], 0.0, rss_mb, 0

        def all_rescored() -> bool:
            nonlocal peak, most_behind, started
            peak, most_behind = max(peak, self.meter.rss_mb()), max(most_behind, self.behind())
            found = self.heads.read()
            if not all(head.activation == activation for head in found):
                return False
            started = started or time.time()
            return all(head.cursor is None for head in found)

        await self._until(all_rescored, deadline, _POLL_S)
        done, last = time.time(), self.meter.read()
        await publishing
        seconds, cores = last.at_s - first.at_s, last.cores_since(first)
        found = Swap(
            orders_per_s=round((self.watch.orders - sent) / seconds, 1),
            customers=customers,
            started_s=round(started - begun, 2),
            seconds=round(done - begun, 2),
            customers_per_s=round(customers / (done - begun), 1),
            plain_per_s=round(plain_per_s, 1),
            ratio=round(customers / (done - begun) / plain_per_s, 3),
            calm=self.watch.spread(asked - calm_s, asked),
            during=self.watch.spread(begun, done),
            most_behind=most_behind,
            behind=self.behind(),
            worker_cores=cores["worker_cores"],
            broker_cores=cores["broker_cores"],
            valkey_cores=cores["valkey_cores"],
            others_cores=cores["others_cores"],
            rss_before_mb=round(rss_mb, 1),
            rss_peak_mb=round(peak, 1),
        )
        return found, (int(begun * 1e3), int(done * 1e3))

    async def shadow(self, version: str) -> Shadow:
        """Run `models shadow` for that model, and measure the orders at that time. Raises BenchError."""
        begun, most_behind = time.time(), 0
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "stream.cli", "models", "shadow", version, "--json"),
            cwd=ROOT,
            env=environment(self.settings),
            stdout=asyncio.subprocess.PIPE,
        )
        answering = asyncio.create_task(process.communicate())
        while not answering.done():
            most_behind = max(most_behind, self.behind())
            await asyncio.wait({answering}, timeout=_POLL_S)
        done = time.time()
        if process.returncode:
            raise BenchError(f"segstream models shadow ended with {process.returncode}, expected 0.")
        await asyncio.sleep(_BEHIND_S)  # until the last orders have their moves
        customers = json.loads(answering.result()[0])["customers"]
        return Shadow(round(done - begun, 2), customers, self.watch.spread(begun, done), most_behind)

    async def arrived(self) -> None:
        """Wait until every order has its move and every published move is seen; at last note a problem."""

        def all_seen() -> bool:
            published = sum(head.count for head in self.heads.read()) - self.moves
            return not self.watch.unseen and published == self.watch.causes.total() and not self.behind()

        try:
            await self._until(all_seen, time.time() + _ARRIVE_S, _POLL_S)
        except BenchError:
            self.watch.problems.append(f"{self.watch.unseen:,} orders have no move, {self.behind():,} aren't stored")

    async def judged(self, found: Swap, span_ms: tuple[int, int], before: dict[bytes, bytes], by: float) -> Swap:
        """Check the outputs, note problems in the watch, clear its moves; return the swap with move counts."""
        model = CompiledModel.of(nearer_at_risk(by), self.settings.group, {})
        after = await asyncio.to_thread(self.states)
        made = judge(before, after, self.watch.moves, model, span_ms, self.settings.rules)
        self.watch.problems += made.problems
        self.watch.moves.clear()
        return replace(found, moves=made.moved, stayed=made.stayed, by_time=made.by_time)

    async def _until(self, condition: Callable[[], bool], deadline: float, every_s: float) -> None:
        began = time.time()
        while not condition():
            if time.time() > deadline:
                raise BenchError(f"{self.settings.group}: the swap isn't over after {deadline - began:.0f} s.")
            await asyncio.sleep(every_s)


async def measure_swap(
    run: SwapRun, made: list[Pattern], *, customers: int, rate: int, calm_s: float, warm_up_s: float
) -> Swaps:
    """Put customers into Redis, activate a second model at rest and a third under `rate` orders/s.

    The worker runs, owns all shards and scores with the benchmark's model. Raises BenchError.
    """
    run.report(f"putting {customers:,} customers into Redis")
    seed(run.settings, run.redis, at_rest(0, customers, time.time_ns() // 1_000_000), made)
    run.begin()
    async with following(run.settings, run.watch) as producer:
        rest = await _at_rest(run)
        before, stop = run.states(), asyncio.Event()
        run.report(f"{rate:,} orders/s for {warm_up_s + calm_s:.0f} s, then the third model")
        sending = asyncio.create_task(run.watch.send(producer, run.settings, rate, stop))
        await asyncio.sleep(warm_up_s)
        shadow = await run.shadow(bench_model().version)
        plain = await run.plain()
        await asyncio.sleep(calm_s)
        load, span_ms = await run.swap(THIRD, plain, calm_s)
        await asyncio.sleep(_BEHIND_S)
        stop.set()
        await sending
        await producer.flush()
        await run.arrived()
        load = await run.judged(load, span_ms, before, THIRD)
    return Swaps(
        customers=customers,
        rate_per_s=rate,
        calm_s=calm_s,
        rest=rest,
        load=load,
        shadow=shadow,
        latest_send_ms=round(run.watch.latest_send_ms, 1),
        causes=dict(run.watch.causes),
        checks={"problems": run.watch.problems},
    )


async def _at_rest(run: SwapRun) -> Swap:
    before = run.states()
    plain = await run.plain()
    run.report("the second model, at rest")
    found, span_ms = await run.swap(SECOND, plain, 0.0)
    await run.arrived()
    return await run.judged(found, span_ms, before, SECOND)
