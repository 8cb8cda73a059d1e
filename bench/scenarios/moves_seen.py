"""All moves of a deployment as they become visible: how long orders took, and whether each customer due was told once, at its instant."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from numpy.typing import NDArray

from bench.scenarios.latency import order_of
from bench.scenarios.silence import Cohort, Pattern, number_of
from segmentation.events import Cause
from stream.kafka.clients import kafka_consumer, partitions_of
from stream.settings import Settings

_SHOWN: Final = 5
_A_CALL: Final = 500  # records: whoever sends in this loop mustn't wait long for their decoding


class SeenMove(msgspec.Struct, gc=False):
    """What is looked at of a `segment.changed`."""

    customer_id: str
    sequence: int
    cause: str
    occurred_at: datetime
    causation_id: str | None
    source: str | None = msgspec.field(name="from")
    target: str | None = msgspec.field(name="to")


@dataclass(frozen=True, slots=True)
class LatencySpread:
    """Of so many latencies, in ms. None: there were none."""

    count: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @classmethod
    def of(cls, took_ms: NDArray[np.float64]) -> LatencySpread:
        """Take the percentiles.

        >>> LatencySpread.of(np.array([1.0, 2.0, 4.0]))
        LatencySpread(count=3, p50_ms=2.0, p99_ms=4.0, max_ms=4.0)
        """
        if not took_ms.size:
            return cls(0, None, None, None)
        p50, p99 = np.percentile(took_ms, [50, 99]).tolist()
        return cls(took_ms.size, round(p50, 1), round(p99, 1), round(float(took_ms.max()), 1))


@dataclass(slots=True)
class DueWatch:
    """What was sent, whom time is to move, and what was seen of both. Clocks of this machine, which all measured run on."""

    cohort: Cohort
    patterns: list[Pattern]
    problems: list[str] = field(default_factory=list)
    latest_send_ms: float = 0.0  # how far the sender fell behind at worst: what it measures then is its own
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
        """One move, visible since `now`."""
        if move.cause == Cause.SILENCE:
            self._take_due(move, now)
        elif (sent := self._sent.pop(move.causation_id or "", None)) is None:
            self._complain(f"{move} answers no order that was sent, or was told before")
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
        told = (round(move.occurred_at.timestamp() * 1e3), move.source, move.target, move.sequence)
        if told != (expected := (due_ms, pattern.source, pattern.target, pattern.sequence)):
            self._complain(f"{move.customer_id} was told as {told}, expected {expected}")
        self._due_seen[row] = min(self._due_seen[row] + 1, 255)
        if self._due_seen[row] > 1:
            self._complain(f"{move} was told before")
            return
        self.due_left -= 1
        self.due_last_at = now
        self._due_took_ms[row] = now * 1e3 - due_ms

    def _complain(self, problem: str) -> None:
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)

    async def send(self, producer: Any, settings: Settings, rate: int, stop: asyncio.Event) -> None:
        """Send orders at an even pace, each of a customer never seen before, so that each makes a move."""
        began, number = time.perf_counter(), 0
        while not stop.is_set() and rate:
            due = began + number / rate
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            self.latest_send_ms = max(self.latest_send_ms, (time.perf_counter() - due) * 1e3)
            body, key, event_id = order_of(number)
            self._sent[event_id] = time.time()
            await producer.send(settings.orders_topic, body, key=key)
            number += 1

    def all_seen(self) -> bool:
        """Whether nothing is missing any more."""
        return not (self._sent or self.due_left)

    def missing(self) -> list[str]:
        """What was never seen."""
        parts = ((self.due_left, "customers due were never told"), (len(self._sent), "orders made no move"))
        return [f"{count:,} {what}" for count, what in parts if count]

    def due(self, begin: float, end: float) -> LatencySpread:
        """From the instant due to visible, of those due in this span of seconds since 1970."""
        inside = (self.cohort.due_ms >= begin * 1e3) & (self.cohort.due_ms < end * 1e3) & (self._due_seen > 0)
        return LatencySpread.of(self._due_took_ms[inside])

    def orders(self, begin: float, end: float) -> LatencySpread:
        """From just before `send` to visible, of those sent in this span."""
        return LatencySpread.of(np.array([ms for sent, ms in self._orders if begin <= sent < end], dtype=np.float64))


@asynccontextmanager
async def beside(
    settings: Settings, topics: list[str], follow: Callable[[Any], Coroutine[Any, Any, None]], **producing: Any
) -> AsyncIterator[AIOKafkaProducer]:
    """Let `follow` read what becomes visible on these topics within this block (read_committed). Gives a producer."""
    producer = AIOKafkaProducer(**settings.kafka_client(), linger_ms=0, acks="all", **producing)
    await producer.start()
    try:
        async with kafka_consumer(settings) as consumer:
            partitions = await partitions_of(consumer, topics)
            consumer.assign(partitions)
            await consumer.seek_to_end(*partitions)
            follower = asyncio.create_task(follow(consumer))
            # A collection in this process would count as latency of the worker.
            gc.collect()
            gc.disable()
            try:
                yield producer
            finally:
                gc.enable()
                follower.cancel()
                (ended,) = await asyncio.gather(follower, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended
    finally:
        await producer.stop()


def watching(settings: Settings, seen: DueWatch) -> AbstractAsyncContextManager[AIOKafkaProducer]:
    """Take every move that becomes visible within this block. Gives a producer for `DueWatch.send`."""
    return beside(settings, [settings.changes_topic], partial(_follow, seen))


async def _follow(seen: DueWatch, consumer: Any) -> None:
    decoder = msgspec.json.Decoder(SeenMove)
    while True:
        answer = await consumer.getmany(timeout_ms=1_000, max_records=_A_CALL)
        now = time.time()
        for records in answer.values():
            for record in records:
                seen.take(decoder.decode(record.value), now)
