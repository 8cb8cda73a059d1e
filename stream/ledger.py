"""Kafka: a shard's transactional producer, and the reading back of its own logs. The only arbiter (PROTOCOL)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata

from segmentation.step import Output
from stream.errors import ShardLost, ShardQuarantined
from stream.heads import (
    Fingerprint,
    KafkaHead,
    TakeoverRecord,
    decode_kafka_head,
    decode_takeover,
    encode_head,
)
from stream.settings import Settings

log = logging.getLogger(__name__)

HEAD_KEY: Final = b"head"
TAKEOVER_KEY: Final = b"takeover"
MARK_HEADER: Final = "segstream_mark"  # S of an output, and the N, T, M of its turn's head
NOTE_HEADER: Final = "segstream_note"  # what the step wants to be told of it
BATCH_BYTES: Final = 900_000  # below the broker's default of 1 MiB for a batch
UNKNOWN_TOPIC: Final = 3  # Kafka's UNKNOWN_TOPIC_OR_PARTITION
FIRST_LOOK: Final = 64  # offsets behind one's own takeover record, doubled until a head is found


@dataclass(frozen=True, slots=True)
class Streams:
    """The topics of one step's shards, all with the same number of partitions."""

    step: str
    input: str
    output: str
    latest: str | None  # compacted: the last output of each key
    dead_letters: str
    heads: str


@dataclass(slots=True)
class DeadRecord:
    """A record for the dead-letter topic, complete."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass(slots=True)
class Publication:
    """All that one turn tells Kafka."""

    head: KafkaHead
    outputs: Sequence[Output] = ()
    dead: Sequence[DeadRecord] = ()


@dataclass(slots=True)
class Published:
    """Where the outputs ended: the position behind the last one, and its fingerprint. None: there were none."""

    position: int
    last: Fingerprint


class OutputMark(NamedTuple):
    """What each output carries of its turn: its own number S, and the N, T and M of the turn's head."""

    number: int
    offset: int
    clock: int
    activation: int
    version: str

    @classmethod
    def parse(cls, header: bytes) -> OutputMark:
        """Read the header back."""
        number, offset, clock, activation, version = header.split(b":", 4)
        return cls(int(number), int(offset), int(clock), int(activation), version.decode())


@dataclass(slots=True)
class OutputPage:
    """A stretch of a shard's own output log."""

    position: int  # behind it
    notes: dict[bytes, bytes] = field(default_factory=dict)  # the last note of each key
    mark: OutputMark | None = None  # of its last output: they all grow
    last: Fingerprint | None = None


