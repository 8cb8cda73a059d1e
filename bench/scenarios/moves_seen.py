"""A deployment's moves as they become visible: orders' latencies, and one move of each due customer at its instant."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray

from bench.harness.followers import following_topics
from bench.harness.orders import new_order
from bench.scenarios.silence import Cohort, Pattern, number_of
from segmentation.output_events import Cause
from stream.settings import Settings

_SHOWN: Final = 5
_A_CALL: Final = 500  # records: the sender runs in the same loop and mustn't wait long for their decoding


class SeenMove(msgspec.Struct, gc=False):
    """The fields of a `segment.changed` that the benchmarks check."""

    customer_id: str
    sequence: int
    cause: str
    occurred_at: datetime
    causation_id: str | None
    source: str | None = msgspec.field(name="from")
    target: str | None = msgspec.field(name="to")


@dataclass(frozen=True, slots=True)
class LatencySpread:
    """The percentiles of latencies, in ms. None: there were no latencies."""

    count: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @classmethod
    def of(cls, took_ms: NDArray[np.float64]) -> LatencySpread:
        """Return the percentiles of these latencies.

        >>> LatencySpread.of(np.array([1.0, 2.0, 4.0]))
        LatencySpread(count=3, p50_ms=2.0, p99_ms=4.0, max_ms=4.0)
        """
        if not took_ms.size:
            return cls(0, None, None, None)
        p50, p99 = np.percentile(took_ms, [50, 99]).tolist()
        return cls(took_ms.size, round(p50, 1), round(p99, 1), round(float(took_ms.max()), 1))


@dataclass(slots=True)
class DueWatch:
    """The orders sent, the cohort that time is to move, and the moves seen of both. All processes share one clock."""

    cohort: Cohort
    patterns: list[Pattern]
    problems: list[str] = field(default_factory=list)
    latest_send_ms: float = 0.0  # the sender's greatest delay: latencies contain it
    due_left: int = field(init=False)
    due_last_at: float = 0.0  # when the last of the cohort was seen, seconds since 1970
    _due_seen: NDArray[np.uint8] = field(init=False)
    _due_took_ms: NDArray[np.float64] = field(init=False)
    _sent: dict[str, float] = field(default_factory=dict)  # event id -> seconds since 1970
    _orders: list[tuple[float, float]] = field(default_factory=list)  # (when sent, ms it took)

    def __post_init__(self) -> None:
        self.due_left = self.cohort.due_ms.size
        self._due_seen = np.zeros(self.due_left, dtype=np.uint8)
        self._due_took_ms = np.zeros(self.due_left)

    def take(self, move: SeenMove, now: float) -> None:
        """Check one move, visible since `now`, and note its latency."""
        if move.cause == Cause.SILENCE:
            self._take_due(move, now)
        elif (sent := self._sent.pop(move.causation_id or "", None)) is None:
            self._complain(f"{move} belongs to no order, or was published before")
        elif (move.cause, move.sequence, move.source) != (Cause.FIRST, 1, None):
            self._complain(f"{move} isn't a new customer's")
        else:
            self._orders.append((sent, (now - sent) * 1e3))

    def _take_due(self, move: SeenMove, now: float) -> None:
        number = number_of(move.customer_id)
        row = number - self.cohort.first
        if not 0 <= row < self._due_seen.size:
            self._complain(f"{move}, though it wasn't due")
            return
        due_ms = int(self.cohort.due_ms[row])
        pattern = self.patterns[number % len(self.patterns)]
        found = (round(move.occurred_at.timestamp() * 1e3), move.source, move.target, move.sequence)
        if found != (expected := (due_ms, pattern.source, pattern.target, pattern.sequence)):
            self._complain(f"{move.customer_id} was moved as {found}, expected {expected}")
        self._due_seen[row] = min(self._due_seen[row] + 1, 255)
        if self._due_seen[row] > 1:
            self._complain(f"{move} was published before")
            return
        self.due_left -= 1
        self.due_last_at = now
        self._due_took_ms[row] = now * 1e3 - due_ms

    def _complain(self, problem: str) -> None:
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)

    async def send(self, producer: Any, settings: Settings, rate: int, stop: asyncio.Event) -> None:
        """Send orders at an even rate until `stop`, each of a new customer, so that each makes a move."""
        began, number = time.perf_counter(), 0
        while not stop.is_set() and rate:
            due = began + number / rate
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            self.latest_send_ms = max(self.latest_send_ms, (time.perf_counter() - due) * 1e3)
            body, key, event_id = new_order(number)
            self._sent[event_id] = time.time()
            await producer.send(settings.orders_topic, body, key=key)
            number += 1

    def all_seen(self) -> bool:
        """Return whether every expected move was seen."""
        return not (self._sent or self.due_left)

    def missing(self) -> list[str]:
        """Return texts about expected moves that weren't seen."""
        parts = ((self.due_left, "due customers were never moved"), (len(self._sent), "orders have no move"))
        return [f"{count:,} {what}" for count, what in parts if count]

    def due(self, begin: float, end: float) -> LatencySpread:
        """Return latencies from the due instant to visible, of the customers due in this span (seconds since 1970)."""
        inside = (self.cohort.due_ms >= begin * 1e3) & (self.cohort.due_ms < end * 1e3) & (self._due_seen > 0)
        return LatencySpread.of(self._due_took_ms[inside])

    def orders(self, begin: float, end: float) -> LatencySpread:
        """Return latencies from just before `send` to visible, of the orders sent in this span (seconds since 1970)."""
        return LatencySpread.of(np.array([ms for sent, ms in self._orders if begin <= sent < end], dtype=np.float64))


def watching(settings: Settings, seen: DueWatch) -> AbstractAsyncContextManager[AIOKafkaProducer]:
    """Note every move that becomes visible within the block. Yields a producer for `DueWatch.send`."""
    return following_topics(settings, [settings.changes_topic], partial(_follow, seen))


async def _follow(seen: DueWatch, consumer: Any) -> None:
    decoder = msgspec.json.Decoder(SeenMove)
    while True:
        answer = await consumer.getmany(timeout_ms=1_000, max_records=_A_CALL)
        now = time.time()
        for records in answer.values():
            for record in records:
                seen.take(decoder.decode(record.value), now)
