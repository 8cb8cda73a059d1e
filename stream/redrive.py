"""Dead letters back to where they came from, after a fix: each once, whatever happens on the way.

How far each partition has been sent back stands in a compacted topic of its own, one record a partition, written in the
same transaction as the records that go back. Not in a consumer group: its offsets expire after a week, dead letters after a
month, and an offset that has just been committed may be answered late (KAFKA-17507). What stands on a partition does neither.

Each reason has a mark of its own, and so have controls: who redrives one reason leaves the others where they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from segmentation.events import CONTROL_KEY, Reason
from segmentation.partitioners import PARTITIONERS
from stream.access import TopicMissing, at_end, kafka_consumer, kafka_producer, partitions_of
from stream.dead_letters import Letter, read_letter, sent_back_headers
from stream.errors import SegstreamError
from stream.settings import Settings

# What something outside of the record can heal: a setting, a model, a newer version, the adapter, or time alone.
HEALED: Final = (
    Reason.ADAPTER_FAILED,
    Reason.CLOCK_JUMP,
    Reason.DATED_AHEAD,
    Reason.DATE_OUT_OF_RANGE,
    Reason.KEY_NOT_CUSTOMER,
    Reason.STEP_FAILED,
    Reason.UNKNOWN_CURRENCY,
    Reason.UNKNOWN_TYPE,
    Reason.WRONG_PARTITION,
)
MOST_REDRIVES: Final = 8  # of one record: then it goes round in a circle
LEFT: Final[Mapping[str, str]] = {
    "cut": "only their beginnings are here; the coordinates lead to the whole",
    "too_often": f"sent back {MOST_REDRIVES} times already",
    "too_large": "SEGSTREAM_MAX_EVENT_BYTES is too low for them",
    "no_way_back": "their headers name no partition that there is",
    "empty": "Kafka takes no record without key and value",
}
_PAGE: Final = 500  # records read at once, and most in a transaction
_POLL_MS: Final = 200
_TRANSACTION_BYTES: Final = 4_194_304
_RECORD_BYTES: Final = 128  # most that a record and its batch take besides key, value and headers
_HEADER_BYTES: Final = 12
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


class SentBack(NamedTuple):
    """A record on its way back."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    def size(self) -> int:
        """The most bytes that it takes in a topic."""
        size = _RECORD_BYTES + len(self.key or b"") + len(self.value or b"")
        return size + sum(len(name.encode()) + len(value or b"") + _HEADER_BYTES for name, value in self.headers)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are asked for."""

    reasons: frozenset[str]
    controls: bool = False

    def lanes(self) -> set[str]:
        """The names under which it keeps its marks."""
        return set(self.reasons) | ({f"{reason}/control" for reason in self.reasons} if self.controls else set())

    @staticmethod
    def lane(letter: Letter) -> str:
        """The one that a letter belongs to."""
        return f"{letter.reason}/control" if letter.key == CONTROL_KEY else letter.reason


@dataclass(slots=True)
class _Tally:
    sent: Counter[str] = field(default_factory=Counter)
    to: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def way_back(letter: Letter, settings: Settings) -> SentBack | str:
    """Where a letter goes, as what; or why it stays, a key of LEFT. Whether the partition exists isn't looked at."""
    if letter.cut:
        return "cut"
    if letter.redrives >= MOST_REDRIVES:
        return "too_often"
    if letter.key is None and not letter.value:
        return "empty"
    topic, partition = letter.topic, letter.partition
    if topic is None or partition is None:
        return "no_way_back"
    if topic == settings.orders_topic:
        partitioner = PARTITIONERS[settings.partitioner]
        if letter.reason == Reason.KEY_NOT_CUSTOMER:
            topic = settings.unkeyed_topic
        elif letter.reason == Reason.WRONG_PARTITION and partitioner and letter.key is not None:
            partition = partitioner(letter.key, settings.partitions)
    record = SentBack(topic, partition, letter.key, letter.value, sent_back_headers(letter))
    return "too_large" if record.size() > settings.max_event_bytes else record


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
        consumer = await stack.enter_async_context(kafka_consumer(settings))
        partitions = await partitions_of(consumer, [dead_letters])
        await partitions_of(consumer, [settings.redrives_topic])
        producer = None
        if not dry_run:
            producer = await stack.enter_async_context(_owner(settings, dead_letters))
        # In this order: the predecessor is fenced, then what it has done is read, then what there is to do.
        marks = await _read_marks(settings, consumer, dead_letters, producer)
        ends = await consumer.end_offsets(partitions)
        firsts = await consumer.beginning_offsets(partitions)
        run = _Run(settings, consumer, producer, selection, limit, stop or asyncio.Event())
        lanes = selection.lanes()
        spans: dict[TopicPartition, tuple[Marks, int]] = {}
        for tp in partitions:
            # A mark beyond the end belongs to a topic of the same name that was deleted since.
            known = {lane: at for lane, at in marks.get(tp.partition, {}).items() if at <= ends[tp]}
            spans[tp] = known, max(firsts[tp], min(known.get(lane, 0) for lane in lanes))
        total = sum(max(ends[tp] - start, 0) for tp, (_, start) in spans.items())
        done = 0
        for tp, (known, start) in spans.items():
            async for position in run.partition(tp, known, start, ends[tp]):
                if progress:
                    progress(done + position - start, total, run.tally.sent.total())
            done += max(ends[tp] - start, 0)
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