class Ledger:
    """A shard's way of writing: one transactional id, one producer, thrown away after any error."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings, streams: Streams, partition: int) -> None:
        """Use `open`."""
        self._producer = producer
        self._settings = settings
        self._streams = streams
        self._partition = partition

    @classmethod
    async def open(cls, settings: Settings, streams: Streams, partition: int) -> Ledger:
        """Start a producer: fences the predecessor, and finishes or aborts its open transaction (takeover 1)."""
        producer = AIOKafkaProducer(
            **settings.kafka_client(),
            transactional_id=f"{settings.group}-{streams.input}-{partition}",
            transaction_timeout_ms=settings.transaction_timeout_ms,
            acks="all",
            linger_ms=0,
            retry_backoff_ms=2,  # aiokafka sleeps this long after every transaction: 107 ms a turn by default
            max_batch_size=BATCH_BYTES,
            max_request_size=settings.max_event_bytes + 131_072,  # a dead letter is larger than its record
        )
        ledger = cls(producer, settings, streams, partition)
        try:
            async with ledger._in_time("the start of the producer"):
                await producer.start()
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def close(self) -> None:
        """Throw the producer away. Never raises, never hangs: `stop()` can do both after an error."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._producer.stop(), 5)

    async def take_over(self, record: TakeoverRecord) -> int:
        """Commit the barrier of takeover 3; returns its offset in the heads topic."""
        return await self._heads_only(TAKEOVER_KEY, encode_head(record))

    async def cover(self, head: KafkaHead) -> None:
        """Commit a head alone (takeover 4b)."""
        await self._heads_only(HEAD_KEY, encode_head(head))

    async def _heads_only(self, key: bytes, value: bytes) -> int:
        async with self._in_time("a head"):
            await self._producer.begin_transaction()
            offset = await self._send_head(key, value)
            await self._producer.commit_transaction()
            return offset

    async def _send_head(self, key: bytes, value: bytes) -> int:
        sent = await self._producer.send(self._streams.heads, value, key=key, partition=self._partition)
        return int((await sent).offset)

    async def publish(self, turn: Publication) -> Published | None:
        """One transaction: the group's offset, outputs, dead letters; then, all acknowledged, the head; then commit.

        Offsets go first because it makes the transaction four times faster (HAZARDS); nobody reads them back. The
        outputs are acknowledged before the head is sent, or a torn transaction could show a head without its outputs.
        """
        producer, p = self._producer, self._partition
        committed = {TopicPartition(self._streams.input, p): OffsetAndMetadata(turn.head.offset, "")}
        async with self._in_time("a turn's transaction"):
            await producer.begin_transaction()
            await producer.send_offsets_to_transaction(committed, self._settings.group_of(self._streams.step))
            # The head's partition joins the transaction together with the outputs': a request less in every turn.
            producer._txn_manager.maybe_add_partition_to_txn(TopicPartition(self._streams.heads, p))  # noqa: SLF001  # no public way
            outputs = await self._send_outputs(turn)
            others = await self._send_latest(turn.outputs) + await self._send_dead(turn.dead)
            await asyncio.gather(*(future for future, _ in outputs), *others)
            await self._send_head(HEAD_KEY, encode_head(turn.head))
            await producer.commit_transaction()
        if not outputs:
            return None
        last_batch, rows_in_it = outputs[-1]
        offset = (await last_batch).offset + rows_in_it - 1
        final = turn.outputs[-1]
        return Published(offset + 1, Fingerprint.of(offset, 0, final.key, final.value))

    async def _send_outputs(self, turn: Publication) -> list[tuple[asyncio.Future[Any], int]]:
        mark = (turn.head.offset, turn.head.clock, turn.head.activation, turn.head.version.encode())
        behind = b":%d:%d:%d:%b" % mark
        first = turn.head.count - len(turn.outputs) + 1
        rows = [
            (o.key, o.value, [*o.headers, (MARK_HEADER, b"%d" % number + behind), (NOTE_HEADER, o.note)])
            for number, o in enumerate(turn.outputs, first)
        ]
        return await self._send_rows(self._streams.output, rows)

    async def _send_latest(self, outputs: Sequence[Output]) -> list[asyncio.Future[Any]]:
        """The last output of each key, for the compacted topic."""
        if self._streams.latest is None:
            return []
        rows = [(o.key, o.latest, o.headers) for o in {o.key: o for o in outputs}.values()]
        return [future for future, _ in await self._send_rows(self._streams.latest, rows)]

    async def _send_dead(self, dead: Sequence[DeadRecord]) -> list[asyncio.Future[Any]]:
        """One by one: a dead letter may be larger than a batch."""
        sent: list[asyncio.Future[Any]] = []
        topic, p = self._streams.dead_letters, self._partition
        for record in dead:
            future = await self._producer.send(topic, record.value, key=record.key, partition=p, headers=record.headers)
            future.add_done_callback(_look_at)
            sent.append(future)
        return sent

    async def _send_rows(
        self, topic: str, rows: Sequence[tuple[bytes, bytes | None, list[tuple[str, bytes]]]]
    ) -> list[tuple[asyncio.Future[Any], int]]:
        """Send rows in whole batches (2 µs a record instead of 35); each future, with the number of its rows."""
        sent: list[tuple[asyncio.Future[Any], int]] = []
        at = 0
        while at < len(rows):
            batch = self._producer.create_batch()
            first = at
            while at < len(rows):
                key, value, headers = rows[at]
                if batch.append(key=key, value=value, headers=headers, timestamp=None) is None:
                    break
                at += 1
            future = await self._producer.send_batch(batch, topic, partition=self._partition)
            future.add_done_callback(_look_at)
            sent.append((future, at - first))
        return sent

    @asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        """A time-out is a producer error: EndTxn is retried for ever otherwise."""
        limit_s = self._settings.commit_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise ShardLost("producer_timeout", f"{what} took more than {limit_s} s.") from None


