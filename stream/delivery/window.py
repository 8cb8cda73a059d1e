"""The records of an endpoint that aren't resolved yet: which is next, and how far all before it are. Pure.

A record is resolved when the endpoint has taken it, or when it was given up. Of each customer only the oldest record
may be sent, so that the endpoint sees the records of a customer in their order. A customer whose record waits for its
next attempt holds up nobody else.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from stream.delivery.filters import ActionFacts

MOST_RECORDS: Final = 10_000
MOST_BYTES: Final = 64 * 1024 * 1024
_RESUME: Final = 0.8  # of either limit: below it the endpoint reads on


class LogPartition(NamedTuple):
    """A partition of the topic of actions, or of their redeliveries."""

    topic: str
    partition: int


@dataclass(slots=True, eq=False)
class Unresolved:
    """A record that isn't resolved. `attempts`: how many there were. `due_ms`: when the next one may be."""

    place: LogPartition
    offset: int
    facts: ActionFacts
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]
    stored_ms: int  # when Kafka got the record
    attempts: int = 0
    due_ms: int = 0
    sending: bool = False
    resolved: bool = False

    @property
    def size(self) -> int:
        """The bytes that it takes here, roughly."""
        return len(self.value) + sum(len(value or b"") for _, value in self.headers) + 500


@dataclass(slots=True)
class DeliveryWindow:
    """The unresolved records of an endpoint in this process. Records of a partition are added in their order."""

    most_records: int = MOST_RECORDS
    most_bytes: int = MOST_BYTES
    _places: dict[LogPartition, OrderedDict[int, Unresolved]] = field(default_factory=dict)
    _customers: dict[str, deque[Unresolved]] = field(default_factory=dict)
    _due: list[tuple[int, int, Unresolved]] = field(default_factory=list)  # oldest of their customers; may be outdated
    _ages: OrderedDict[Unresolved, None] = field(default_factory=OrderedDict)  # as they were added
    _count: int = 0
    _bytes: int = 0
    _added: int = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether no more should be read."""
        return self._count >= self.most_records or self._bytes >= self.most_bytes

    @property
    def has_room(self) -> bool:
        """Whether reading may go on after a pause."""
        return self._count <= _RESUME * self.most_records and self._bytes <= _RESUME * self.most_bytes

    def add(self, record: Unresolved) -> None:
        """Add a record; those of its customer that are here already come first."""
        self._places.setdefault(record.place, OrderedDict())[record.offset] = record
        queue = self._customers.setdefault(record.facts.customer_id, deque())
        queue.append(record)
        self._ages[record] = None
        self._count += 1
        self._bytes += record.size
        if queue[0] is record:
            self._schedule(record)

    def next_due(self, now_ms: int) -> Unresolved | None:
        """Take the record that has been due longest, to be sent; None: none is due."""
        while self._due:
            due_ms, _, record = self._due[0]
            if record.resolved or record.sending or record.due_ms != due_ms:
                heapq.heappop(self._due)
            elif due_ms > now_ms:
                return None
            else:
                heapq.heappop(self._due)
                record.sending = True
                return record
        return None

    def due_in_ms(self, now_ms: int) -> int | None:
        """Return how long until a record is due; None: none will be without something else happening first."""
        while self._due:
            due_ms, _, record = self._due[0]
            if not (record.resolved or record.sending or record.due_ms != due_ms):
                return max(due_ms - now_ms, 0)
            heapq.heappop(self._due)
        return None

    def retry(self, record: Unresolved, due_ms: int) -> None:
        """Put a record that was being sent back, to be sent again at `due_ms`."""
        record.sending, record.due_ms = False, due_ms
        if not record.resolved and self._customers[record.facts.customer_id][0] is record:
            self._schedule(record)

    def resolve(self, record: Unresolved) -> None:
        """Remove a record, and let its customer's next one follow."""
        if record.resolved:
            return
        record.resolved, record.sending = True, False
        place = self._places[record.place]
        del place[record.offset]
        self._ages.pop(record, None)  # else all that comes after one that waits for days would stay in memory
        self._count -= 1
        self._bytes -= record.size
        queue = self._customers[record.facts.customer_id]
        first = queue[0]
        while queue and queue[0].resolved:
            queue.popleft()
        if not queue:
            del self._customers[record.facts.customer_id]
        elif queue[0] is not first:
            self._schedule(queue[0])

    def older_than(self, stored_ms: int, most: int) -> list[Unresolved]:
        """Take up to `most` records that Kafka got before an instant and that aren't being sent, to be given up."""
        found: list[Unresolved] = []
        for _ in range(len(self._ages)):
            record = next(iter(self._ages))
            if len(found) == most or record.stored_ms >= stored_ms:
                break
            if record.sending:
                self._ages.move_to_end(record)  # its attempt under way decides; looked at again
            else:
                del self._ages[record]
                record.sending = True
                found.append(record)
        return found

    def unresolved_of(self, place: LogPartition) -> Iterator[Unresolved]:
        """Yield the records of a partition in their order."""
        yield from self._places.get(place, OrderedDict()).values()

    def lowest(self, place: LogPartition) -> int | None:
        """Return the lowest offset of a partition that isn't resolved; None: all that were read are."""
        return next(iter(self._places.get(place, ())), None)

    def oldest_ms(self) -> int | None:
        """Return when Kafka got the oldest record here, roughly; None: there is none."""
        return next((record.stored_ms for record in self._ages), None)

    def clear(self) -> None:
        """Forget all records: their partitions belong to another process."""
        for place in self._places.values():
            for record in place.values():
                record.resolved = True  # an attempt that is still under way finds nothing to do
        self._places, self._customers, self._due, self._ages = {}, {}, [], OrderedDict()
        self._count = self._bytes = 0

    def _schedule(self, record: Unresolved) -> None:
        self._added += 1
        heapq.heappush(self._due, (record.due_ms, self._added, record))
