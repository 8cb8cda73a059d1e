"""The rows of the benchmark's tables: each is one measurement that can run alone.

All rows share one stack and, where possible, one topic of orders.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from redis import Redis

from bench.harness import sampler
from bench.harness.children import CountFile, MeasuredProcess
from bench.harness.deployment import PARTITIONS, activate_model, deployment, environment, make_topics
from bench.harness.errors import BenchError
from bench.harness.meter import MeasuredRun, Meter, Progress, measure
from bench.harness.orders import bodies, preload
from bench.harness.outputs import Checked, CustomerTotals, check_agent, check_worker, recompute
from bench.harness.worker_run import Heads, end_worker, start_worker, until
from bench.reports.time_report import TIME_ROWS
from bench.scenarios.latency import measure_latency
from bench.scenarios.rolling import measure_rolling
from bench.scenarios.takeover import measure_takeovers
from bench.time_rows import TimeOptions, TimeRow
from segmentation.entries import DAY_MS
from stream.kafka.clients import end_offsets
from stream.local.machine import free_port
from stream.local.stack import LocalStack
from stream.settings import Settings

_DAYS_BACK: Final = 181  # the orders span the half-year before now: in wall time all lie in the window
_READY_S: Final = 60.0
_PATIENCE_S: Final = 120.0
LABELS: Final = {
    "drain": "draining alone: aiokafka, nothing decoded",
    "wall": "segstream, wall time (production)",
    "event": "segstream, event time (moves by silence too)",
    "faust": "ordinary Faust agent",
}
GUARANTEES: Final = {"drain": "none", "wall": "exactly once", "event": "exactly once", "faust": "at least once"}


@dataclass(frozen=True, slots=True)
class Options:
    """The sizes of a run. The number of orders per customer is the same in every topic."""

    orders: int = 1_000_000
    customers: int = 200_000
    faust_orders: int = 20_000
    profile_orders: int = 200_000
    latency_s: float = 30.0
    warm_up_s: float = 60.0  # the broker's JVM needs it too
    rolling_rate: int = 5_000  # orders/s during a rolling restart
    calm_s: float = 5.0  # under load, after each change of a rolling restart and again before the next
    takeover_orders: int = 120_000
    takeover_times: int = 3  # at each lag of Redis
    time: TimeOptions = field(default_factory=TimeOptions)

    def customers_of(self, orders: int) -> int:
        """Return how many customers make this many orders, at the usual number of orders each."""
        return max(1, self.customers * orders // self.orders)


@dataclass(frozen=True, slots=True)
class PreloadedTopic:
    """A preloaded topic: offsets of the first order and after the last by partition, and every customer's totals."""

    topic: str
    orders: int
    begins: dict[int, int]
    ends: dict[int, int]
    expected: dict[bytes, CustomerTotals]


