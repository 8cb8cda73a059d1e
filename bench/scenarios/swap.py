"""A model's swap: how long until every customer was looked at under the new one, at rest and while orders come, and what these wait meanwhile."""

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
from stream.storage.reads import read_states

# How much nearer "At Risk" lies under the second model and the third: each moves about one customer in twenty.
SECOND: Final = 0.1
THIRD: Final = -0.3
PLAIN_RUNS: Final = 3  # of the plain loop: the median counts
_POLL_S: Final = 0.02
_LEAST_A_S: Final = 2_000  # customers looked at, else it is given up
_BEHIND_S: Final = 3.0  # orders still sent behind it
_ARRIVE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Swap:
    """One start of a model, until the last shard has looked at its last customer."""

    orders_per_s: float  # sent meanwhile
    customers: int
    started_s: float  # from the instant at which the activation can be read until each shard has started it
    seconds: float  # from there until the last one was done
    customers_per_s: float
    plain_per_s: float  # the plain loop over the same keys, in the same circumstances
    ratio: float
    calm: LatencySpread  # orders before it
    during: LatencySpread
    most_behind: int  # orders sent and not yet stored, at most
    behind: int  # the same at the end
    worker_cores: float
    broker_cores: float
    valkey_cores: float
    others_cores: float  # everything else, the sender and the reader included
    rss_before_mb: float
    rss_peak_mb: float
    # Of the customers who order nothing: moved once, as they must; untouched, to the byte; moved by time meanwhile.
    moves: int = 0
    stayed: int = 0
    by_time: int = 0


@dataclass(frozen=True, slots=True)
class Shadow:
    """`segstream models shadow` while orders come: a process of its own that reads every state."""

    seconds: float  # its start included
    customers: int
    during: LatencySpread  # orders meanwhile
    most_behind: int


@dataclass(frozen=True, slots=True)
class Swaps:
    """One swap at rest, one while orders come, and a look ahead at what a third model would do."""

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
    """What is measured, and who measures."""

    settings: Settings
    redis: Redis
    meter: Meter
    heads: Heads
    watch: SwapWatch
    report: Callable[[str], None]
    offsets: int = 0  # sums of the heads before the first order: how far, and how many moves
    told: int = 0

    def begin(self) -> None:
        """Nothing was ordered yet, and all is told."""
        found = self.heads.read()
        self.offsets, self.told = sum(head.offset for head in found), sum(head.count for head in found)

    async def plain(self) -> float:
        """Customers a second that the plain loop does now, in a process of its own: the median of some runs."""
        rates = []
        for _ in range(PLAIN_RUNS):
            asked = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "bench.scenarios.plain_rescore", str(SECOND)),
                cwd=ROOT,
                env=environment(self.settings),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await asked.communicate()
            if asked.returncode:
                raise BenchError(f"the plain loop ended with {asked.returncode}, expected 0.")
            told: dict[str, float] = json.loads(out)
            rates.append(told["customers"] / told["seconds"])
        return statistics.median(rates)

    def states(self) -> dict[bytes, bytes]:
        """Those of the customers who order nothing."""
        return {
            key: value
            for partition in range(self.settings.partitions)
            for key, value in read_states(self.redis, self._keys(partition))
            if key.decode() in self.watch.cohort
        }

    def customers(self) -> int:
        """All that there are, by now."""
        return sum(int(self.redis.zcard(self._keys(p).customers)) for p in range(self.settings.partitions))

    def _keys(self, partition: int) -> ShardKeys:
        return ShardKeys(self.settings.group, self.settings.orders_topic, partition)

    def behind(self) -> int:
        """Orders sent that aren't stored."""
        return self.watch.orders - (sum(head.offset for head in self.heads.read()) - self.offsets)

    async def swap(self, by: float, plain_per_s: float, calm_s: float) -> tuple[Swap, tuple[int, int]]:
        """Start `nearer_at_risk(by)`, wait for the last shard; gives that and the span (ms). Raises BenchError."""
        asked, customers, rss_mb = time.time(), self.customers(), self.meter.rss_mb()
        deadline = asked + _ARRIVE_S + customers / _LEAST_A_S
        publishing = asyncio.create_task(asyncio.to_thread(activate_model, self.settings, nearer_at_risk(by)))
        known = len(self.watch.activated)
        await self._until(lambda: len(self.watch.activated) > known, deadline, _POLL_S / 10)
        first, sent = self.meter.read(), self.watch.orders
        activation = max(self.watch.activated)
        begun, started, peak, most_behind = self.watch.activated[activation], 0.0, rss_mb, 0

        def looked_at_all() -> bool:
            nonlocal peak, most_behind, started
            peak, most_behind = max(peak, self.meter.rss_mb()), max(most_behind, self.behind())
            found = self.heads.read()
            if not all(head.activation == activation for head in found):
                return False
            started = started or time.time()
            return all(head.cursor is None for head in found)

        await self._until(looked_at_all, deadline, _POLL_S)
        done, last = time.time(), self.meter.read()
        await publishing
        seconds = last.at_s - first.at_s
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
            worker_cores=round((last.own_s - first.own_s) / seconds, 3),
            broker_cores=round((last.broker_s - first.broker_s) / seconds, 3),
            valkey_cores=round((last.valkey_s - first.valkey_s) / seconds, 3),
            others_cores=round(max(last.others_s - first.others_s, 0.0) / seconds, 3),
            rss_before_mb=round(rss_mb, 1),
            rss_peak_mb=round(peak, 1),
        )
        return found, (int(begun * 1e3), int(done * 1e3))

    async def shadow(self, version: str) -> Shadow:
        """Ask what a start of that model would do, and watch the orders meanwhile. Raises BenchError."""
        begun, most_behind = time.time(), 0
        asked = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "stream.cli", "models", "shadow", version, "--json"),
            cwd=ROOT,
            env=environment(self.settings),
            stdout=asyncio.subprocess.PIPE,
        )
        answering = asyncio.create_task(asked.communicate())
        while not answering.done():
            most_behind = max(most_behind, self.behind())
            await asyncio.wait({answering}, timeout=_POLL_S)
        done = time.time()
        if asked.returncode:
            raise BenchError(f"segstream models shadow ended with {asked.returncode}, expected 0.")
        await asyncio.sleep(_BEHIND_S)  # until the orders of its end have arrived
        customers = json.loads(answering.result()[0])["customers"]
        return Shadow(round(done - begun, 2), customers, self.watch.spread(begun, done), most_behind)

    async def arrived(self) -> None:
        """Wait until all that was told is seen, and all that was sent is told; a while at most, then that is a problem."""

        def all_seen() -> bool:
            told = sum(head.count for head in self.heads.read()) - self.told
            return not self.watch.unseen and told == self.watch.causes.total() and not self.behind()

        try:
            await self._until(all_seen, time.time() + _ARRIVE_S, _POLL_S)
        except BenchError:
            self.watch.problems.append(f"{self.watch.unseen:,} orders made no move, {self.behind():,} aren't stored")

    async def judged(self, found: Swap, span_ms: tuple[int, int], before: dict[bytes, bytes], by: float) -> Swap:
        """The same with what its outputs were, checked; what is wrong goes to the watch. The moves seen are let go."""
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
    """Put customers into Redis, start a second model at rest and a third under `rate` orders/s.

    The worker runs, owns all shards, and scores under the benchmark's model. Raises BenchError.
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
