"""An operator's command after the input has lost records, by the steps of `step_over` in stream/repair/step_over.py.

It keeps the states that Redis has, or empties Redis (a rebuild). It may be killed anywhere, and be started twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol_model.checks import advance
from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import (
    NEVER,
    LoggedMove,
    ModelKafkaHead,
    ModelRedisHead,
    SentTransaction,
    State,
    StoredCustomer,
    Transition,
    Worker,
    Write,
    seen,
    with_slot,
    with_worker,
)
from tests.protocol_model.store import commit, succeeded, written
from tests.protocol_model.takeover import fence
from tests.protocol_model.world import ModelWorld

# How far a repair has come (`Worker.opened`).
STARTED, HAS_REDIS, HAS_KAFKA, SENT, PUBLISHED, REDIS_FIRST = 1, 2, 3, 4, 5, 6


def is_needed(state: State) -> bool:
    """Return whether Redis or the Kafka head is from before the present beginning of the input."""
    return min(state.redis.head.offset, state.kafka.offset) < state.begin


def begin_repair(rules: ProtocolRules, state: State, at: int) -> Iterator[Transition]:
    """Yield the starts of the command: it fences an owner that may still be at work."""
    if state.slots[at].transaction and not rules.repair_fences:
        return  # the mutant is a process of its own, beside the one whose transaction is in flight
    for rebuilds in (False, True):
        text = f"an operator {'rebuilds' if rebuilds else 'steps over what is lost'}: starts a producer"
        started = with_worker(state, at, Worker("repairing", STARTED, rebuilds=rebuilds))
        yield Transition(at, text, (), fence(rules, started, at) if rules.repair_fences else started)


def repair(rules: ProtocolRules, world: ModelWorld, state: State, at: int) -> Iterator[Transition]:
    """Yield the next steps of the command."""
    slot = state.slots[at]
    worker = slot.worker
    assert worker is not None
    fenced = rules.repair_fences and not slot.epoch
    if worker.opened == STARTED:
        after = worker._replace(opened=HAS_REDIS, expected=seen(state, at).head)
        yield Transition(at, "reads the Redis head", (), with_worker(state, at, after))
    elif fenced and worker.opened in {HAS_REDIS, HAS_KAFKA, SENT, REDIS_FIRST} and not slot.transaction:
        yield Transition(at, "is fenced, and begins again", (), with_worker(state, at, None))
    elif worker.opened == HAS_REDIS:
        after = worker._replace(opened=HAS_KAFKA, target=state.kafka)
        yield Transition(at, "reads the Kafka head: {}", (state.kafka,), with_worker(state, at, after))
    elif worker.opened == HAS_KAFKA and rules.repair_kafka_first:
        yield _step_kafka(rules, state, at, worker, PUBLISHED)
    elif worker.opened == REDIS_FIRST:
        yield _step_kafka(rules, state, at, worker, REDIS_FIRST)
    elif worker.opened in {HAS_KAFKA, PUBLISHED}:
        yield _step_redis(rules, world, state, at, worker)


def published(rules: ProtocolRules, worker: Worker) -> Worker | None:
    """Return the command after Kafka has committed its head; None: it has ended."""
    return worker._replace(opened=PUBLISHED) if rules.repair_kafka_first else None


def _step_kafka(rules: ProtocolRules, state: State, at: int, worker: Worker, after: int) -> Transition:
    """Send the head at the input's beginning, which also covers the moves of a torn transaction."""
    target = worker.target
    assert target is not None
    if target.offset >= state.begin:
        done = worker._replace(opened=PUBLISHED) if after == PUBLISHED else None
        return Transition(at, "finds Kafka's head within the input", (), with_worker(state, at, done))
    torn = [move for move in state.log.moves if move.number > target.number] if rules.repair_covers else []
    head = _covering(torn, target)
    head = head._replace(offset=state.begin)
    if not rules.repair_fences:
        stepped = with_worker(state._replace(kafka=head), at, worker._replace(opened=PUBLISHED))
        return Transition(at, "writes the head {} outside", (head,), stepped, advance(state.kafka, head))
    latest = sum(1 << customer for customer in {move.customer for move in torn})
    transaction = SentTransaction((), head, latest)
    sent = state.slots[at]._replace(worker=worker._replace(opened=SENT), transaction=transaction)
    return Transition(at, "sends the head {}", (head,), with_slot(state, at, sent))


def _covering(torn: list[LoggedMove], target: ModelKafkaHead) -> ModelKafkaHead:
    if not torn:
        return target
    last = torn[-1]
    return target._replace(
        number=last.number,
        clock=max(target.clock, last.clock),
        activation=max(target.activation, last.activation),
    )


def _step_redis(rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker) -> Transition:
    """Write the Redis head at the input's beginning: under the one that was read, or anew with empty states."""
    expected = worker.expected
    assert expected is not None
    left = None if rules.repair_kafka_first else worker._replace(opened=REDIS_FIRST)
    if worker.rebuilds:
        log = state.log
        empty = tuple(
            StoredCustomer(0, segment, sequence, NEVER)
            for segment, sequence in zip(log.segments, log.sequences, strict=True)
        )
        write = Write(ModelRedisHead(0, state.begin, 0, 0, 0, 1, None, 0), empty)
        rebuilt = succeeded(world, state, written(state, seen(state, at), write))
        return Transition(at, "empties Redis: {}", (write.head,), with_worker(rebuilt, at, left))
    head = expected._replace(offset=max(expected.offset, state.begin))
    done = commit(rules, world, state, at, expected, Write(head, (None, None)))
    if done is None:
        return Transition(at, "finds another Redis head, and begins again", (), with_worker(state, at, None))
    return Transition(at, "writes to Redis: {}", (done[1],), with_worker(done[0], at, left))
