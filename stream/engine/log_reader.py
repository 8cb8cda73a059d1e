"""The reader of a shard's logs by offset: input, outputs, heads and the compacted topics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, TypeVar, cast

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from segmentation.events import CONTROL_KEY
from stream.dead_letters.records import read_dead_letter
from stream.errors import ShardLost, ShardQuarantined
from stream.kafka.aiokafka_internals import (
    accept_any_header_name,
    describe_topics,
    pause_between_connection_attempts,
    set_fetch_wait,
)
from stream.kafka.membership import UNKNOWN_TOPIC
from stream.kafka.streams import foreign_outputs
from stream.settings import Settings
from stream.storage.heads import (
    GROUP_HEADER,
    HEAD_KEY,
    MARK_HEADER,
    TAKEOVER_KEY,
    KafkaHead,
    TakeoverRecord,
    decode_kafka_head,
    decode_takeover,
)
from stream.storage.output_log import LoggedOutput, LogRecord, OutputMark, OutputPage
from stream.storage.reads import TRUNCATED
from stream.storage.tombstones import TurnPlace, tombstone_as_of

# Kafka answers the requests of a connection one after the other: a fetch that waits for records delays the next one.
TAKEOVER_FETCH_WAIT_MS: Final = 10
TURN_FETCH_WAIT_MS: Final = 200  # turns send no other request
POSITION_POLL_MS: Final = 20  # the position also moves over offsets without records
END_ANSWERS: Final = 20  # that are too low before an end offset is believed
END_PATIENCE_S: Final = 2.0  # how long an end offset may be too low
FIRST_STEP: Final = 64  # offsets before the own takeover record to search for a head; doubled until one is found

T = TypeVar("T")
Bounds = dict[str, tuple[int, int]]  # topic -> (first available offset, offset behind the last committed record)


class LogReader:
    """Reads a shard's partitions by offset, read_committed: one consumer, with one partition assigned at a time.

    A takeover sends many requests, so a fetch hardly waits for records at first. After `settle` it waits longer.
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
            fetch_max_wait_ms=TAKEOVER_FETCH_WAIT_MS,
            retry_backoff_ms=20,
        )
        pause_between_connection_attempts(self._consumer)
        self._at: TopicPartition | None = None

    async def start(self) -> None:
        """Connect."""
        await asyncio.wait_for(self._consumer.start(), self._settings.commit_timeout_s)

    async def close(self) -> None:
        """Disconnect. It never raises and never hangs."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._consumer.stop(), 5)

    async def describe(self, topics: Sequence[str]) -> tuple[str, dict[str, int]]:
        """Return (the cluster's id, the partition count of each topic). Raises ShardQuarantined for a missing topic."""
        metadata = await asyncio.wait_for(describe_topics(self._consumer, topics), self._settings.commit_timeout_s)
        cluster = str(metadata.get("cluster_id") or "")
        found = {t["topic"]: t for t in metadata["topics"]}
        for topic in topics:
            code = found[topic]["error_code"] if topic in found else UNKNOWN_TOPIC
            if code == UNKNOWN_TOPIC:
                raise ShardQuarantined(
                    "topic_missing",
                    f"topic {topic!r} doesn't exist.",
                    hint="`segstream topics create` makes all of them.",
                )
            if code == TopicAuthorizationFailedError.errno:
                raise TopicAuthorizationFailedError(topic)
            if code:
                raise ShardLost("topic_unavailable", f"topic {topic!r} can't be described now: error {code}.")
        return cluster, {topic: len(found[topic]["partitions"]) for topic in topics}

    async def bounds(self, topics: Sequence[str], partition: int) -> Bounds:
        """Return the bounds of this partition of each topic. Raises ShardLost where Kafka doesn't answer in time."""
        tps = [TopicPartition(topic, partition) for topic in topics]
        try:
            async with asyncio.timeout(self._settings.commit_timeout_s):
                begin = await self._consumer.beginning_offsets(tps)
                end = await self._consumer.end_offsets(tps)
        except TimeoutError:
            raise ShardLost(
                "read_timeout", f"Kafka didn't send the offsets of partition {partition} of {topics}."
            ) from None
        return {tp.topic: (int(begin[tp]), int(end[tp])) for tp in tps}

    async def end_reaching(self, topic: str, partition: int, end: int, wanted: int) -> int:
        """Return the end of a partition, asked again for a while where it lies before `wanted`.

        After a change of leader an end offset can be too low for a moment: no reason to stop a shard. The answers are
        counted, not the time: a worker that was suspended meanwhile has asked but once.
        """
        for _ in range(END_ANSWERS):
            if end >= wanted:
                break
            await asyncio.sleep(END_PATIENCE_S / END_ANSWERS)
            end = (await self.bounds([topic], partition))[topic][1]
        return end

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Continue reading at this offset."""
        tp = TopicPartition(topic, partition)
        if self._at != tp:
            self._consumer.assign([tp])
            self._at = tp
        self._consumer.seek(tp, offset)

    def settle(self) -> None:
        """Let fetches wait for records: from now on one partition is read, and no other request is sent."""
        set_fetch_wait(self._consumer, TURN_FETCH_WAIT_MS)

    async def position(self) -> int:
        """Return the offset to be read next."""
        return int(await self._consumer.position(self._at))

    def known_bounds(self) -> tuple[int, int] | None:
        """Return (the last stable offset, the high watermark), as of the last fetch; None: nothing was fetched yet.

        Records between the two are those of open transactions, and all behind them.
        """
        high = self._consumer.highwater(self._at)
        stable = self._consumer.last_stable_offset(self._at)
        known = [offset for offset in (high, stable) if offset is not None and offset >= 0]
        return (min(known), max(known)) if known else None

    def answered_at(self) -> int | None:
        """Return when the last fetch was answered (ms since 1970); None: none was."""
        return cast("int | None", self._consumer.last_poll_timestamp(self._at))

    async def read(self, limit: int, timeout_ms: int) -> list[LogRecord]:
        """Read the next records, at most `limit`; none after the time-out. Packages of other groups are left out."""
        answer = await self._consumer.getmany(self._at, timeout_ms=timeout_ms, max_records=limit)
        records: list[LogRecord] = answer.get(self._at, []) if answer else []
        return [r for r in records if r.key != CONTROL_KEY or not self.foreign_group(dict(r.headers))]

    async def read_on(self, limit: int) -> list[LogRecord]:
        """Read the next records; none where the position moved over offsets without records, or after half a second."""
        before, deadline = await self.position(), time.monotonic() + 0.5
        while not (records := await self.read(limit, POSITION_POLL_MS)):
            if await self.position() > before or time.monotonic() > deadline:
                break
        return records

    async def record_at(self, topic: str, partition: int, offset: int) -> LogRecord | None:
        """Read the record at exactly this offset; None: it has none (any more). Raises ShardLost after the time-out."""
        self.seek(topic, partition, offset)
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while time.monotonic() < deadline:
            if records := await self.read_on(1):
                return records[0] if records[0].offset == offset else None
            if await self.position() > offset:
                return None
        raise ShardLost("read_timeout", f"{topic}-{partition} can't be read at offset {offset}.")

    async def read_latest(
        self, topic: str, partition: int, part: Callable[[LogRecord], bytes | None] = lambda record: record.value
    ) -> dict[bytes, bytes]:
        """Read a compacted topic as of now: for each key a part of its last record. Keys without one are left out."""
        latest: dict[bytes, bytes] = {}
        async for key, record in self._keyed(topic, partition):
            if record.value is None or (found := part(record)) is None:
                latest.pop(key, None)
            else:
                latest[key] = found
        return latest

    async def read_tombstones(self, topic: str, partition: int, place: TurnPlace) -> dict[bytes, bytes]:
        """Read the tombstones as they were at a place. A torn turn may have left later ones: their turn comes yet."""
        latest: dict[bytes, bytes] = {}
        async for key, record in self._keyed(topic, partition):
            if record.value is None:
                latest.pop(key, None)
            elif (found := tombstone_as_of(record, place)) is not None:
                latest[key] = found
        return latest

    async def _keyed(self, topic: str, partition: int) -> AsyncIterator[tuple[bytes, LogRecord]]:
        """Yield the records of a compacted topic as of now, with their keys; those without a key are left out."""
        begin, end = (await self.bounds([topic], partition))[topic]
        async for record in self.between(topic, partition, begin, end):
            if record.key is not None:
                yield record.key, record

    async def dead_letters(self, topic: str, partition: int, bounds: tuple[int, int], source: str) -> frozenset[int]:
        """Return the offsets of the `source` topic's records, of the same partition, that have a dead letter there.

        Only this group's dead letters count: the topic belongs to the input, which several groups may read.
        """
        found: set[int] = set()
        async for record in self.between(topic, partition, *bounds):
            letter = read_dead_letter(record)
            if (letter.group, letter.topic, letter.partition) != (self._settings.group, source, partition):
                continue
            if letter.offset is not None:
                found.add(letter.offset)
        return frozenset(found)

    async def first_output(self, topic: str, partition: int, bounds: tuple[int, int]) -> int | None:
        """Return the number of our first output that the log still has; None: it has none."""
        async for record in self.between(topic, partition, *bounds):
            headers = dict(record.headers)
            if (mark := headers.get(MARK_HEADER)) and not self.foreign_group(headers):
                return OutputMark.parse(mark).number
        return None

    async def last_output(self, topic: str, partition: int, bounds: tuple[int, int]) -> OutputMark | None:
        """Return the mark of our last output; None: the log has none."""

        def mark(record: LogRecord) -> OutputMark | None:
            headers = dict(record.headers)
            there = None if self.foreign_group(headers) else headers.get(MARK_HEADER)
            return None if there is None else OutputMark.parse(there)

        return await self._last(topic, partition, bounds, mark)

    async def outputs_beyond(
        self, topic: str, partition: int, bounds: tuple[int, int], number: int
    ) -> list[LoggedOutput]:
        """Return our outputs after the one with this number. The search goes backwards, in growing steps."""
        begin, end = bounds
        step = FIRST_STEP
        while True:
            start = max(begin, end - step)
            outputs = [
                output
                async for record in self.between(topic, partition, start, end)
                if not self.foreign_group(dict(record.headers)) and (output := LoggedOutput.of(record))
            ]
            if start <= begin or any(output.mark.number <= number for output in outputs):
                return [output for output in outputs if output.mark.number > number]
            step *= 2

    def foreign_group(self, headers: Mapping[str, bytes]) -> str:
        """Return the other group that these headers name; "": they are ours, or of a version that doesn't say."""
        group = headers.get(GROUP_HEADER, b"").decode(errors="replace")
        return "" if group == self._settings.group else group

    async def first_group(self, topic: str, partition: int, bounds: tuple[int, int]) -> str:
        """Return the other group whose record is the first between two offsets; "": it is ours, or says nothing."""
        async for record in self.between(topic, partition, *bounds):
            return self.foreign_group(dict(record.headers))
        return ""

    async def last_group(self, topic: str, partition: int, bounds: tuple[int, int]) -> str:
        """Return the other group whose record is the last between two offsets; "": it is ours, or says nothing."""
        found = await self._last(topic, partition, bounds, lambda record: self.foreign_group(dict(record.headers)))
        return found or ""

    async def any_group(self, topic: str, partition: int, bounds: tuple[int, int]) -> str:
        """Return another group that has written between two offsets; "": none has."""
        async for record in self.between(topic, partition, *bounds):
            if group := self.foreign_group(dict(record.headers)):
                return group
        return ""

    async def _last(
        self, topic: str, partition: int, bounds: tuple[int, int], look: Callable[[LogRecord], T | None]
    ) -> T | None:
        """Return what `look` finds in the last record that has it. The search goes backwards, in growing steps."""
        begin, end = bounds
        step = FIRST_STEP
        while True:
            start, last = max(begin, end - step), None
            async for record in self.between(topic, partition, start, end):
                last = found if (found := look(record)) is not None else last
            if last is not None or start <= begin:
                return last
            step *= 2

    async def between(self, topic: str, partition: int, begin: int, end: int) -> AsyncIterator[LogRecord]:
        """Yield every record from `begin` up to `end`. Raises ShardLost where they can't be read in time."""
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
        """Return (the last head, the last other takeover) before the barrier (takeover, step 3).

        The search goes backwards, in steps that double. `begin`: where the topic starts.
        """
        step = FIRST_STEP
        while True:
            start = max(begin, barrier - step)
            head, takeover = await self._heads_between(topic, partition, start, barrier)
            if head is not None or start <= begin:
                return head, takeover
            step *= 2

    async def last_kafka_head(self, topic: str, partition: int, begin: int, end: int) -> KafkaHead | None:
        """Return the last head, as of now; None: there is none. `begin`, `end`: the topic's bounds."""
        if begin >= end:
            return None
        # The last offset is the marker that ends a transaction.
        return (await self.read_kafka_head(topic, partition, begin, end - 1))[0]

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
                        head = decode_kafka_head(record.value or b"")
                    elif record.key == TAKEOVER_KEY:
                        takeover = decode_takeover(record.value or b"")
                except msgspec.DecodeError as error:
                    raise ShardQuarantined(
                        "head_format",
                        f"the record at offset {record.offset} of {topic}-{partition} isn't a head of this version: "
                        f"{error}.",
                        hint="If a newer version wrote it, run that version.",
                    ) from None
            if time.monotonic() > deadline:
                raise ShardLost("read_timeout", f"{topic}-{partition} can't be read up to offset {barrier}.")
        return head, takeover

    async def read_outputs(
        self, topic: str, partition: int, start: int, seen: int, number: int, end: int
    ) -> AsyncIterator[OutputPage]:
        """Yield the output log from `start` in pages, until output `number` was seen and the position reached `end`.

        `seen`: the number of the last output before `start`. The log belongs to the group whose output comes first.
        Raises ShardQuarantined where that is another group, or where outputs are missing.
        """
        self.seek(topic, partition, start)
        highest = seen
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while highest < number or await self.position() < end:
            page = OutputPage(start)
            for record in await self.read_on(5_000):
                if (output := LoggedOutput.of(record)) is None:
                    continue  # a foreign record: only the owner should write here, but a reader must survive one
                if group := self.foreign_group(dict(record.headers)):
                    if highest == 0 and not page.outputs:
                        raise foreign_outputs(self._settings, topic, partition, group)
                    page.foreign = group
                    continue
                page.outputs.append(output)
            if mark := page.mark:
                highest = mark.number
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
                    f"{topic}-{partition} ends with output {highest}, but the head counts {number}: was the topic "
                    "truncated or recreated?",
                    hint=TRUNCATED,
                )
