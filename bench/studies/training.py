"""Duration and memory of a training on many customers: `python -m bench.studies.training --customers 1000000`.

The customers are put into a fresh Valkey as the engine would hold them. Then `segtrainer run` trains twice, as a
process of its own: the first model, and a second one that is compared with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from redis import Redis
from rich.console import Console

from bench.harness.children import ROOT
from bench.harness.deployment import deployment, environment, make_topics
from bench.harness.errors import BenchError
from bench.harness.machine import machine
from bench.scenarios.silence import REFERENCE_MS, Pattern, name_of, shifted
from segmentation.entries import DAY_MS, Kind, Rules, entry
from segmentation.money import UNITS
from segmentation.partitioners import murmur2
from segmentation.rfm import CustomerState, pack, settle
from stream.errors import SegstreamError
from stream.local.stack import LocalStack
from stream.settings import Settings
from stream.storage.heads import StoreHead, encode_head
from stream.storage.keys import ShardKeys

OUT: Final = Path("out/bench-training.json")
TEMPLATES: Final = 4_000  # customers made one by one; the others are copies, shifted in time
_SEED: Final = 42
_MOST_ORDERS: Final = 200
_SPAN_DAYS: Final = 300  # between a customer's first and last order, at most
_MEAN_RECENCY_DAYS: Final = 75.0
_A_CALL: Final = 5_000  # customers put into Redis at a time
_TIMEOUT_S: Final = 1_800
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One `segtrainer run`."""

    seconds: float  # of the process, its start included
    cpu_s: float
    peak_rss_mb: float
    verdict: str
    k: int
    steps: dict[str, float]  # seconds of each step, from the outcome


def template(rng: np.random.Generator, rules: Rules) -> Pattern:
    """Make a customer, the last order at REFERENCE_MS: skewed frequency, lognormal amounts, few refunds."""
    count = min(int(rng.negative_binomial(0.7, 0.15)) + 1, _MOST_ORDERS)
    size = rng.lognormal(3.6, 0.6)  # of this customer's baskets
    apart = np.sort(rng.integers(0, _SPAN_DAYS * DAY_MS, count - 1)) if count > 1 else np.empty(0, np.int64)
    entries = []
    for number, before in enumerate([0, *apart.tolist()]):
        amount = round(size * rng.lognormal(0.0, 0.5) * UNITS)
        at, order = REFERENCE_MS - before, f"order-{number}"
        entries.append(entry(Kind.PLACED, f"event-{number}", at, order=order, amount=amount))
        if rng.random() < 0.03:  # one order in 33 comes back, in part
            entries.append(entry(Kind.REFUNDED, f"refund-{number}", at + 1, order=order, amount=amount // 2))
    blank = CustomerState(segment=1, sequence=1, moved_at=REFERENCE_MS)
    return Pattern(pack(settle(blank, entries, REFERENCE_MS + 1, rules)), 0, "", "", 0, 0)


def customers(count: int, now_ms: int, rules: Rules) -> Iterator[tuple[bytes, bytes]]:
    """Yield customers and states: copies of the templates, each with its own time of the last order."""
    rng = np.random.default_rng(_SEED)
    templates = min(TEMPLATES, count)
    for first in range(templates):
        numbers: NDArray[np.int64] = np.arange(first, count, templates)
        recency = np.minimum(rng.exponential(_MEAN_RECENCY_DAYS, numbers.size), 5 * 365) * DAY_MS
        states = shifted(template(rng, rules), now_ms - 2 - recency.astype(np.int64), numbers)
        yield from zip(map(name_of, numbers.tolist()), states, strict=True)


def fill(settings: Settings, redis: Any, count: int, now_ms: int) -> None:
    """Put the customers and a head into each shard. The due index stays empty: a training doesn't read it."""
    rows: list[list[tuple[bytes, bytes]]] = [[] for _ in range(settings.partitions)]
    keys = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]

    def put(partition: int) -> None:
        own, shard = rows[partition], keys[partition]
        pipe = redis.pipeline(transaction=False)
        pipe.execute_command("HSET", shard.states, *(part for row in own for part in row))
        pipe.execute_command("ZADD", shard.customers, *(part for key, _ in own for part in (0, key)))
        pipe.execute()
        own.clear()

    for key, state in customers(count, now_ms, settings.rules):
        partition = murmur2(key, settings.partitions)
        rows[partition].append((key, state))
        if len(rows[partition]) == _A_CALL:
            put(partition)
    for partition, shard in enumerate(keys):
        if rows[partition]:
            put(partition)
        redis.set(shard.head, _head(now_ms))


def _head(now_ms: int) -> bytes:
    return encode_head(
        StoreHead(
            token="bench",
            turn=1,
            offset=0,
            position=0,
            count=0,
            clock=now_ms,
            merge_clock=now_ms,
            activation=0,
            version="",
            cursor=None,
            quiet=None,
            cluster="bench",
            partitions=(8, 8),
        )
    )


def train(settings: Settings, folder: Path) -> TrainingRun:
    """Run `segtrainer run` with the default recipe, and return its figures. Raises BenchError where it fails."""
    began = time.perf_counter()
    with (folder / "train.json").open("w+b") as out, (folder / "train.log").open("w+b") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.cli", "run", "--json", "--out", str(folder / "report")],
            stdout=out,
            stderr=errors,
            cwd=ROOT,
            env=environment(settings),
        )
        # Not `process.wait`: only wait4 returns the resources that this one child has used.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise BenchError(f"segtrainer run ended with {process.returncode}: {errors.read().decode()[-1000:]}")
        outcome = json.loads(out.read())
    return TrainingRun(
        seconds=round(seconds, 1),
        cpu_s=round(used.ru_utime + used.ru_stime, 1),
        peak_rss_mb=round(used.ru_maxrss * 1024 / _MB, 0),
        verdict=outcome["decision"]["verdict"],
        k=outcome["fits"][outcome["chosen"]]["k"],
        steps={timing["step"]: timing["seconds"] for timing in outcome["timings"]},
    )