class _Run:
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

    async def partition(self, tp: TopicPartition, marks: Marks, start: int, end: int) -> AsyncIterator[int]:
        """Send back what is selected from `start` to `end`, a transaction at a time; gives each position reached."""
        consumer, position = self._consumer, start
        consumer.assign([tp])
        consumer.seek(tp, start)
        while position < end and not self.full and not self.stop.is_set():
            answer = await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=_PAGE)
            page = [record for record in answer.get(tp, []) if record.offset < end]
            while page and not self.full and not self.stop.is_set():
                page, position = await self._slice(tp, marks, page)
                yield position
            if not page:
                position = await consumer.position(tp)  # past what is no record: aborted ones, and ends of transactions

    async def _slice(self, tp: TopicPartition, marks: Marks, page: list[Any]) -> tuple[list[Any], int]:
        """Send back as many of these records as a transaction holds; (the rest, the position behind)."""
        batch: list[SentBack] = []
        tally, size, taken = _Tally(), 0, 0
        for record in page:
            letter = read_letter(record)
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
        position: int = page[taken - 1].offset + 1
        if batch and self._producer:
            # A mark never goes back: another reason may have come further.
            marks |= {lane: max(marks.get(lane, 0), position) for lane in self._selection.lanes()}
            await self._commit(self._producer, tp, marks, batch)
        self.tally.sent += tally.sent
        self.tally.to += tally.to
        self.tally.left += tally.left
        return page[taken:], position

    def _room(self) -> int | None:
        return None if self._limit is None else self._limit - self.tally.sent.total()

    async def _way(self, letter: Letter) -> SentBack | str:
        way = way_back(letter, self._settings)
        if isinstance(way, SentBack) and way.partition >= await self._partitions(way.topic):
            return "no_way_back"
        return way

    async def _partitions(self, topic: str) -> int:
        """How many a topic has; 0: there is no such topic."""
        if topic not in self._counts:
            try:
                self._counts[topic] = len(await partitions_of(self._consumer, [topic]))
            except TopicMissing:
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
async def _owner(settings: Settings, dead_letters: str) -> AsyncIterator[AIOKafkaProducer]:
    """The one producer that may send this topic's letters back: its start ends its predecessor's transaction."""
    async with kafka_producer(
        settings,
        transactional_id=f"{settings.group}-redrive-{dead_letters}",
        transaction_timeout_ms=settings.transaction_timeout_ms,
        max_request_size=settings.max_event_bytes + 131_072,
        linger_ms=0,
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


async def _read_marks(
    settings: Settings, consumer: AIOKafkaConsumer, dead_letters: str, producer: AIOKafkaProducer | None
) -> dict[int, Marks]:
    """How far each partition of a dead-letter topic is.

    Read up to a record of one's own, which comes after all that the fenced predecessor has committed: no trust in an
    end offset. Without a producer (a dry run) up to the end that there is.
    """
    tp = TopicPartition(settings.redrives_topic, 0)
    if producer:
        async with _transaction(settings, producer):
            sent = await producer.send(tp.topic, b"{}", key=_BARRIER, partition=0)
            end = (await sent).offset + 1
    else:
        end = (await consumer.end_offsets([tp]))[tp]
    consumer.assign([tp])
    await consumer.seek_to_beginning(tp)
    marks: dict[int, Marks] = {}
    async with asyncio.timeout(settings.commit_timeout_s):
        while not await at_end(consumer, {tp: end}):
            for record in (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, []):
                topic, _, partition = (record.key or b"").decode(errors="replace").rpartition(":")
                if topic == dead_letters:
                    marks[int(partition)] = msgspec.json.decode(record.value or b"{}", type=Marks)
    return marks
