"""The contract between the shard engine and a step: pure, in batches, without knowledge of Kafka or Redis.

A step turns records and states into new states, outputs and due times. Scoring (orders -> moves) and campaigns
(moves -> actions) are two steps of one engine. Every call is about a batch, so that a step can work in columns
without the engine's knowledge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from segmentation.agreed import Agreed
from segmentation.backfills import NONE_OPEN, Backfills

if TYPE_CHECKING:
    from segmentation.pieces import StateParts
    from segmentation.rates import Rates

NEVER_DUE: Final = 2**53  # no due time; exact as a Redis score
# Side inputs, by source. Profiles are taken as soon as they are there, orders beside the records of their time.
PROFILES: Final = "profiles"
ORDERS: Final = "orders"


class StateUnreadable(ValueError):
    """Bytes that aren't a state of this step and version: written by another program, or torn."""


class BatchTooLong(Exception):  # a bound that was reached, not an error: a smaller batch does
    """The batch takes longer than a turn may: it is given up, and nothing of it has happened."""


def never() -> bool:
    """Return False: for a batch that may take any time."""
    return False


class KafkaRecord(Protocol):
    """One record of the input topic."""

    @property
    def offset(self) -> int:
        """The offset in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, set by the broker (LogAppendTime)."""

    @property
    def key(self) -> bytes | None:
        """The record's key; None where the producer gave none."""

    @property
    def value(self) -> bytes | None:
        """The record's value; None for a tombstone."""


class SideRecord(NamedTuple):
    """One record of a side input: it is joined to states, and isn't counted."""

    source: str  # PROFILES or ORDERS
    offset: int
    timestamp: int  # milliseconds since 1970, set by the broker (LogAppendTime)
    key: bytes | None
    value: bytes | None


class Activation(NamedTuple):
    """Which model scores: a number that only grows, and the hash of the model's content. (0, ""): none yet."""

    number: int = 0
    version: str = ""


class Scope(StrEnum):
    """Which customers a rescore covers."""

    EVERYONE = "everyone"  # all: a new model started
    RELEASED = "released"  # those that a finished backfill had muted
    # Those; for all others the moves up to now are published and only the due times are missing.
    RELEASED_AND_DUE = "released and due"
    SETTINGS = "settings"  # all: settings changed


class TurnContext(NamedTuple):
    """The shard's clocks, model and backfills as a turn begins."""

    clock: int  # T: highest clock used so far, ms
    now: int  # the worker's wall clock, ms
    activation: Activation = Activation()
    model: object = None  # the step's own compiled form of the activation's model; None: none yet
    backfills: Backfills = NONE_OPEN
    scope: Scope = Scope.EVERYONE  # of the rescore in progress
    # Whether the batch has taken too long. It decides whether there is a result, never which.
    overdue: Callable[[], bool] = never
    former: int = 0  # partitions before they became more: records may still come by that count; 0: it never changed
    rates: Rates | None = None  # of other currencies; None: there is only one
    # `plan` and `decide` only: what came on the side inputs, each source in the order of its offsets. All of it is
    # taken with the turn, and any of it may have been in a turn before. An order comes with the batch whose last record
    # has its timestamp or a later one, or after all records that are there: never before one with an earlier timestamp.
    side: Sequence[SideRecord] = ()
    behind: bool = False  # side records from before the shard's takeover are still to come: nothing may fall due


class Held(Protocol):
    """A large state that its shard's owner holds open from one turn to the next.

    The step changes it in place. After a turn that failed it is therefore worth nothing.
    """

    @property
    def size(self) -> int:
        """The number of entries."""

    @property
    def dirty(self) -> bool:
        """Whether it holds events that aren't stored yet."""

    def value(self) -> bytes:
        """Return the state's bytes."""

    def parts(self) -> StateParts | None:
        """Return the state's bytes in parts; None: they can't be divided."""

    def stored(self, *, in_parts: bool) -> None:
        """Note that the state is stored as it is now: its parts, or else its bytes."""


class DueEntry(NamedTuple):
    """An entry of the due index that has fired. `at` (ms) is never later than the true instant."""

    at: int
    key: bytes
    value: bytes | Held | None


@dataclass(slots=True)
class TurnPlan:
    """The input that a batch needs before it can be decided."""

    taken: int  # how many of the records it covers, from the front
    keys: list[bytes]  # the customers whose states to load, each once
    clock: int  # the clock of the last record covered
    horizon: int | None = None  # entries of the due index before this instant belong to the turn; None: none do
    start: Activation | None = None  # the first record starts this activation: a turn of its own
    # These backfills end before anything else is done: a turn of its own, together with the record that ends one.
    close: tuple[str, ...] = ()
    backfills: Backfills | None = None  # `absorb` only: the registry after the records
    closed: bool = False  # `absorb` only: some backfill ended among the records
    full: bool = False  # `absorb` only: before more is absorbed, customers of backfills that are over must be unmuted
    no_rate: bool = False  # a record found no rate: the plan may be another one once more rates are known
    work: object = None  # the step's own


@dataclass(slots=True)
class Output:
    """One record for the output topic.

    `latest` goes to the compacted topic under the same key (None: a tombstone). `note` travels in a header: the step
    reads it when it patches a state from the log of its outputs.
    """

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    note: bytes
    latest: bytes | None = None


class DeadLetter(NamedTuple):
    """A record that can't be used: its position in the batch, and why."""

    position: int
    reason: str
    field: str | None
    message: str


