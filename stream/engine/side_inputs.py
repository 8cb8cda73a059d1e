"""The side inputs of a shard: what comes on them is joined to states, and isn't counted.

docs/explanation/exactly-once.md, section 16, has the rules; docs/adr/0041-side-inputs.md says why.

The place in a side input is in Redis' head alone, written with the states. Where Redis is set back, records are read
again, and change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.step import ORDERS, PROFILES, SideRecord
from stream.engine.log_reader import Bounds, LogReader
from stream.errors import ShardLost

if TYPE_CHECKING:
    from stream.engine.ownership import ShardContext
    from stream.settings import Settings
    from stream.storage.heads import KafkaHead, StoreHead
    from stream.storage.output_log import LogRecord

log = logging.getLogger(__name__)

# So much may be read again after a crash without a turn of its own: records without an effect, and seconds.
UNSTORED: Final = 1_000
UNSTORED_S: Final = 5.0
WAIT_MS: Final = 20  # for a side input of which more must come before anything is decided
SETTLING_MS: Final = 100  # between two looks whether the input has anything older than an order that waits
# Of fetches of the input after an order was read: the second one was asked for after it, so whatever had a place in the
# input before the order is known.
ANSWERS: Final = 2


class TakenSide(NamedTuple):
    """A record of a side input as a turn takes it: its topic, and the record as Kafka has it."""

    topic: str
    record: LogRecord


class SideBatch(NamedTuple):
    """The part of the side inputs that a turn takes."""

    taken: Sequence[TakenSide] = ()
    records: Sequence[SideRecord] = ()
    offsets: dict[str, int] = {}  # noqa: RUF012 - never changed; by topic: behind what is taken
    alone: bool = False  # profiles from before the takeover are still to come: nothing else may be in the turn
    behind: bool = False  # other side records from before the takeover are


NO_SIDES: Final = SideBatch()


@dataclass(slots=True)
class SideLog:
    """One side input: its reader, and what was read and isn't taken yet."""

    source: str
    topic: str
    reader: LogReader
    offset: int = 0  # behind the last record taken
    barrier: int = 0  # its end as asked when the shard was taken over
    pending: list[tuple[LogRecord, int]] = field(default_factory=list)  # with the input's answers by then
    position: int = 0  # behind the last record read

    async def fill(self, limit: int, answers: int, wait_ms: int = 0) -> None:
        """Read on, up to `limit` records in all. `answers`: how many fetches of the input are answered by now."""
        if (room := limit - len(self.pending)) <= 0:
            return
        self.pending += [(record, answers) for record in await self.reader.read(room, wait_ms)]
        self.position = await self.reader.position()

    def behind(self, count: int) -> int:
        """Return the offset behind the first `count` pending records: of the next one, where there is one."""
        return self.pending[count][0].offset if count < len(self.pending) else self.position

    @property
    def lag(self) -> int:
        """The number of offsets up to the end that isn't taken, as of the last fetch."""
        known = self.reader.known_bounds()
        return max((known[0] if known else self.position) - self.offset, 0)


