"""The state of the model: one shard's logs in Kafka, its part of Redis, and two workers.

Everything is a tuple of small numbers, so states are values with equality and a hash. The names are those of
stream/storage/heads.py. A `token` stands for the token and the turn number of a real head: each commit has another one.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

CUSTOMERS: Final = 2
# Offsets of an input that was made anew begin here: the order of (era, offset) is that of one number.
ERA: Final = 10

# When a customer must be looked at again without a new order.
NEVER: Final = 0
LATER: Final = 1  # once the clock has moved
NOW: Final = 2


class StoredCustomer(NamedTuple):
    """A customer's state in Redis, with the entry in the due index."""

    orders: int = 0  # bit i: order i is in
    announced: int = 0  # segment; 0: none yet
    sequence: int = 0
    due: int = NEVER


class ModelRedisHead(NamedTuple):
    """How far Redis has followed."""

    token: int
    offset: int  # R
    position: int  # C
    number: int  # S: of the last move
    clock: int  # T
    activation: int  # M
    cursor: int | None  # rescore: customers done; None: none under way
    quiet: int | None  # rescore: so many customers' moves are published already; None: all


class Redis(NamedTuple):
    """One server's copy of the shard."""

    head: ModelRedisHead
    customers: tuple[StoredCustomer, ...]
    whole: bool = True  # the keys hold what the head counts


class Write(NamedTuple):
    """One commit to Redis: the head, which gets its token when it is written, and the customers changed."""

    head: ModelRedisHead
    customers: tuple[StoredCustomer | None, ...]


class ModelKafkaHead(NamedTuple):
    """How far the shard has come."""

    offset: int  # N
    number: int  # S: of the last move
    clock: int  # T
    activation: int  # M
    cursor: int | None


class LoggedMove(NamedTuple):
    """One record of the output log, with the mark of its turn: number, offset, clock, activation."""

    customer: int
    before: int
    after: int
    sequence: int
    number: int
    offset: int
    clock: int
    activation: int


class SentTransaction(NamedTuple):
    """A transaction, sent with its EndTxn. The coordinator commits it at any later time, even without its sender."""

    moves: tuple[LoggedMove, ...]
    head: ModelKafkaHead
    latest: int = 0  # bit c: the last move of customer c goes to the compacted topic
    letters: int = 0  # bit i: the record at offset i goes to the dead letters


Phase = Literal[
    "opening", "following", "catching up", "uncovered", "covering",
    "running", "publishing", "committing", "publishing late",
    "repairing",
]  # fmt: skip


class Worker(NamedTuple):
    """A worker that takes the shard over or owns it, with its knowledge of the shard."""

    phase: Phase
    opened: int = 0  # how many of steps 1, 2, 3 are done
    end: int = 0  # of the output log, asked after step 1
    expected: ModelRedisHead | None = None  # what Redis must hold
    target: ModelKafkaHead | None = None  # step 3
    reported: int = 0  # step 3: dead letters of records beyond N that are there already, as bits
    torn: tuple[LoggedMove, ...] = ()  # step 4: moves beyond S
    until: int = 0  # step 6
    write: Write | None = None  # turn, step 5: what Redis gets once Kafka has committed
    unsent: SentTransaction | None = None  # only of the mutant with Redis before Kafka
    rebuilds: bool = False  # of a repair: Redis is emptied; else its states stay


class Slot(NamedTuple):
    """A worker, or none: it is down, or about to take over afresh, which is the same."""

    worker: Worker | None = None
    transaction: SentTransaction | None = None
    epoch: bool = False  # its producer is the one that Kafka listens to
    cut_off: bool = False  # it talks to the old primary of Redis


class OutputLog(NamedTuple):
    """The output log, read_committed: its moves, and a summary of those that can't be read any more."""

    segments: tuple[int, ...]
    sequences: tuple[int, ...]
    as_of: tuple[int, int, int]  # activation, clock, offset of the move before
    moves: tuple[LoggedMove, ...]
    behind: int = 0  # bit c: the compacted topic lacks the last move of customer c
    letters: int = 0  # bit i: the record at offset i is in the dead letters


class State(NamedTuple):
    """The world at one moment."""

    redis: Redis
    history: tuple[Redis, ...]  # what a rollback may bring back, the latest last
    rollbacks: int  # how many may still come
    log: OutputLog
    kafka: ModelKafkaHead
    slots: tuple[Slot, Slot]
    clock: int = 0
    published: int = 1  # the newest activation on the models topic
    late: tuple[ModelRedisHead, Write] | None = None  # a commit in flight after its sender gave up
    old_primary: Redis | None = None  # of Redis, cut off, still serving some
    begin: int = 0  # the first offset that the input still has
    losses: int = 0  # how many parts of Redis may still vanish behind the head


class Transition(NamedTuple):
    """One thing that can happen. `text` is formatted with `facts` only when a trace is printed."""

    actor: int | None  # the slot; None: the environment
    text: str
    facts: tuple[object, ...]
    state: State
    violation: str | None = None
    outside: bool = False  # a fault, time or a new model: these must end before the shard can rest


def start(rollbacks: int, losses: int = 0) -> State:
    """Return a new shard, under the first model; both workers are down."""
    log = OutputLog((0,) * CUSTOMERS, (0,) * CUSTOMERS, (0, 0, 0), ())
    kafka = ModelKafkaHead(0, 0, 0, 1, None)
    return State(empty(1), (), rollbacks, log, kafka, (Slot(), Slot()), losses=losses)


def empty(token: int) -> Redis:
    """Return a shard before its first order, as it is new or as `segstream rebuild` leaves it."""
    return Redis(ModelRedisHead(token, 0, 0, 0, 0, 1, None, 0), (StoredCustomer(),) * CUSTOMERS)


def with_slot(state: State, at: int, slot: Slot) -> State:
    """Return the state with another slot."""
    return state._replace(slots=(slot, state.slots[1]) if at == 0 else (state.slots[0], slot))


def with_worker(state: State, at: int, worker: Worker | None) -> State:
    """Return the state with another worker. Anything that the old one sent stays in flight."""
    return with_slot(state, at, state.slots[at]._replace(worker=worker))


def seen(state: State, at: int) -> Redis:
    """Return the copy of Redis that a worker is connected to."""
    if state.old_primary is not None and state.slots[at].cut_off:
        return state.old_primary
    return state.redis


def chain(log: OutputLog, customer: int) -> tuple[int, int]:
    """Return (segment, sequence) of a customer's last move."""
    for move in reversed(log.moves):
        if move.customer == customer:
            return move.after, move.sequence
    return log.segments[customer], log.sequences[customer]
