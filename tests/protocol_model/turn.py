"""A turn, by the steps of `Turns.turn` in stream/engine/turns.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import (
    CUSTOMERS,
    LATER,
    NOW,
    LoggedMove,
    ModelKafkaHead,
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
from tests.protocol_model.store import commit
from tests.protocol_model.takeover import BATCH, absorbed, beyond, gives_up
from tests.protocol_model.world import ModelWorld


class TurnBatch(NamedTuple):
    """The batch of one turn (step 1)."""

    clock: int
    begin: int
    offset: int  # behind the orders taken
    due: tuple[int, ...] = ()
    rescored: int | None = None  # the customer of a slice of the rescore
    start: int | None = None  # an activation, alone
    activation: int = 1  # to score under


def turn(rules: ProtocolRules, world: ModelWorld, state: State, at: int) -> Iterator[Transition]:
    """Yield the next steps of an owner."""
    slot = state.slots[at]
    worker = slot.worker
    assert worker is not None
    if worker.phase == "committing":
        yield from _commit(rules, world, state, at, worker)
    elif worker.phase == "publishing late" and slot.transaction is None:
        yield _publish_late(rules, state, at, worker)
    elif worker.phase == "running":
        there = seen(state, at)
        assert worker.expected is not None
        if worker.expected.offset < state.begin:
            yield Transition(at, "1. can't read from {}", (worker.expected.offset,), with_worker(state, at, None))
        if rules.count_at_load and not there.whole:
            yield Transition(at, "2. finds that Redis has lost a part: quarantined", (), with_worker(state, at, None))
            return
        if there.head != worker.expected:
            if rules.poll_compares or next(work(rules, world, state, at), None):
                yield Transition(at, "2. finds another Redis head", (), with_worker(state, at, None))
            if rules.load_under_head:
                return
        for batch in work(rules, world, state, at):
            yield from _take(rules, world, state, at, worker, batch)


def work(rules: ProtocolRules, world: ModelWorld, state: State, at: int) -> Iterator[TurnBatch]:
    """Yield the batches that a turn may take (step 1).

    The worker may or may not have read the newest model, and its clock may lag.
    """
    worker = state.slots[at].worker
    assert worker is not None
    head = worker.expected
    assert head is not None
    customers = seen(state, at).customers
    for reading in world.readings(state.clock):
        clock = max(head.clock, reading) if rules.monotone_clock else reading
        if rules.monotone_clock and reading < state.clock <= head.clock:
            continue  # this clock comes up again
        if head.activation < state.published:
            yield TurnBatch(clock, head.offset, head.offset, start=head.activation + 1)
        for activation in (head.activation,) if rules.refuse_older else range(1, state.published + 1):
            if head.cursor is not None:
                yield TurnBatch(clock, head.offset, head.offset, rescored=head.cursor, activation=activation)
            due = tuple(c for c in range(CUSTOMERS) if customers[c].due == NOW or (customers[c].due == LATER and clock))
            end = max(world.end(state.begin), head.offset) if head.offset >= state.begin else head.offset
            for offset in range(head.offset, min(head.offset + BATCH, end) + 1):
                for slice_ in range(len(due) + 1):
                    if slice_ or offset > head.offset:
                        yield TurnBatch(clock, head.offset, offset, due[:slice_], activation=activation)


def _take(
    rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker, batch: TurnBatch
) -> Iterator[Transition]:
    """Yield steps 2 to 4: load, decide, send."""
    sent, write = _decide(world, worker, seen(state, at).customers, batch)
    facts = (batch, sent.moves, sent.head)
    if not sent.moves and not sent.letters and not rules.transaction_every_turn:
        after = with_worker(state, at, worker._replace(phase="committing", write=write))
        yield Transition(at, "takes {}; nothing to publish, so no transaction", facts, after)
    elif not rules.kafka_first:
        write = write._replace(head=write.head._replace(position=write.head.position + len(sent.moves)))
        assert worker.expected is not None
        done = commit(rules, world, state, at, worker.expected, write)
        if done:
            late = Worker("publishing late", expected=done[1], unsent=sent)
            after = with_worker(done[0], at, late)
            yield Transition(at, "takes {}, and commits to Redis; to be published: {}", facts, after)
    elif rules.one_transactional_id and not state.slots[at].epoch:
        yield Transition(at, "takes {}: fenced", facts, with_worker(state, at, None))
    else:
        publishing = worker._replace(phase="publishing", write=write)
        slot = state.slots[at]._replace(worker=publishing, transaction=sent)
        yield Transition(at, "takes {}; sends {}, head {}", facts, with_slot(state, at, slot))


def _decide(
    world: ModelWorld, worker: Worker, there: tuple[StoredCustomer, ...], batch: TurnBatch
) -> tuple[SentTransaction, Write]:
    """Decide (step 3), without side effects."""
    head = worker.expected
    assert head is not None
    changed = list(absorbed(world, there, head.offset, batch.offset))
    affected = {customer for customer in range(CUSTOMERS) if changed[customer]} | {*batch.due}
    new = head._replace(offset=batch.offset, clock=batch.clock)
    if batch.start is not None:
        new = new._replace(activation=batch.start, cursor=0, quiet=0)
    if batch.rescored is not None:
        done = batch.rescored + 1
        new = new._replace(cursor=done) if done < CUSTOMERS else new._replace(cursor=None, quiet=0)
        if head.quiet is None or batch.rescored < head.quiet:
            changed[batch.rescored] = _only_due(world, there[batch.rescored], batch)
        else:
            affected.add(batch.rescored)
    moves: list[LoggedMove] = []
    for customer in sorted(affected):
        known = changed[customer] or there[customer]
        # Without an order, because all were lost, a customer keeps the last segment.
        segment = known.announced
        if known.orders:
            segment = world.segment(customer, known.orders, batch.clock, batch.activation)
        if segment != known.announced:
            sequence, number = known.sequence + 1, head.number + len(moves) + 1
            mark = (number, batch.offset, batch.clock, batch.activation)
            moves.append(LoggedMove(customer, known.announced, segment, sequence, *mark))
            known = known._replace(announced=segment, sequence=sequence)
        changed[customer] = known._replace(due=world.due(customer, known.orders, batch.clock, batch.activation))
    new = new._replace(number=head.number + len(moves))
    kafka = ModelKafkaHead(new.offset, new.number, new.clock, new.activation, new.cursor)
    latest = sum(1 << customer for customer in {move.customer for move in moves})
    letters = world.unusable(head.offset, batch.offset) & ~worker.reported
    return SentTransaction(tuple(moves), kafka, latest, letters), Write(new, tuple(changed))


def _only_due(world: ModelWorld, customer: StoredCustomer, batch: TurnBatch) -> StoredCustomer:
    """Return a customer in a quiet slice of the rescore: published moves stay; a customer that would move is due."""
    assert batch.rescored is not None
    if world.segment(batch.rescored, customer.orders, batch.clock, batch.activation) != customer.announced:
        return customer._replace(due=NOW)
    return customer._replace(due=world.due(batch.rescored, customer.orders, batch.clock, batch.activation))


def acknowledged(state: State, at: int) -> Worker:
    """Return the worker after step 4: the outputs end where the log ends, and step 5 is next."""
    worker = state.slots[at].worker
    assert worker is not None
    if worker.phase == "publishing late":
        return Worker("running", expected=worker.expected)
    assert worker.write is not None
    assert worker.expected is not None
    head = worker.write.head
    if head.number > worker.expected.number:
        head = head._replace(position=len(state.log.moves))
    return worker._replace(phase="committing", write=worker.write._replace(head=head))


def _commit(rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker) -> Iterator[Transition]:
    """Yield step 5."""
    assert worker.write is not None
    assert worker.expected is not None
    done = commit(rules, world, state, at, worker.expected, worker.write)
    if done is None:
        yield Transition(at, "5. finds another Redis head, or a part lost", (), with_worker(state, at, None))
        return
    after, fresh = done
    now = Worker("running", expected=fresh, reported=beyond(worker.reported, fresh.offset))
    yield Transition(at, "5. writes to Redis: {}", (fresh,), with_worker(after, at, now))
    if late := gives_up(world, state, at, worker.expected, worker.write):
        yield late


def _publish_late(rules: ProtocolRules, state: State, at: int, worker: Worker) -> Transition:
    """Return step 4 after step 5, as only a mutant does it."""
    sent = worker.unsent
    assert sent is not None
    if rules.one_transactional_id and not state.slots[at].epoch:
        return Transition(at, "is fenced", (), with_worker(state, at, None))
    slot = state.slots[at]._replace(transaction=sent)
    return Transition(at, "sends {}, head {}", (sent.moves, sent.head), with_slot(state, at, slot))
