"""The cost at rest: the work of a worker, Redis and Kafka without orders or due customers, by number of customers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from redis import Redis

from bench.harness.errors import BenchError
from bench.harness.meter import Meter
from bench.scenarios.due import at_rest
from bench.scenarios.silence import Pattern, seed
from stream.kafka.clients import end_offsets
from stream.settings import Settings

MOST_SEEDING_S: Final = 180.0
MOST_GB: Final = 16.0
_SETTLE_S: Final = 5.0
_REWRITE_S: Final = 300.0
_MINUTE_S: Final = 60.0
_GIGA: Final = 1e9


@dataclass(frozen=True, slots=True)
class Rest:
    """The work a minute or a second with so many customers at rest."""

    customers: int
    worker_cpu_s_per_minute: float
    valkey_cpu_s_per_minute: float
    broker_cpu_s_per_minute: float
    redis_commands_per_s: float
    redis_commands: dict[str, float]  # a second, by command, with those in scripts
    kafka_bytes_per_s: float  # appended to all logs of the broker
    worker_rss_mb: float
    bytes_a_customer: float  # of Valkey's memory
    seeding_s: float  # to put the additional customers into Redis


@dataclass(frozen=True, slots=True)
class AtRest:
    """The rows, the fewest customers first; `skipped`: sizes that were too large for this machine."""

    seconds: float  # of each
    rows: list[Rest]
    skipped: list[str]
    checks: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class ServerProbe:
    """The counters of the servers and the worker."""

    redis: Redis
    logs: Path  # the broker's
    meter: Meter

    def commands(self) -> Counter[str]:
        """Return the calls of each command since Valkey's start, without those of this probe."""
        stats: Any = self.redis.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in stats.items()}
        return Counter(
            {name: count for name, count in calls.items() if name not in {"info", "hello", "client|setinfo"}}
        )

    def logged(self) -> int:
        """Return the bytes in all Kafka logs."""
        return sum(path.stat().st_size for path in self.logs.rglob("*.log"))

    def memory(self) -> int:
        """Return Valkey's memory in bytes."""
        memory: Any = self.redis.info("memory")
        return int(memory["used_memory"])

    def settle(self) -> None:
        """Wait until Valkey has rewritten its append-only file, which belongs to the seeding and not to the rest."""
        deadline = time.monotonic() + _REWRITE_S
        while True:
            persistence: Any = self.redis.info("persistence")
            if not (persistence["aof_rewrite_in_progress"] or persistence["aof_rewrite_scheduled"]):
                break
            if time.monotonic() > deadline:
                raise BenchError(f"Valkey is still rewriting its append-only file after {_REWRITE_S:.0f} s.")
            time.sleep(0.2)
        time.sleep(_SETTLE_S)


def measure_rest(
    settings: Settings,
    servers: ServerProbe,
    made: list[Pattern],
    sizes: Sequence[int],
    *,
    seconds: float,
    report: Callable[[str], None],
) -> AtRest:
    """Measure `seconds` at each size, the smallest first; skip sizes that need too much memory or time to set up.

    The worker runs and owns all shards; there are no customers yet.
    """
    rows, skipped = list[Rest](), list[str]()
    moves_before = _moves(settings)
    empty = servers.memory()
    there = 0
    for size in sorted(sizes):
        if rows and (why := too_much(rows[-1], size, psutil.virtual_memory().available)):
            skipped.append(f"{size:,} customers: {why}")
            continue
        report(f"putting {size - there:,} customers at rest into Redis")
        began = time.monotonic()
        seed(settings, servers.redis, at_rest(there, size - there, time.time_ns() // 1_000_000), made)
        seeding_s = time.monotonic() - began
        there = size
        servers.settle()
        rows.append(_measure(servers, size, seconds, (servers.memory() - empty) / size, seeding_s))
    moves = _moves(settings) - moves_before
    return AtRest(seconds, rows, skipped, {"problems": [f"{moves:,} moves published at rest"] if moves else []})


def too_much(last: Rest, size: int, available: int) -> str | None:
    """Return why this size is too large, judged by the last row; None: it isn't. `available`: free memory in bytes.

    Valkey rewrites its append-only file in a second process, which may need as much memory again.
    """
    needs = size * last.bytes_a_customer
    if needs > MOST_GB * _GIGA or 2 * needs > available:
        return f"about {needs / _GIGA:.1f} GB of Valkey's memory"
    seeding_s = last.seeding_s / last.customers * size
    return f"about {seeding_s:.0f} s to put them into Redis" if seeding_s > MOST_SEEDING_S else None


def _measure(servers: ServerProbe, size: int, seconds: float, bytes_a_customer: float, seeding_s: float) -> Rest:
    commands, logged, first = servers.commands(), servers.logged(), servers.meter.read()
    time.sleep(seconds)
    last = servers.meter.read()
    logged = servers.logged() - logged
    commands = servers.commands() - commands
    span_s = last.at_s - first.at_s

    def per_minute(spent: float) -> float:
        return round(spent / span_s * _MINUTE_S, 2)

    return Rest(
        customers=size,
        worker_cpu_s_per_minute=per_minute(last.own_s - first.own_s),
        valkey_cpu_s_per_minute=per_minute(last.valkey_s - first.valkey_s),
        broker_cpu_s_per_minute=per_minute(last.broker_s - first.broker_s),
        redis_commands_per_s=round(commands.total() / span_s, 1),
        redis_commands={name: round(count / span_s, 1) for name, count in commands.most_common()},
        kafka_bytes_per_s=round(logged / span_s, 1),
        worker_rss_mb=round(servers.meter.rss_mb(), 1),
        bytes_a_customer=round(bytes_a_customer, 1),
        seeding_s=round(seeding_s, 1),
    )


def _moves(settings: Settings) -> int:
    return sum(asyncio.run(end_offsets(settings, settings.changes_topic)).values())
