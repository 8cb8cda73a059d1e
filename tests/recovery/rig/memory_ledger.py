"""A Kafka in memory, with faults that no real server has on demand.

The real `Ledger` and `LogReader` work on this broker: only aiokafka's clients are replaced. It has all that the
protocol needs (transactions, fencing, aborted records, markers, the last stable offset), and passes the contract of the
real Kafka (test_ledger_contract.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalOperation,
    InvalidTxnState,
    MessageSizeTooLargeError,
    ProducerFenced,
)

from stream.engine import ledger, log_reader
from tests.recovery.rig.replacing import Replace

CLUSTER: Final = "memory"
SLOW_S: Final = 0.02  # delay of a slow record; everything else takes one round of the event loop
Rows = Sequence[tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]]


@dataclass(slots=True, eq=False)
class OpenTransaction:
    """A transaction. `outcome` None: it is open."""

    partitions: set[TopicPartition] = field(default_factory=set)
    outcome: bool | None = None


class MemoryLogEntry(NamedTuple):
    """One offset of a log: a record, or a transaction's marker."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    transaction: OpenTransaction | None
    marker: bool = False


class ReadRecord(NamedTuple):
    """A record as aiokafka's consumer returns it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass(slots=True)
class Faults:
    """The faults of the next requests."""

    refused: Counter[str] = field(default_factory=Counter)  # topic -> number of batches that fail
    slow: set[str] = field(default_factory=set)  # topics whose records arrive later than all others
    late_end_after: str | None = None  # the next end breaks its connection, and arrives after a record of the topic
    torn_after: str | None = None  # a late end of the previous transaction commits this one after a record of the topic
    low_ends: Counter[str] = field(default_factory=Counter)  # topic -> by how much its end offset is too low
    lost: str | None = None  # topic of a late record, whose partition is in no transaction any more
    verifies: bool = True  # refuse such a record; an old broker accepts it, and it is lost
    rows_in_batch: int = 1_000


class MemoryBroker:
    """The logs, the transactions, and the producers by transactional id."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.faults = Faults()
        self._logs: defaultdict[TopicPartition, list[MemoryLogEntry]] = defaultdict(list)
        self._epochs: Counter[str] = Counter()
        self._open: dict[str, OpenTransaction] = {}
        self._late: tuple[str, int, str] | None = None  # an end on its way: name, epoch, topic
        self.torn = 0  # transactions that a late end has ended
        self._refused: set[tuple[str, int]] = set()  # producers whose transaction was ended by another request

    def install(self, replace: Replace) -> None:
        """Let ledgers and readers work on this broker."""
        replace(ledger, "AIOKafkaProducer", partial(MemoryProducer, self))
        replace(log_reader, "AIOKafkaConsumer", partial(MemoryConsumer, self))

    def fence(self, name: str) -> int:
        """Begin a new epoch, and abort the open transaction of the old one."""
        self._end(name, committed=False)
        self._epochs[name] += 1
        return self._epochs[name]

    def check(self, name: str, epoch: int) -> None:
        if epoch != self._epochs[name]:
            raise ProducerFenced
        if (name, epoch) in self._refused:
            raise InvalidTxnState

    def join(self, name: str, epoch: int, tp: TopicPartition) -> OpenTransaction:
        """Add a partition to the producer's transaction."""
        self.check(name, epoch)
        transaction = self._open.setdefault(name, OpenTransaction())
        transaction.partitions.add(tp)
        return transaction

    def append(self, name: str, epoch: int, tp: TopicPartition, rows: Rows) -> int:
        """Append one batch. Return its first offset."""
        faults = self.faults
        if faults.refused[tp.topic]:
            faults.refused[tp.topic] -= 1
            raise MessageSizeTooLargeError
        log = self._logs[tp]
        if faults.lost == tp.topic:
            faults.lost = None
            if faults.verifies:
                raise InvalidTxnState
            return len(log)
        transaction = self.join(name, epoch, tp)
        log += [MemoryLogEntry(key, value, tuple(headers), transaction) for key, value, headers in rows]
        first = len(log) - len(rows)
        if faults.torn_after == tp.topic:
            faults.torn_after = None
            self._tear(name, epoch)
        if self._late and self._late[2] == tp.topic:
            late, self._late = self._late, None
            if late[1] == self._epochs[late[0]]:  # else the broker refuses it
                self.torn += 1
                self._tear(*late[:2])
        return first

    def _tear(self, name: str, epoch: int) -> None:
        """Commit what was sent of a transaction, and refuse the rest."""
        self._end(name, committed=True)
        self._refused.add((name, epoch))

    def receives_end(self, name: str, epoch: int) -> bool:
        """Return whether a request to commit arrives. Otherwise its connection breaks, and it arrives late."""
        if topic := self.faults.late_end_after:
            self.faults.late_end_after = None
            self._late = name, epoch, topic
            return False
        self.end(name, epoch, committed=True)
        return True

    def end(self, name: str, epoch: int, *, committed: bool) -> None:
        self.check(name, epoch)
        self._end(name, committed=committed)

    def _end(self, name: str, *, committed: bool) -> None:
        if transaction := self._open.pop(name, None):
            transaction.outcome = committed
            for tp in transaction.partitions:
                self._logs[tp].append(MemoryLogEntry(None, None, (), transaction, marker=True))

    def send(self, topic: str, rows: Sequence[tuple[bytes | None, bytes | None]], partition: int = 0) -> None:
        """Append records outside any transaction."""
        self._logs[TopicPartition(topic, partition)] += [MemoryLogEntry(key, value, (), None) for key, value in rows]

    def stable(self, tp: TopicPartition) -> int:
        """Return the last stable offset, which is before the first open transaction."""
        log = self._logs[tp]
        undecided = (at for at, e in enumerate(log) if e.transaction and e.transaction.outcome is None)
        return next(undecided, len(log))

    def high(self, tp: TopicPartition) -> int:
        """Return the high watermark."""
        return len(self._logs[tp])

    def read(self, tp: TopicPartition, offset: int, limit: int) -> tuple[list[ReadRecord], int]:
        """Return (committed records from `offset`, the position behind them)."""
        found: list[ReadRecord] = []
        end = self.stable(tp)
        while offset < end and len(found) < limit:
            entry = self._logs[tp][offset]
            if not entry.marker and (entry.transaction is None or entry.transaction.outcome):
                found.append(ReadRecord(offset, offset, entry.key, entry.value, entry.headers))
            offset += 1
        return found, offset

    def committed(self, topic: str, partition: int = 0) -> list[ReadRecord]:
        """Return all committed records."""
        return self.read(TopicPartition(topic, partition), 0, 2**31)[0]


