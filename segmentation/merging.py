"""Merge the records of a batch into their customers' states: one by one, or many records of one customer at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from segmentation import aliases
from segmentation.customers import Customer, search_customers, search_open_customers
from segmentation.decisions import BY_RECORD, ScoreRequest, ScoringContext, first_that_moves
from segmentation.decoder import Batch
from segmentation.entries import ERASED, UNREVISED, Rules
from segmentation.events import Reason
from segmentation.open_state import OpenState
from segmentation.rfm import (
    Outcome,
    absorb_bytes,
    advance_bytes,
    announcement,
    is_capped,
    is_silent,
    muted_by,
    with_announcement,
    with_mute,
)
from segmentation.routing import EVERYWHERE, Routing
from segmentation.step import NEVER_DUE, BatchTooLong, DeadLetter, Turn

HELD_OPEN: Final = 32  # from so many records of a customer on, its state is held open for all of them
_LARGE: Final = 16_384  # bytes of a state from which on a single merge may take a millisecond and more
_UNCHANGED: Final = (Outcome.REPEAT, Outcome.ERASED)  # the record adds nothing, so its customer isn't scored
_CAPPED: Final = "capped"  # counted beside an event's outcome, where it takes its customer over the cap


class Fold(NamedTuple):
    """The input of one turn's fold."""

    batch: Batch
    taken: int  # how many of the batch's records belong to it
    bound: tuple[int, bytes]  # (instant, customer) that it ends before
    scoring: ScoringContext | None  # None: no model yet, nobody moves
    open_slots: frozenset[int]  # of the backfills whose customers are muted
    turn: Turn  # dead letters, counts and packages go here
    rules: Rules
    overdue: Callable[[], bool]
    routing: Routing = EVERYWHERE
    replayed: bool = False  # the records were delivered before

    def check_time(self) -> None:
        """Raise BatchTooLong where the batch has taken longer than a turn may."""
        if self.overdue():
            raise BatchTooLong


@dataclass(slots=True)
class Run:
    """The result of a customer's records at one clock."""

    customer: Customer
    request: ScoreRequest | None  # the first of the records that moves the customer; None: none does
    value: bytes | None  # the state after all of them, but for that move
    searched: bool  # when time alone moves the customer is to be searched anew

    def close(self) -> bool:
        """Give the customer its state after all records. Return whether its next move by time is to be searched."""
        c, value = self.customer, self.value
        if self.request is not None and c.value is not None and value is not None:
            value = with_announcement(value, *announcement(c.value))
        c.value = value
        if self.searched and value is not None and is_silent(value):
            c.wait(NEVER_DUE, 0, NEVER_DUE)
            return False
        return self.searched


def merge_next(c: Customer, fold: Fold) -> ScoreRequest | None:
    """Merge the customer's next record. None: it added nothing, or the customer isn't to be scored."""
    batch = fold.batch
    if c.value is not None and len(c.value) > _LARGE:
        fold.check_time()
    if c.linked and (taken := aliases.take(c, fold)) is not aliases.Ordinary.ORDINARY:
        return taken
    position = c.own[c.done]
    c.done += 1
    event, clock, prior = batch.events[position], batch.clocks[position], c.value
    assert event is not None
    value, outcome = absorb_bytes(prior, event.entry, clock, fold.rules)
    _count(outcome, is_capped(value) and not (prior and is_capped(prior)), fold)
    if outcome in _UNCHANGED or (outcome is Outcome.LATE and _forgotten(prior, value, clock, fold.rules)):
        return None
    _report(outcome, position, fold)
    if batch.mutes.get(position) or muted_by(value):
        value = with_mute(value, _slot(position, muted_by(value), event.entry.kind, fold))
    c.value, c.changed = value, True
    # A customer that has lost every order isn't scored either: a refund of unknown orders is no reason to move.
    if event.entry.kind != ERASED and is_silent(value):
        c.wait(NEVER_DUE, 0, NEVER_DUE)
        return None
    return ScoreRequest(c.key, value, prior, clock, (position, BY_RECORD, clock, c.key), event)