@dataclass(slots=True)
class Bench:
    """One run of the benchmark. `report` receives a line before each step that takes time."""

    options: Options
    stack: LocalStack
    redis: Redis
    folder: Path
    report: Callable[[str], None]
    _inputs: dict[str, PreloadedTopic] = field(default_factory=dict)

    def run(self, row: str) -> dict[str, Any]:
        """Measure one row and check its outputs. Raises BenchError."""
        if row == "latency":
            return self._latency()
        if row == "profile":
            return self._profile()
        if row == "rolling":
            return self._rolling()
        if row == "takeover":
            return self._takeover()
        if row in TIME_ROWS:
            return self._time(row)
        measured, checked = {
            "drain": self._drain,
            "wall": lambda: self._worker("wall"),
            "event": lambda: self._worker("event"),
            "faust": self._faust,
        }[row]()
        return {
            "row": row,
            "label": LABELS[row],
            "guarantee": GUARANTEES[row],
            **asdict(measured),
            "checks": None if checked is None else asdict(checked),
        }

    def _input(self, topic: str, orders: int, *, with_model: bool = True) -> PreloadedTopic:
        """Preload a topic, once. `with_model`: each partition begins with the activation of the model."""
        if topic in self._inputs:
            return self._inputs[topic]
        settings = self._deployment("input", topic)
        make_topics(settings)
        if with_model:
            activate_model(settings)
        begins = asyncio.run(end_offsets(settings, topic))
        customers, start_ms = self.options.customers_of(orders), _start_ms()
        self.report(f"sending {orders:,} orders of {customers:,} customers to {topic}")
        asyncio.run(preload(settings, bodies(orders, customers, start_ms)))
        ends = asyncio.run(end_offsets(settings, topic))
        sent = sum(ends.values()) - sum(begins.values())
        if sent != orders:
            raise BenchError(f"topic {topic} has {sent:,} orders, expected {orders:,}.")
        made = PreloadedTopic(topic, orders, begins, ends, recompute(bodies(orders, customers, start_ms)))
        self._inputs[topic] = made
        return made

    def _deployment(self, name: str, topic: str, time_mode: Literal["wall", "event"] = "wall") -> Settings:
        return deployment(self.stack.endpoints, name, topic, time_mode)

    def _drain(self) -> tuple[MeasuredRun, Checked | None]:
        given = self._input("orders", self.options.orders)
        records = given.orders + PARTITIONS  # each partition begins with the activation of the model
        return self._counted("drain", "bench.scenarios.drain", self._deployment("drain", given.topic), records), None

    def _worker(self, time_mode: Literal["wall", "event"]) -> tuple[MeasuredRun, Checked | None]:
        given = self._input("orders", self.options.orders)
        settings = self._deployment(time_mode, given.topic, time_mode)
        make_topics(settings)
        heads = Heads(settings, self.redis, given.begins, given.ends)
        with start_worker(settings, time_mode, self.folder) as child:
            measured = measure(child, self.stack, heads.progress, _PATIENCE_S + given.orders / 1_000)
            end_worker(child)
        self.report("checking its moves and states")
        return measured, asyncio.run(check_worker(settings, self.redis, given.expected))

    def _faust(self) -> tuple[MeasuredRun, Checked | None]:
        given = self._input("orders-faust", self.options.faust_orders, with_model=False)
        settings = self._deployment("faust", given.topic)
        make_topics(settings)
        measured = self._counted("faust", "bench.scenarios.faust_agent", settings, given.orders)
        return measured, asyncio.run(check_agent(settings, self.redis, given.expected))

    def _counted(self, name: str, module: str, settings: Settings, records: int) -> MeasuredRun:
        """Measure a program that counts its records in a CountFile."""
        counts = CountFile(self.folder / f"{name}.count")

        def progress() -> Progress:
            count = counts.read()
            return Progress(count or 0, begun=count is not None, finished=count is not None and count >= records)

        try:
            arguments = ["-m", module, str(self.folder / f"{name}.count")]
            with MeasuredProcess(name, arguments, folder=self.folder, environment=environment(settings)) as child:
                return measure(child, self.stack, progress, _PATIENCE_S + records / 50)
        finally:
            counts.close()

    def _latency(self) -> dict[str, Any]:
        settings = self._deployment("latency", "orders-latency")
        make_topics(settings)
        activate_model(settings)
        nowhere = asyncio.run(end_offsets(settings, settings.orders_topic))
        heads = Heads(settings, self.redis, nowhere, nowhere)
        with start_worker(settings, "latency", self.folder) as child:
            until(heads.ready, child, _READY_S)
            found = asyncio.run(
                measure_latency(
                    settings,
                    Meter(child, self.stack),
                    warm_up_s=self.options.warm_up_s,
                    seconds=self.options.latency_s,
                )
            )
            end_worker(child)
        return asdict(found)

    def _rolling(self) -> dict[str, Any]:
        settings = self._deployment("rolling", "orders-rolling")
        make_topics(settings)
        activate_model(settings)
        nowhere = asyncio.run(end_offsets(settings, settings.orders_topic))
        heads = Heads(settings, self.redis, nowhere, nowhere)

        def start(number: int) -> MeasuredProcess:
            return start_worker(settings, f"rolling-{number}", self.folder)

        return asdict(
            asyncio.run(
                measure_rolling(
                    settings,
                    start,
                    heads.ready,
                    rate=self.options.rolling_rate,
                    warm_up_s=self.options.warm_up_s,
                    calm_s=self.options.calm_s,
                )
            )
        )

    def _takeover(self) -> dict[str, Any]:
        settings = self._deployment("takeover", "orders-takeover")
        make_topics(settings)
        activate_model(settings)
        orders = self.options.takeover_orders
        customers, start_ms = self.options.customers_of(orders), _start_ms()
        made = list(bodies(orders, customers, start_ms))
        times = self.options.takeover_times
        return asdict(measure_takeovers(settings, self.redis, self.folder, made, times=times, report=self.report))

    def _time(self, row: str) -> dict[str, Any]:
        settings = self._deployment(row, f"orders-{row}").model_copy(update={"http_port": free_port()})
        make_topics(settings)
        activate_model(settings)
        nowhere = asyncio.run(end_offsets(settings, settings.orders_topic))
        heads = Heads(settings, self.redis, nowhere, nowhere)
        options = self.options
        with start_worker(settings, row, self.folder) as child:
            until(heads.ready, child, _READY_S)
            meter = Meter(child, self.stack)
            asked = TimeRow(
                row, options.time, options.warm_up_s, settings, self.stack, self.redis, meter, heads, self.report
            )
            found = asked.measure()
            end_worker(child)
        return found

    def _profile(self) -> dict[str, Any]:
        """Sample where the worker's CPU time goes, with fewer orders, in wall time."""
        given = self._input("orders-profile", self.options.profile_orders)
        settings = self._deployment("profile", given.topic)
        make_topics(settings)
        heads, out = Heads(settings, self.redis, given.begins, given.ends), self.folder / "samples.json"
        with start_worker(settings, "profile", self.folder, out) as child:
            measured = measure(child, self.stack, heads.progress, _PATIENCE_S + given.orders / 500)
            end_worker(child)
        counts: dict[str, int] = json.loads(out.read_text(encoding="utf-8"))
        return {
            "orders": given.orders,
            "samples": sum(count for stage, count in counts.items() if stage != sampler.START),
            "cpu_s_per_million": measured.cpu_s_per_million,
            "shares": sampler.shares(counts),
        }


def _start_ms() -> int:
    return (int(time.time()) // 86_400 - _DAYS_BACK) * DAY_MS
