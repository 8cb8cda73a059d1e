"""Dead letters back to where they came from, after a fix: each once, whatever happens on the way.

How far each partition has been sent back stands in a compacted topic of its own, one record a partition, written in the
same transaction as the records that go back. Not in a consumer group: its offsets expire after a week, dead letters after a
month, and an offset that has just been committed may be answered late (KAFKA-17507). What stands on a partition does neither.

Each reason has a mark of its own, and so have controls: who redrives one reason leaves the others where they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
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
from stream.settings import Settings

_PAGE: Final = 500  # records read at once, and most in a transaction
_POLL_MS: Final = 200
_WAIT_MS: Final = (
    20  # of a fetch without records: every other request stands in line behind it, half a second by default
)
_TRANSACTION_BYTES: Final = 4_194_304
_BARRIER: Final = b"\0barrier"

Marks = dict[str, int]  # of one partition: by lane, the offset behind the last letter dealt with


class RedriveError(SegstreamError):
    """A redrive can't go on."""


class RedriveReport(msgspec.Struct, frozen=True):
    """What a redrive did, or with `dry_run` would do. Counts of records: by reason, by topic, by why they were left."""

    topic: str
    sent: dict[str, int]
    to: dict[str, int]
    left: dict[str, int]
    dry_run: bool
    limited: bool  # `limit` ended it
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
    dry_run: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> RedriveReport:
    """Send the selected letters back, those there are by now and not yet sent back; `limit`: at most so many.

    `dead_letters`: their topic. A second redrive of the same topic ends the first one. `progress` is told (offsets done, of
    how many, records sent). `stop` ends it between two transactions. Raises RedriveError, KafkaUnreachable, TopicMissing.
    """
    async with AsyncExitStack() as stack:
        consumer = await stack.enter_async_context(kafka_consumer(settings, fetch_max_wait_ms=_WAIT_MS))
        partitions = await partitions_of(consumer, [dead_letters])
        producer = None
        if not dry_run:
            producer = await stack.enter_async_context(_fencing_producer(settings, dead_letters))
        # In this order: the predecessor is fenced, then what it has done is read, then what there is to do.
        marks = await _read_marks(settings, dead_letters, producer)
        ends = await consumer.end_offsets(partitions)
        firsts = await consumer.beginning_offsets(partitions)
        spans = {
            tp: _PartitionRange.of(marks.get(tp.partition, {}), selection, first=firsts[tp], end=ends[tp])
            for tp in partitions
        }
        run = _Redrive(settings, consumer, producer, selection, limit, stop or asyncio.Event())
        await run.all(spans, progress or (lambda _done, _total, _sent: None))
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
    """What there is to read of a partition, and how far that has come."""

    marks: Marks
    position: int
    end: int

    @classmethod
    def of(cls, marks: Marks, selection: Selection, *, first: int, end: int) -> _PartitionRange:
        """From the first letter that may still be asked for, up to the end there is by now."""
        # A mark beyond the end belongs to a topic of the same name that was deleted since.
        known = {lane: at for lane, at in marks.items() if at <= end}
        return cls(known, min(max(first, min(known.get(lane, 0) for lane in selection.lanes())), end), end)


