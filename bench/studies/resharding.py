"""Standstill of `segstream reshard` by number of customers: `python -m bench.studies.resharding`.

A worker and a dispatcher have processed the orders of so many customers, and are stopped. The command doubles the
partitions, and a worker and a dispatcher of the new count start. Then every chain and state is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from redis import Redis
from rich.console import Console

from bench.harness.children import ROOT, MeasuredProcess
from bench.harness.deployment import PARTITIONS, activate_model, deployment, environment, make_topics
from bench.harness.errors import BenchError
from bench.harness.machine import machine
from bench.harness.orders import bodies, preload
from bench.harness.outputs import check_worker, recompute
from bench.harness.worker_run import end_worker
from segmentation.entries import DAY_MS
from stream.errors import SegstreamError
from stream.local.stack import LocalStack
from stream.settings import Settings

OUT: Final = Path("out/bench-resharding.json")
ORDERS_EACH: Final = 3  # of a customer, on average: 5 % of the names have none
COMMANDS: Final = ("worker", "dispatch")
# The end of each phase, by the last line of the command that has this text.
PHASES: Final = {
    "check and seal the former shards": ": sealed at offset",
    "Kafka: latest moves, heads": "heads written",
    "Redis: customers, heads": "shards are ready",
}
_DAYS_BACK: Final = 181
_PATIENCE_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Standstill:
    """One reshard of a deployment that was in use. All times in seconds."""

    customers: int
    moved: int  # customers that went to another shard
    stop_s: float  # until worker and dispatcher have ended
    command_s: float
    phases: dict[str, float]  # of the command, in their order; what they leave of it is its start and end
    command_cpu_s: float
    command_rss_mb: float  # at most
    start_s: float  # until a worker and a dispatcher of the new count own all shards, level with Kafka
    problems: list[str]

    @property
    def standstill_s(self) -> float:
        """From the signal to stop until all is processed again."""
        return round(self.stop_s + self.command_s + self.start_s, 1)


def phases(lines: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Return the seconds of each phase, from the command's lines and when each came.

    >>> phases([(2.0, "orders-0: sealed at offset 7"), (3.0, "heads: 16 heads written"), (5.5, "16 shards are ready")])
    {'check and seal the former shards': 2.0, 'Kafka: latest moves, heads': 1.0, 'Redis: customers, heads': 2.5}
    """
    found, before = dict[str, float](), 0.0
    for phase, text in PHASES.items():
        ended = max((at for at, line in lines if text in line), default=before)
        found[phase], before = round(ended - before, 2), ended
    return found


