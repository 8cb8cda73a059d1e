"""What the shard engine asks of a step: pure, in batches, blind to Kafka and Redis.

A step turns records and states into new states, outputs and due times. Scoring (orders -> moves) and campaigns
(moves -> actions) are two steps over one engine. Everything here is a batch, so that a step may work in columns
without the engine knowing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from segmentation.backfills import NONE_OPEN, Backfills

NEVER_DUE: Final = 2**53  # no due time; exact as a Redis score


class StateUnreadable(ValueError):
    """Bytes that aren't a state of this step and version: written by another program, or torn."""


class KafkaRecord(Protocol):
    """One record of the input topic."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, set by the broker (LogAppendTime)."""

    @property
    def key(self) -> bytes | None:
        """None: the producer gave none."""

    @property
    def value(self) -> bytes | None:
        """None: a tombstone."""


class Activation(NamedTuple):
    """Which model scores: a number that only grows, and the hash of the model's content. (0, ""): none yet."""

    number: int = 0
    version: str = ""


class Scope(StrEnum):
    """Whom a rescore is about."""

    EVERYONE = "everyone"  # a new model
    RELEASED = "released"  # those whom a back-fill had muted
    RELEASED_AND_DUE = "released and due"  # those; all others were told already, and only miss their due time


class TurnContext(NamedTuple):
    """Where the shard stands as a turn begins."""

    clock: int  # T: highest clock used so far, ms
    now: int  # the worker's wall clock, ms
    activation: Activation = Activation()
    model: Any = None  # the step's own compiled form of the activation's model; None: none yet
    backfills: Backfills = NONE_OPEN
    scope: Scope = Scope.EVERYONE  # of the rescore that is under way


class DueEntry(NamedTuple):
    """An entry of the due index that has fired. `at` (ms) is never later than the true instant."""

    at: int
    key: bytes
    value: bytes | None


@dataclass(slots=True)
class TurnPlan:
    """What a batch needs before it can be decided."""

    taken: int  # how many of the records it covers, from the front
    keys: list[bytes]  # whose states to load, each once
    clock: int  # the clock of the last record covered
    horizon: int | None = None  # entries of the due index before this instant belong to the turn; None: none do
    start: Activation | None = None  # the first record starts this activation: a turn of its own
    close: tuple[
        str, ...
    ] = ()  # before anything else these back-fills are over: a turn of its own, with the record that says so, if one does
    backfills: Backfills | None = None  # after records that were delivered before
    closed: bool = False  # of records delivered before: some back-fill ended among them
    work: Any = None  # the step's own


@dataclass(slots=True)
class Output:
    """One record for the output topic.

    `latest` goes to the compacted topic under the same key (None: a tombstone). `note` is what the step wants to be told
    of this output when a state must be patched from the log: it travels in a header.
    """

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    note: bytes
    latest: bytes | None = None


class DeadLetter(NamedTuple):
    """A record that can't be used: its place in the batch, and why."""

    place: int
    reason: str
    field: str | None
    message: str


@dataclass(slots=True)
class Turn:
    """What a step has decided. Values and due times are complete: nothing else changes."""

    taken: int
    clock: int
    states: dict[bytes, bytes] = field(default_factory=dict)
    earlier: dict[bytes, int] = field(
        default_factory=dict
    )  # due times, written where absent or earlier than what is there
    due: dict[bytes, int] = field(default_factory=dict)  # due times that replace a fired entry
    idle: list[bytes] = field(default_factory=list)  # fired entries to be removed
    outputs: list[Output] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    backfills: Backfills | None = None  # after the records taken; None: as before

    def add(self, other: Turn) -> None:
        """Take in what was decided of other customers, at the same clock or a later one, with no record taken."""
        self.clock = other.clock
        self.states |= other.states
        self.earlier |= other.earlier
        self.due |= other.due
        self.idle += other.idle
        self.outputs += other.outputs
        self.counts.update(other.counts)


class Step(Protocol):
    """A pure object. It may raise on a record it can't survive: the engine isolates that record."""

    name: str  # names the heads topic and the Redis keys' owner: scoring, campaigns
    rescore_first: bool  # a started model's rescore ends before the next record is taken (event time)

    def plan(self, records: Sequence[KafkaRecord], partition: int, frame: TurnContext) -> TurnPlan:
        """Decode a batch; say whose states it needs. An empty batch asks what is due by time alone."""

    def decide(
        self, plan: TurnPlan, values: Sequence[bytes | None], fired: Sequence[DueEntry], more: bool, frame: TurnContext
    ) -> Turn:
        """Merge, score, announce. `values` lie as `plan.keys`; `more`: the last of `fired` is the bound, not to be taken."""

    def absorb(self, records: Sequence[KafkaRecord], partition: int, frame: TurnContext) -> TurnPlan:
        """As `plan`, for records that were delivered before: their clocks are those of then."""

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> dict[bytes, bytes]:
        """The states after the plan's records, in silence: nothing scored, nothing told."""

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], frame: TurnContext) -> Turn:
        """Score customers afresh, those that the frame's scope is about. `quiet[i]`: told already, only the due time is missing."""

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        """The state that knows of its own last published output, by that output's note."""

    def is_erased(self, value: bytes) -> bool:
        """Whether its customer was erased and nothing came since: such a state is kept under a hash of its key alone."""
