"""A shard's transactional producer. Its transactions are the one record of what has happened."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, InvalidTxnState

from segmentation.events import CONTROL_KEY
from segmentation.step import PROFILES, Output, Turn
from stream.dead_letters.records import DeadRecord
from stream.errors import ShardLost
from stream.kafka.aiokafka_internals import (
    TRANSACTION_RETRY_MS,
    TransactionInDoubt,
    end_transactions_once,
    join_transaction,
    pause_between_connection_attempts,
    shorten_transaction_retries,
    transaction_error,
)
from stream.kafka.streams import Streams
from stream.settings import Settings
from stream.storage.heads import (
    GROUP_HEADER,
    HEAD_KEY,
    MARK_HEADER,
    NOTE_HEADER,
    TAKEOVER_KEY,
    Fingerprint,
    KafkaHead,
    TakeoverRecord,
    encode_head,
)
from stream.storage.output_log import LogRecord
from stream.storage.tombstones import tombstone_headers

log = logging.getLogger(__name__)

LARGEST_REQUEST: Final = 1_048_576
BATCH_BYTES: Final = 900_000  # below the broker's default of 1 MiB for a batch


class Onward(NamedTuple):
    """A record that a turn sends to an input: mostly to another partition."""

    topic: str
    partition: int
    row: tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]  # key, value, headers

    @classmethod
    def all_of(cls, turn: Turn, records: Sequence[LogRecord], streams: Streams, group: str) -> list[Onward]:
        """Return those of a turn, in the order of the records that caused them: one customer's must not pass another.

        A record goes on as it was read to the partition that its key has since `segstream reshard`. A package goes to
        the customer whom a merge makes one with its own, and names the group: others on the same input have packages
        of their own, for their states may be under other settings. Packages to the side input of profiles come last.
        """
        named, topic = (GROUP_HEADER, group.encode()), streams.input
        rows = [(f.position, cls._as_read(records[f.position], topic, f.partition)) for f in turn.forwards]
        rows += [(p.position, cls(topic, p.partition, (CONTROL_KEY, p.value, [named]))) for p in turn.packages]
        onward = [onward for _, onward in sorted(rows, key=lambda row: row[0])]
        return onward + [
            cls(streams.sides[PROFILES], p.partition, (CONTROL_KEY, p.value, [named])) for p in turn.side_packages
        ]

    @classmethod
    def _as_read(cls, record: LogRecord, topic: str, partition: int) -> Onward:
        return cls(topic, partition, (record.key, record.value, list(record.headers)))


@dataclass(slots=True)
class Publication:
    """All that one turn sends to Kafka."""

    head: KafkaHead
    outputs: Sequence[Output] = ()
    dead: Sequence[DeadRecord] = ()
    tombstones: Mapping[bytes, bytes] = field(default_factory=dict)  # by hash
    former: Mapping[bytes, bytes] = field(default_factory=dict)  # the tombstones that these replace, by hash
    onward: Sequence[Onward] = ()


class Written(NamedTuple):
    """The records of one turn on an output topic: the offsets of the first and the last one, and their number."""

    topic: str
    first: int
    last: int
    rows: int


@dataclass(slots=True)
class PublishedOutputs:
    """The end of a turn's outputs in the log: the position behind the last one, and its fingerprint."""

    position: int
    last: Fingerprint
    written: Sequence[Written] = ()  # to the output topic and the one of the latest


class Acknowledgement(Protocol):
    """The broker's answer to a batch (aiokafka's RecordMetadata)."""

    @property
    def offset(self) -> int:
        """The offset of the batch's first record."""


Sent = tuple[asyncio.Future[Acknowledgement], int]  # a batch that was sent, and the number of its rows