class Forward(NamedTuple):
    """A record that came by the former number of partitions: its position in the batch, and where it goes on to."""

    position: int
    partition: int


class Package(NamedTuple):
    """A record that a step hands on: to this partition of the input topic, under the key of controls."""

    position: int  # of the record in the batch that it comes from
    partition: int
    value: bytes


class SidePackage(NamedTuple):
    """A record that a step hands on: to this partition of its first side input, under the key of controls."""

    partition: int
    value: bytes


class Remnant(NamedTuple):
    """The part of a living customer's state that must outlive the log: for the compacted topic of tombstones."""

    now: bytes
    before: bytes | None  # None: there was none


@dataclass(slots=True)
class Turn:
    """The decision of a step on a batch. Values and due times are complete: nothing else changes."""

    taken: int
    clock: int
    states: dict[bytes, bytes] = field(default_factory=dict)
    held: dict[bytes, Held] = field(default_factory=dict)  # the states held open that can be used on, changed or not
    earlier: dict[bytes, int] = field(default_factory=dict)  # due times, written where absent or earlier than stored
    due: dict[bytes, int] = field(default_factory=dict)  # due times that replace a fired entry
    idle: list[bytes] = field(default_factory=list)  # fired entries to be removed
    outputs: list[Output] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    # In the order of their positions, only of records taken. They may be sent twice: a step takes the second for none.
    packages: list[Package] = field(default_factory=list)
    side_dead: list[DeadLetter] = field(default_factory=list)  # positions are those in `TurnContext.side`
    side_packages: list[SidePackage] = field(default_factory=list)  # they may be sent twice, as packages
    remnants: dict[bytes, Remnant] = field(default_factory=dict)  # by customer, all with a state
    counts: Counter[str] = field(default_factory=Counter)
    backfills: Backfills | None = None  # after the records taken; None: as before

    def add(self, other: Turn) -> None:
        """Add the decision on other customers, at the same clock or a later one, with no record taken."""
        self.clock = other.clock
        self.states |= other.states
        self.earlier |= other.earlier
        self.due |= other.due
        self.idle += other.idle
        self.outputs += other.outputs
        self.counts.update(other.counts)


class Step(Protocol):
    """A pure object. It may raise on a record that it can't process: the engine isolates that record."""

    name: str  # part of the heads topic's name and of the Redis keys: scoring, campaigns
    # Its side inputs: PROFILES, and ORDERS. What comes from them must be a join: associative, commutative, idempotent.
    # The step joins profiles before it decides on the batch's records, and takes all records of a batch.
    sides: tuple[str, ...]
    rescore_first: bool  # the rescore of a started model ends before the next record is taken (event time)
    agreed: Agreed | None  # the settings behind its states and outputs, which all workers share; None: none

    def plan(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode a batch and list the states that it needs. An empty batch asks for what is due by time alone."""

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[Any],  # bytes, a state that `hold` has opened, or None
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        """Merge, score and publish. `values[i]` is the state of `plan.keys[i]`.

        `more`: the last of `fired` only bounds the turn and isn't taken. Raises BatchTooLong where `context.overdue()`.
        """

    def absorb(self, records: Sequence[KafkaRecord], partition: int, context: TurnContext) -> TurnPlan:
        """Decode records that were delivered before, as `plan` does, at the clocks of their first delivery."""

    def merge(self, plan: TurnPlan, values: Sequence[bytes | None]) -> Turn:
        """Return the states after the plan's records, and their dead letters as `decide` made them. Nothing is scored.

        `due` says from when on time alone may move a customer that a record would have scored, where that is known
        (NEVER_DUE: it never does); all else of the turn is empty. Raises BatchTooLong where `overdue()` of the plan's
        context.
        """

    def rescore(self, rows: Sequence[tuple[bytes, bytes]], quiet: Sequence[bool], context: TurnContext) -> Turn:
        """Score again the customers (key, state) that the context's scope covers.

        `quiet[i]`: this customer's move is published already; only its due time is missing.
        """

    def patch(self, value: bytes | None, note: bytes) -> bytes:
        """Return the state with its own last published output written in, given that output's note."""

    def due(self, value: bytes) -> int | None:
        """Return when a state that is written without a decision must be looked at; None: it says of no instant."""

    def latest(self, value: bytes, note: bytes) -> bytes | None:
        """Return what `Output.latest` was, of an output that is read from the log."""

    def is_gone(self, value: bytes) -> bool:
        """Return whether the customer is gone: the state is stored under its key's hash.

        It was erased and nothing came since, or its id was merged into another.
        """

    def rank(self, value: bytes) -> int | None:
        """Return which of two copies of a gone customer's state knows more of merges; None: it knows of none."""

    def current(self, value: bytes) -> bytes:
        """Return a state of a former format in the present one; `value` itself where it is in that."""

    def under(self, agreed: Agreed) -> Step:
        """Return the step as it is under other settings."""

    def hold(self, value: bytes) -> Held | None:
        """Open a state for many turns, where that is worth it; None: it is small. Raises StateUnreadable."""

    def unmuted(self, value: bytes, slots: frozenset[int]) -> bytes:
        """Return the state without the mute of a backfill of these slots; `value` itself where it has none."""

    def bare(self, value: bytes) -> bytes | None:
        """Return the state without any record, with its own last published output alone; None: it has none."""
