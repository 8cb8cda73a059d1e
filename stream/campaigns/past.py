"""The past records of a shard's campaign step: moves, profiles and orders in the order of time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from aiokafka import TopicPartition

from segmentation.events import RejectedEvent, Timestamp, millis
from stream.kafka.clients import kafka_consumer
from stream.kafka.stretches import pages_between
from stream.rehearsal.campaign_replay import Source, TimedRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.settings import Settings

_PAGE: Final = 2_000  # records of each topic that are held


class _Dated(msgspec.Struct, gc=False):
    occurred_at: Timestamp


_dated: Final = msgspec.json.Decoder(_Dated)


class PastReader:
    """Reads the topics of moves, profiles and orders of one partition after the other."""

    def __init__(self, settings: Settings) -> None:
        """Open it with `async with`."""
        self._settings = settings
        self._topics: dict[Source, str] = {
            "profiles": settings.profiles_topic,
            "orders": settings.orders_topic,
            "moves": settings.changes_topic,
        }
        self._consumers: dict[Source, Any] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect. Raises KafkaUnreachable."""
        for source in self._topics:
            self._consumers[source] = await self._open.enter_async_context(kafka_consumer(self._settings))
        return self

    async def __aexit__(self, *error: object) -> None:
        """Disconnect."""
        await self._open.aclose()

    async def read(self, partition: int, since_ms: int) -> AsyncIterator[TimedRecord]:
        """Yield a partition's records up to the present ends, all profiles and the rest since an instant (ms).

        In wall time a record is taken at its own timestamp; in event time at the date of its event, from the beginning
        on, because timestamps say nothing there.
        """
        rows = {source: self._records(source, partition, since_ms) for source in self._topics}
        waiting = {source: await anext(records, None) for source, records in rows.items()}
        while any(waiting.values()):
            # At one instant profiles come first, and orders before the moves that they made.
            source = min((record.at, order, s) for order, (s, record) in enumerate(waiting.items()) if record)[2]
            found = waiting[source]
            assert found is not None
            yield found
            waiting[source] = await anext(rows[source], None)

    async def _records(self, source: Source, partition: int, since_ms: int) -> AsyncIterator[TimedRecord]:
        consumer, at = self._consumers[source], TopicPartition(self._topics[source], partition)
        end = (await consumer.end_offsets([at]))[at]
        begin = (await consumer.beginning_offsets([at]))[at]
        if source != "profiles" and self._settings.time == "wall":
            found = (await consumer.offsets_for_times({at: since_ms}))[at]
            begin = end if found is None else found.offset
        latest = 0
        async for page in pages_between(consumer, {at: begin}, {at: end}, _PAGE):
            for record in self._timed(source, page[at], end):
                latest = max(latest, record.at)
                yield record._replace(at=latest)

    def _timed(self, source: Source, records: Iterable[Any], end: int) -> Iterable[TimedRecord]:
        for record in records:
            if record.offset < end:
                at = record.timestamp if self._settings.time == "wall" else date_of(record.value)
                yield TimedRecord(at, source, record.offset, record.key, record.value)


def date_of(value: bytes | None) -> int:
    """Return the date of an event (ms), 0 where it has none: a control, or what nobody can read."""
    try:
        return millis(_dated.decode(value or b"").occurred_at)
    except (msgspec.DecodeError, UnicodeDecodeError, RejectedEvent):
        return 0
