"""Publish the orders of a file to the topic of orders, at any rate; in event time with advances of the clock."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct

from segmentation.entries import DAY_MS
from segmentation.event_text import instant, iso
from segmentation.events import CONTROL_KEY, BackfillFinished, ClockAdvanced, Control, encode
from segmentation.partitioners import PARTITIONERS, murmur2
from stream.clock import now_ms
from stream.kafka.clients import kafka_producer
from stream.orders.rows import OrderRow, to_event
from stream.replay.preconditions import check_partitions, check_until, lowest_clock
from stream.replay.rate import ReplayRate
from stream.replay.timeline import Advance, timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aiokafka import AIOKafkaProducer

    from stream.settings import Settings

# It costs 4 µs a record and leaves a sixth of the bytes (CDNOW: 5 MB instead of 27; 60,000 rows/s, not 125,000).
_COMPRESSION: Final = "lz4"
_BATCH_BYTES: Final = 262_144  # before compression: well below the broker's 1 MiB
_PRODUCER_OPTIONS: Final[dict[str, Any]] = {
    "compression_type": _COMPRESSION,
    "max_batch_size": _BATCH_BYTES,
    "linger_ms": 0,
}
_BATCHES_UNDER_WAY: Final = 64
_CACHED_PARTITIONS: Final = 200_000
_YIELD_ROWS: Final = 1_000  # after this many rows, other tasks of the event loop get to run


class ReplayReport(Struct, frozen=True, kw_only=True):
    """The result of a replay.

    `sent` counts events by kind, `left_out` rows of the file by reason, `clocks` the records that advance the clock.
    `last_at`: all orders dated earlier have arrived. `finished`: `backfill.finished` was published to every partition.
    """

    sent: dict[str, int]
    left_out: dict[str, int]
    clocks: int
    other_currencies: dict[str, int]
    seconds: float
    rows_per_s: float
    last_offsets: dict[int, int]
    last_at: str | None
    interrupted: bool
    backfill: str | None = None
    finished: bool = False


class BackfillPart(NamedTuple):
    """The backfill that the rows are part of: every event carries its name. `finish`: they are its last part."""

    name: str
    finish: bool = True


async def replay(
    settings: Settings,
    rows: Iterable[OrderRow],
    *,
    speed: float | None = None,
    from_ms: int | None = None,
    until_ms: int | None = None,
    backfill: BackfillPart | None = None,
    left_out: Counter[str] | None = None,
    stop: asyncio.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReplayReport:
    """Publish rows that are sorted by time (`stream.orders.sorting`), keyed by customer, and in event time their clock.

    `speed`: how many times faster than the rows' own time; None: as fast as possible. `left_out`: the reader's counts,
    for the report. Once `stop` is set, the replay ends soon, without the last advance of the clock. `progress` is
    called with the number of rows sent and the date of the latest (ms since 1970). `backfill`: mark the events, and end
    with `backfill.finished` on every partition, unless stopped. Replaying rows again publishes the same events again,
    which changes nothing. Raises ReplayError, KafkaUnreachable, TopicUnusable and, in event time, RedisUnreachable.
    """
    check_until(settings, until_ms, now_ms())
    event_time = settings.time == "event"
    step_ms = max(settings.max_clock_jump_days - 1, 1) * DAY_MS
    began_s = time.monotonic()
    async with kafka_producer(settings, **_PRODUCER_OPTIONS) as producer:
        await check_partitions(producer, settings)
        clock_ms = await asyncio.to_thread(lowest_clock, settings) if event_time else None
        items = timeline(
            rows, step_ms=step_ms, clock_ms=clock_ms, from_ms=from_ms, until_ms=until_ms, clocks=event_time
        )
        publisher = _Publisher(producer, settings, None if backfill is None else backfill.name)
        rate = ReplayRate(speed, stop or asyncio.Event())
        interrupted = await _send(items, publisher, rate, progress)
        # All events must be acknowledged first: they must lie before `backfill.finished` in their partitions.
        await publisher.finish()
        finished = backfill is not None and backfill.finish and not interrupted
        if backfill is not None and finished:
            await publisher.control(BackfillFinished(id=f"backfill@{backfill.name}", backfill=backfill.name))
        offsets = await publisher.finish()
    seconds = time.monotonic() - began_s
    return ReplayReport(
        **publisher.counts(),
        left_out=dict(left_out or {}),
        seconds=round(seconds, 3),
        rows_per_s=round(publisher.sent.total() / max(seconds, 1e-9), 1),
        last_offsets=offsets,
        interrupted=interrupted,
        backfill=None if backfill is None else backfill.name,
        finished=finished,
    )


async def _send(
    items: Iterator[OrderRow | Advance],
    publisher: _Publisher,
    rate: ReplayRate,
    progress: Callable[[int, int], None] | None,
) -> bool:
    """Send all items, each when it is due. Returns whether the replay was stopped before the end."""
    for number, item in enumerate(items, start=1):
        catches_up = isinstance(item, Advance) and item.catches_up
        at_ms = item.to_ms if isinstance(item, Advance) else item.at_ms
        if not catches_up and rate.ahead_s(at_ms) > 0:
            await publisher.flush()
            await rate.wait(at_ms)
        if rate.stopped:
            return True
        await publisher.add(item)
        if number % _YIELD_ROWS == 0 or rate.limited:
            if progress:
                progress(publisher.sent.total(), at_ms)
            await asyncio.sleep(0)
    return False


class _Publisher:
    """Fills a batch for each partition and sends it when full: 2 µs a record, where `send` takes 30 (aiokafka 0.14)."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings, backfill: str | None) -> None:
        self._backfill = backfill
        self._producer = producer
        self._topic = settings.orders_topic
        self._partitions = settings.partitions
        self._currencies = settings.all_currencies
        self._batches = [producer.create_batch() for _ in range(self._partitions)]
        # Partition, number of records, and the future of the first one's offset.
        self._under_way: deque[tuple[int, int, Any]] = deque()
        self._offsets: dict[int, int] = {}
        # With "none" any partitioner will do.
        partitioner = PARTITIONERS[settings.partitioner] or murmur2
        self._partition = lru_cache(_CACHED_PARTITIONS)(lambda key: partitioner(key, self._partitions))
        self.sent: Counter[str] = Counter()
        self.other_currencies: Counter[str] = Counter()
        self.clocks = 0
        self.at_ms: int | None = None

    async def add(self, item: OrderRow | Advance) -> None:
        """Add a row to its customer's partition, or an advance to all."""
        if isinstance(item, Advance):
            await self.control(ClockAdvanced(id=f"clock@{iso(item.to_ms)}", to=instant(item.to_ms)))
            self.clocks += self._partitions
            self.at_ms = item.to_ms
            return
        key = item.customer_id.encode()
        await self._append(self._partition(key), key, encode(to_event(item, self._backfill)))
        self.sent[item.kind] += 1
        if item.currency not in self._currencies:
            self.other_currencies[item.currency] += 1
        self.at_ms = item.at_ms

    async def control(self, event: Control) -> None:
        """Add a control to every partition."""
        body = encode(event)
        for partition in range(self._partitions):
            await self._append(partition, CONTROL_KEY, body)

    def counts(self) -> dict[str, Any]:
        """Return the fields of the report that count what was added."""
        return {
            "sent": dict(self.sent),
            "clocks": self.clocks,
            "other_currencies": dict(self.other_currencies),
            "last_at": None if self.at_ms is None else iso(self.at_ms),
        }

    async def flush(self) -> None:
        """Send all records that have been added."""
        for partition, batch in enumerate(self._batches):
            if batch.record_count():
                await self._send_batch(partition)

    async def finish(self) -> dict[int, int]:
        """Wait until all records are acknowledged. Returns the last offset of each partition that got any."""
        await self.flush()
        while self._under_way:
            await self._acknowledged()
        return self._offsets

    async def _append(self, partition: int, key: bytes, value: bytes) -> None:
        if self._batches[partition].append(key=key, value=value, timestamp=None) is None:
            await self._send_batch(partition)
            taken = self._batches[partition].append(key=key, value=value, timestamp=None)
            assert taken is not None, f"{len(value)} bytes, but the length of an id is limited, and so an event's"

    async def _send_batch(self, partition: int) -> None:
        batch = self._batches[partition]
        batch.close()
        future = await self._producer.send_batch(batch, self._topic, partition=partition)
        self._under_way.append((partition, batch.record_count(), future))
        self._batches[partition] = self._producer.create_batch()
        while len(self._under_way) > _BATCHES_UNDER_WAY:
            await self._acknowledged()

    async def _acknowledged(self) -> None:
        partition, count, future = self._under_way.popleft()
        self._offsets[partition] = (await future).offset + count - 1
