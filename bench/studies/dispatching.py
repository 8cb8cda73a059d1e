"""Speed of `segstream dispatch` beside its floor, and its latency: `python -m bench.studies.dispatching`.

Both process the same moves, in turns: the dispatcher with a realistic rule file, and a program that only reads the
moves, reads and writes Redis once a customer, and produces as many records as the dispatcher (bench.scenarios.relay).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from redis import Redis
from rich.console import Console

from bench.harness.children import CountFile, MeasuredProcess
from bench.harness.deployment import PARTITIONS, deployment, environment, make_topics
from bench.harness.errors import BenchError
from bench.harness.followers import following_topics
from bench.harness.machine import machine
from bench.harness.orders import preload
from bench.harness.worker_run import Heads, end_worker, until
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import encode
from segmentation.output_events import (
    Cause,
    LifeFigures,
    NextMove,
    OutlookFigures,
    Rfm,
    SegmentChanged,
)
from stream.errors import SegstreamError
from stream.kafka.clients import end_offsets
from stream.local.stack import LocalStack
from stream.settings import Settings

OUT: Final = Path("out/bench-dispatching.json")
RULES: Final = Path(__file__).with_name("dispatching_rules.yaml")
RATE: Final = 500  # moves/s of the latency's part
_SEGMENTS: Final = ("Champions", "Loyal", "Potential Loyalists", "At Risk", "About to Sleep", "Cannot Lose", "Lost")
_CAUSES: Final = (Cause.ORDER, Cause.ORDER, Cause.SILENCE, Cause.SILENCE, Cause.WINDOW)
_PATIENCE_S: Final = 300.0
_ARRIVE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class DispatchRound:
    """One pass of all moves by both programs. Rates in moves/s, from the first to the last move processed."""

    dispatch_per_s: float
    floor_per_s: float
    each_per_s: float  # the floor with an output for each move
    outputs: int
    dispatch_cpu_us: float  # of the dispatcher's process, a move
    floor_cpu_us: float


@dataclass(frozen=True, slots=True)
class ActionLatency:
    """From just before a move is sent until a read_committed consumer has its action."""

    actions: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def moves(count: int, customers: int, now_ms: int, seed: int = 7) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of moves, in the chains of their customers, up to now."""
    rng = random.Random(seed)
    chains: dict[int, tuple[int, str]] = {}
    for number in range(count):
        customer = rng.randrange(customers)
        sequence, source = chains.get(customer, (0, None))
        target = rng.choice(_SEGMENTS)
        cause = Cause.FIRST if source is None else rng.choice(_CAUSES)
        at = now_ms - (count - number)
        yield move(f"c-{customer}", sequence + 1, source, target, cause, at, rng)
        chains[customer] = (sequence + 1, target)


def move(
    customer: str, sequence: int, source: str | None, target: str, cause: Cause, at: int, rng: random.Random
) -> tuple[bytes, bytes]:
    """Return (key, value) of a move with figures as a worker publishes them."""
    orders = rng.randint(1, 30)
    figures = Rfm(round(rng.uniform(0, 300), 4), orders, f"{orders * rng.randint(5, 80)}.00")
    life = LifeFigures(
        orders, max(1, orders - 1), figures.monetary, "31.40", iso(at - orders * 20 * DAY_MS), iso(at - DAY_MS),
        20.0, 18.5,
    )  # fmt: skip
    outlook = OutlookFigures(
        round(rng.random(), 4), round(rng.uniform(0, 4), 2), f"{rng.randint(0, 200)}.50", 20.5,
        round(rng.uniform(0.2, 4), 2),
    )  # fmt: skip
    event = SegmentChanged(
        id=f"{customer}:{sequence}",
        customer_id=customer,
        sequence=sequence,
        from_=source,
        to=target,
        cause=cause,
        occurred_at=iso(at),
        scored_at=iso(at),
        model_version="0123456789abcdef",
        rfm=figures,
        before=figures,
        distances={name: round(rng.uniform(0, 3), 4) for name in _SEGMENTS},
        next=NextMove(rng.choice(_SEGMENTS), iso(at + 30 * DAY_MS)),
        causation_id=f"e-{customer}-{sequence}",
        life=life,
        outlook=outlook,
    )
    return customer.encode(), encode(event)