def run_command(settings: Settings, partitions: int) -> tuple[float, float, float, list[tuple[float, str]]]:
    """Run `segstream reshard`. Return its seconds, CPU seconds, most memory (MB), and its lines with their times."""
    began, lines = time.perf_counter(), list[tuple[float, str]]()
    with subprocess.Popen(
        [sys.executable, "-m", "stream.cli", "reshard", "--partitions", str(partitions), "--yes"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment(settings),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        watched, cpu_s, rss = psutil.Process(process.pid), 0.0, 0
        for line in process.stdout:
            lines.append((time.perf_counter() - began, line.rstrip()))
            times, rss = watched.cpu_times(), max(rss, watched.memory_info().rss)
            cpu_s = times.user + times.system
    if process.returncode:
        text = "\n".join(line for _, line in lines[-5:])
        raise BenchError(f"segstream reshard ended with {process.returncode}: {text}")
    return time.perf_counter() - began, cpu_s, rss / 1e6, lines


class WorkerAndDispatcher:
    """A worker and a dispatcher on one stack."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Nothing runs yet."""
        self.settings = settings
        self._folder = folder

    def start(self, stack: ExitStack) -> list[MeasuredProcess]:
        """Start both."""
        return [
            stack.enter_context(
                MeasuredProcess(
                    f"{command}-{self.settings.partitions}", ["-m", "stream.cli", command], folder=self._folder,
                    environment=environment(self.settings),
                )
            )
            for command in COMMANDS
        ]  # fmt: skip

    def settle(self) -> None:
        """Wait until all shards of both steps are owned and level with Kafka. Raises BenchError."""
        for step in ("scoring", "campaigns"):
            done = subprocess.run(
                [sys.executable, "-m", "stream.cli", "status", "--step", step, "--wait", str(int(_PATIENCE_S))],
                capture_output=True, text=True, cwd=ROOT, env=environment(self.settings), check=False,
            )  # fmt: skip
            if done.returncode:
                raise BenchError(f"the step {step} isn't settled: {done.stdout[-500:]} {done.stderr[-500:]}")


def measure(customers: int, stack: LocalStack, redis: Any, folder: Path, report: Callable[[str], None]) -> Standstill:
    """Reshard a new deployment with so many customers. Raises SegstreamError."""
    name = f"reshard-{customers}"
    former = deployment(stack.endpoints, name, f"orders-{name}")
    new = former.model_copy(update={"partitions": 2 * PARTITIONS})
    make_topics(former)
    activate_model(former)
    start_ms = (int(time.time()) // 86_400 - _DAYS_BACK) * DAY_MS
    orders = list(bodies(ORDERS_EACH * customers, customers, start_ms))
    report(f"processing {len(orders):,} orders of {customers:,} customers")
    asyncio.run(preload(former, orders))
    with ExitStack() as running:
        before = WorkerAndDispatcher(former, folder)
        processes = before.start(running)
        before.settle()
        report("stopping, resharding, starting")
        began = time.perf_counter()
        for process in processes:
            end_worker(process)
        stop_s = time.perf_counter() - began
    command_s, cpu_s, rss_mb, lines = run_command(former, new.partitions)
    with ExitStack() as running:
        began = time.perf_counter()
        after = WorkerAndDispatcher(new, folder)
        after.start(running)
        after.settle()
        start_s = time.perf_counter() - began
    report("checking its moves and states")
    checked = asyncio.run(check_worker(new, redis, recompute(orders)))
    copied = [re.search(r"([\d,]+) customers copied", line) for _, line in lines]
    return Standstill(
        customers=checked.customers,
        moved=next(int(found[1].replace(",", "")) for found in copied if found),
        stop_s=round(stop_s, 2),
        command_s=round(command_s, 2),
        phases=phases(lines),
        command_cpu_s=round(cpu_s, 2),
        command_rss_mb=round(rss_mb),
        start_s=round(start_s, 2),
        problems=checked.problems,
    )


def table(rows: Sequence[Standstill]) -> str:
    """Return the figures as Markdown: a column for each size."""
    head = ["", *(f"{row.customers:,} customers" for row in rows)]
    cells = [
        ["customers moved", *(f"{row.moved:,}" for row in rows)],
        ["worker and dispatcher stop, s", *(f"{row.stop_s:.1f}" for row in rows)],
        ["`segstream reshard`, s", *(f"{row.command_s:.1f}" for row in rows)],
        *([f"of it {phase}, s", *(f"{row.phases[phase]:.1f}" for row in rows)] for phase in PHASES),
        ["its CPU, s", *(f"{row.command_cpu_s:.1f}" for row in rows)],
        ["its memory at most, MB", *(f"{row.command_rss_mb:,.0f}" for row in rows)],
        ["worker and dispatcher start, s", *(f"{row.start_s:.1f}" for row in rows)],
        ["**standstill, s**", *(f"**{row.standstill_s:.1f}**" for row in rows)],
    ]
    lines = [head, ["---", *["---:"] * len(rows)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Measure, show and write. Return 1 where an output was wrong or a size couldn't be measured, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.resharding", description=__doc__)
    parser.add_argument("--customers", type=int, nargs="+", default=[10_000, 100_000], help="numbers of customers")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for the results, JSON (default: {OUT})")
    arguments = parser.parse_args()
    console = Console(stderr=True)

    def report(line: str) -> None:
        console.print(line, style="dim", markup=False)

    try:
        with tempfile.TemporaryDirectory(prefix="segstream-resharding-") as scratch:
            folder = Path(scratch)
            with (
                LocalStack(folder / "stack", long_run=True, report=report) as stack,
                Redis.from_url(stack.endpoints.redis) as redis,
            ):
                rows = [measure(count, stack, redis, folder, report) for count in arguments.customers]
                result = {"machine": machine(redis), "rows": [asdict(row) for row in rows]}
    except SegstreamError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    wrong = [problem for row in rows for problem in row.problems]
    for problem in wrong:
        console.print(f"WRONG: {problem}", style="red", markup=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
