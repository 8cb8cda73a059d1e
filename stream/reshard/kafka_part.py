"""Kafka's part of a reshard: each customer's latest move and the remains of erased ones, then the new heads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from msgspec.structs import replace

from segmentation.partitioners import Partitioner
from stream.clock import now_ms
from stream.engine.ledger import Ledger, Publication
from stream.engine.log_reader import LogReader
from stream.errors import SegstreamError, ShardLost
from stream.kafka.aiokafka_internals import end_transactions_once
from stream.reshard.journal import Reshard, StepHandover
from stream.reshard.placement import kafka_head, later, targets
from stream.storage.heads import StoreHead, TakeoverRecord
from stream.storage.output_log import LogRecord
from stream.storage.tombstones import BEGINNING, TurnPlace

if TYPE_CHECKING:
    from stream.kafka.streams import Streams
    from stream.settings import Settings

PAGE: Final = 2_000  # records of a transaction
LINGER_MS: Final = 5  # else a page goes out in dozens of small requests

Row = tuple[int, bytes, bytes | None, list[tuple[str, bytes]]]  # partition, key, value, headers


class AnotherReshard(SegstreamError):
    """Another `segstream reshard` of the group began while this one ran, and goes on in its place."""


@asynccontextmanager
async def reshard_producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """Start the producer of this command; a later one fences it. Raises AnotherReshard, also from the block."""
    producer = AIOKafkaProducer(
        **settings.kafka_client(),
        transactional_id=f"{settings.group}-reshard",
        transaction_timeout_ms=settings.transaction_timeout_ms,
        acks="all",
        linger_ms=LINGER_MS,
        max_batch_size=262_144,
        max_request_size=settings.max_event_bytes + 131_072,
    )
    end_transactions_once(producer)
    try:
        await asyncio.wait_for(producer.start(), settings.commit_timeout_s)
        yield producer
    except KafkaError as error:
        raise AnotherReshard(
            f"Kafka refused a step of the reshard: {error!r}.",
            hint="If no other `segstream reshard` of this group runs, start the same command again: it goes on.",
        ) from error
    finally:
        await asyncio.wait_for(producer.stop(), settings.commit_timeout_s)


class KafkaPart:
    """Moves what Kafka keeps of the customers by key, and writes the heads of the new count."""

    def __init__(
        self, settings: Settings, partitioner: Partitioner, producer: AIOKafkaProducer, reader: LogReader
    ) -> None:
        """Use `settings` of the new count."""
        self._settings = settings
        self._partitioner = partitioner
        self._producer = producer
        self._reader = reader

    async def move_latest(self, topic: str, reshard: Reshard) -> int:
        """Move each customer's latest move to its partition of the new count. Return how many were moved.

        Where it was, a tombstone replaces it, in the same transaction and before it: whoever reads the whole topic into
        one table by key must see the tombstone first. What is moved already is a tombstone, and so isn't moved again.
        """
        moved = 0
        for partition in range(reshard.former):
            begin, end = (await self._reader.bounds([topic], partition))[topic]
            last = {r.key: r.offset async for r in self._reader.between(topic, partition, begin, end)}
            page: list[LogRecord] = []
            async for record in self._reader.between(topic, partition, begin, end):
                key = record.key
                if key is None or record.value is None or last[key] != record.offset:
                    continue
                if self._partitioner(key, reshard.partitions) != partition:
                    page.append(record)
                if len(page) == PAGE:
                    moved += await self._move(topic, partition, page, reshard.partitions)
                    page = []
            moved += await self._move(topic, partition, page, reshard.partitions)
        return moved

    async def _move(self, topic: str, partition: int, page: Sequence[LogRecord], partitions: int) -> int:
        gone: list[Row] = [(partition, record.key or b"", None, []) for record in page]
        there: list[Row] = [
            (self._partitioner(r.key or b"", partitions), r.key or b"", r.value, list(r.headers)) for r in page
        ]
        await self._send(topic, gone, there)
        return len(page)

    async def copy_tombstones(self, topic: str, sealed: Sequence[StoreHead], partitions: int) -> None:
        """Copy the remains of erased customers to every shard where they may live now: their ids can't be known.

        `sealed`: the last heads of the former shards. What a torn turn has left behind one of them isn't copied. A copy
        names no place: it isn't a turn of the shard where it lies.
        """
        former = len(sealed)
        places = [TurnPlace.of(head) for head in sealed] + [BEGINNING] * (partitions - former)
        found = {p: await self._reader.read_tombstones(topic, p, place) for p, place in enumerate(places)}
        for partition in range(former):
            for target in targets(partition, former, partitions):
                there = found[target]
                rows: list[Row] = [
                    (target, key, value, [])
                    for key, value in found[partition].items()
                    if later(value, there.get(key)) is not there.get(key)
                ]
                for begin in range(0, len(rows), PAGE):
                    await self._send(topic, rows[begin : begin + PAGE])

    async def _send(self, topic: str, *batches: Sequence[Row]) -> None:
        """Send these rows in one transaction, each batch once the one before is acknowledged."""
        if not any(batches):
            return
        async with self._producer.transaction():
            for rows in batches:
                sent = [
                    await self._producer.send(topic, value, key=key, partition=partition, headers=headers)
                    for partition, key, value, headers in rows
                ]
                await asyncio.gather(*sent)

    async def write_heads(self, streams: Streams, handover: StepHandover, report: Callable[[str], None]) -> None:
        """Write the head of each shard of the new count, under the shard's own transactional id.

        Raises ShardLost where a former shard isn't as it was sealed.
        """
        sealed: Mapping[int, StoreHead] = {p: shard.head for p, shard in enumerate(handover.sealed)}
        for partition, inheritance in enumerate(handover.inherited):
            ledger = await Ledger.open(self._settings, streams, partition)
            try:
                barrier = await ledger.take_over(TakeoverRecord(0, "segstream reshard", now_ms()))
                begin, _ = (await self._reader.bounds([streams.heads], partition))[streams.heads]
                found, _ = await self._reader.read_kafka_head(streams.heads, partition, begin, barrier)
                was = sealed.get(partition)
                if (found.offset, found.count) != (was.offset, was.count) if found and was else (was is not None):
                    raise ShardLost("unsealed", f"{streams.input}-{partition} was worked on after it had been sealed.")
                dead = found.dead if found else None
                await ledger.cover(Publication(replace(kafka_head(inheritance.head), dead=dead)))
            finally:
                await ledger.close()
        report(f"{streams.heads}: {len(handover.inherited)} heads written")