def measure(count: int, console: Console) -> dict[str, Any]:
    """Fill Valkey, train twice, and return the results as JSON has them. Raises SegstreamError."""

    def report(line: str) -> None:
        console.print(line, style="dim", markup=False)

    with tempfile.TemporaryDirectory(prefix="segstream-training-") as scratch:
        folder = Path(scratch)
        with LocalStack(folder / "stack", report=report) as stack, Redis.from_url(stack.endpoints.redis) as redis:
            settings = deployment(stack.endpoints, "training", "orders-training")
            make_topics(settings)
            report(f"putting {count:,} customers into Valkey")
            fill(settings, redis, count, time.time_ns() // 1_000_000)
            runs = []
            for what in ("the first model", "a second one, against it"):
                report(f"training: {what}")
                runs.append(asdict(train(settings, folder)))
            return {
                "customers": count,
                "machine": machine(redis),
                "valkey_mb": round(redis.info("memory")["used_memory"] / _MB, 0),
                "first": runs[0],
                "again": runs[1],
            }


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown: a row for each step, a column for each training."""
    first, again = result["first"], result["again"]
    lines = ["| | first model | against the active one |", "|---|---:|---:|"]
    for step in dict.fromkeys([*first["steps"], *again["steps"]]):
        cells = [f"{run['steps'][step]:.1f}" if step in run["steps"] else "-" for run in (first, again)]
        lines.append(f"| {step}, s | {cells[0]} | {cells[1]} |")
    for name, figure, form in (
        ("whole process, s", "seconds", ".1f"),
        ("CPU, s", "cpu_s", ".1f"),
        ("peak memory, MB", "peak_rss_mb", ",.0f"),
    ):
        lines.append(f"| {name} | {first[figure]:{form}} | {again[figure]:{form}} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, show and write. Return 1 where the training can't be measured, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.training", description=__doc__)
    parser.add_argument("--customers", type=int, default=1_000_000, help="customers to train on")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for the results, JSON (default: {OUT})")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    try:
        result = measure(arguments.customers, console)
    except SegstreamError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
