"""The rows about time: `due`, `rest` and `flood`, each with one worker that owns all shards and scores under the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from redis import Redis

from bench.due import DueMoves, measure_due
from bench.flood import Flood, measure_flood
from bench.meter import Meter
from bench.rest import Servers, measure_rest
from bench.silence import patterns
from stream.local import LocalStack
from stream.settings import Settings

TIME_ROWS: Final = ("due", "rest", "flood")


@dataclass(frozen=True, slots=True)
class TimeOptions:
    """How much of it is measured."""

    due_customers: int = 1_000_000
    due_rate: int = 1_000  # a second
    due_s: float = 30.0  # of each of the two spans
    rest_customers: tuple[int, ...] = (1_000, 100_000, 1_000_000, 10_000_000)
    rest_s: float = 20.0
    flood_customers: int = 1_000_000


@dataclass(frozen=True, slots=True)
class TimeRow:
    """One of them, about to be measured."""

    row: str
    options: TimeOptions
    warm_up_s: float
    settings: Settings
    stack: LocalStack
    redis: Redis
    meter: Meter
    tell: Callable[[str], None]

    def measure(self) -> dict[str, Any]:
        """Measure it while the worker runs; what Redis must have in the end is looked at, too. Raises BenchError."""
        if self.row == "rest":
            return self._rest()
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
                    tell=self.tell,
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
                    tell=self.tell,
                )
            )
        return asdict(found)

    def _rest(self) -> dict[str, Any]:
        servers = Servers(self.redis, self.stack.kafka.directory, self.meter)
        found = measure_rest(
            self.settings,
            servers,
            patterns(self.settings.rules),
            self.options.rest_customers,
            seconds=self.options.rest_s,
            tell=self.tell,
        )
        return asdict(found)
