"""Send dead letters back to the topics they came from, after a fix: each exactly once.

A compacted topic records how far each partition's dead letters have been sent back, in one record a partition, written
in the same transaction as the records sent back. A consumer group wouldn't do: its offsets expire after a week, dead
letters after a month, and a broker may answer with an offset older than the one just committed (KAFKA-17507).

Each reason has a mark, and so have its controls: redriving one reason leaves the others in place.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from stream.dead_letters.records import StoredDeadLetter, read_dead_letter
from stream.dead_letters.routing import Selection, SentBack, route
from stream.errors import SegstreamError
from stream.kafka.aiokafka_internals import TRANSACTION_RETRY_MS, shorten_transaction_retries
from stream.kafka.clients import TopicUnusable, at_end, kafka_consumer, kafka_producer, partitions_of
from stream.kafka.refusals import denial
from stream.settings import Settings

_PAGE: Final = 500  # records read at once, and the most in a transaction
_POLL_MS: Final = 200
# The broker's wait in a fetch without records. All other requests wait behind it: half a second by default.
_WAIT_MS: Final = 20
_TRANSACTION_BYTES: Final = 4_194_304
_BARRIER: Final = b"\0barrier"

Marks = dict[str, int]  # of one partition, by queue: the offset behind the last dead letter that was dealt with


class RedriveError(SegstreamError):
    """The redrive can't go on."""


class RedriveReport(msgspec.Struct, frozen=True):
    """The result of a redrive, or of a dry run. Records sent by reason and by topic, and records left by why."""

    topic: str
    sent: dict[str, int]
    to: dict[str, int]
    left: dict[str, int]
    dry_run: bool
    limited: bool  # it ended at `limit`
    interrupted: bool


@dataclass(slots=True)
class _Tally:
    sent: Counter[str] = field(default_factory=Counter)
    to: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


