"""A Kafka in memory, as far as the protocol needs one: transactions with their coordinator, fencing, markers.

A transaction ends in two steps, as in Kafka: the coordinator decides, and the markers reach each log later. An end of a
transaction names its producer's epoch and no transaction (before Kafka 4's second version of transactions): one that
arrives late ends whatever transaction the producer has open then.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import (
    ConcurrentTransactions,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    MessageSizeTooLargeError,
    NoError,
    OffsetOutOfRangeError,
)
from aiokafka.record.memory_records import MemoryRecords

from tests.simulation.choices import Choices
from tests.simulation.servers.logs import Fetched, Log, Row
from tests.simulation.virtual_loop import WORLD

CLUSTER: Final = "simulated"
ErrorClass = Any  # a class of aiokafka.errors, which has no types
MARKER_DELAYS_S: Final = (0.001, 0.003, 0.01, 0.05, 0.2, 0.5)
LARGEST_BATCH: Final = 1_048_588  # Kafka's default
LOW_S: Final = 0.5  # how long an end offset stays too low
DOUBT_S: Final = 1.0  # how long it may become too low again: with LOW_S less than the engine's patience
RIGHT_S: Final = 2.0  # how long it is right after that: leaders don't change every second
_PRODUCER: Final = struct.Struct(">qhi")  # id, epoch and first sequence number in the header of a batch
_PRODUCER_AT: Final = 43


@dataclass(slots=True)
class Coordinated:
    """A transactional id, as its coordinator knows it."""

    pid: int
    epoch: int = -1
    state: str = "empty"  # empty, ongoing, prepared, complete
    committed: bool = False
    partitions: set[TopicPartition] = field(default_factory=set)
    begun: int = 0  # how many transactions
    timer: asyncio.TimerHandle | None = None


class SimulatedBroker:
    """The logs, and the coordinators of transactions. Each method is one request, done at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, choices: Choices, rates: Mapping[str, int]) -> None:
        """`rates`: one in so many markers is late, batches is refused or torn off, end offsets is too low."""
        self._loop = loop
        self._markers = choices.stream("marker", rates["marker"])
        self._refusals = choices.stream("refusal", rates["refusal"])
        self._tears = choices.stream("tear", rates["tear"])
        self._lows = choices.stream("low", rates["low"])
        self.calm = False
        self.logs: dict[TopicPartition, Log] = {}
        self.partitions: dict[str, int] = {}
        self.verifies = True  # that a record's partition belongs to the producer's transaction
        self._low_ends: dict[TopicPartition, tuple[int, float]] = {}  # how much too low an end is, and until when
        self._doubted: dict[TopicPartition, float] = {}  # since when ends are uncertain
        self.now_ms: Callable[[], int] = lambda: 0
        self.note: Callable[[str], None] = lambda _: None
        self._ids: dict[str, Coordinated] = {}
        self.fencings: list[tuple[str, int]] = []  # of transactional ids, and when (ms)
        self.late_ends: list[str] = []  # each has torn a transaction

    def create(self, topic: str, partitions: int) -> None:
        self.partitions[topic] = partitions
        for p in range(partitions):
            tp = TopicPartition(topic, p)
            self.logs[tp] = Log(tp)

    def init_producer(self, name: str) -> tuple[ErrorClass, int, int]:
        """Begin a new epoch: settle the predecessor's transaction first. Return (error, id, epoch)."""
        known = self._ids.setdefault(name, Coordinated(len(self._ids) + 1))
        if known.state == "prepared":
            return ConcurrentTransactions, -1, -1
        if known.state == "ongoing":
            known.epoch += 1
            self._prepare(known, committed=False)
            return ConcurrentTransactions, -1, -1
        known.epoch, known.state = known.epoch + 1, "empty"
        self.fencings.append((name, self.now_ms()))
        return NoError, known.pid, known.epoch

    def add_partitions(
        self, name: str, pid: int, epoch: int, tps: list[TopicPartition], timeout_s: float
    ) -> ErrorClass:
        known = self._ids.get(name)
        if known is None or known.pid != pid:
            return InvalidProducerIdMapping
        if epoch != known.epoch:
            return InvalidProducerEpoch
        if known.state == "prepared":
            return ConcurrentTransactions
        if known.state != "ongoing":
            known.state = "ongoing"
            known.begun += 1
            known.partitions.clear()
            known.timer = self._loop.call_later(timeout_s, self._expire, known, epoch, context=WORLD)
        known.partitions.update(tps)
        return NoError

    def _expire(self, known: Coordinated, epoch: int) -> None:
        if known.state == "ongoing" and known.epoch == epoch:
            self.note("a transaction has timed out")
            known.epoch += 1
            self._prepare(known, committed=False)

    def begun(self, name: str) -> int:
        """Return the number of a producer's last transaction."""
        return self._ids[name].begun

    def end(self, name: str, pid: int, epoch: int, begun: int, *, committed: bool) -> ErrorClass:
        """End the transaction that is open. `begun`: the number of the one that was meant, which Kafka doesn't know."""
        known = self._ids.get(name)
        if known is None or known.pid != pid:
            return InvalidProducerIdMapping
        if epoch != known.epoch:
            return InvalidProducerEpoch
        if known.state == "ongoing":
            # A repeated request may have begun one without any record: nothing of it can be torn.
            if known.begun != begun and any(self.logs[tp].in_transaction(pid) for tp in known.partitions):
                self.late_ends.append(f"a late end has torn a transaction ({name}: {begun}, {known.begun})")
            self._prepare(known, committed=committed)
            return NoError
        if known.state == "empty" or known.committed != committed:
            return InvalidTxnState
        return ConcurrentTransactions if known.state == "prepared" else NoError

    def _prepare(self, known: Coordinated, *, committed: bool) -> None:
        known.state, known.committed = "prepared", committed
        if known.timer:
            known.timer.cancel()
        missing = set(known.partitions)
        for tp in sorted(known.partitions):
            if late := self._markers.next():
                delay = MARKER_DELAYS_S[late % len(MARKER_DELAYS_S)]
                self._loop.call_later(delay, self._mark, known, tp, missing, known.epoch, context=WORLD)
            else:
                self._mark(known, tp, missing, known.epoch)
        if not missing:
            known.state = "complete"

    def _mark(self, known: Coordinated, tp: TopicPartition, missing: set[TopicPartition], epoch: int) -> None:
        self.logs[tp].mark(known.pid, epoch, self.now_ms(), committed=known.committed)
        missing.discard(tp)
        if not missing:
            known.state = "complete"

    def produce(self, name: str, tp: TopicPartition, data: bytes) -> tuple[ErrorClass, int]:
        """Append a batch in a transaction. Return (error, first offset)."""
        pid, epoch, sequence = _PRODUCER.unpack_from(data, _PRODUCER_AT)
        if len(data) > LARGEST_BATCH:
            return MessageSizeTooLargeError, -1
        if self._refusals.next() and not self.calm:
            self.note(f"{tp.topic}-{tp.partition} refuses a batch")
            return MessageSizeTooLargeError, -1
        known, log = self._ids[name], self.logs[tp]
        member = known.state == "ongoing" and tp in known.partitions and known.epoch == epoch
        rows = _rows(data)
        error, offset = log.produce(pid, epoch, sequence, rows, self.now_ms(), verified=member or not self.verifies)
        if error is InvalidTxnState:
            self.note(f"{tp.topic}-{tp.partition}: a batch belongs to no transaction")
        if error is NoError and self._tears_after(known) and known.state == "ongoing" and not self.calm:
            self.note(f"{name}: a late request ends the transaction after a batch for {tp.topic}-{tp.partition}")
            self._prepare(known, committed=True)
        return error, offset

    def _tears_after(self, known: Coordinated) -> bool:
        """Return whether a late request ends a transaction now: likelier while logs still miss their part of it."""
        missing = sum(not self.logs[tp].in_transaction(known.pid) for tp in known.partitions)
        return any(self._tears.next() for _ in range(1 + missing))

    def bounds(self, tps: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return (first offset, last stable offset) of logs."""
        now = self._loop.time()
        for tp in tps:
            if (value := self._lows.next()) and not self.calm and self._may_doubt(tp, now):
                self._low_ends[tp] = value % 8, now + LOW_S
                self.note(f"the end of {tp.topic}-{tp.partition} seems {value % 8} too low")
        found = {}
        for tp in tps:
            low, until = self._low_ends.get(tp, (0, 0.0))
            log = self.logs[tp]
            found[tp] = (log.begin, max(log.stable - (low if now < until else 0), log.begin))
        return found

    def _may_doubt(self, tp: TopicPartition, now: float) -> bool:
        began = self._doubted.get(tp)
        if began is None or now > began + DOUBT_S + RIGHT_S:
            self._doubted[tp] = began = now
        return now <= began + DOUBT_S

    def fetch(self, tp: TopicPartition, offset: int, limit: int, wait_s: float) -> Fetched | asyncio.Future[Fetched]:
        """Read committed records, at once where there are any."""
        log = self.logs[tp]
        if not log.begin <= offset <= len(log.entries):
            raise OffsetOutOfRangeError({tp: offset})
        found = log.read(offset, limit)
        if found.position > offset or wait_s <= 0:
            return found
        answer: asyncio.Future[Fetched] = self._loop.create_future()
        waiter: asyncio.Future[None] = self._loop.create_future()
        log.wait(waiter)
        timer = self._loop.call_later(wait_s, _end, waiter, context=WORLD)

        def changed(_: Any) -> None:
            timer.cancel()
            try:
                again = self.fetch(tp, offset, limit, 0)
            except OffsetOutOfRangeError as error:
                answer.set_exception(error)
                return
            assert isinstance(again, Fetched)
            answer.set_result(again)

        waiter.add_done_callback(changed, context=WORLD)
        return answer

    def history(self, topic: str) -> list[tuple[int, Any]]:
        """Return (partition, record) for all committed records of a topic."""
        return [
            (p, record)
            for p in range(self.partitions[topic])
            for record in self.logs[TopicPartition(topic, p)].history()
        ]


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _rows(data: bytes) -> list[Row]:
    records = MemoryRecords(bytes(data))
    found: list[Row] = []
    while records.has_next():
        found += [(r.key, r.value, tuple(r.headers)) for r in records.next_batch()]
    return found
