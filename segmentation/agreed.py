"""The settings that decide what a state or a move is: all workers of a deployment must have the same.

They stand in the shards' heads (stream/storage/heads.py). docs/adr/0024-settings-that-agree.md says for each why it is
one of them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from msgspec import Struct

from segmentation.entries import DAY_MS, Rules

if TYPE_CHECKING:
    from collections.abc import Sequence


class Agreed(Struct, frozen=True):
    """The settings that all workers of a deployment share, under the names that they have as settings.

    A head of an earlier version lacks a field that came later: give it a default that stands for "not known", and let
    `differences` skip it.
    """

    window_days: int
    grace_days: int
    cap_entries: int
    currency: str
    time: Literal["wall", "event"]
    dwell_hours: float
    partitioner: str
    future_tolerance_s: int
    max_clock_jump_days: int
    max_event_bytes: int
    earliest_date: str  # ISO 8601
    backfill_expiry_hours: float
    other_currencies: str = ""  # codes, sorted, with commas between them; versions before had one currency

    @property
    def rules(self) -> Rules:
        """The settings that the bytes of a state depend on (docs/explanation/state-format.md, section 1)."""
        return Rules(self.window_days * DAY_MS, self.grace_days * DAY_MS, self.cap_entries)

    @property
    def dwell_ms(self) -> int:
        """How long a customer stays in a segment at least."""
        return int(self.dwell_hours * 3_600_000)


class JudgedBefore(Struct, frozen=True):
    """The records before the offset `until` were judged by these settings; what a state is was the same.

    `era`: of the input (it may have been made anew since: then these records are gone).
    """

    until: int
    agreed: Agreed
    era: int = 0


def judged_at(judged: Sequence[JudgedBefore], era: int, offset: int) -> JudgedBefore | None:
    """Return by what the record at an offset of this era was judged; None: by the present settings."""
    return next((j for j in judged if j.era == era and offset < j.until), None)


class Way(IntEnum):
    """How a shard goes over to another value of a setting; a later way does all that the earlier ones do."""

    ADOPT = 1  # later records are judged by it, nothing else changes
    RESCORE = 2  # states stay as they are; due times and moves don't
    READ_AGAIN = 3  # states are another function of the records: all records are read again


WAYS: Final = {
    "window_days": Way.READ_AGAIN,
    "grace_days": Way.READ_AGAIN,
    "cap_entries": Way.READ_AGAIN,
    "currency": Way.READ_AGAIN,
    "time": Way.READ_AGAIN,
    "dwell_hours": Way.RESCORE,
    "partitioner": Way.ADOPT,
    "future_tolerance_s": Way.ADOPT,
    "max_clock_jump_days": Way.ADOPT,
    "max_event_bytes": Way.ADOPT,
    "earliest_date": Way.ADOPT,
    "backfill_expiry_hours": Way.ADOPT,
    "other_currencies": Way.ADOPT,
}


class Difference(NamedTuple):
    """A setting with two values."""

    name: str
    held: Any  # each setting has a type of its own
    wanted: Any
    way: Way


def differences(held: Agreed, wanted: Agreed) -> list[Difference]:
    """Return the settings that differ, in the order of the fields."""
    if held == wanted:
        return []
    return [
        Difference(name, getattr(held, name), getattr(wanted, name), way)
        for name, way in WAYS.items()
        if getattr(held, name) != getattr(wanted, name)
    ]


def way_from(held: Agreed | None, wanted: Agreed | None) -> Way | None:
    """Return the way from one to the other; None: nothing differs, or one of them isn't known."""
    if held is None or wanted is None:
        return None
    return max((difference.way for difference in differences(held, wanted)), default=None)
