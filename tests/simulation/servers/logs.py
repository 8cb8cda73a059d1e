"""The logs of a Kafka in memory: records, transactions' markers, the last stable offset, retention and compaction."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidTxnState,
    NoError,
    OutOfOrderSequenceNumber,
)

Headers = tuple[tuple[str, bytes], ...]
Row = tuple[bytes | None, bytes | None, Headers]
KEPT_SEQUENCES = 5  # batches of a producer that a broker recognizes when they come again


@dataclass(slots=True, eq=False)
class TransactionSpan:
    """A transaction's part in one log, from its first record to its marker. `outcome` None: there is no marker yet."""

    first: int
    outcome: bool | None = None


class SimulatedEntry(NamedTuple):
    """One offset of a log: a record, or a marker."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    span: TransactionSpan | None
    marker: bool = False


class SimulatedRecord(NamedTuple):
    """A record as a consumer returns it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Fetched(NamedTuple):
    """The answer to a fetch."""

    records: list[SimulatedRecord]
    position: int  # the offset behind them
    end: int  # the last stable offset
    high: int  # the high watermark


@dataclass(slots=True)
class Sequence:
    """One producer, as a log knows it: its epoch, and its last batches, which may come again."""

    epoch: int = -1
    following: int = 0
    last: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=KEPT_SEQUENCES))


class Log:
    """One partition."""

    def __init__(self, tp: TopicPartition) -> None:
        self.tp = tp
        self.entries: list[SimulatedEntry] = []
        self.begin = 0
        self.compacted: set[int] = set()
        self._open: dict[int, TransactionSpan] = {}  # by the producer's id
        self._known: dict[int, Sequence] = {}
        self._waiters: list[asyncio.Future[Any]] = []

    @property
    def stable(self) -> int:
        """The last stable offset: before the first record whose transaction isn't decided."""
        return min((span.first for span in self._open.values()), default=len(self.entries))

    def in_transaction(self, pid: int) -> bool:
        """Return whether a producer's transaction is open in this log: then the coordinator isn't asked again."""
        return pid in self._open

    def append(self, rows: list[Row], timestamp: int, span: TransactionSpan | None = None) -> int:
        """Append records. Return the first offset."""
        first = len(self.entries)
        self.entries += [SimulatedEntry(key, value, headers, timestamp, span) for key, value, headers in rows]
        if span is None:
            self.wake()
        return first

    def produce(
        self, pid: int, epoch: int, sequence: int, rows: list[Row], timestamp: int, *, verified: bool
    ) -> tuple[type[Exception], int]:
        """Append a batch of a transactional producer. Return (error, offset)."""
        known = self._known.setdefault(pid, Sequence())
        if epoch < known.epoch:
            return InvalidProducerEpoch, -1
        for base, offset in known.last if epoch == known.epoch else ():
            if base == sequence:
                return NoError, offset
        if pid not in self._open and not verified:
            return InvalidTxnState, -1
        if epoch > known.epoch:
            known.epoch, known.following = epoch, 0
            known.last.clear()
        if sequence != known.following:
            return OutOfOrderSequenceNumber, -1
        span = self._open.setdefault(pid, TransactionSpan(len(self.entries)))
        first = self.append(rows, timestamp, span)
        known.following += len(rows)
        known.last.append((sequence, first))
        return NoError, first

    def mark(self, pid: int, epoch: int, timestamp: int, *, committed: bool) -> None:
        """Append a transaction's marker."""
        known = self._known.setdefault(pid, Sequence())
        if epoch > known.epoch:
            known.epoch, known.following = epoch, 0
            known.last.clear()
        span = self._open.pop(pid, None)
        if span:
            span.outcome = committed
        self.entries.append(SimulatedEntry(None, None, (), timestamp, span, marker=True))
        self.wake()

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def wait(self, waiter: asyncio.Future[Any]) -> None:
        """Let the next change of the log end this future."""
        self._waiters = [w for w in self._waiters if not w.done()]
        self._waiters.append(waiter)

    def is_committed(self, offset: int) -> bool:
        entry = self.entries[offset]
        return not entry.marker and (entry.span is None or bool(entry.span.outcome))

    def read(self, offset: int, limit: int) -> Fetched:
        """Read committed records from `offset` on."""
        found: list[SimulatedRecord] = []
        end = self.stable
        while offset < end and len(found) < limit:
            if offset not in self.compacted and self.is_committed(offset):
                entry = self.entries[offset]
                found.append(SimulatedRecord(offset, entry.timestamp, entry.key, entry.value, entry.headers))
            offset += 1
        return Fetched(found, offset, end, len(self.entries))

    def history(self) -> list[SimulatedRecord]:
        """Return all committed records, also those that retention or compaction has deleted."""
        return [
            SimulatedRecord(at, e.timestamp, e.key, e.value, e.headers)
            for at, e in enumerate(self.entries)
            if self.is_committed(at)
        ]

    def delete_before(self, offset: int) -> None:
        """Delete records from the front (retention)."""
        self.begin = max(self.begin, min(offset, self.stable))

    def compact(self) -> None:
        """Keep the last committed record of each key, and whatever isn't decided."""
        seen: set[bytes | None] = set()
        for at in range(self.stable - 1, self.begin - 1, -1):
            entry = self.entries[at]
            if not self.is_committed(at) or entry.key in seen:
                self.compacted.add(at)
            else:
                seen.add(entry.key)
