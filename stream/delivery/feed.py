"""The records of the topic of actions for one endpoint: in its consumer group, from where its deliveries are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from stream.dead_letters.routing import ENDPOINT_HEADER
from stream.delivery.filters import ActionFacts, NotSendable, action_facts, wants
from stream.delivery.journal import DeliveryJournal
from stream.delivery.outbox import Outbox, outcomes_since
from stream.delivery.positions import DeliveryPosition, Resumption, WaitingRecord
from stream.delivery.window import DeliveryWindow, LogPartition, Unresolved
from stream.kafka.refusals import explained
from stream.settings import Settings
from stream.webhooks.endpoints import Endpoint

log = logging.getLogger(__name__)

_START_S: Final = 60.0
_POLL_MS: Final = 200
_BATCH: Final = 500
_REBALANCE_MS: Final = 60_000  # attempts under way may end before the partitions go to another process
_OUTCOMES_AHEAD: Final = 10_000  # outcomes, of others too, that a restart may have to read for nothing


class ActionFeed(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Fills an endpoint's window, and keeps its positions."""

    def __init__(
        self,
        settings: Settings,
        endpoint: Endpoint,
        window: DeliveryWindow,
        journal: DeliveryJournal,
        outbox: Outbox,
        idle: Callable[[], Awaitable[None]],
    ) -> None:
        """Connect to nothing yet. `idle()` returns when no attempt is under way."""
        self._settings = settings
        self._endpoint = endpoint
        self._window = window
        self._journal = journal
        self._outbox = outbox
        self._idle = idle
        self._group = delivery_group(settings, endpoint.name)
        self._consumer = AIOKafkaConsumer(
            **settings.kafka_client(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=min(1_000, settings.session_timeout_ms // 5),
            rebalance_timeout_ms=_REBALANCE_MS,
            max_partition_fetch_bytes=2 * settings.max_event_bytes,
        )
        self._assigned: frozenset[LogPartition] = frozenset()
        self._to_resume = False
        self._round = 0  # counts assignments and revocations
        self._resumptions: dict[LogPartition, Resumption] = {}
        self._read: dict[LogPartition, int] = {}
        self._kept: dict[LogPartition, DeliveryPosition] = {}
        self._paused = False
        self.failure: BaseException | None = None  # of a rebalance: aiokafka swallows what a listener raises
        self.lag = 0

    @property
    def working(self) -> bool:
        """Whether records in the window are this process's to send."""
        return bool(self._resumptions)

    async def start(self) -> None:
        """Join the endpoint's group. Raises KafkaUnreachable."""
        try:
            await asyncio.wait_for(self._consumer.start(), _START_S)
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise await explained(self._settings, error) from error
        self._consumer.subscribe([self._settings.actions_topic, self._settings.redeliveries_topic], listener=self)

    async def stop(self) -> None:
        """Leave the group; nothing is kept by this."""
        with suppress(Exception):
            await asyncio.wait_for(self._consumer.stop(), 10)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Let the attempts under way end, and keep the positions: another process may go on from there."""
        del revoked
        self._round += 1
        resumed, self._resumptions = self._resumptions, {}  # nothing is started from here on
        if not resumed:
            return
        try:
            await self._idle()
            await self._keep(resumed)
        except Exception as error:  # noqa: BLE001  # aiokafka would only log it
            self.failure = self.failure or error
        self._window.clear()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Publish the assignment and no more: this call delays heartbeats."""
        self._consumer.pause(*assigned)
        self._round += 1
        self._assigned = frozenset(LogPartition(tp.topic, tp.partition) for tp in assigned)
        self._to_resume = True

    async def read(self) -> list[Unresolved]:
        """Read once, and add what the endpoint gets to its window. Return the records that can't be sent to anybody.

        Raises KafkaError, KafkaUnreachable.
        """
        if self.failure is not None:
            raise self.failure
        if self._to_resume:
            await self._resume()
        self._hold_back()
        at_round = self._round
        answer = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH)
        if at_round != self._round or not self._resumptions:
            return []  # of an assignment that is over
        unsendable = []
        for tp, records in answer.items():
            place = LogPartition(tp.topic, tp.partition)
            for record in records:
                unsendable += self._take(place, record)
                self._read[place] = record.offset + 1
        for place in self._resumptions:
            with suppress(IllegalStateError):
                self._read[place] = await self._consumer.position(TopicPartition(*place))
        self._measure()
        return unsendable

    def _measure(self) -> None:
        """Count the records between what was read and the ends, as far as the consumer knows them."""
        self.lag = 0
        for place, read in self._read.items():
            with suppress(IllegalStateError):
                end = self._consumer.last_stable_offset(TopicPartition(*place))
                self.lag += max((end or 0) - read, 0)

    def _hold_back(self) -> None:
        """Stop reading while the window is full; go on once it has room."""
        places = [TopicPartition(*place) for place in self._resumptions]
        with suppress(IllegalStateError):
            if self._window.full and not self._paused:
                self._consumer.pause(*places)
                self._paused = True
            elif self._paused and self._window.has_room:
                self._consumer.resume(*places)
                self._paused = False

    def _take(self, place: LogPartition, record: Any) -> list[Unresolved]:
        """Add a record to the window if the endpoint gets it. Return it if nobody can."""
        fate = self._resumptions[place].take(record.offset)
        if fate is None:
            return []
        headers = tuple(record.headers or ())
        try:
            facts = action_facts(record.value)
        except NotSendable:
            facts = None
        if not self._gets(place, headers, facts):
            return []
        unresolved = Unresolved(
            place,
            record.offset,
            facts or ActionFacts("", ""),
            record.key,
            record.value or b"",
            headers,
            record.timestamp,
            attempts=fate.attempts,
            due_ms=fate.due_ms,
        )
        if facts is None:
            return [unresolved]
        self._window.add(unresolved)
        return []

    def _gets(self, place: LogPartition, headers: Any, facts: ActionFacts | None) -> bool:
        if place.topic == self._settings.redeliveries_topic:
            return (ENDPOINT_HEADER, self._endpoint.name.encode()) in headers
        return facts is None or wants(self._endpoint, facts)

    async def _resume(self) -> None:
        """Find out where to go on, for each partition of a new assignment, and read from there."""
        at_round, places = self._round, sorted(self._assigned)
        self._to_resume = False
        await self._journal.caught_up()
        positions = await self._positions(places)
        starts: dict[int, int] = {}
        for place, position in positions.items():
            starts[place.partition] = min(position.outcomes_from, starts.get(place.partition, position.outcomes_from))
        outcomes, ends = await outcomes_since(self._settings, self._endpoint.name, starts) if starts else ({}, {})
        if at_round != self._round:
            return
        for partition, end in ends.items():
            self._outbox.seen(partition, end)
        self._window.clear()
        self._kept = {}
        self._resumptions = {
            place: Resumption.of(position, place, outcomes[place.partition]) for place, position in positions.items()
        }
        self._read = {place: resumption.first_offset() for place, resumption in self._resumptions.items()}
        with suppress(IllegalStateError):  # of a rebalance that has begun meanwhile
            for place, offset in self._read.items():
                self._consumer.seek(TopicPartition(*place), offset)
            self._paused = False
            self._consumer.resume(*(TopicPartition(*place) for place in places))
        log.info("%s: delivers %s", self._endpoint.name, ", ".join(f"{t}-{p}" for t, p in places) or "nothing")

    async def _positions(self, places: list[LogPartition]) -> dict[LogPartition, DeliveryPosition]:
        """Return where an endpoint's deliveries are in each partition; at its first start, where they begin."""
        outcomes = {place: TopicPartition(self._settings.deliveries_topic, place.partition) for place in places}
        wanted = {*outcomes.values(), *(TopicPartition(*place) for place in places)}
        ends = await self._consumer.end_offsets(list(wanted)) if wanted else {}
        found = {}
        for place in places:
            partition, name = TopicPartition(*place), self._endpoint.name
            kept = self._journal.position(name, place)
            if kept is not None and kept.offset > ends[partition]:
                log.warning("%s: %s-%d was made anew: it is read from its beginning", name, *place)
                kept = DeliveryPosition(0, ends[outcomes[place]])  # earlier outcomes are of other records
            elif kept is None and (committed := await self._consumer.committed(partition)) is not None:
                log.warning("%s: %s-%d: no position is kept; some records may be sent twice", name, *place)
                kept = DeliveryPosition(committed, 0)
            elif kept is None:
                from_end = self._endpoint.start == "end" and place.topic == self._settings.actions_topic
                kept = DeliveryPosition(ends[partition] if from_end else 0, ends[outcomes[place]])
                # Kept at once: an endpoint that begins at the end mustn't begin at a later one after a crash.
                await self._journal.keep_position(name, place, kept)
            found[place] = kept
        return found

    async def keep(self) -> None:
        """Keep the positions that have changed, and commit them, for those who watch the group. Raises KafkaError."""
        await self._keep(self._resumptions)

    async def _keep(self, resumptions: dict[LogPartition, Resumption]) -> None:
        # All at one moment, before anything is awaited: a rebalance meanwhile empties the window, and a position that
        # is taken from an empty window says that nothing waits.
        positions = {
            place: self._present(place, resumption)
            for place, resumption in resumptions.items()
            if self._read[place] >= resumption.position.offset  # otherwise what waits hasn't all been read again
        }
        lowest = {place: self._window.lowest(place) for place in positions}
        for place, position in positions.items():
            if self._differs(place, position):
                self._kept[place] = position
                await self._journal.keep_position(self._endpoint.name, place, position)
        offsets = {
            TopicPartition(*place): OffsetAndMetadata(
                position.offset if (first := lowest[place]) is None else first, ""
            )
            for place, position in positions.items()
        }
        try:
            if offsets:
                await asyncio.wait_for(self._consumer.commit(offsets), 5)
        except (KafkaError, TimeoutError) as error:
            log.info("%s: the group's offsets can't be committed: %s", self._group, error)

    def _present(self, place: LogPartition, resumption: Resumption) -> DeliveryPosition:
        """Return the position of a partition as of now."""
        waiting = tuple(WaitingRecord(r.offset, r.attempts, r.due_ms) for r in self._window.unresolved_of(place))
        read = self._read[place]
        return DeliveryPosition(read, self._outcomes_from(place, resumption, read), waiting)

    def _outcomes_from(self, place: LogPartition, resumption: Resumption, read: int) -> int:
        """Return the offset of the outcomes that a restart needs; those for records that aren't read yet count."""
        if any(offset >= read for offset in resumption.fates):
            return resumption.position.outcomes_from
        return self._outbox.outcomes_from(self._endpoint.name, place.partition)

    def _differs(self, place: LogPartition, position: DeliveryPosition) -> bool:
        kept = self._kept.get(place)
        return (
            kept is None
            or (kept.offset, kept.waiting) != (position.offset, position.waiting)
            or position.outcomes_from - kept.outcomes_from > _OUTCOMES_AHEAD
        )


def delivery_group(settings: Settings, endpoint: str) -> str:
    """Return the consumer group of an endpoint."""
    return f"{settings.group}-deliver-{endpoint}"