def next_run(c: Customer, fold: Fold) -> Sequence[int]:
    """Return the positions of the customer's next records that may be merged at once; []: too few.

    They have one clock, and none of them is an erasure: so the customer moves at most once, by the first that is a
    reason to, because a dwell lasts a millisecond at least.
    """
    if len(c.own) - c.done < HELD_OPEN or c.linked:
        return []
    batch, first = fold.batch, c.own[c.done]
    end = c.done
    while end < len(c.own) and (position := c.own[end]) < fold.taken and batch.clocks[position] == batch.clocks[first]:
        event = batch.events[position]
        if event is None or event.entry.kind == ERASED:
            break
        end += 1
    return c.own[c.done : end] if end - c.done >= HELD_OPEN else []


def merge_run(c: Customer, positions: Sequence[int], fold: Fold) -> Run:
    """Merge records of one clock (`next_run`), as one by one. The customer keeps its former state until `Run.close`."""
    state, scored, changed = OpenState(c.value, fold.rules), list[tuple[int, bytes]](), False
    for position, outcome in _merged(state, positions, fold):
        _report(outcome, position, fold)
        changed = True
        if not state.silent:
            scored.append((position, state.header()))
    c.done += len(positions)
    c.changed |= changed
    value = state.value() if changed else c.value
    clock = fold.batch.clocks[positions[0]]
    row = first_that_moves([header for _, header in scored], clock, fold.scoring) if fold.scoring and scored else None
    request = None if row is None else _request(c, positions, scored[row][0], fold)
    return Run(c, request, value, changed)


def close_runs(runs: Sequence[Run], batch: Batch, scoring: ScoringContext | None) -> None:
    """Give the customers of runs the states after all their records, and search their next moves by time."""
    searched = [run.customer for run in runs if run.close()]
    if scoring is not None:
        search_customers(searched, [batch.clocks[c.own[c.done - 1]] + 1 for c in searched], scoring)


def merge_held(c: Customer, fold: Fold) -> ScoreRequest | None:
    """Merge the next records of a customer whose state is held open: one, or those of `next_run`.

    Return the first that moves it, or may: its state is bytes from there on. It stays open while none does.
    """
    state, batch = c.held, fold.batch
    assert state is not None
    changed = False
    for position in next_run(c, fold) or [c.own[c.done]]:
        clock = batch.clocks[position]
        state.advance(clock)
        before = state.header()
        c.done += 1
        for _, outcome in _merged(state, [position], fold):
            _report(outcome, position, fold)
            changed = c.changed = True
            if not state.silent and fold.scoring and _may_move(state, clock, fold.scoring):
                event = batch.events[position]
                return ScoreRequest(c.key, c.value, before, clock, (position, BY_RECORD, clock, c.key), event)
    if changed and state.silent:
        c.wait(NEVER_DUE, 0, NEVER_DUE)
    elif changed and fold.scoring:
        search_open_customers([c], [batch.clocks[c.own[c.done - 1]] + 1], fold.scoring)
    return None


def _may_move(state: OpenState, clock: int, scoring: ScoringContext) -> bool:
    unknown = state.segment not in scoring.model.scorer.index_of
    return unknown or first_that_moves([state.header()], clock, scoring) is not None


def merge_open(customers: list[Customer], fold: Fold) -> tuple[list[tuple[Customer, ScoreRequest]], list[Customer]]:
    """Merge the next records of those customers whose states are held open.

    Return (the requests about those that move, the customers that are left: their next records are for bytes).
    """
    requests, others = list[tuple[Customer, ScoreRequest]](), list[Customer]()
    if all(c.held is None for c in customers):
        return requests, customers
    for c in customers:
        position = c.own[c.done]
        event = fold.batch.events[position]
        if (
            c.held is None
            or event is None
            or event.entry.kind == ERASED
            or not c.held.is_for(event.entry, fold.batch.clocks[position])
        ):
            others.append(c)
        elif (request := merge_held(c, fold)) is not None:
            requests.append((c, request))
    return requests, others