async def redrive(
    settings: Settings,
    dead_letters: str,
    selection: Selection,
    *,
    limit: int | None = None,
    rate_per_s: float | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> RedriveReport:
    """Send back the selected dead letters that exist now and haven't been sent back; `limit`: at most this many.

    `dead_letters`: their topic. `rate_per_s`: at most so many a second. A second redrive of the same topic ends the
    first one. `progress` is called with (offsets done, offsets in all, records sent). `stop` ends the redrive between
    two transactions. Raises RedriveError, KafkaUnreachable, TopicUnusable.
    """
    async with AsyncExitStack() as stack:
        consumer = await stack.enter_async_context(kafka_consumer(settings, fetch_max_wait_ms=_WAIT_MS))
        partitions = await partitions_of(consumer, [dead_letters])
        producer = None
        if not dry_run:
            producer = await stack.enter_async_context(_fencing_producer(settings, dead_letters))
        # In this order: fence the predecessor, then read its marks, then the present ends.
        marks = await _read_marks(settings, dead_letters, producer)
        ends = await consumer.end_offsets(partitions)
        firsts = await consumer.beginning_offsets(partitions)
        spans = {
            tp: _PartitionRange.of(marks.get(tp.partition, {}), selection, first=firsts[tp], end=ends[tp])
            for tp in partitions
        }
        pace = (limit, rate_per_s)
        run = _Redrive(settings, consumer, producer, selection, pace, stop or asyncio.Event())
        await run.send_all(spans, progress or (lambda _done, _total, _sent: None))
        tally = run.tally
        return RedriveReport(
            topic=dead_letters,
            sent=dict(tally.sent),
            to=dict(tally.to),
            left=dict(tally.left),
            dry_run=dry_run,
            limited=run.full,
            interrupted=run.stop.is_set(),
        )


@dataclass(slots=True)
class _PartitionRange:
    """The offsets of a partition that are still to be read, and its marks."""

    marks: Marks
    position: int
    end: int

    @classmethod
    def of(cls, marks: Marks, selection: Selection, *, first: int, end: int) -> _PartitionRange:
        """Return the range from the first dead letter that may still be selected to the present end."""
        # A mark beyond the end belongs to a topic of the same name that has been deleted.
        known = {queue: at for queue, at in marks.items() if at <= end}
        if selection.since_ms is not None:
            return cls(known, first, end)
        return cls(known, min(max(first, min(known.get(queue, 0) for queue in selection.queues())), end), end)


class _Redrive:
    """One redrive."""

    def __init__(
        self,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer | None,
        selection: Selection,
        pace: tuple[int | None, float | None],
        stop: asyncio.Event,
    ) -> None:
        """Prepare a redrive. `producer` None: nothing is sent. `pace`: most records in all, and a second."""
        self._settings = settings
        self._consumer = consumer
        self._producer = producer
        self._selection = selection
        self._limit, self._rate_per_s = pace
        self._partition_counts: dict[str, int] = {}  # partitions of the topics that records go back to
        self.stop = stop
        self.tally = _Tally()

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.tally.sent.total() >= self._limit

    async def send_all(
        self, spans: dict[TopicPartition, _PartitionRange], progress: Callable[[int, int, int], None]
    ) -> None:
        """Send back the selected dead letters in transactions: in order within a partition, partitions in any order."""
        consumer, total = self._consumer, sum(span.end - span.position for span in spans.values())
        consumer.assign(list(spans))
        for tp, span in spans.items():
            consumer.seek(tp, span.position)
        while waiting := [] if self._ended else [tp for tp, span in spans.items() if span.position < span.end]:
            answer = await consumer.getmany(*waiting, timeout_ms=_POLL_MS, max_records=_PAGE)
            for tp, records in answer.items():
                page = [record for record in records if record.offset < spans[tp].end]
                while page and not self._ended:
                    page = await self._send_some(tp, spans[tp], page)
                    progress(total - sum(s.end - s.position for s in spans.values()), total, self.tally.sent.total())
            if not self._ended:
                for tp in waiting:
                    # Past offsets without a record: aborted records, and the ends of transactions.
                    spans[tp].position = min(await consumer.position(tp), spans[tp].end)

    @property
    def _ended(self) -> bool:
        return self.full or self.stop.is_set()

    async def _send_some(self, tp: TopicPartition, span: _PartitionRange, page: list[Any]) -> list[Any]:
        """Send back as many of these records as a transaction holds. Returns the rest."""
        marks = span.marks
        batch: list[SentBack] = []
        tally, size, taken = _Tally(), 0, 0
        for record in page:
            dead_letter = read_dead_letter(record)
            queue = self._selection.queue_of(dead_letter)
            if self._selection.takes(queue, record.offset, record.timestamp, marks.get(queue, 0)):
                routed = await self._route(dead_letter)
                if isinstance(routed, str):
                    tally.left[routed] += 1
                else:
                    batch.append(routed)
                    size += routed.size()
                    tally.sent[dead_letter.reason] += 1
                    tally.to[routed.topic] += 1
            taken += 1
            if size >= _TRANSACTION_BYTES or len(batch) == self._room():
                break
        span.position = page[taken - 1].offset + 1
        if batch and self._producer:
            # A mark never decreases: another queue may be further already.
            marks |= {queue: max(marks.get(queue, 0), span.position) for queue in self._selection.queues()}
            await self._commit(self._producer, tp, marks, batch)
            if self._rate_per_s is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), len(batch) / self._rate_per_s)
        self.tally.sent += tally.sent
        self.tally.to += tally.to
        self.tally.left += tally.left
        return page[taken:]

    def _room(self) -> int | None:
        room = None if self._limit is None else self._limit - self.tally.sent.total()
        if self._rate_per_s is None:
            return room
        second = math.ceil(self._rate_per_s)  # the records of a second at once
        return second if room is None else min(second, room)

    async def _route(self, dead_letter: StoredDeadLetter) -> SentBack | str:
        routed = route(dead_letter, self._settings)
        if isinstance(routed, SentBack) and routed.partition >= await self._partitions(routed.topic):
            return "no_way_back"
        return routed

    async def _partitions(self, topic: str) -> int:
        """Return the number of a topic's partitions, 0 where it doesn't exist."""
        if topic not in self._partition_counts:
            try:
                self._partition_counts[topic] = len(await partitions_of(self._consumer, [topic]))
            except TopicUnusable:
                self._partition_counts[topic] = 0
        return self._partition_counts[topic]

    async def _commit(
        self, producer: AIOKafkaProducer, tp: TopicPartition, marks: Marks, batch: list[SentBack]
    ) -> None:
        """Send the records, wait for all acknowledgements, write the partition's marks, commit: in one transaction."""
        async with _transaction(self._settings, producer):
            sent = [
                await producer.send(r.topic, r.value, key=r.key, partition=r.partition, headers=r.headers)
                for r in batch
            ]
            await asyncio.gather(*sent)
            key = f"{tp.topic}:{tp.partition}".encode()
            mark = await producer.send(self._settings.redrives_topic, msgspec.json.encode(marks), key=key, partition=0)
            await mark


