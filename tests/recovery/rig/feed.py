"""The feed: endless orders into the orders topic at a steady rate, through all faults of Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from zlib import crc32

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bench.harness.model import bench_model
from segmentation.event_text import instant, iso
from segmentation.events import (
    CONTROL_KEY,
    BackfillFinished,
    ClockAdvanced,
    CustomerErased,
    CustomerMerged,
    InputEvent,
    encode,
)
from segmentation.model import SegmentModel
from segmentation.model_parts import ModelRates
from segmentation.partitioners import murmur2
from stream.orders.rows import to_event
from stream.orders.simulate import simulate
from stream.replay.timeline import Advance, timeline
from stream.settings import Settings
from tests.support.data.clock_models import clock_model
from trainer.errors import PublishError
from trainer.registry.publish import publish

DAY_MS: Final = 86_400_000
START_MS: Final = 946_684_800_000  # the year 2000: there is a quarter of a century until now
STEP_MS: Final = 80 * DAY_MS  # clocks advance in steps below SEGSTREAM_MAX_CLOCK_JUMP_DAYS
REQUEST_MS: Final = 10_000
STOP_S: Final = 30.0


class FeedRecord(NamedTuple):
    """One record to be sent."""

    key: bytes
    value: bytes
    partition: int


class OrderFeed:
    """Records as a function of the seed: orders, refunds, erasures, repetitions, garbage, clock advances."""

    def __init__(self, seed: int, customers: int, partitions: int, *, garbage: bool = True) -> None:
        self._rng = random.Random(seed)
        self._partitions = partitions
        self._garbage = garbage
        self._lines = timeline(simulate(seed, customers, START_MS), step_ms=STEP_MS)
        self._past: list[FeedRecord] = []
        self._numbers = itertools.count()
        self._backfill: str | None = None  # the open one; every third customer's orders belong to it
        self.merges = True  # customers are merged; a version that doesn't know of merges can't use them
        self.at_ms = START_MS

    def take(self, count: int) -> list[FeedRecord]:
        """Return the next records, about `count`."""
        taken: list[FeedRecord] = []
        while len(taken) < count:
            taken += self._next()
        return taken

    def _next(self) -> list[FeedRecord]:
        item = next(self._lines)
        rng = self._rng
        if isinstance(item, Advance):
            # Not every day on every shard: the shards' clocks differ, as in production.
            chosen = [p for p in range(self._partitions) if rng.random() < 0.25]
            return [self._clock(p, item.to_ms) for p in chosen]
        self.at_ms = item.at_ms
        marked = self._backfill is not None and crc32(item.customer_id.encode()) % 3 == 0
        order = self._of(item.customer_id, to_event(item, self._backfill if marked else None))
        self._past = [*self._past[-500:], order]
        more = [order]
        luck = rng.random()
        if rng.random() < 0.01:  # a backfill of some dozens of orders begins or ends
            more += self._end_of_backfill()
        if luck < 0.02:  # a repeated order, late
            more.append(rng.choice(self._past or more))
        elif luck < 0.03 and self._garbage:
            number = next(self._numbers)
            more.append(order._replace(value=b'{"garbage": %d' % number))
        elif self.merges and 0.04 <= luck < 0.06 and self._past:
            other = rng.choice(self._past).key.decode()
            if other != item.customer_id:
                more.append(self._of(item.customer_id, self._merge(item.customer_id, other)))
        elif luck < 0.035:
            erased = CustomerErased(
                id=f"erase-{next(self._numbers)}", customer_id=item.customer_id, occurred_at=instant(item.at_ms)
            )
            more.append(self._of(item.customer_id, erased))
        return more

    def _merge(self, giver: str, into: str) -> CustomerMerged:
        at = instant(self.at_ms - self._rng.choice((0, 0, 1, 40)) * DAY_MS)
        return CustomerMerged(id=f"merge-{next(self._numbers)}", from_=giver, into=into, occurred_at=at)

    def _end_of_backfill(self) -> list[FeedRecord]:
        """End the open backfill on every shard; without one, begin one."""
        if self._backfill is None:
            self._backfill = f"archive-{next(self._numbers)}"
            return []
        ended = encode(BackfillFinished(id=f"end of {self._backfill}", backfill=self._backfill))
        self._backfill = None
        # A repeat of one of its records would open it once more, for a day: a long storm would run out of slots.
        self._past = [record for record in self._past if b'"backfill":"' not in record.value]
        return [FeedRecord(CONTROL_KEY, ended, p) for p in range(self._partitions)]

    def _of(self, customer: str, event: InputEvent) -> FeedRecord:
        key = customer.encode()
        return FeedRecord(key, encode(event), murmur2(key, self._partitions))

    @staticmethod
    def _clock(partition: int, to_ms: int) -> FeedRecord:
        return FeedRecord(CONTROL_KEY, encode(ClockAdvanced(id=f"clock@{iso(to_ms)}", to=instant(to_ms))), partition)

    def customers(self) -> list[str]:
        """Return the customers of the last orders."""
        return sorted({record.key.decode() for record in self._past})

    def silence(self, days: int) -> list[FeedRecord]:
        """Return so many days without orders: moves by time alone must be published."""
        end = self.at_ms + days * DAY_MS
        stops = [*range(self.at_ms, end, STEP_MS), end]
        self.at_ms = end
        ended = [] if self._backfill is None else self._end_of_backfill()
        return ended + [self._clock(p, to_ms) for to_ms in stops for p in range(self._partitions)]


class Feeder:
    """Sends records until each is acknowledged: some in transactions, of which some are aborted."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.acknowledged: set[tuple[int, bytes]] = set()  # (partition, value)
        self.records = 0
        self.models = 0
        self._settings = settings
        self._rng = random.Random(seed)
        self._producers: dict[bool, AIOKafkaProducer] = {}  # by whether it is transactional

    async def send_profiles(self, records: list[FeedRecord]) -> None:
        """Send profiles, in no transaction, until they are acknowledged."""
        while True:
            try:
                await self._send(records, self._settings.profiles_topic, transactional=False, aborted=False)
            except (KafkaError, OSError, AssertionError, RuntimeError):
                await self._drop(transactional=False)
                await asyncio.sleep(0.2)
            else:
                return

    async def send(self, records: list[FeedRecord]) -> None:
        """Send records in order. After a failure send all again, so the log may have some twice."""
        topic = self._settings.orders_topic
        transactional = self._rng.random() < 0.1
        aborted = transactional and self._rng.random() < 0.4
        while True:
            try:
                # No time-out: Kafka always comes back, and a cancelled producer leaves its sockets open.
                await self._send(records, topic, transactional=transactional, aborted=aborted)
                if not aborted:
                    break
                aborted = False
            except (KafkaError, OSError, AssertionError, RuntimeError):
                # aiokafka raises AssertionError or RuntimeError for a transaction that another error has ended.
                await self._drop(transactional=transactional)
                await asyncio.sleep(0.2)
        self.acknowledged.update((r.partition, r.value) for r in records)
        self.records += len(records)

    async def _send(self, records: list[FeedRecord], topic: str, *, transactional: bool, aborted: bool) -> None:
        producer = await self._producer(transactional=transactional)
        if transactional:
            await producer.begin_transaction()
        sent = [await producer.send(topic, r.value, key=r.key, partition=r.partition) for r in records]
        for future in asyncio.as_completed(sent):
            await future
        if transactional:
            await (producer.abort_transaction() if aborted else producer.commit_transaction())

    async def _producer(self, *, transactional: bool) -> AIOKafkaProducer:
        if transactional not in self._producers:
            mine: dict[str, Any] = {"transactional_id": f"{self._settings.group}-feeder"} if transactional else {}
            made = AIOKafkaProducer(
                **self._settings.kafka_client(), acks="all", enable_idempotence=True, linger_ms=0,
                request_timeout_ms=REQUEST_MS, **mine,
            )  # fmt: skip
            try:
                await made.start()
            except BaseException:
                await _stopped(made)
                raise
            self._producers[transactional] = made
        return self._producers[transactional]

    async def _drop(self, *, transactional: bool) -> None:
        if made := self._producers.pop(transactional, None):
            await _stopped(made)

    async def activate(self) -> bool:
        """Publish another model and start it on every shard. Return whether Kafka took it."""
        settings = self._settings
        model = variant(self.models)
        now_ms = time.time_ns() // 1_000_000
        try:
            await asyncio.to_thread(
                publish, settings, model, activate=True, event_time=settings.time == "event", now_ms=now_ms
            )
        except PublishError:
            return False
        self.models += 1
        return True

    async def close(self) -> None:
        for transactional in list(self._producers):
            await self._drop(transactional=transactional)


async def _stopped(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(producer.stop(), STOP_S)


def variant(number: int) -> SegmentModel:
    """Return the benchmark's model with its centroids moved a little, by `number`: the same segments.

    Every second one decides by the customers' own clocks.
    """
    if number % 2:
        return clock_model(ModelRates(r=1.5, alpha=20.0 + number, a=0.6, b=3.0, regularity=1 + number // 2 % 2))
    model, factor = bench_model(), 1 + 0.04 * (number % 5)
    segments = tuple(
        s.model_copy(update={"centroid": (s.centroid[0] * factor, s.centroid[1] * factor, s.centroid[2])})
        for s in model.segments
    )
    return model.model_copy(update={"segments": segments, "margin": model.margin + 0.001 * number})


def slices(records: list[FeedRecord], size: int) -> Iterator[list[FeedRecord]]:
    """Yield records in parts that are sent at once."""
    for begin in range(0, len(records), size):
        yield records[begin : begin + size]
