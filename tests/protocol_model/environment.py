"""The environment of the workers: time, a new model, Kafka's coordinator, and every fault."""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol_model.checks import advance, append
from tests.protocol_model.repair import published
from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import (
    ERA,
    NEVER,
    SentTransaction,
    State,
    StoredCustomer,
    Transition,
    empty,
    with_slot,
    with_worker,
)
from tests.protocol_model.store import fresh, succeeded, written
from tests.protocol_model.takeover import back_to_2
from tests.protocol_model.turn import acknowledged
from tests.protocol_model.world import ModelWorld


def happenings(rules: ProtocolRules, world: ModelWorld, state: State) -> Iterator[Transition]:
    """Yield everything that no worker decides."""
    if state.clock == 0 and world.clock_moves:
        yield Transition(None, "the clock moves to 1", (), state._replace(clock=1), outside=True)
    if state.published == 1 and world.new_model:
        yield Transition(None, "model 2 is published", (), state._replace(published=2), outside=True)
    if world.retention and not state.begin:
        yield Transition(None, "retention deletes the first record", (), state._replace(begin=1), outside=True)
    if world.recreated and not state.begin:
        yield Transition(None, "the input is made anew", (), state._replace(begin=ERA), outside=True)
    yield from _redis(rules, world, state)
    yield from _losses(state)
    for at, slot in enumerate(state.slots):
        if slot.worker:
            yield Transition(at, "crashes, or gives up", (), with_worker(state, at, None), outside=True)
        if slot.transaction and (slot.epoch or not rules.one_transactional_id):
            yield from _coordinator(rules, world, state, at, slot.transaction)


def _losses(state: State) -> Iterator[Transition]:
    """Yield the loss of the states, or of the due index, behind the head; and `segstream rebuild`, which mends it."""
    redis = state.redis
    if not redis.whole:
        made = state._replace(redis=empty(fresh(state)), history=())
        yield Transition(None, "Redis is made anew from Kafka", (), made)
    elif state.losses:
        without_states = tuple(StoredCustomer(due=customer.due) for customer in redis.customers)
        without_due = tuple(customer._replace(due=NEVER) for customer in redis.customers)
        for lost, left in (("states", without_states), ("due index", without_due)):
            if left != redis.customers:
                after = state._replace(redis=redis._replace(customers=left, whole=False), losses=state.losses - 1)
                yield Transition(None, "Redis loses the {}", (lost,), after, outside=True)


def _redis(rules: ProtocolRules, world: ModelWorld, state: State) -> Iterator[Transition]:
    """Yield a rollback, a split, a late commit. (A commit that never arrives is a crash before it was sent.)"""
    if state.old_primary:
        first, second = (slot._replace(cut_off=False) for slot in state.slots)
        whole = state._replace(old_primary=None, slots=(first, second))
        yield Transition(None, "Redis is whole again, the old primary discarded", (), whole)
    elif state.rollbacks:
        for lost in range(1, len(state.history) + 1):
            yield from _roll_back(world, state, lost)
    may_commit = state.redis.whole or not rules.count_at_commit
    if state.late and state.late[0] == state.redis.head and may_commit:
        after = succeeded(world, state, written(state, state.redis, state.late[1]))
        yield Transition(
            None, "the commit that was given up arrives in Redis", (), after._replace(late=None), outside=True
        )


def _roll_back(world: ModelWorld, state: State, lost: int) -> Iterator[Transition]:
    history, redis = state.history[:-lost], state.history[-lost]
    back = state._replace(redis=redis, history=history, rollbacks=state.rollbacks - 1)
    yield Transition(None, "Redis loses its commits; lost: {}", (lost,), back, outside=True)
    for at, slot in enumerate(state.slots):
        if world.split and slot.worker:
            left = with_slot(back, at, slot._replace(cut_off=True))._replace(old_primary=state.redis)
            text = "stays with the old primary of Redis; commits that the new one lacks: {}"
            yield Transition(at, text, (lost,), left, outside=True)


def _coordinator(
    rules: ProtocolRules, world: ModelWorld, state: State, at: int, sent: SentTransaction
) -> Iterator[Transition]:
    """Yield the commits of a transaction, whole or torn.

    An aborted transaction is one that was never sent; a lost reply is a crash before the reply.
    """
    yield _committed(rules, state, at, sent, "Kafka commits its {}, head {}")
    if not rules.await_outputs:
        for lost in sent.moves:
            kept = sent._replace(moves=tuple(move for move in sent.moves if move != lost))
            yield _committed(rules, state, at, kept, "a send has failed; Kafka commits its {}, head {}", fault=True)
    if not rules.await_head:
        text = "the head's send has failed; Kafka commits its {}, head still {}"
        yield _committed(rules, state, at, sent._replace(head=state.kafka), text, fault=True)
    if not rules.broker_verifies and len(sent.moves) > 1:
        for move in sent.moves:
            text = "an old broker loses the rest, and commits its {}, head {}"
            yield _committed(rules, state, at, sent._replace(moves=(move,)), text, fault=True)
    if world.torn or not rules.end_once:
        yield from _torn(rules, state, at, sent, None if world.torn else "C8: a part of a turn is visible")


def _committed(
    rules: ProtocolRules, state: State, at: int, sent: SentTransaction, text: str, *, fault: bool = False
) -> Transition:
    moves, head, latest, letters = sent
    log, violation = append(state.log, moves, latest, letters)
    violation = violation or advance(state.kafka, head)
    slot = state.slots[at]
    worker = slot.worker
    after = with_slot(state._replace(log=log, kafka=head), at, slot._replace(transaction=None))
    if worker and worker.phase == "covering":
        after = with_worker(after, at, back_to_2(rules, worker))
    elif worker and worker.phase == "repairing":
        after = with_worker(after, at, published(rules, worker))
    elif worker and worker.phase in {"publishing", "publishing late"}:
        after = with_worker(after, at, acknowledged(after, at))
    return Transition(at, text, (moves, head), after, violation, fault)


def _torn(
    rules: ProtocolRules, state: State, at: int, sent: SentTransaction, broken: str | None
) -> Iterator[Transition]:
    """Yield the commits by a delayed EndTxn of the sender's previous transaction. `broken`: the promise it breaks.

    It commits the part of this one that was sent; the broker refuses the rest.
    """
    slot = state.slots[at]
    refused = slot._replace(transaction=None, worker=None)
    for part in _parts(sent):
        moves, _, latest, letters = part
        log, violation = append(state.log, moves, latest, letters)
        after = refused
        if moves == sent.moves:  # the rest, with the head, may open a transaction of its own
            after = slot._replace(
                transaction=SentTransaction((), sent.head, sent.latest & ~latest, sent.letters & ~letters)
            )
        torn = with_slot(state._replace(log=log), at, after)
        text = "a delayed EndTxn commits its {}, latest of customers {}, letters {}, and not the head"
        yield Transition(at, text, (moves, latest, letters), torn, violation or broken, outside=True)
    if sent.moves and not rules.outputs_before_head:
        torn = with_slot(state._replace(kafka=sent.head), at, refused)
        yield Transition(at, "a delayed EndTxn commits the head alone: {}", (sent.head,), torn, outside=True)


def _parts(sent: SentTransaction) -> Iterator[SentTransaction]:
    """Yield the parts of a transaction, without its head, that may have been sent by some moment."""
    for so_far in range(len(sent.moves) + 1):
        moves = sent.moves[:so_far]
        for latest in {0, sent.latest} if moves == sent.moves else {0}:
            for letters in {0, sent.letters}:
                if moves or latest or letters:
                    yield sent._replace(moves=moves, latest=latest, letters=letters)