class _Redrive:
    """One redrive under way."""

    def __init__(
        self,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer | None,
        selection: Selection,
        limit: int | None,
        stop: asyncio.Event,
    ) -> None:
        """`producer` None: nothing is sent."""
        self._settings = settings
        self._consumer = consumer
        self._producer = producer
        self._selection = selection
        self._limit = limit
        self._counts: dict[str, int] = {}  # partitions of the topics that letters go back to
        self.stop = stop
        self.tally = _Tally()

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.tally.sent.total() >= self._limit

    async def all(
        self, spans: dict[TopicPartition, _PartitionRange], progress: Callable[[int, int, int], None]
    ) -> None:
        """Send back what is selected, a transaction at a time: partition by partition in order, among them as it comes."""
        consumer, total = self._consumer, sum(span.end - span.position for span in spans.values())
        consumer.assign(list(spans))
        for tp, span in spans.items():
            consumer.seek(tp, span.position)
        while waiting := [] if self._over else [tp for tp, span in spans.items() if span.position < span.end]:
            answer = await consumer.getmany(*waiting, timeout_ms=_POLL_MS, max_records=_PAGE)
            for tp, records in answer.items():
                page = [record for record in records if record.offset < spans[tp].end]
                while page and not self._over:
                    page = await self._slice(tp, spans[tp], page)
                    progress(total - sum(s.end - s.position for s in spans.values()), total, self.tally.sent.total())
            if not self._over:
                for tp in waiting:
                    # Past what is no record: aborted ones, and the ends of transactions.
                    spans[tp].position = min(await consumer.position(tp), spans[tp].end)

    @property
    def _over(self) -> bool:
        return self.full or self.stop.is_set()

    async def _slice(self, tp: TopicPartition, span: _PartitionRange, page: list[Any]) -> list[Any]:
        """Send back as many of these records as a transaction holds; gives the rest."""
        marks = span.marks
        batch: list[SentBack] = []
        tally, size, taken = _Tally(), 0, 0
        for record in page:
            letter = read_dead_letter(record)
            lane = self._selection.lane(letter)
            if lane in self._selection.lanes() and record.offset >= marks.get(lane, 0):
                way = await self._way(letter)
                if isinstance(way, str):
                    tally.left[way] += 1
                else:
                    batch.append(way)
                    size += way.size()
                    tally.sent[letter.reason] += 1
                    tally.to[way.topic] += 1
            taken += 1
            if size >= _TRANSACTION_BYTES or len(batch) == self._room():
                break
        span.position = page[taken - 1].offset + 1
        if batch and self._producer:
            # A mark never goes back: another reason may have come further.
            marks |= {lane: max(marks.get(lane, 0), span.position) for lane in self._selection.lanes()}
            await self._commit(self._producer, tp, marks, batch)
        self.tally.sent += tally.sent
        self.tally.to += tally.to
        self.tally.left += tally.left
        return page[taken:]

    def _room(self) -> int | None:
        return None if self._limit is None else self._limit - self.tally.sent.total()

    async def _way(self, letter: StoredDeadLetter) -> SentBack | str:
        way = route(letter, self._settings)
        if isinstance(way, SentBack) and way.partition >= await self._partitions(way.topic):
            return "no_way_back"
        return way

    async def _partitions(self, topic: str) -> int:
        """How many a topic has; 0: there is no such topic."""
        if topic not in self._counts:
            try:
                self._counts[topic] = len(await partitions_of(self._consumer, [topic]))
            except TopicUnusable:
                self._counts[topic] = 0
        return self._counts[topic]

    async def _commit(
        self, producer: AIOKafkaProducer, tp: TopicPartition, marks: Marks, batch: list[SentBack]
    ) -> None:
        """One transaction: the records, all acknowledged; then how far this partition is; then commit."""
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
    """The one producer that may send this topic's letters back: its start ends its predecessor's transaction."""
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
    """Begin, and commit at the end. Any error ends the redrive: what is open, its successor aborts."""
    try:
        async with asyncio.timeout(settings.commit_timeout_s):
            await producer.begin_transaction()
            yield
            await producer.commit_transaction()
    # aiokafka lets a fenced producer run into its own assertions, too.
    except (KafkaError, TimeoutError, AssertionError) as error:
        fenced = isinstance(error, ProducerFenced)
        what = "another redrive of this topic has begun" if fenced else str(error) or type(error).__name__
        raise RedriveError(
            f"a transaction of the redrive failed: {what}.",
            hint="The same command again sends the rest: what was sent back isn't sent twice.",
        ) from error


async def _read_marks(settings: Settings, dead_letters: str, producer: AIOKafkaProducer | None) -> dict[int, Marks]:
    """How far each partition of a dead-letter topic is.

    Read up to a record of one's own, which comes after all that the fenced predecessor has committed: no trust in an
    end offset. Without a producer (a dry run) up to the end that there is.
    """
    marks: dict[int, Marks] = {}
    # A consumer of its own: in aiokafka 0.14 one that was assigned twice may hang when it is stopped.
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
