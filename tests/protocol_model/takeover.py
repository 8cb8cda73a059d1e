"""A takeover, by the steps of `take_over` in stream/engine/takeover.py."""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol_model.rules import ProtocolRules
from tests.protocol_model.state import (
    CUSTOMERS,
    ERA,
    NOW,
    LoggedMove,
    ModelKafkaHead,
    ModelRedisHead,
    SentTransaction,
    Slot,
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
from tests.protocol_model.world import UNUSABLE, ModelWorld

BATCH = 2  # most records that are absorbed at once or taken by a turn


def take_over(rules: ProtocolRules, world: ModelWorld, state: State, at: int) -> Iterator[Transition]:
    """Yield the next steps of a worker that is taking over."""
    worker = state.slots[at].worker or Worker("opening")
    if worker.phase == "opening":
        yield from _open(rules, world, state, at, worker)
    elif worker.phase == "following":
        yield from _follow(rules, world, state, at, worker)
    elif worker.phase == "catching up":
        yield from _catch_up(rules, world, state, at, worker)
    elif worker.phase == "uncovered":
        yield _cover(rules, world, state, at, worker)


def back_to_2(rules: ProtocolRules, worker: Worker) -> Worker:
    """Return the worker as it continues after step 4b."""
    return Worker("opening", rules.opening.index("redis"), worker.end)


def _open(rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker) -> Iterator[Transition]:
    """Yield step 1, 2 or 3."""
    opened = worker.opened + 1
    phase = worker._replace(phase="following" if opened == len(rules.opening) else "opening", opened=opened)
    what = rules.opening[worker.opened]
    if what == "producer":
        # Where the end may be too low, take the lowest: it is the worst case.
        end = 0 if world.low_end else len(state.log.moves)
        yield Transition(
            at, "1. starts a producer", (), fence(rules, with_worker(state, at, phase._replace(end=end)), at)
        )
    elif what == "redis":
        head, _, whole = seen(state, at)
        if not whole:
            yield Transition(at, "2. finds that Redis has lost a part: quarantined", (), with_worker(state, at, None))
            return
        yield Transition(
            at, "2. reads the Redis head: {}", (head,), with_worker(state, at, phase._replace(expected=head))
        )
    elif rules.one_transactional_id and rules.opening[0] == "producer" and not state.slots[at].epoch:
        yield Transition(at, "3. its barrier is refused: fenced", (), with_worker(state, at, None))
    else:
        # The last head before the barrier is the same however late it is read.
        reported = beyond(state.log.letters, state.kafka.offset) if rules.leave_out_reported else 0
        after = with_worker(state, at, phase._replace(target=state.kafka, reported=reported))
        yield Transition(at, "3. reads the Kafka head: {}", (state.kafka,), after)


def beyond(letters: int, offset: int) -> int:
    """Return the dead letters, as bits, of records from `offset` on."""
    return letters >> offset << offset


def fence(rules: ProtocolRules, state: State, at: int) -> State:
    """Return the state after Kafka has fenced all other producers and aborted their open transactions.

    That a transaction was committed first is an earlier step.
    """
    if not rules.one_transactional_id:
        return with_slot(state, at, state.slots[at]._replace(transaction=None))
    first, second = (slot._replace(transaction=None, epoch=index == at) for index, slot in enumerate(state.slots))
    return state._replace(slots=(first, second))


def _follow(rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker) -> Iterator[Transition]:
    """Yield steps 4 and 5, a page at a time."""
    expected, target = worker.expected, worker.target
    assert expected is not None
    assert target is not None
    if expected.offset > target.offset and rules.transaction_every_turn:
        stopped = "stopped: a healthy shard, since Redis is ahead of Kafka's head"
        yield Transition(at, "4. finds R {} above N {}", (expected.offset, target.offset), state, stopped)
        return
    if expected.offset < state.begin:
        yield Transition(at, "2. is quarantined: the input has lost records", (), with_worker(state, at, None))
        return
    if target.offset > world.end(state.begin):
        stopped = "stopped: a healthy shard, since Kafka's head is behind the input's end"
        yield Transition(at, "6. finds N {} behind the end", (target.offset,), state, stopped)
        return
    moves = state.log.moves
    if rules.read_until_last and target.number > _last(moves[expected.position :], expected):
        stopped = "stopped: a healthy shard, since Kafka's head counts missing moves"
        yield Transition(at, "4. waits for move {}", (target.number,), state, stopped)
        return
    if _has_all(rules, worker, expected.position, expected.number):
        yield from _patch(rules, world, state, at, worker, ())
        return
    for position in range(expected.position + 1, len(moves) + 1):
        page = moves[expected.position : position]
        if world.pages or _has_all(rules, worker, position, page[-1].number):
            yield from _patch(rules, world, state, at, worker, page)


def _has_all(rules: ProtocolRules, worker: Worker, position: int, number: int) -> bool:
    """Return whether the log was read far enough: until move S, and to the end."""
    assert worker.target is not None
    return (number >= worker.target.number or not rules.read_until_last) and (
        position >= worker.end or not rules.read_until_end
    )


def _last(moves: tuple[LoggedMove, ...], head: ModelRedisHead) -> int:
    return moves[-1].number if moves else head.number


def _patch(
    rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker, page: tuple[LoggedMove, ...]
) -> Iterator[Transition]:
    """Yield step 5 for one page, or 4b where the page goes beyond S."""
    expected, target = worker.expected, worker.target
    assert expected is not None
    assert target is not None
    torn: tuple[LoggedMove, ...] = ()
    if rules.cover_torn:
        torn = tuple(move for move in page if move.number > target.number)
        page = page[: len(page) - len(torn)]
        # Beyond S no page is written: the rest is read, up to the end.
        torn += state.log.moves[expected.position + len(page) + len(torn) :] if torn else ()
    number = _last(page, expected)
    head = raised(rules, expected, target)._replace(position=expected.position + len(page), number=number)
    patched: list[StoredCustomer | None] = [None] * CUSTOMERS
    if rules.patch_announced:
        there = seen(state, at).customers
        for move in page:
            known = patched[move.customer] or there[move.customer]
            patched[move.customer] = known._replace(announced=move.after, sequence=move.sequence)
    until = target.offset if rules.absorb_in_silence else 0
    write = Write(head, tuple(patched))
    done = commit(rules, world, state, at, expected, write)
    facts = (len(page), head)
    if done is None:
        yield Transition(at, "5. finds another Redis head, or a part lost", (), with_worker(state, at, None))
        return
    after, fresh = done
    if not torn and not _has_all(rules, worker, head.position, number):
        now = worker._replace(expected=fresh)
    else:
        now = worker._replace(phase="catching up", expected=fresh, torn=torn, until=until)
        if fresh.offset >= until:
            now = _caught_up(now)
    yield Transition(at, "4, 5. reads {} moves, and writes {}", facts, with_worker(after, at, now))
    if late := gives_up(world, state, at, expected, write):
        yield late


def _caught_up(worker: Worker) -> Worker:
    """Return the worker behind step 6: it runs, or moves beyond S are still to be covered."""
    if worker.torn:
        return worker._replace(phase="uncovered", until=0)
    return Worker("running", expected=worker.expected, reported=worker.reported)


def raised(rules: ProtocolRules, head: ModelRedisHead, target: ModelKafkaHead) -> ModelRedisHead:
    """Return step 5's head: T and M only upwards.

    Under a new M all customers need a due time. The moves up to Kafka's cursor are published already.
    """
    if rules.raise_clock:
        head = head._replace(clock=max(head.clock, target.clock))
    if target.activation > head.activation and rules.raise_activation:
        return head._replace(activation=target.activation, cursor=0, quiet=target.cursor)
    if head.cursor is not None:
        quiet = None if head.quiet is None or target.cursor is None else max(head.quiet, target.cursor)
        return head._replace(quiet=quiet)
    return head


def _cover(rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker) -> Transition:
    """Return step 4b: a head that covers the moves of a torn transaction, with all else that its turn published."""
    expected, target = worker.expected, worker.target
    assert expected is not None
    assert target is not None
    if seen(state, at).head != expected and rules.load_under_head:
        return Transition(at, "4b. finds another Redis head", (), with_worker(state, at, None))
    if rules.one_transactional_id and not state.slots[at].epoch:
        return Transition(at, "4b. can't cover moves beyond S: fenced", (), with_worker(state, at, None))
    last = worker.torn[-1]
    head = target._replace(
        # The mark of a move has no era: it is taken for the head's.
        offset=target.offset - target.offset % ERA + max(target.offset % ERA, last.offset % ERA),
        number=last.number,
        clock=max(target.clock, last.clock),
        activation=max(target.activation, last.activation),
    )
    sent = SentTransaction((), head)
    if rules.cover_rest:
        moved = {move.customer for move in worker.torn}
        letters = world.unusable(target.offset, head.offset) & ~worker.reported
        sent = SentTransaction((), head, sum(1 << customer for customer in moved), letters)
    slot: Slot = state.slots[at]._replace(worker=Worker("covering", end=worker.end), transaction=sent)
    return Transition(
        at,
        "4b. finds moves beyond S, and sends a head that covers them: {}, latest of customers {}, letters {}",
        (head, sent.latest, sent.letters),
        with_slot(state, at, slot),
    )


def _catch_up(rules: ProtocolRules, world: ModelWorld, state: State, at: int, worker: Worker) -> Iterator[Transition]:
    """Yield step 6."""
    expected = worker.expected
    assert expected is not None
    there = seen(state, at)
    if (there.head != expected and rules.compare_and_set) or (rules.count_at_load and not there.whole):
        yield Transition(at, "6. finds another Redis head, or a part lost", (), with_worker(state, at, None))
        return
    if expected.offset < state.begin:
        yield Transition(at, "6. can't read from {}", (expected.offset,), with_worker(state, at, None))
        return
    for offset in range(expected.offset + 1, min(expected.offset + BATCH, worker.until) + 1):
        customers = absorbed(world, there.customers, expected.offset, offset)
        if rules.due_now:
            customers = tuple(c and c._replace(due=NOW) for c in customers)
        write = Write(expected._replace(offset=offset), customers)
        done = commit(rules, world, state, at, expected, write)
        if done is None:  # only where a part is lost, and the load didn't notice
            yield Transition(at, "6. can't write: a part is lost", (), with_worker(state, at, None))
            return
        after, fresh = done
        now = worker._replace(expected=fresh)
        if offset == worker.until:
            now = _caught_up(now)
        facts = (expected.offset, offset)
        yield Transition(at, "6. absorbs orders {}..{} without publishing", facts, with_worker(after, at, now))
        if late := gives_up(world, state, at, expected, write):
            yield late


def absorbed(
    world: ModelWorld, customers: tuple[StoredCustomer, ...], begin: int, end: int
) -> tuple[StoredCustomer | None, ...]:
    """Return the customers changed by the orders begin..end. A repeated order changes none."""
    changed: list[StoredCustomer | None] = [None] * CUSTOMERS
    for order, customer in world.read(begin, end):
        if customer == UNUSABLE:
            continue
        known = changed[customer] or customers[customer]
        if not known.orders & 1 << order:
            changed[customer] = known._replace(orders=known.orders | 1 << order)
    return tuple(changed)


def gives_up(world: ModelWorld, state: State, at: int, expected: ModelRedisHead, write: Write) -> Transition | None:
    """Return the step of a sender that gives up before its commit arrives in Redis; None: that can't happen here."""
    if not world.late_commit or state.late or seen(state, at) is state.old_primary:
        return None
    after = with_worker(state, at, None)._replace(late=(expected, write))
    return Transition(at, "sends a commit to Redis, and gives up before it arrives", (), after, outside=True)
