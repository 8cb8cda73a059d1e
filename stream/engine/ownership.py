"""Ownership of a shard: its context, the group's confirmation of its owner, and the one head that Redis must hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, ParamSpec, Protocol, TypeVar, Unpack

import msgspec
from redis.exceptions import RedisError

from segmentation.agreed import JudgedBefore
from segmentation.rates import Rates
from segmentation.step import (
    BatchTooLong,
    DeadLetter,
    KafkaRecord,
    Output,
    StateUnreadable,
    Step,
    Turn,
    TurnContext,
    TurnPlan,
)
from stream.dead_letters.records import HEADER_ROOM, DeadRecord, dead_record
from stream.engine.ledger import Ledger, Onward, Publication, Written
from stream.engine.log_reader import LogReader
from stream.engine.side_inputs import SideInputs, TakenSide
from stream.engine.store import ShardStore, Writes
from stream.errors import ShardLost, ShardQuarantined, StepFailed, error_text
from stream.kafka.streams import Streams, foreign_outputs
from stream.settings import Settings
from stream.storage.heads import HeadChange, KafkaHead, StoreHead, encode_head
from stream.storage.output_log import LogRecord

log = logging.getLogger(__name__)

REWRITTEN: Final = 250  # customers of a slice that rewrites states of a former format
REWRITING_S: Final = 0.02  # longest time that a slice holds the event loop
REWRITES_S: Final = 0.5  # between two slices of a shard that has records
P = ParamSpec("P")
T = TypeVar("T")


class Membership(Protocol):
    """The consumer group, as far as a shard needs it."""

    def identity(self) -> tuple[int, str]:
        """Return (generation, member id) of this worker now."""

    async def confirm(self, partition: int) -> bool:
        """Ask the coordinator now: return whether the group still counts this worker as the shard's owner."""


class RateSource(Protocol):
    """The rates of other currencies, as far as a shard needs them."""

    def known(self) -> Rates | None:
        """Return the rates that were read so far; None: there is one currency."""

    async def read_on(self) -> bool:
        """Read the topic to its present end; return whether anything had come."""


class OneCurrency:
    """No rates: of a deployment with one currency, and of steps that know no money."""

    def known(self) -> Rates | None:
        """Return None."""
        return None

    async def read_on(self) -> bool:
        """Return that nothing has come."""
        return False


@dataclass(slots=True)
class ShardContext:
    """One shard: its topics, its partition, its step, and where it is stored."""

    settings: Settings
    streams: Streams
    partition: int
    step: Step
    store: ShardStore
    membership: Membership
    rates: RateSource = field(default_factory=OneCurrency)
    handing_over: bool = False  # `segstream reshard` brings it to its end: the topics may have more partitions already

    def __str__(self) -> str:
        """Return the shard's name in logs and messages."""
        return f"{self.streams.input}-{self.partition}"