@asynccontextmanager
async def _fencing_producer(settings: Settings, dead_letters: str) -> AsyncIterator[AIOKafkaProducer]:
    """Start the one producer that may send back this topic's dead letters. It fences its predecessor."""
    shorten_transaction_retries()
    async with kafka_producer(
        settings,
        transactional_id=f"{settings.group}-redrive-{dead_letters}",
        transaction_timeout_ms=settings.transaction_timeout_ms,
        max_request_size=settings.max_event_bytes + 131_072,
        linger_ms=0,
        retry_backoff_ms=TRANSACTION_RETRY_MS,
    ) as producer:
        yield producer


@asynccontextmanager
async def _transaction(settings: Settings, producer: AIOKafkaProducer) -> AsyncIterator[None]:
    """Begin a transaction, and commit it at the end.

    Any error ends the redrive; its successor aborts the transaction.
    """
    try:
        async with asyncio.timeout(settings.commit_timeout_s):
            await producer.begin_transaction()
            yield
            await producer.commit_transaction()
    # A fenced producer may also fail in an assertion of aiokafka.
    except (KafkaError, TimeoutError, AssertionError) as error:
        if denied := denial(settings, error):
            raise denied from error
        fenced = isinstance(error, ProducerFenced)
        message = "another redrive of this topic has begun" if fenced else str(error) or type(error).__name__
        raise RedriveError(
            f"a transaction of the redrive failed: {message}.",
            hint="Run the same command again to send the rest: no record is sent back twice.",
        ) from error


async def _read_marks(settings: Settings, dead_letters: str, producer: AIOKafkaProducer | None) -> dict[int, Marks]:
    """Read how far each partition of a dead-letter topic has been sent back.

    With a producer, a record of its own is written and read up to: it comes after all that the fenced predecessor has
    committed, while an end offset may be older. Without a producer (a dry run), read up to the end offset.
    """
    marks: dict[int, Marks] = {}
    # In another consumer: in aiokafka 0.14, one that was assigned twice may hang when it is stopped.
    async with kafka_consumer(settings, fetch_max_wait_ms=_WAIT_MS) as consumer:
        (tp,) = await partitions_of(consumer, [settings.redrives_topic])
        if producer:
            async with _transaction(settings, producer):
                sent = await producer.send(tp.topic, b"{}", key=_BARRIER, partition=0)
                end = (await sent).offset + 1
        else:
            end = (await consumer.end_offsets([tp]))[tp]
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        async with asyncio.timeout(settings.commit_timeout_s):
            while not await at_end(consumer, {tp: end}):
                for record in (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, []):
                    topic, _, partition = (record.key or b"").decode(errors="replace").rpartition(":")
                    if topic == dead_letters:
                        marks[int(partition)] = msgspec.json.decode(record.value or b"{}", type=Marks)
    return marks