class MemoryBatch:
    """A batch to be sent."""

    def __init__(self, room: int) -> None:
        self.rows: list[tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]] = []
        self._room = room

    def append(
        self, *, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]], timestamp: None
    ) -> object | None:
        """Append a row. Return None where the batch is full."""
        if len(self.rows) >= self._room:
            return None
        self.rows.append((key, value, headers))
        return self


class SentMetadata(NamedTuple):
    """The result of a send."""

    offset: int


class Wire:
    """The connections of aiokafka's clients, as far as the engine uses them: they never fail, all topics exist."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def _get_conn(self, *_: Any) -> object:
        return self

    def get_random_node(self) -> int:
        return 0

    async def send(self, _: int, request: Any) -> Described:
        partitions: list[object] = [{}] * self._broker.partitions
        return Described([{"topic": t, "error_code": 0, "partitions": partitions} for t in request._topics])


class Described(NamedTuple):
    """The answer to a request for metadata."""

    topics: list[dict[str, Any]]

    def to_object(self) -> dict[str, Any]:
        return {"cluster_id": CLUSTER, "topics": self.topics}


class MemoryProducer:
    """The transactional producer, as far as `Ledger` uses it. A record arrives later than it is sent."""

    def __init__(self, broker: MemoryBroker, *, transactional_id: str, **_: Any) -> None:
        self._broker = broker
        self._name = transactional_id
        self._epoch = 0
        self._under_way: set[asyncio.Future[SentMetadata]] = set()
        self._client = Wire(broker)
        # As in aiokafka, the owners of the calls below.
        self._txn_manager = self
        self._sender = self
        self._ending = False
        self._failure: Exception | None = None

    def maybe_add_partition_to_txn(self, tp: TopicPartition) -> None:
        if (self._name, self._epoch) not in self._broker._refused:
            self._broker.join(self._name, self._epoch, tp)

    def wait_for_transaction_end(self) -> None:
        """Return the future of the transaction's end: there is none, for errors are raised by the calls."""

    async def start(self) -> None:
        self._epoch = self._broker.fence(self._name)

    async def stop(self) -> None:
        for future in self._under_way:
            future.cancel()

    async def begin_transaction(self) -> None:
        if not self._epoch:
            raise IllegalOperation("not started")
        assert not self._failure
        self._broker.check(self._name, self._epoch)

    async def commit_transaction(self) -> None:
        # As in aiokafka: it waits for all sends, and ignores failed ones.
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._ending = True
        while result := self.needs_transaction_commit():
            await self._do_txn_commit(result)
        if self._failure:
            raise self._failure

    async def _do_txn_commit(self, _: bool) -> None:
        self._ending = not self._broker.receives_end(self._name, self._epoch)

    def needs_transaction_commit(self) -> bool | None:
        return self._ending or None

    def fatal_error(self, error: Exception) -> None:
        self._ending, self._failure = False, error

    def create_batch(self) -> MemoryBatch:
        return MemoryBatch(self._broker.faults.rows_in_batch)

    async def send_batch(self, batch: MemoryBatch, topic: str, *, partition: int) -> asyncio.Future[SentMetadata]:
        return self._send(TopicPartition(topic, partition), batch.rows)

    async def send(self, topic: str, value: bytes, *, key: bytes, partition: int) -> asyncio.Future[SentMetadata]:
        return self._send(TopicPartition(topic, partition), [(key, value, ())])

    def _send(self, tp: TopicPartition, rows: Rows) -> asyncio.Future[SentMetadata]:
        sent: asyncio.Future[SentMetadata] = asyncio.ensure_future(self._arrive(tp, rows))
        self._under_way.add(sent)
        sent.add_done_callback(self._under_way.discard)
        return sent

    async def _arrive(self, tp: TopicPartition, rows: Rows) -> SentMetadata:
        await asyncio.sleep(SLOW_S if tp.topic in self._broker.faults.slow else 0)
        return SentMetadata(self._broker.append(self._name, self._epoch, tp, rows))