class LogReader:
    """Reads a shard's partitions by offset, read_committed. One consumer, always with one partition assigned."""

    def __init__(self, settings: Settings) -> None:
        """Call `start` before use."""
        self._settings = settings
        self._consumer = AIOKafkaConsumer(
            **settings.kafka_client(),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=524_288,
            fetch_max_wait_ms=200,
            retry_backoff_ms=20,
        )
        self._at: TopicPartition | None = None

    async def start(self) -> None:
        """Connect."""
        await asyncio.wait_for(self._consumer.start(), self._settings.commit_timeout_s)

    async def close(self) -> None:
        """Never raises, never hangs."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._consumer.stop(), 5)

    async def describe(self, topics: Sequence[str]) -> tuple[str, dict[str, int]]:
        """(Kafka's id of the cluster, partitions of each topic). Raises ShardQuarantined where a topic doesn't exist."""
        admin = AIOKafkaAdminClient(**self._settings.kafka_client())
        try:
            await asyncio.wait_for(admin.start(), self._settings.commit_timeout_s)
            cluster = str((await admin.describe_cluster()).get("cluster_id") or "")
            told = {t["topic"]: t for t in await admin.describe_topics(list(topics))}
        finally:
            await admin.close()
        for topic in topics:
            code = told[topic]["error_code"] if topic in told else UNKNOWN_TOPIC
            if code == UNKNOWN_TOPIC:
                raise ShardQuarantined(
                    "topic_missing",
                    f"topic {topic!r} doesn't exist.",
                    hint="`segstream topics create` makes all of them.",
                )
            if code:
                raise ShardLost("topic_unavailable", f"topic {topic!r} can't be described now: error {code}.")
        return cluster, {topic: len(told[topic]["partitions"]) for topic in topics}

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset there is, offset behind the last committed record)."""
        tp = TopicPartition(topic, partition)
        try:
            async with asyncio.timeout(self._settings.commit_timeout_s):
                begin = await self._consumer.beginning_offsets([tp])
                end = await self._consumer.end_offsets([tp])
        except TimeoutError:
            raise ShardLost("read_timeout", f"{topic}-{partition} doesn't tell its offsets.") from None
        return int(begin[tp]), int(end[tp])

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read on from here."""
        tp = TopicPartition(topic, partition)
        if self._at != tp:
            self._consumer.assign([tp])
            self._at = tp
        self._consumer.seek(tp, offset)

    async def position(self) -> int:
        """The offset that is read next."""
        return int(await self._consumer.position(self._at))

    def known_end(self) -> int | None:
        """The offset behind the last committed record, as of the last fetch; None: nothing was fetched yet."""
        end = self._consumer.highwater(self._at)
        stands = self._consumer.last_stable_offset(self._at)
        known = [offset for offset in (end, stands) if offset is not None and offset >= 0]
        return min(known) if known else None

    async def read(self, limit: int, timeout_ms: int) -> list[Any]:
        """The next records, at most `limit`; empty after the time-out."""
        answer = await self._consumer.getmany(self._at, timeout_ms=timeout_ms, max_records=limit)
        return answer.get(self._at, []) if answer else []

    async def record_at(self, topic: str, partition: int, offset: int) -> Any | None:
        """The record of that very offset; None where there is none (any more)."""
        self.seek(topic, partition, offset)
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while time.monotonic() < deadline:
            if records := await self.read(1, 500):
                return records[0] if records[0].offset == offset else None
            if await self.position() > offset:
                return None
        raise ShardLost("read_timeout", f"{topic}-{partition} can't be read at offset {offset}.")

    async def read_kafka_head(
        self, topic: str, partition: int, barrier: int
    ) -> tuple[KafkaHead | None, TakeoverRecord | None]:
        """The last head before the barrier, and the last other takeover (takeover 3): backwards, in doubling steps."""
        begin, _ = await self.bounds(topic, partition)
        step = FIRST_LOOK
        while True:
            start = max(begin, barrier - step)
            head, takeover = await self._heads_between(topic, partition, start, barrier)
            if head is not None or start <= begin:
                return head, takeover
            step *= 2

    async def _heads_between(
        self, topic: str, partition: int, start: int, barrier: int
    ) -> tuple[KafkaHead | None, TakeoverRecord | None]:
        self.seek(topic, partition, start)
        head: KafkaHead | None = None
        takeover: TakeoverRecord | None = None
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while await self.position() <= barrier:
            for record in await self.read(2_000, 500):
                if record.offset >= barrier:
                    break
                try:
                    if record.key == HEAD_KEY:
                        head = decode_kafka_head(record.value)
                    elif record.key == TAKEOVER_KEY:
                        takeover = decode_takeover(record.value)
                except msgspec.DecodeError as error:
                    raise ShardQuarantined(
                        "head_format",
                        f"{topic}-{partition} offset {record.offset} is not a head of this version: {error}.",
                    ) from None
            if time.monotonic() > deadline:
                raise ShardLost("read_timeout", f"{topic}-{partition} can't be read up to offset {barrier}.")
        return head, takeover

    async def read_outputs(
        self, topic: str, partition: int, start: int, seen: int, number: int, end: int
    ) -> AsyncIterator[OutputPage]:
        """The output log from `start`, page by page, until output `number` was seen and the position has reached `end`.

        `seen`: the number of the last output before `start`. Raises ShardQuarantined where outputs are missing.
        """
        self.seek(topic, partition, start)
        highest = seen
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while highest < number or await self.position() < end:
            page = OutputPage(start)
            for record in await self.read(5_000, 500):
                headers = dict(record.headers)
                if MARK_HEADER not in headers:
                    continue  # somebody else's record: this log is ours alone, but a reader must not fall over it
                page.mark = OutputMark.parse(headers[MARK_HEADER])
                page.notes[record.key] = headers[NOTE_HEADER]
                page.last = Fingerprint.of(record.offset, 0, record.key, record.value)
            if page.mark:
                highest = page.mark.number
                deadline = time.monotonic() + self._settings.commit_timeout_s
            page.position = await self.position()
            if page.position > start:
                start = page.position
                yield page
            if time.monotonic() > deadline and page.position < end:
                raise ShardLost("read_timeout", f"{topic}-{partition} can't be read up to offset {end}.")
            if time.monotonic() > deadline:
                raise ShardQuarantined(
                    "outputs_missing",
                    f"{topic}-{partition} ends with output {highest}, the head says {number}: outputs are missing.",
                    hint="Was the topic truncated or recreated? Restore it, or start over under another group.",
                )


def _look_at(future: asyncio.Future[Any]) -> None:
    """Mark an error as seen: where one send of a turn fails, nobody awaits the others."""
    if not future.cancelled():
        future.exception()