class Ledger:
    """The writer of a shard: one transactional id, one producer, thrown away after any error."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings, streams: Streams, partition: int) -> None:
        """Use `open`."""
        self._producer = producer
        self._settings = settings
        self._streams = streams
        self._partition = partition
        self._group = (GROUP_HEADER, settings.group.encode())
        self.dead_end: int | None = None  # behind the shard's last dead letter; each head has it

    @classmethod
    async def open(cls, settings: Settings, streams: Streams, partition: int) -> Ledger:
        """Start a producer, which fences the predecessor and ends its open transaction (takeover, step 1)."""
        shorten_transaction_retries()
        producer = AIOKafkaProducer(
            **settings.kafka_client(),
            transactional_id=f"{settings.group}-{streams.input}-{partition}",
            transaction_timeout_ms=settings.transaction_timeout_ms,
            acks="all",
            linger_ms=0,
            retry_backoff_ms=TRANSACTION_RETRY_MS,
            max_batch_size=BATCH_BYTES,
            # A dead letter is larger than its record, and a package may be as large as a batch.
            max_request_size=max(settings.max_event_bytes + 131_072, LARGEST_REQUEST),
        )
        end_transactions_once(producer)
        pause_between_connection_attempts(producer)
        ledger = cls(producer, settings, streams, partition)
        try:
            async with ledger._in_time("the start of the producer"):
                await producer.start()
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def close(self) -> None:
        """Throw the producer away. It never raises and never hangs, though after an error its `stop()` does."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._producer.stop(), 5)
        transaction_error(self._producer)

    async def take_over(self, record: TakeoverRecord) -> int:
        """Commit the barrier record (takeover, step 3). Return its offset on the heads topic."""
        async with self._in_time("a barrier"):
            await self._producer.begin_transaction()
            offset = await self._send_head(TAKEOVER_KEY, encode_head(record))
            await self._producer.commit_transaction()
            return offset

    async def cover(self, torn: Publication) -> None:
        """Commit the head of a torn turn, whose outputs are in the log, with all that may be lacking of it (step 4b).

        As in a turn, the head comes last: if this transaction were torn too, the next takeover would cover it again.
        """
        async with self._in_time("a covering head"):
            await self._producer.begin_transaction()
            join_transaction(self._producer, TopicPartition(self._streams.heads, self._partition))
            latest, dead, rest = await self._send_others(torn)
            await _acknowledged(latest, dead, rest)
            await self._send_turns_head(torn.head, dead)
            await self._producer.commit_transaction()

    async def _send_head(self, key: bytes, value: bytes) -> int:
        sent = await self._producer.send(self._streams.heads, value, key=key, partition=self._partition)
        return int((await sent).offset)

    async def publish(self, turn: Publication) -> PublishedOutputs | None:
        """Send one transaction: outputs and dead letters; once all are acknowledged, the head; then commit.

        Otherwise a torn transaction could show a head without its outputs. Return None where there were no outputs.
        """
        producer, p = self._producer, self._partition
        async with self._in_time("a turn's transaction"):
            await producer.begin_transaction()
            # The head's partition joins the transaction together with the outputs': a request less in every turn.
            join_transaction(producer, TopicPartition(self._streams.heads, p))
            outputs = await self._send_outputs(turn)
            latest, dead, rest = await self._send_others(turn)
            await _acknowledged(outputs, latest, dead, rest)
            await self._send_turns_head(turn.head, dead)
            await producer.commit_transaction()
        if not outputs:
            return None
        written = [await _written(self._streams.output, outputs)]
        if self._streams.latest is not None:
            written.append(await _written(self._streams.latest, latest))
        offset, final = written[0].last, turn.outputs[-1]
        return PublishedOutputs(offset + 1, Fingerprint.of(offset, 0, final.key, final.value), written)

    async def _send_turns_head(self, head: KafkaHead, dead: list[Sent]) -> None:
        """Send a turn's head. `dead`: its dead letters, all acknowledged."""
        if dead:
            last_batch, rows_in_it = dead[-1]
            self.dead_end = (await last_batch).offset + rows_in_it
        if self.dead_end is not None:
            head = msgspec.structs.replace(head, dead=self.dead_end)
        await self._send_head(HEAD_KEY, encode_head(head))

    async def _send_outputs(self, turn: Publication) -> list[Sent]:
        mark = (turn.head.offset, turn.head.clock, turn.head.activation, turn.head.version.encode())
        behind = b":%d:%d:%d:%b" % mark
        first = turn.head.count - len(turn.outputs) + 1
        group = self._group
        rows = [
            (o.key, o.value, [*o.headers, (MARK_HEADER, b"%d" % number + behind), (NOTE_HEADER, o.note), group])
            for number, o in enumerate(turn.outputs, first)
        ]
        return await self._send_rows(self._streams.output, rows)

    async def _send_others(self, turn: Publication) -> tuple[list[Sent], list[Sent], list[Sent]]:
        """Send all but outputs and head. Return (the latest outputs, the dead letters, the rest)."""
        latest, dead = await self._send_latest(turn.outputs), await self._send_dead(turn.dead)
        return latest, dead, [*await self._send_tombstones(turn), *await self._send_onward(turn.onward)]

    async def _send_latest(self, outputs: Sequence[Output]) -> list[Sent]:
        """Send the last output of each key to the compacted topic, with its note in case the outputs expire."""
        if self._streams.latest is None:
            return []
        last, group = {o.key: o for o in outputs}, self._group
        rows = [(o.key, o.latest, [*o.headers, (NOTE_HEADER, o.note), group]) for o in last.values()]
        return await self._send_rows(self._streams.latest, rows)

    async def _send_tombstones(self, turn: Publication) -> list[Sent]:
        if self._streams.tombstones is None or not turn.tombstones:
            return []
        rows = [(k, v, tombstone_headers(turn.head, turn.former.get(k))) for k, v in turn.tombstones.items()]
        return await self._send_rows(self._streams.tombstones, rows)

    async def _send_dead(self, dead: Sequence[DeadRecord]) -> list[Sent]:
        """Send dead letters in batches: there can be a flood. One that is larger than a batch is sent alone."""
        rows = [(d.key, d.value, d.headers) for d in dead]
        return await self._send_rows(self._streams.dead_letters, rows)

    async def _send_onward(self, onward: Sequence[Onward]) -> list[Sent]:
        sent: list[Sent] = []
        for place in dict.fromkeys((record.topic, record.partition) for record in onward):
            rows = [record.row for record in onward if (record.topic, record.partition) == place]
            sent += await self._send_rows(place[0], rows, place[1])
        return sent

    async def _send_rows(
        self,
        topic: str,
        rows: Sequence[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]],
        partition: int | None = None,
    ) -> list[Sent]:
        """Send rows in whole batches (2 µs a record instead of 35). `partition` None: the shard's."""
        sent: list[Sent] = []
        at = 0
        while at < len(rows):
            batch = self._producer.create_batch()
            first = at
            while at < len(rows):
                key, value, headers = rows[at]
                if batch.append(key=key, value=value, headers=headers, timestamp=None) is None:
                    break
                at += 1
            to = self._partition if partition is None else partition
            future = await self._producer.send_batch(batch, topic, partition=to)
            future.add_done_callback(_mark_seen)
            sent.append((future, at - first))
        return sent

    @asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        """Treat a time-out, or an end that isn't confirmed, as an error of the producer. Raises ShardLost for both.

        What only follows from another error of the transaction is raised as that error.
        """
        limit_s = self._settings.commit_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TransactionInDoubt:
            raise ShardLost("end_in_doubt", f"Kafka hasn't confirmed the end of {what}.") from None
        except TimeoutError:
            raise ShardLost("producer_timeout", f"{what} took more than {limit_s} s.") from None
        except (IllegalOperation, InvalidTxnState) as error:
            raise transaction_error(self._producer) or error from error


async def _acknowledged(*parts: Sequence[Sent]) -> None:
    """Wait until all batches are acknowledged. Raises the first error."""
    await asyncio.gather(*(future for part in parts for future, _ in part))


async def _written(topic: str, sent: Sequence[Sent]) -> Written:
    """Return the offsets of acknowledged batches: at least one."""
    first, (last, in_last) = sent[0][0], sent[-1]
    return Written(topic, (await first).offset, (await last).offset + in_last - 1, sum(rows for _, rows in sent))


def _mark_seen(future: asyncio.Future[Acknowledgement]) -> None:
    """Mark an error as seen: where one send of a turn fails, the others aren't awaited."""
    if not future.cancelled():
        future.exception()