def merge_ending(c: Customer, fold: Fold, *, event_time: bool) -> None:
    """Merge all of the customer's records, some of which end backfills, as `merge_unscored` does."""
    for position in c.own:
        slots = fold.batch.slots_to_keep(position, event_time=event_time)
        merge_unscored(c, fold._replace(open_slots=slots))


def merge_unscored(c: Customer, fold: Fold) -> None:
    """Merge the customer's next record, which isn't scored, and note when time alone may move the customer next."""
    if (request := merge_next(c, fold)) is not None:
        fold.turn.due[c.key] = request.at + 1


def merge_all(c: Customer, fold: Fold) -> None:
    """Merge all of the customer's records, of any clocks, as `merge_unscored` does."""
    if len(c.own) < HELD_OPEN or c.linked:
        while c.done < len(c.own):
            merge_unscored(c, fold)
        return
    state, changed = OpenState(c.value, fold.rules), False
    for position, outcome in _merged(state, c.own, fold):
        _report(outcome, position, fold)
        changed = True
        if not state.silent:
            fold.turn.due[c.key] = fold.batch.clocks[position] + 1
    c.done = len(c.own)
    if changed:
        c.value, c.changed = state.value(), True


def _request(c: Customer, positions: Sequence[int], moving: int, fold: Fold) -> ScoreRequest:
    """Return the request about the record that moves the customer: the records up to it are merged once more."""
    event, clock = fold.batch.events[moving], fold.batch.clocks[moving]
    until, scratch = positions.index(moving), fold._replace(turn=Turn(0, 0))
    state = OpenState(c.value, fold.rules)
    prior = state.value() if list(_merged(state, positions[:until], scratch)) else c.value
    list(_merged(state, [moving], scratch))
    return ScoreRequest(c.key, state.value(), prior, clock, (moving, BY_RECORD, clock, c.key), event)


def _merged(state: OpenState, positions: Sequence[int], fold: Fold) -> Iterator[tuple[int, Outcome]]:
    """Merge records into the state; yield (position, outcome) after each that changes it."""
    batch = fold.batch
    for position in positions:
        fold.check_time()
        event, was_capped = batch.events[position], state.capped
        assert event is not None
        outcome = state.absorb(event.entry, batch.clocks[position])
        _count(outcome, state.capped and not was_capped, fold)
        if outcome in _UNCHANGED or not state.changed:
            continue
        state.dirty = True
        state.muted = _slot(position, state.muted, event.entry.kind, fold)
        yield position, outcome


def _count(outcome: Outcome, capped: bool, fold: Fold) -> None:
    fold.turn.counts[outcome.value] += 1
    if capped:
        fold.turn.counts[_CAPPED] += 1


def _report(outcome: Outcome, position: int, fold: Fold) -> None:
    """Copy a record to the dead letters where its content doesn't count, or another one's no longer does."""
    event = fold.batch.events[position]
    assert event is not None
    if outcome is Outcome.CONFLICT:
        message = (
            f"event id {event.event_id!r} was seen before with other content: the greater revision, or the later date, "
            "counts."
        )
        fold.turn.dead.append(DeadLetter(position, Reason.CONFLICTING_ID.value, "id", message))
    elif outcome is Outcome.OUTDATED and event.entry.revision == UNREVISED:
        message = (
            f"event id {event.event_id!r} changes an order, but the content known before counts: it has updated_at or "
            "a revision, or is dated later, or at that date is worth more. Send updated_at with each order."
        )
        fold.turn.dead.append(DeadLetter(position, Reason.OUTDATED_EDIT.value, "updated_at", message))


def _slot(position: int, muted: int, kind: int, fold: Fold) -> int:
    """Return the slot of the backfill that mutes the customer after a record; 0: none. `muted`: the one before it."""
    slot = fold.batch.mutes.get(position) or muted
    # An erasure is published at once, backfill or not.
    return slot if slot in fold.open_slots and kind != ERASED else 0


def _forgotten(prior: bytes | None, value: bytes, clock: int, rules: Rules) -> bool:
    """Return whether a late record only repeats what was folded away long ago."""
    return prior is not None and value == advance_bytes(prior, clock, rules)
