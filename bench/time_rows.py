"""The rows `due`, `rest`, `flood` and `swap`: one worker owns all shards and scores with the benchmark's model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis

from bench.harness.meter import Meter
from bench.harness.worker_run import Heads
from bench.scenarios.due import DueMoves, measure_due
from bench.scenarios.flood import Flood, measure_flood
from bench.scenarios.rest import ServerProbe, measure_rest
from bench.scenarios.silence import name_of, patterns
from bench.scenarios.swap import SwapRun, measure_swap
from bench.scenarios.swap_watch import SwapWatch
from stream.local.stack import LocalStack
from stream.settings import Settings


@dataclass(frozen=True, slots=True)
class TimeOptions:
    """The sizes of these rows."""

    due_customers: int = 1_000_000
    due_rate: int = 1_000  # a second
    due_s: float = 30.0  # of each of the two spans
    rest_customers: tuple[int, ...] = (1_000, 100_000, 1_000_000, 10_000_000)
    rest_s: float = 20.0
    flood_customers: int = 1_000_000
    swap_customers: int = 200_000
    swap_rate: int = 5_000  # orders a second, during the second of the two swaps
    swap_calm_s: float = 10.0  # before that swap, for comparison


@dataclass(frozen=True, slots=True)
class TimeRow:
    """One of these rows with all that it is measured on."""

    row: str
    options: TimeOptions
    warm_up_s: float
    settings: Settings
    stack: LocalStack
    redis: Redis
    meter: Meter
    heads: Heads
    report: Callable[[str], None]

    def measure(self) -> dict[str, Any]:
        """Measure the row while the worker runs, and check what Redis holds at the end. Raises BenchError."""
        if self.row == "rest":
            return self._rest()
        if self.row == "swap":
            return self._swap()
        made, options = patterns(self.settings.rules), self.options
        found: DueMoves | Flood
        if self.row == "due":
            found = asyncio.run(
                measure_due(
                    self.settings,
                    self.redis,
                    self.meter,
                    made,
                    customers=options.due_customers,
                    rate=options.due_rate,
                    seconds=options.due_s,
                    warm_up_s=self.warm_up_s,
                    report=self.report,
                )
            )
        else:
            found = asyncio.run(
                measure_flood(
                    self.settings,
                    self.redis,
                    self.meter,
                    made,
                    customers=options.flood_customers,
                    warm_up_s=self.warm_up_s,
                    report=self.report,
                )
            )
        return asdict(found)

    def _rest(self) -> dict[str, Any]:
        servers = ServerProbe(self.redis, self.stack.kafka.directory, self.meter)
        found = measure_rest(
            self.settings,
            servers,
            patterns(self.settings.rules),
            self.options.rest_customers,
            seconds=self.options.rest_s,
            report=self.report,
        )
        return asdict(found)

    def _swap(self) -> dict[str, Any]:
        options = self.options
        cohort = frozenset(name_of(number).decode() for number in range(options.swap_customers))
        run = SwapRun(self.settings, self.redis, self.meter, self.heads, SwapWatch(cohort), self.report)
        found = measure_swap(
            run,
            patterns(self.settings.rules),
            customers=options.swap_customers,
            rate=options.swap_rate,
            calm_s=options.swap_calm_s,
            warm_up_s=self.warm_up_s,
        )
        return asdict(asyncio.run(found))
