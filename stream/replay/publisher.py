"""Orders from a file to the topic of orders, at any pace, with the file's own clock where event time is on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct

from segmentation.entries import DAY_MS
from segmentation.events import CONTROL_KEY, BackfillFinished, ClockAdvanced, Control, encode, instant, iso
from segmentation.partitioners import PARTITIONERS, murmur2
from stream.kafka.clients import kafka_producer
from stream.orders.rows import OrderRow, to_event
from stream.replay.preconditions import check_partitions, check_until, lowest_clock
from stream.replay.timeline import Advance, timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aiokafka import AIOKafkaProducer

    from stream.settings import Settings

_BATCH_BYTES: Final = 262_144  # before compression: well below the broker's 1 MiB
_BATCHES_UNDER_WAY: Final = 64
_KEPT_PARTITIONS: Final = 200_000
_BREATHE_ROWS: Final = 1_000  # after so many the event loop has its turn


class ReplayReport(Struct, frozen=True, kw_only=True):
    """What a replay did. `sent` counts events by kind, `left_out` rows of the file by reason, `clocks` records of event time.

    `last_at`: all that is dated earlier has arrived. `finished`: the back-fill that was told to be complete, on every partition.
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
    """What the rows belong to: every event bears the name. `finish`: nothing more comes under it."""

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
    """Send rows, which come by time (`time_order.in_time_order`), keyed by customer, and in event time their clock.

    `speed`: how many times faster than the rows' own time; None: as fast as it goes. `left_out`: the reader's counts, for
    the report. Once `stop` is set it ends soon, without the last advance of the clock. `progress` is told the number of rows
    sent and the instant (ms) they have come to. `backfill`: mark the events, and end with `backfill.finished` on every
    partition, unless stopped. Sending rows a second time sends the same events again, which changes nothing. Raises
    ReplayError, KafkaUnreachable, TopicMissing and, in event time, RedisUnreachable.
    """
    check_until(settings, until_ms)
    event_time = settings.time == "event"
    step_ms = max(settings.max_clock_jump_days - 1, 1) * DAY_MS
    began_s = time.monotonic()
    # lz4 costs 4 µs a record and leaves a sixth on the disk and the wire (CDNOW: 5 MB instead of 27; 60,000 rows/s, not 125,000).
    async with kafka_producer(settings, compression_type="lz4", max_batch_size=_BATCH_BYTES, linger_ms=0) as producer:
        await check_partitions(producer, settings)
        clock_ms = await asyncio.to_thread(lowest_clock, settings) if event_time else None
        items = timeline(
            rows, step_ms=step_ms, clock_ms=clock_ms, from_ms=from_ms, until_ms=until_ms, clocks=event_time
        )
        publisher = _Publisher(producer, settings, None if backfill is None else backfill.name)
        pace = _Pace(speed, stop or asyncio.Event())
        interrupted = await _send(items, publisher, pace, progress)
        # Acknowledged first: who reads that a back-fill is finished must find all of it before.
        await publisher.finish()
        finished = backfill is not None and backfill.finish and not interrupted
        if backfill is not None and finished:
            await publisher.control(BackfillFinished(id=f"backfill@{backfill.name}", backfill=backfill.name))
        offsets = await publisher.finish()
    seconds = time.monotonic() - began_s
    return ReplayReport(
        sent=dict(publisher.sent),
        left_out=dict(left_out or {}),
        clocks=publisher.clocks,
        other_currencies=dict(publisher.other_currencies),
        seconds=round(seconds, 3),
        rows_per_s=round(publisher.sent.total() / max(seconds, 1e-9), 1),
        last_offsets=offsets,
        last_at=None if publisher.at_ms is None else iso(publisher.at_ms),
        interrupted=interrupted,
        backfill=None if backfill is None else backfill.name,
        finished=finished,
    )