class Owned:
    """A shard that this worker owns: its writer, its reader, and the head that Redis must hold."""

    def __init__(
        self,
        shard: ShardContext,
        ledger: Ledger,
        reader: LogReader,
        head: StoreHead,
        raw: bytes | None,
        sides: SideInputs | None = None,
    ) -> None:
        """`raw`: the head's bytes in Redis; None: Redis has no head yet. `sides`: started, where there are any."""
        self.shard = shard
        self.judged: tuple[JudgedBefore, ...] = ()  # of Kafka's head: how earlier records were judged
        self.reread = 0  # of Kafka's head: the last change of settings after which all records were read again
        self.ledger = ledger
        self.reader = reader
        self.head = head
        self.raw = raw
        self.warning = ""  # what an operator should know although the shard works
        self.rewrites_at = 0.0  # monotonic: when to rewrite states of a former format though there are records
        self.reported: frozenset[int] = frozenset()  # records beyond Kafka's head that have their dead letter already
        # Records of side inputs, by topic and offset, that may have their dead letter already.
        self.reported_sides: frozenset[tuple[str, int]] = frozenset()
        self.sides = sides or SideInputs.of(shard)
        self._next: dict[str, range] = {}  # by output topic: the offsets that the next record may get

    def begins_at(self, output: int) -> None:
        """Note where the next output belongs, after a takeover: here, or behind a transaction's marker."""
        self._next[self.shard.streams.output] = range(output, output + 2)

    async def check_alone(self, written: Sequence[Written]) -> None:
        """Check that nobody else has written to the output topics since this owner did. Call it before the commit.

        Between two turns' records lies one offset, the marker of the earlier transaction. Raises ShardQuarantined where
        another group has written to the topic of the latest outputs, ShardLost otherwise: a takeover reads the outputs.
        """
        for topic, first, last, rows in written:
            allowed = self._next.get(topic)
            self._next[topic] = range(last + 2, last + 3)
            if last - first + 1 == rows and (allowed is None or first in allowed):
                continue
            begin, partition = allowed.start if allowed else first, self.shard.partition
            if topic != self.shard.streams.output and (
                group := await self.reader.any_group(topic, partition, (begin, last))
            ):
                raise foreign_outputs(self.shard.settings, topic, partition, group)
            raise ShardLost(
                "foreign_outputs",
                f"somebody else has written to {topic}-{partition}: {rows} records lie at offsets {first} to {last}"
                + (f", and {begin} was free." if allowed else "."),
            )

    def dead_records(
        self, records: Sequence[KafkaRecord], turn: Turn, side: Sequence[TakenSide], now_ms: int
    ) -> list[DeadRecord]:
        """Return a turn's records for the dead-letter topic. Those that are there already are left out."""
        topic, dead = self.shard.streams.input, list[DeadRecord]()
        for letter in turn.dead:
            if (record := records[letter.position]).offset not in self.reported:
                dead.append(self._dead_record(record, letter, topic, now_ms))
        for letter in turn.side_dead:
            topic, record = side[letter.position]
            if (topic, record.offset) not in self.reported_sides:
                dead.append(self._dead_record(record, letter, topic, now_ms))
        return dead

    def _dead_record(self, record: KafkaRecord, letter: DeadLetter, topic: str, now_ms: int) -> DeadRecord:
        settings = self.shard.settings
        limit = settings.max_event_bytes + HEADER_ROOM // 2
        return dead_record(
            record, letter, topic, self.shard.partition, now_ms=now_ms, max_bytes=limit, group=settings.group
        )

    async def publication(
        self,
        head: KafkaHead,
        outputs: Sequence[Output],
        turn: Turn,
        records: Sequence[LogRecord],
        writes: Writes,
        now_ms: int,
        side: Sequence[TakenSide] = (),
    ) -> Publication:
        """Return all that a turn sends to Kafka. `writes`: what Redis gets, with tombstones. Raises as `load` does."""
        dead = self.dead_records(records, turn, side, now_ms)
        shard, group = self.shard, self.shard.settings.group
        tombstones, former = await shard.store.left_behind(self.raw, writes, turn.remnants, shard.step)
        onward = Onward.all_of(turn, records, shard.streams, group)
        return Publication(head, outputs, dead, tombstones, former, onward)

    async def commit(self, writes: Writes, **change: Unpack[HeadChange]) -> None:
        """Commit the writes to Redis, with the head changed by `change`. Raises ShardLost where the commit failed.

        Where the outcome is unknown, the head is read back: if it is the new one, the commit succeeded.
        """
        head = msgspec.structs.replace(self.head, turn=self.head.turn + 1, stored=None, **change)
        sent = encode_head(head)
        raw: bytes | None
        try:
            raw = await self.shard.store.commit(self.raw, sent, writes)
        except RedisError as error:
            raw = await self.shard.store.committed(sent)
            if raw is None:
                raise ShardLost("redis_commit", f"the commit to Redis failed: {error_text(error)}.") from error
        self.head, self.raw = head, raw

    async def close(self) -> None:
        """Close the connections to Kafka."""
        await self.ledger.close()
        await self.reader.close()
        await self.sides.close()


async def rewrite_former(owned: Owned, *, idle: bool) -> None:
    """Rewrite some states of a former format, where any are left: a slice in each idle turn, else a few a second.

    A state keeps its meaning, so nothing is published, and an owner that has lost Kafka does no harm: the commit to
    Redis compares the head. A crash repeats a slice at most.
    """
    shard, head = owned.shard, owned.head
    if head.rewritten is None or not (idle or time.monotonic() >= owned.rewrites_at):
        return
    assert owned.raw is not None
    rows, found, last = await shard.store.load_slice(owned.raw, head.rewritten, REWRITTEN)
    until, states, done = time.monotonic() + REWRITING_S, dict[bytes, bytes](), last
    for key, value in rows:
        now = stepping(shard.step.current, value)
        if now is not value:
            states[key] = now
        if time.monotonic() > until and key != last:
            done = key
            break
    cursor = None if done == last and found < REWRITTEN else done.decode()
    await owned.commit(Writes(states), rewritten=cursor)
    owned.rewrites_at = time.monotonic() + REWRITES_S
    if cursor is None:
        log.info("%s: all states are in the present format", shard)


async def planned(
    shard: ShardContext,
    plan: Callable[[Sequence[KafkaRecord], int, TurnContext], TurnPlan],
    records: Sequence[KafkaRecord],
    context: TurnContext,
) -> TurnPlan:
    """Return the step's plan (`plan` or `absorb`) with all rates that these records may use.

    Where a record found none, the rates are read up to now, and the plan is made once more: what came after the record
    is too late for it by its timestamp, so any worker decides alike, whenever it does.
    """
    result = stepping(plan, records, shard.partition, context._replace(rates=shard.rates.known()))
    if result.no_rate and await shard.rates.read_on():
        result = stepping(plan, records, shard.partition, context._replace(rates=shard.rates.known()))
    return result


def stepping(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the step. Raises StepFailed for any error of the step, which is then not taken for one of Kafka or Redis.

    Raises ShardQuarantined where a state isn't of this version: no record causes that. BatchTooLong passes.
    """
    try:
        return call(*args, **kwargs)
    except BatchTooLong:
        raise
    except StateUnreadable as error:
        raise ShardQuarantined(
            "state_format",
            f"a state in Redis can't be read: {error}.",
            hint="If a newer version wrote it, run that version. `segstream rebuild` makes all states anew from Kafka.",
        ) from error
    except Exception as error:
        raise StepFailed(f"the step raised {error!r}.") from error
