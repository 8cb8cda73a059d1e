"""A move of one customer, and its event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from msgspec import UNSET

from segmentation.entries import DAY_MS, HORIZON_MS, Rules
from segmentation.event_text import cloud_headers, iso, move_id
from segmentation.events import encode
from segmentation.life_figures import life_at, life_figures
from segmentation.model import SegmentModel
from segmentation.money import format_units
from segmentation.output_events import Cause, NextMove, OutlookFigures, Rfm, SegmentChanged
from segmentation.rfm import NONE
from segmentation.state_bytes import figures_in
from segmentation.step import NEVER_DUE, Output

NOTE: Final = Struct("<HIq")  # segment, sequence, time of the move: the part of its last move that a state keeps


@dataclass(slots=True)
class Move:
    """One move, as decided. `order` sorts the moves of a turn (docs/explanation/time.md, section 9)."""

    order: tuple[int, int, int, bytes]
    customer: bytes
    sequence: int
    source: int  # segment id; 0: none
    target: int  # segment id; 0: none (erased)
    cause: Cause
    at: int
    value: bytes  # the state after the move
    before: bytes | None = None  # the state without the cause of the move
    before_at: int = 0
    causation_id: str | None = None
    distances: Sequence[float] = ()
    next_at: int = NEVER_DUE
    next_to: int = 0
    merged_into: str | None = None
    outlook: OutlookFigures | None = None


def figures(value: bytes | None, at: int) -> Rfm | None:
    """Return the figures of a state at an instant at which its header holds; None: no state.

    Recency in days, exact to the millisecond; where no order stands any more, the horizon.
    """
    if value is None:
        return None
    return rfm_at(*figures_in(value), at)


def rfm_at(frequency: int, monetary: int, last: int, at: int) -> Rfm:
    """Return the figures of a header at an instant (ms)."""
    age = HORIZON_MS if last == NONE else min(max(at - last, 0), HORIZON_MS)
    return Rfm(age / float(DAY_MS), frequency, format_units(monetary))


def due_of(value: bytes) -> int | None:  # noqa: ARG001 - of any state
    """Return None: a published move that is written into a state leaves its due time as it was."""
    return None


def latest_of(value: bytes, note: bytes) -> bytes | None:
    """Return the record for the compacted topic of a move that is read from the log: None where it leads nowhere."""
    target, _, _ = NOTE.unpack(note)
    return value if target else None


class MoveWriter:
    """Turns moves into outputs, under one deployment's name and one model's segment names."""

    def __init__(self, group: str, model: SegmentModel, names: dict[int, str]) -> None:
        """Fix the names: segment id -> name, of this model and of earlier ones that customers may still be in."""
        self._group = group
        self._source = f"/segstream/{group}"
        self._version = model.version
        self._names = names
        self._labels = [s.name for s in model.segments]

    def name(self, segment: int) -> str | None:
        """Return the name of a segment id; None for 0. An id of no known model becomes "segment-ID"."""
        return None if segment == 0 else self._names.get(segment, f"segment-{segment}")

    def write(self, move: Move, now: int, rules: Rules) -> Output:
        """Make the record of a move, for the changes topic and the compacted topic. `now`: wall clock, ms."""
        customer = move.customer.decode()
        occurred_at = iso(move.at)
        upcoming = None
        if move.next_at < NEVER_DUE and (segment := self.name(move.next_to)):
            upcoming = NextMove(segment, iso(move.next_at))
        event = SegmentChanged(
            id=move_id(self._group, customer, move.sequence),
            customer_id=customer,
            sequence=move.sequence,
            from_=self.name(move.source),
            to=self.name(move.target),
            cause=move.cause,
            occurred_at=occurred_at,
            scored_at=iso(now),
            model_version=self._version,
            rfm=figures(move.value, move.at) if move.target else None,
            before=figures(move.before, move.before_at),
            distances=dict(zip(self._labels, move.distances, strict=False)),
            next=upcoming,
            causation_id=move.causation_id,
            life=life_figures(life_at(move.value, move.at, rules)) if move.target else None,
            outlook=move.outlook if move.target else None,
            merged_into=move.merged_into or UNSET,
        )
        body = encode(event)
        headers = cloud_headers("segment.changed", event.id, self._source, customer, occurred_at)
        note = NOTE.pack(move.target, move.sequence, move.at if move.target else NONE)
        return Output(move.customer, body, headers, note, latest=body if move.target else None)
