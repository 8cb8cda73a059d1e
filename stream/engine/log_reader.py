"""Kafka: reading a shard's own logs back by offset. What stands there is what happened."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.errors import ShardLost, ShardQuarantined
from stream.kafka.aiokafka_internals import (
    accept_any_header_name,
    describe_topics,
    pause_between_connection_attempts,
    set_fetch_wait,
)
from stream.settings import Settings
from stream.storage.heads import (
    HEAD_KEY,
    MARK_HEADER,
    NOTE_HEADER,
    TAKEOVER_KEY,
    Fingerprint,
    KafkaHead,
    TakeoverRecord,
    decode_kafka_head,
    decode_takeover,
)

UNKNOWN_TOPIC: Final = 3  # Kafka's UNKNOWN_TOPIC_OR_PARTITION
IMPATIENT_MS: Final = (
    10  # Kafka answers one request of a connection at a time: what waits for records holds up the next
)
PATIENT_MS: Final = 200  # in turns there is no next one
LOOK_MS: Final = 20  # between looks at the position: it also moves where there are no records to tell
FIRST_LOOK: Final = 64  # offsets behind one's own takeover record, doubled until a head is found

Bounds = dict[str, tuple[int, int]]  # topic -> first offset there is, offset behind the last committed record


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


class LogReader:
    """Reads a shard's partitions by offset, read_committed. One consumer, always with one partition assigned.

    A takeover asks many questions, so at first an empty fetch is answered at once. `settle` makes the reader patient.
    """

    def __init__(self, settings: Settings) -> None:
        """Call `start` before use."""
        accept_any_header_name()
        self._settings = settings
        self._consumer = AIOKafkaConsumer(
            **settings.kafka_client(),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=524_288,
            fetch_max_wait_ms=IMPATIENT_MS,
            retry_backoff_ms=20,
        )
        pause_between_connection_attempts(self._consumer)
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
        metadata = await asyncio.wait_for(describe_topics(self._consumer, topics), self._settings.commit_timeout_s)
        cluster = str(metadata.get("cluster_id") or "")
        told = {t["topic"]: t for t in metadata["topics"]}
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

    async def bounds(self, topics: Sequence[str], partition: int) -> Bounds:
        """Of this partition of each topic: first offset there is, offset behind the last committed record."""
        tps = [TopicPartition(topic, partition) for topic in topics]
        try:
            async with asyncio.timeout(self._settings.commit_timeout_s):
                begin = await self._consumer.beginning_offsets(tps)
                end = await self._consumer.end_offsets(tps)
        except TimeoutError:
            raise ShardLost("read_timeout", f"partition {partition} of {topics} doesn't tell its offsets.") from None
        return {tp.topic: (int(begin[tp]), int(end[tp])) for tp in tps}

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read on from here."""
        tp = TopicPartition(topic, partition)
        if self._at != tp:
            self._consumer.assign([tp])
            self._at = tp
        self._consumer.seek(tp, offset)

    def settle(self) -> None:
        """From here on one partition is read, and nothing else is asked: Kafka may wait for records."""
        set_fetch_wait(self._consumer, PATIENT_MS)

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

    async def read_on(self, limit: int) -> list[Any]:
        """The next records, or none where the position has moved over what isn't told, or half a second has passed."""
        before, deadline = await self.position(), time.monotonic() + 0.5
        while not (records := await self.read(limit, LOOK_MS)):
            if await self.position() > before or time.monotonic() > deadline:
                break
        return records

    async def record_at(self, topic: str, partition: int, offset: int) -> Any | None:
        """The record of that very offset; None where there is none (any more)."""
        self.seek(topic, partition, offset)
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while time.monotonic() < deadline:
            if records := await self.read_on(1):
                return records[0] if records[0].offset == offset else None
            if await self.position() > offset:
                return None
        raise ShardLost("read_timeout", f"{topic}-{partition} can't be read at offset {offset}.")

    async def read_latest(
        self, topic: str, partition: int, part: Callable[[Any], bytes | None] = lambda record: record.value
    ) -> dict[bytes, bytes]:
        """Of each key of a compacted topic, that part of its last record, as it stands now; none: nothing of that key."""
        begin, end = (await self.bounds([topic], partition))[topic]
        latest: dict[bytes, bytes] = {}
        async for record in self._between(topic, partition, begin, end):
            if record.value is None or (told := part(record)) is None:
                latest.pop(record.key, None)
            else:
                latest[record.key] = told
        return latest

    async def first_output(self, topic: str, partition: int, bounds: tuple[int, int]) -> int | None:
        """The number of the first output that the log still has; None: it has none."""
        async for record in self._between(topic, partition, *bounds):
            if mark := dict(record.headers).get(MARK_HEADER):
                return OutputMark.parse(mark).number
        return None

    async def _between(self, topic: str, partition: int, begin: int, end: int) -> AsyncIterator[Any]:
        """Every record from `begin` up to `end`. Raises ShardLost where they can't be read in time."""
        if begin == end:
            return
        self.seek(topic, partition, begin)
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while (position := await self.position()) < end:
            for record in await self.read_on(5_000):
                yield record
            if await self.position() > position:
                deadline = time.monotonic() + self._settings.commit_timeout_s
            elif time.monotonic() > deadline:
                raise ShardLost("read_timeout", f"{topic}-{partition} can't be read up to offset {end}.")

    async def read_kafka_head(
        self, topic: str, partition: int, begin: int, barrier: int
    ) -> tuple[KafkaHead | None, TakeoverRecord | None]:
        """The last head before the barrier, and the last other takeover (takeover 3): backwards, in doubling steps.

        `begin`: where the topic starts.
        """
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
            for record in await self.read_on(2_000):
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
            for record in await self.read_on(5_000):
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
