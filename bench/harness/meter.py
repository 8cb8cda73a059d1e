"""CPU time, memory and progress of a program, and the CPU time of the broker, Valkey and everything else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import psutil

from bench.harness.children import MeasuredProcess
from bench.harness.errors import BenchError
from stream.local.stack import LocalStack

POLL_S: Final = 0.03
_MILLION: Final = 1e6
_LEAST_S: Final = 0.05  # a shorter interval is about one poll: its rate would be noise


class Progress(NamedTuple):
    """How many orders are done; whether the start-up is over; whether all is settled."""

    orders: int
    begun: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU seconds used up to one instant."""

    at_s: float  # of a monotonic clock
    own_s: float
    broker_s: float
    valkey_s: float
    others_s: float  # all other processes of the machine, this one included

    def cores_since(self, before: CpuReading) -> dict[str, float]:
        """Return the cores that each kept busy between two readings, by the names that results have for them.

        >>> CpuReading(2.0, 1.5, 1.0, 0.5, 0.25).cores_since(CpuReading(0.0, 0.5, 0.0, 0.0, 0.5))
        {'worker_cores': 0.5, 'broker_cores': 0.5, 'valkey_cores': 0.25, 'others_cores': 0.0}
        """
        seconds = self.at_s - before.at_s
        return {
            "worker_cores": round((self.own_s - before.own_s) / seconds, 3),
            "broker_cores": round((self.broker_s - before.broker_s) / seconds, 3),
            "valkey_cores": round((self.valkey_s - before.valkey_s) / seconds, 3),
            "others_cores": round(max(self.others_s - before.others_s, 0.0) / seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A row's figures from the end of its start-up until all was settled. None: too short a time to measure."""

    orders: int
    seconds: float
    orders_per_s: float | None
    cpu_s_per_million: float | None
    broker_cpu_s_per_million: float | None
    valkey_cpu_s_per_million: float | None
    peak_rss_mb: float
    load_average: float  # one minute's, before the row
    others_cores: float | None  # cores that everything else kept busy in that time, the benchmark itself included


class Meter:
    """Reads the CPU times of one program and of the servers."""

    def __init__(self, child: MeasuredProcess, stack: LocalStack) -> None:
        self._own = child.process
        self._broker = psutil.Process(stack.kafka.pid)
        self._valkey = psutil.Process(stack.valkey.pid)

    def read(self) -> CpuReading:
        """Return the CPU seconds up to now."""
        own, broker, valkey = (_cpu_s(p) for p in (self._own, self._broker, self._valkey))
        total = psutil.cpu_times()
        # "guest" is part of "user" on Linux, and not every system has the others.
        busy = sum(getattr(total, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))
        return CpuReading(time.perf_counter(), own, broker, valkey, busy - own - broker - valkey)

    def rss_mb(self) -> float:
        """Return the program's resident memory in MB (10^6 bytes)."""
        return float(self._own.memory_info().rss) / _MILLION


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(
    child: MeasuredProcess, stack: LocalStack, progress: Callable[[], Progress], timeout_s: float
) -> MeasuredRun:
    """Watch a program from the end of its start-up until all is settled.

    The span begins when the work may begin, so it contains all work for the first orders. Raises BenchError where the
    program ends or takes too long.
    """
    meter, load = Meter(child, stack), os.getloadavg()[0]
    deadline = time.monotonic() + timeout_s
    began: tuple[int, CpuReading] | None = None
    peak = 0.0
    while True:
        child.check()
        peak = max(peak, meter.rss_mb())
        seen = progress()
        if seen.begun and began is None:
            began = seen.orders, meter.read()
        if seen.finished and began is not None:
            return _difference(*began, seen.orders, meter.read(), peak, load)
        if time.monotonic() > deadline:
            raise BenchError(
                f"{child.name}: {seen.orders:,} orders after {timeout_s:.0f} s, and not settled.",
                hint=f"Look at {child.log}.",
            )
        time.sleep(POLL_S)


def _difference(begun: int, first: CpuReading, done: int, last: CpuReading, peak: float, load: float) -> MeasuredRun:
    seconds, count = last.at_s - first.at_s, done - begun
    measurable = count > 0 and seconds >= _LEAST_S

    def per_million(spent: float) -> float | None:
        return round(spent / count * _MILLION, 2) if measurable else None

    return MeasuredRun(
        orders=done,
        seconds=round(seconds, 3),
        orders_per_s=round(count / seconds, 1) if measurable else None,
        cpu_s_per_million=per_million(last.own_s - first.own_s),
        broker_cpu_s_per_million=per_million(last.broker_s - first.broker_s),
        valkey_cpu_s_per_million=per_million(last.valkey_s - first.valkey_s),
        peak_rss_mb=round(peak, 1),
        load_average=round(load, 2),
        # The system's books and a process's own tick apart: nobody else may come out as a little less than nobody.
        others_cores=round(max(last.others_s - first.others_s, 0.0) / seconds, 2) if measurable else None,
    )
