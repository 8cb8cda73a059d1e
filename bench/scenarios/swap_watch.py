"""The orders sent and the moves published while models change: latencies, and the chain of each customer's moves."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, defaultdict
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from bench.harness.errors import BenchError
from bench.harness.followers import following_topics
from bench.scenarios.moves_seen import LatencySpread, SeenMove
from segmentation.event_text import iso
from segmentation.events import Amount, OrderPlaced, encode
from segmentation.model import ACTIVE_KEY
from segmentation.partitioners import murmur2
from stream.engine.ledger import BATCH_BYTES
from stream.settings import Settings

NEW: Final = 10  # one in so many orders is of a new customer and makes a move at once: these are timed
REGULARS: Final = 20_000  # customers of the other orders
_SHOWN: Final = 5
_A_CALL: Final = 500  # records: the sender runs in the same loop and mustn't wait long for their decoding
_EVERY_S: Final = 0.01
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WHEN: Final = b"1970-01-01T00:00:00Z"
_TEMPLATE: Final = encode(
    OrderPlaced(
        id="event-NAME",
        order_id="order-NAME",
        customer_id="CUSTOMER",
        occurred_at=_EPOCH,
        amount=Amount("AMOUNT", "USD"),
    )
)


class PreparedOrder(NamedTuple):
    """One encoded order."""

    key: bytes
    body: bytes
    partition: int
    event_id: str
    is_new: bool  # of a new customer


class OrderMaker:
    """Makes orders from a template: encoding each would cost the sender more than sending it."""

    def __init__(self, partitions: int) -> None:
        """Begin with names that no other run has."""
        self._partitions = partitions
        self._run = uuid.uuid4().hex
        self._partition_of: dict[bytes, int] = {}

    def order(self, number: int, at: bytes) -> PreparedOrder:
        """Return the order of this number, placed at an instant (ISO 8601).

        >>> made, at = OrderMaker(8), b"2026-01-01T00:00:00Z"
        >>> made.order(10, at).is_new, made.order(11, at).key
        (True, b'regular-7109')
        """
        is_new, name = number % NEW == 0, b"%b-%d" % (self._run.encode(), number)
        key = b"customer-" + name if is_new else b"regular-%d" % (number * 7_919 % REGULARS)
        body = (
            _TEMPLATE.replace(b"NAME", name).replace(b"CUSTOMER", key).replace(b"AMOUNT", b"%d.00" % (1 + number % 400))
        )
        body = body.replace(_WHEN, at)
        partition = self._partition_of.get(key)
        if partition is None:
            partition = murmur2(key, self._partitions)
            if not is_new:
                self._partition_of[key] = partition
        return PreparedOrder(key, body, partition, f"event-{name.decode()}", is_new)


@dataclass(slots=True)
class SwapWatch:
    """The moves of a deployment as they become visible, and the orders sent."""

    cohort: frozenset[str]  # customers without orders: their moves are kept
    moves: dict[str, list[SeenMove]] = field(default_factory=lambda: defaultdict(list))
    causes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    activated: dict[int, float] = field(default_factory=dict)  # activation -> when it was visible, seconds since 1970
    orders: int = 0
    latest_send_ms: float = 0.0  # the sender's greatest delay: latencies contain it
    _sent: dict[str, float] = field(default_factory=dict)  # event id -> seconds since 1970
    _took: list[tuple[float, float]] = field(default_factory=list)  # (when sent, ms it took)
    _last: dict[str, tuple[int, str | None]] = field(default_factory=dict)  # customer -> (sequence, segment)

    def take(self, move: SeenMove, now: float) -> None:
        """Check one move, visible since `now`, and note its latency."""
        self.causes[move.cause] += 1
        in_cohort = move.customer_id in self.cohort
        if in_cohort:
            self.moves[move.customer_id].append(move)
        before = self._last.get(move.customer_id)
        self._last[move.customer_id] = move.sequence, move.target
        # The cohort's first moves continue from the states in Redis: `judge` compares these.
        expected = before or (None if in_cohort else (0, None))
        if expected is not None and (move.sequence - 1, move.source) != expected:
            self._complain(f"{move} doesn't continue from {expected}")
        if (sent := self._sent.pop(move.causation_id or "", None)) is not None:
            self._took.append((sent, (now - sent) * 1e3))

    def _complain(self, problem: str) -> None:
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)

    async def send(self, producer: Any, settings: Settings, rate: int, stop: asyncio.Event) -> None:
        """Send orders at an even rate until `stop`, in batches of some milliseconds: single sends cost half a core."""
        began, maker = time.perf_counter(), OrderMaker(settings.partitions)
        while not stop.is_set():
            behind = time.perf_counter() - began - self.orders / rate
            self.latest_send_ms = max(self.latest_send_ms, behind * 1e3)
            batches: dict[int, Any] = defaultdict(producer.create_batch)
            now = time.time()
            at = iso(int(now * 1e3)).encode()
            until = self.orders + int(behind * rate)
            for number in range(self.orders, until):
                order = maker.order(number, at)
                if order.is_new:
                    self._sent[order.event_id] = now
                if batches[order.partition].append(key=order.key, value=order.body, timestamp=None) is None:
                    raise BenchError(f"the sender fell {behind:.1f} s behind: {rate:,} orders/s are too many here.")
            for partition, batch in batches.items():
                batch.close()
                await producer.send_batch(batch, settings.orders_topic, partition=partition)
            self.orders = until
            await asyncio.sleep(_EVERY_S)

    @property
    def unseen(self) -> int:
        """The number of orders of new customers without a visible move."""
        return len(self._sent)

    def spread(self, begin: float, end: float) -> LatencySpread:
        """Return latencies of the new customers' orders sent in this span (seconds since 1970)."""
        return LatencySpread.of(np.array([ms for sent, ms in self._took if begin <= sent < end], dtype=np.float64))

    async def follow(self, changes: str, consumer: Any) -> None:
        """Note all moves (topic `changes`) and activations."""
        decoder = msgspec.json.Decoder(SeenMove)
        while True:
            answer = await consumer.getmany(timeout_ms=1_000, max_records=_A_CALL)
            now = time.time()
            for records in answer.values():
                for record in records:
                    if record.key == ACTIVE_KEY:
                        self.activated[record.offset] = now
                    elif record.topic == changes:
                        self.take(decoder.decode(record.value), now)


def following(settings: Settings, watch: SwapWatch) -> AbstractAsyncContextManager[AIOKafkaProducer]:
    """Note moves and activations within the block. Yields a producer for `SwapWatch.send`."""
    topics = [settings.changes_topic, settings.models_topic]
    return following_topics(settings, topics, partial(watch.follow, settings.changes_topic), max_batch_size=BATCH_BYTES)