class SideInputs:
    """Reads the side inputs of one shard, in the order that turns take them: profiles at once, orders in their time."""

    def __init__(self, settings: Settings, topics: dict[str, str], partition: int) -> None:
        """`topics`: those of the step's side inputs, by source. Call `start`, then `begin`."""
        self._settings = settings
        self._partition = partition
        self._logs = {source: SideLog(source, topic, LogReader(settings)) for source, topic in topics.items()}
        self._answers = 0  # to fetches of the input
        self._answered_at: int | None = None
        self._unstored = 0  # records taken since the offsets were stored
        self._unstored_since: float | None = None
        self._full = False  # there was more than the last turn could take
        self._deadline = 0.0  # for the next record from before the takeover

    @classmethod
    def of(cls, shard: ShardContext) -> SideInputs:
        """Return those of a shard's step, which may have none."""
        return cls(
            shard.settings, {source: shard.streams.sides[source] for source in shard.step.sides}, shard.partition
        )

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._logs)

    async def start(self) -> None:
        """Connect."""
        for side in self._logs.values():
            await side.reader.start()

    async def close(self) -> None:
        """Disconnect. It never raises and never hangs."""
        await asyncio.gather(*(side.reader.close() for side in self._logs.values()))

    def begin(self, offsets: dict[str, int], bounds: Bounds) -> None:
        """Read on from these offsets, by topic. `bounds`: of the topics, as asked after the takeover's first step."""
        for side in self._logs.values():
            side.offset = side.position = offsets[side.topic]
            side.barrier = bounds[side.topic][1]
            side.reader.seek(side.topic, self._partition, side.offset)
            side.reader.settle()
        self._deadline = time.monotonic() + self._settings.commit_timeout_s

    @property
    def offsets(self) -> dict[str, int]:
        """The offset behind the last record taken, by topic."""
        return {side.topic: side.offset for side in self._logs.values()}

    @property
    def lags(self) -> dict[str, int]:
        """How many offsets up to the end aren't taken, by source, as of the last fetch."""
        return {side.source: side.lag for side in self._logs.values()}

    @property
    def are_behind(self) -> bool:
        """Whether records from before the takeover are still to be taken."""
        return any(side.offset < side.barrier for side in self._logs.values())

    def note_answer(self, at: int | None) -> None:
        """Note when the last fetch of the input was answered (ms)."""
        if at != self._answered_at:
            self._answered_at = at
            self._answers += 1

    def pause_ms(self) -> int | None:
        """Return how long the next turn may wait for records of the input at most; None: as long as it likes."""
        if self._full or not self._are_known:
            return 0
        return SETTLING_MS if any(side.pending for side in self._logs.values()) else None

    @property
    def _are_known(self) -> bool:
        """Whether all profiles from before the takeover were taken."""
        side = self._logs.get(PROFILES)
        return side is None or side.offset >= side.barrier

    async def wait(self) -> None:
        """Wait a moment for profiles from before the takeover. Raises ShardLost where none comes in time."""
        if self._are_known:
            return
        side = self._logs[PROFILES]
        if not side.pending:
            await side.fill(self._settings.turn_max_orders, self._answers, WAIT_MS)
        if side.pending or side.position >= side.barrier:
            self._deadline = time.monotonic() + self._settings.commit_timeout_s
        elif time.monotonic() > self._deadline:
            raise ShardLost(
                "read_timeout", f"{side.topic}-{self._partition} can't be read from offset {side.position}."
            )

    async def take(self, limit: int, until: int | None, *, drained: bool) -> SideBatch:
        """Return what the next turn takes, at most `limit` records of each side input.

        `until`: the timestamp (ms) of the turn's last record. `drained`: as far as is known, the input has none left
        behind the turn's, not even in an open transaction. An order never comes before a record of the input with an
        earlier timestamp.
        """
        counts = dict.fromkeys(self._logs, 0)
        if profiles := self._logs.get(PROFILES):
            await profiles.fill(limit, self._answers)
            counts[PROFILES] = self._bounded(profiles, min(limit, len(profiles.pending)))
        known = profiles is None or profiles.behind(counts[PROFILES]) >= profiles.barrier
        if known and (orders := self._logs.get(ORDERS)):
            await orders.fill(limit, self._answers)
            counts[ORDERS] = self._bounded(orders, self._in_time(orders, limit, until, drained=drained))
        self._full = any(0 < counts[side.source] >= limit for side in self._logs.values())
        return self._batch(counts)

    def _in_time(self, orders: SideLog, limit: int, until: int | None, *, drained: bool) -> int:
        """Return how many of the pending orders no earlier record of the input can follow."""
        for count, (record, answers) in enumerate(orders.pending):
            settled = drained and self._answers >= answers + ANSWERS
            if count == limit or not (settled or (until is not None and record.timestamp <= until)):
                return count
        return len(orders.pending)

    def _bounded(self, side: SideLog, count: int) -> int:
        """Return how many of the first `count` records are small enough for one turn."""
        size = 0
        for index, (record, _) in enumerate(side.pending[:count]):
            size += len(record.value or b"")
            if size > self._settings.turn_max_bytes and index:
                return index
        return count

    def after(self, batch: SideBatch) -> SideBatch:
        """Return the batch of a turn that is done; where it took none, one that says where the side inputs stand."""
        return batch if batch.offsets or not self else self._batch(dict.fromkeys(self._logs, 0))

    def first(self, batch: SideBatch, count: int) -> SideBatch:
        """Return the batch with its first `count` records alone."""
        sources = [record.source for record in batch.records[:count]]
        return self._batch({source: sources.count(source) for source in self._logs})

    def _batch(self, counts: dict[str, int]) -> SideBatch:
        taken, records, offsets = list[TakenSide](), list[SideRecord](), dict[str, int]()
        for side in self._logs.values():
            count = counts[side.source]
            for record, _ in side.pending[:count]:
                taken.append(TakenSide(side.topic, record))
                records.append(SideRecord(side.source, record.offset, record.timestamp, record.key, record.value))
            offsets[side.topic] = side.behind(count)
        still_to_come = {s.source for s in self._logs.values() if offsets[s.topic] < s.barrier}
        return SideBatch(taken, records, offsets, PROFILES in still_to_come, bool(still_to_come))

    def must_store(self, batch: SideBatch) -> bool:
        """Return whether the offsets behind the batch are worth a turn of their own, though it changes nothing."""
        if self._unstored + len(batch.taken) >= UNSTORED:
            return True
        return self._unstored_since is not None and time.monotonic() - self._unstored_since >= UNSTORED_S

    def done(self, batch: SideBatch, *, stored: bool) -> None:
        """Note that a turn has taken the batch. `stored`: its offsets are in Redis."""
        counts = dict.fromkeys((side.topic for side in self._logs.values()), 0)
        for topic, _ in batch.taken:
            counts[topic] += 1
        moved = batch.offsets != self.offsets
        for side in self._logs.values():
            del side.pending[: counts[side.topic]]
            side.offset = batch.offsets[side.topic]
        if stored:
            self._unstored, self._unstored_since = 0, None
        elif moved:
            self._unstored += len(batch.taken)
            self._unstored_since = self._unstored_since or time.monotonic()


async def side_offsets(
    shard: ShardContext, reader: LogReader, head: StoreHead, kafka: KafkaHead | None, bounds: Bounds
) -> dict[str, int]:
    """Return where to read each of the step's side inputs on, by topic.

    A topic that Redis' head doesn't know: profiles from the beginning. Orders too where Redis was made anew and the
    shard has had turns, after which customers may have ordered; else from the end. An offset that the topic doesn't
    have: from the beginning, for what is read again changes nothing.
    """
    found: dict[str, int] = {}
    for source in shard.step.sides:
        topic = shard.streams.sides[source]
        begin, end = bounds[topic]
        offset = head.sides.get(topic)
        if offset is None:
            anew = head.turn == 0 and kafka is not None
            found[topic] = begin if source == PROFILES or anew else end
            continue
        if offset > end:
            end = await reader.end_reaching(topic, shard.partition, end, offset)
        if not begin <= offset <= end:
            log.warning(
                "%s: %s-%d has offsets %d to %d, and had come to %d: it is read again from its beginning",
                shard, topic, shard.partition, begin, end, offset,
            )  # fmt: skip
            offset = begin
        found[topic] = offset
    return found