class DispatchBench:
    """One stack with a topic of moves; each pass has a group and a topic of actions of its own."""

    def __init__(self, stack: LocalStack, redis: Any, folder: Path, count: int, customers: int) -> None:
        """Nothing is sent yet."""
        self._stack, self._redis, self._folder, self._count = stack, redis, folder, count
        self._rows = list(moves(count, customers, time.time_ns() // 1_000_000))
        self._passes = 0

    def settings(self) -> Settings:
        """Return the deployment of another pass, with its moves sent."""
        self._passes += 1
        name = f"dispatch-{self._passes}"
        settings = deployment(self._stack.endpoints, name, f"orders-{name}")
        settings = settings.model_copy(update={"rules_file": RULES, "profiles_topic": f"profiles-{name}"})
        make_topics(settings)
        return settings

    def round(self) -> DispatchRound:
        """Process all moves by the dispatcher, and by the floor."""
        settings = self.settings()
        asyncio.run(preload(settings.model_copy(update={"orders_topic": settings.changes_topic}), self._rows))
        ends = asyncio.run(end_offsets(settings, settings.changes_topic))
        heads = Heads(settings.model_copy(update={"group": settings.group, "orders_topic": settings.changes_topic}),
                      self._redis, dict.fromkeys(range(PARTITIONS), 0), ends)  # fmt: skip
        with MeasuredProcess(
            f"dispatch-{self._passes}", ["-m", "stream.cli", "dispatch"], folder=self._folder,
            environment=environment(settings),
        ) as child:  # fmt: skip
            until(lambda: heads.progress().begun, child, _PATIENCE_S)
            began = time.perf_counter()
            until(lambda: heads.progress().finished, child, _PATIENCE_S)
            dispatch_s, cpu = time.perf_counter() - began, child.process.cpu_times()
            end_worker(child)
        outputs = asyncio.run(_outputs(settings))
        floor_s, floor_cpu = self._floor(settings, self._count / max(1, outputs))
        each_s, _ = self._floor(settings, 1.0)
        return DispatchRound(
            round(self._count / dispatch_s), round(self._count / floor_s), round(self._count / each_s), outputs,
            round((cpu.user + cpu.system) / self._count * 1e6, 1), round(floor_cpu / self._count * 1e6, 1),
        )  # fmt: skip

    def _floor(self, settings: Settings, every: float) -> tuple[float, float]:
        """Return the seconds and the CPU seconds of the floor. `every`: moves behind each output."""
        file = self._folder / f"relay-{self._passes}-{every:.3f}.count"
        progress = CountFile(file)
        progress.write(0)
        arguments = ["-m", "bench.scenarios.relay", str(file), str(every)]
        with MeasuredProcess(
            f"relay-{self._passes}-{every:.3f}", arguments, folder=self._folder, environment=environment(settings)
        ) as child:
            until(lambda: (progress.read() or 0) > 0, child, _PATIENCE_S)
            began, first = time.perf_counter(), progress.read() or 0
            until(lambda: (progress.read() or 0) >= self._count, child, _PATIENCE_S)
            seconds, cpu = time.perf_counter() - began, child.process.cpu_times()
            child.end()
        return seconds * self._count / max(1, self._count - first), cpu.user + cpu.system

    def latency(self, warm_up_s: float, seconds: float) -> ActionLatency:
        """Send moves at an even rate, each of a new customer and with an action, and time the actions."""
        settings = self.settings()
        with MeasuredProcess(
            "dispatch-latency", ["-m", "stream.cli", "dispatch"], folder=self._folder,
            environment=environment(settings),
        ) as child:  # fmt: skip
            shards = Heads(settings.model_copy(update={"orders_topic": settings.changes_topic}), self._redis,
                           dict.fromkeys(range(PARTITIONS), 0), dict.fromkeys(range(PARTITIONS), 0))  # fmt: skip
            until(lambda: shards.progress().finished, child, _PATIENCE_S)
            took = asyncio.run(_time_actions(settings, warm_up_s, seconds))
            end_worker(child)
        p50, p99 = np.percentile(took, [50, 99]).tolist()
        return ActionLatency(len(took), round(p50, 1), round(p99, 1), round(max(took), 1))


async def _outputs(settings: Settings) -> int:
    """Return about how many records the dispatcher has published: without the markers of its transactions."""
    return sum((await end_offsets(settings, settings.actions_topic)).values())


async def _time_actions(settings: Settings, warm_up_s: float, seconds: float) -> list[float]:
    """Return the latencies (ms) of the moves sent after the warm-up. Raises BenchError where actions are missing."""
    sent, took, rng = dict[str, int](), list[float](), random.Random(3)

    async def watch(consumer: Any) -> None:
        while True:
            answer, now = await consumer.getmany(timeout_ms=1_000), time.perf_counter_ns()
            for records in answer.values():
                for record in records:
                    if (at := sent.pop(record.key.decode(), None)) is not None:
                        took.append((now - at) / 1e6)

    async with following_topics(settings, [settings.actions_topic], watch) as producer:
        for counted, length in ((False, warm_up_s), (True, seconds)):
            began = time.perf_counter()
            for number in range(int(length * RATE)):
                if (wait_s := began + number / RATE - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)
                key, value = move(
                    f"n-{counted}-{number}", 1, None, "Champions", Cause.ORDER, time.time_ns() // 1_000_000, rng
                )
                if counted:
                    sent[key.decode()] = time.perf_counter_ns()
                await producer.send(settings.changes_topic, value, key=key)
        deadline = time.monotonic() + _ARRIVE_S
        while sent:
            if time.monotonic() > deadline:
                raise BenchError(f"{len(sent)} moves have no visible decision after {_ARRIVE_S:.0f} s.")
            await asyncio.sleep(0.02)
    return took


def table(rounds: list[DispatchRound], latency: ActionLatency | None) -> str:
    """Return the figures as Markdown."""
    ratio = median(one.dispatch_per_s / one.floor_per_s for one in rounds)
    each = median(one.dispatch_per_s / one.each_per_s for one in rounds)
    rows = (
        ("`segstream dispatch`", [r.dispatch_per_s for r in rounds], [r.dispatch_cpu_us for r in rounds]),
        ("floor", [r.floor_per_s for r in rounds], [r.floor_cpu_us for r in rounds]),
    )
    lines = ["| | moves/s | CPU of the process, µs a move |", "|---|---:|---:|"]
    lines += [f"| {name} | {median(rates):,.0f} | {median(cpu):.1f} |" for name, rates, cpu in rows]
    lines.append(f"| floor, an output for each move | {median(r.each_per_s for r in rounds):,.0f} | |")
    lines.append(f"| ratio to the floor, and to that with an output for each move | {ratio:.2f}, {each:.2f} | |")
    if latency:
        lines.append(f"\nat {RATE} moves/s: p50 {latency.p50_ms} ms, p99 {latency.p99_ms} ms, max {latency.max_ms} ms")
    return "\n".join(lines)


def main() -> int:
    """Measure, show and write. Return 1 where something couldn't be measured, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.dispatching", description=__doc__)
    parser.add_argument("--moves", type=int, default=200_000, help="moves of a pass")
    parser.add_argument("--customers", type=int, default=100_000, help="their customers")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each program")
    parser.add_argument("--latency-s", type=float, default=30.0, help="seconds of the latency's part; 0: none")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for the results, JSON (default: {OUT})")
    arguments = parser.parse_args()
    console = Console(stderr=True)

    def report(line: str) -> None:
        console.print(line, style="dim", markup=False)

    try:
        with tempfile.TemporaryDirectory(prefix="segstream-dispatching-") as scratch:
            folder = Path(scratch)
            with (
                LocalStack(folder / "stack", long_run=True, report=report) as stack,
                Redis.from_url(stack.endpoints.redis) as redis,
            ):
                bench = DispatchBench(stack, redis, folder, arguments.moves, arguments.customers)
                rounds = []
                for number in range(arguments.rounds):
                    rounds.append(bench.round())
                    report(f"round {number + 1}: {rounds[-1]}")
                latency = bench.latency(20.0, arguments.latency_s) if arguments.latency_s else None
                found = {
                    "machine": machine(redis),
                    "rounds": [asdict(one) for one in rounds],
                    "latency": None if latency is None else asdict(latency),
                }
    except SegstreamError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(rounds, latency))
    return 0


if __name__ == "__main__":
    sys.exit(main())