async def _send(
    items: Iterator[OrderRow | Advance],
    publisher: _Publisher,
    pace: _Pace,
    progress: Callable[[int, int], None] | None,
) -> bool:
    """Send all, each at its own time; tell whether it was stopped before the end."""
    for number, item in enumerate(items, start=1):
        leads_up = isinstance(item, Advance) and item.leads_up
        at_ms = item.to_ms if isinstance(item, Advance) else item.at_ms
        if not leads_up and pace.ahead_s(at_ms) > 0:
            await publisher.flush()
            await pace.wait(at_ms)
        if pace.stopped:
            return True
        await publisher.add(item)
        if number % _BREATHE_ROWS == 0 or pace.slow:
            if progress:
                progress(publisher.sent.total(), at_ms)
            await asyncio.sleep(0)
    return False


class _Pace:
    """When something dated is to be sent: the first at once, the others as much later as they are dated, by the speed."""

    def __init__(self, speed: float | None, stop: asyncio.Event) -> None:
        self.slow = speed is not None
        self._speed = speed
        self._stop = stop
        self._origin: tuple[float, int] | None = None  # monotonic seconds, ms of the file

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def ahead_s(self, at_ms: int) -> float:
        """Tell how many seconds it is too early."""
        if self._speed is None:
            return 0.0
        now_s = time.monotonic()
        if self._origin is None:
            self._origin = now_s, at_ms
        return self._origin[0] + (at_ms - self._origin[1]) / 1000 / self._speed - now_s

    async def wait(self, at_ms: int) -> None:
        """Sleep until it is time, or stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self.ahead_s(at_ms))


class _Publisher:
    """Fills a batch a partition and sends it when it is full: 2 µs a record, where `send` takes 30 (aiokafka 0.14)."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings, backfill: str | None) -> None:
        self._backfill = backfill
        self._producer = producer
        self._topic = settings.orders_topic
        self._partitions = settings.partitions
        self._currency = settings.currency
        self._batches = [producer.create_batch() for _ in range(self._partitions)]
        # Partition, number of records, and the future that tells the first one's offset.
        self._under_way: deque[tuple[int, int, Any]] = deque()
        self._offsets: dict[int, int] = {}
        # "none" asks for no particular partitioner, so the usual one will do.
        partitioner = PARTITIONERS[settings.partitioner] or murmur2
        self._partition = lru_cache(_KEPT_PARTITIONS)(lambda key: partitioner(key, self._partitions))
        self.sent: Counter[str] = Counter()
        self.other_currencies: Counter[str] = Counter()
        self.clocks = 0
        self.at_ms: int | None = None

    async def add(self, item: OrderRow | Advance) -> None:
        """Take a row for its customer's partition, or an advance for all."""
        if isinstance(item, Advance):
            await self.control(ClockAdvanced(id=f"clock@{iso(item.to_ms)}", to=instant(item.to_ms)))
            self.clocks += self._partitions
            self.at_ms = item.to_ms
            return
        key = item.customer_id.encode()
        await self._append(self._partition(key), key, encode(to_event(item, self._backfill)))
        self.sent[item.kind] += 1
        if item.currency != self._currency:
            self.other_currencies[item.currency] += 1
        self.at_ms = item.at_ms

    async def control(self, event: Control) -> None:
        """Take a control for every partition."""
        body = encode(event)
        for partition in range(self._partitions):
            await self._append(partition, CONTROL_KEY, body)

    async def flush(self) -> None:
        """Hand over all that has been taken."""
        for partition, batch in enumerate(self._batches):
            if batch.record_count():
                await self._hand_over(partition)

    async def finish(self) -> dict[int, int]:
        """Wait until all is acknowledged; give the last offset of each partition that got records."""
        await self.flush()
        while self._under_way:
            await self._acknowledged()
        return self._offsets

    async def _append(self, partition: int, key: bytes, value: bytes) -> None:
        if self._batches[partition].append(key=key, value=value, timestamp=None) is None:
            await self._hand_over(partition)
            taken = self._batches[partition].append(key=key, value=value, timestamp=None)
            assert taken is not None, f"{len(value)} bytes, but ids are bounded and so is an event"

    async def _hand_over(self, partition: int) -> None:
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