class MemoryConsumer:
    """The consumer of one assigned partition, read_committed, as far as `LogReader` uses it."""

    def __init__(self, broker: MemoryBroker, **_: Any) -> None:
        self._broker = broker
        self._client = Wire(broker)
        self._fetcher = SimpleNamespace()  # as in aiokafka, the owner of the fetch wait
        self._at: dict[TopicPartition, int] = {}
        self._answers = 0

    async def start(self) -> None:
        """Do nothing: there is no connection."""

    async def stop(self) -> None:
        """Do nothing: there is no connection."""

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._at = dict.fromkeys(partitions, 0)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._at[tp] = offset

    async def position(self, tp: TopicPartition) -> int:
        return self._at[tp]

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        low = self._broker.faults.low_ends
        return {tp: max(self._broker.stable(tp) - low[tp.topic], 0) for tp in partitions}

    def highwater(self, tp: TopicPartition) -> int:
        return self._broker.high(tp)

    def last_stable_offset(self, tp: TopicPartition) -> int:
        return self._broker.stable(tp)

    def last_poll_timestamp(self, tp: TopicPartition) -> int:
        return self._answers

    async def getmany(
        self, tp: TopicPartition, *, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[ReadRecord]]:
        self._answers += 1  # a fetch is answered at once
        deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
        while True:
            begin = self._at[tp]
            found, self._at[tp] = self._broker.read(tp, begin, max_records)
            if self._at[tp] > begin or asyncio.get_running_loop().time() >= deadline:
                return {tp: found} if found else {}
            await asyncio.sleep(0.001)
