"""How far the delivery of a partition to an endpoint is, so that a restart goes on exactly there. Pure.

A position says: all records below `offset` are resolved, but for those that `waiting` lists. The outcomes from
`outcomes_from` on, in the same partition of the topic of deliveries, say what came after. So a position may be old:
nothing is lost by that, and nothing is sent twice either, as long as the outcomes are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from segmentation.event_text import EPOCH
from stream.delivery.outcomes import DeliveryEvent, DeliveryRetrying
from stream.delivery.window import LogPartition

_encoder: Final = msgspec.json.Encoder()


class WaitingRecord(Struct, frozen=True, array_like=True, gc=False):
    """A record that isn't resolved: its offset, the attempts so far, and when the next one is due."""

    offset: int
    attempts: int = 0
    due_ms: int = 0


class DeliveryPosition(Struct, frozen=True):
    """How far an endpoint's delivery of a partition is."""

    offset: int
    outcomes_from: int
    waiting: tuple[WaitingRecord, ...] = ()


class EndpointState(Struct, frozen=True, omit_defaults=True):
    """Whether an endpoint is disabled: since when (ISO 8601), and why. None: it is enabled."""

    disabled_at: str | None = None
    why: str = ""


@dataclass(slots=True)
class Resumption:
    """The start of a process that takes a partition over: where it reads, and what became of the records there."""

    position: DeliveryPosition
    fates: dict[int, WaitingRecord | None] = field(default_factory=dict)  # by offset; None: it is resolved

    @classmethod
    def of(cls, position: DeliveryPosition, place: LogPartition, outcomes: Iterable[DeliveryEvent]) -> Resumption:
        """Return it for a position and the outcomes, of this endpoint, that came after it in their order."""
        found = cls(position, {waiting.offset: waiting for waiting in position.waiting})
        for event in outcomes:
            record = event.record
            if (record.topic, record.partition) != place:
                continue
            if isinstance(event, DeliveryRetrying):
                due_ms = 0 if event.next_attempt_at is None else _ms(event.next_attempt_at)
                found.fates[record.offset] = WaitingRecord(record.offset, event.attempt, due_ms)
            else:
                found.fates[record.offset] = None
        return found

    def first_offset(self) -> int:
        """Return the offset from which records have to be read."""
        waiting = [offset for offset, fate in self.fates.items() if fate is not None]
        return min([self.position.offset, *waiting])

    def take(self, offset: int) -> WaitingRecord | None:
        """Return how often a record was tried so far; None: it is resolved.

        >>> after = Resumption(DeliveryPosition(10, 0), {3: WaitingRecord(3, 2, 7_000), 11: None})
        >>> after.take(2), after.take(3), after.take(11), after.take(12)
        (None, WaitingRecord(offset=3, attempts=2, due_ms=7000), None, WaitingRecord(offset=12, attempts=0, due_ms=0))
        """
        untouched = None if offset < self.position.offset else WaitingRecord(offset)
        return self.fates.pop(offset, untouched)


def position_key(endpoint: str, place: LogPartition) -> bytes:
    """Return the record key of a position."""
    return f"position {endpoint} {place.partition} {place.topic}".encode()


def state_key(endpoint: str) -> bytes:
    """Return the record key of an endpoint's state."""
    return f"endpoint {endpoint}".encode()


def encode_kept(kept: DeliveryPosition | EndpointState) -> bytes:
    """Return a position or a state as JSON."""
    return _encoder.encode(kept)


def _ms(text: str) -> int:
    return round((datetime.fromisoformat(text) - EPOCH).total_seconds() * 1000)
