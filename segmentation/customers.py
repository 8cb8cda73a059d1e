"""The customers of one turn: mutable, written by the scoring step alone, by way of what the decisions return."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segmentation.decisions import ScoreRequest, ScoringContext, announce, score, search, search_open
from segmentation.moves import Move
from segmentation.open_state import OpenState
from segmentation.output_events import Cause
from segmentation.rfm import EMPTY, Rules, announcement, current, is_silent
from segmentation.step import NEVER_DUE, Turn


@dataclass(slots=True, eq=False)
class Customer:
    """One customer's part of a turn."""

    key: bytes
    whole: bytes | None  # the state's bytes, unless it is held open; None: there is none
    own: Sequence[int] = ()  # its records, by position in the batch
    fired_at: int | None = None  # its entry of the due index, where that has fired
    done: int = 0  # how many of its records are merged
    due: int = NEVER_DUE  # when time alone moves it (ms), where known
    target: int = 0  # the id of the segment that this move leads to
    wake: int = NEVER_DUE  # when to search again: `due`, or earlier
    changed: bool = False  # the value is to be stored
    searched: bool = False  # `wake` is known
    erased: bool = False  # its entry of the due index is from before its erasure
    linked: bool = False  # it knows of merges, or learns of one
    is_root: bool = False  # it does, and is known to be the root of its person
    merged_into: str | None = None  # the root that its last move names
    stored: bytes | None = None  # of one who is linked: the value before
    move: Move | None = None  # the move of this round, until the one after it is known
    held: OpenState | None = None  # the state, held open

    @classmethod
    def of(cls, key: bytes, stored: object, rules: Rules, own: Sequence[int] = ()) -> Customer:
        """Return a customer with its stored state: bytes of any format, a state held open, or None."""
        if isinstance(stored, OpenState):
            return cls(key, None, own, held=stored)
        return cls(key, current(stored, rules) if isinstance(stored, bytes) else None, own)

    @property
    def value(self) -> bytes | None:
        """The state's bytes; None: no state. From then on it is held open no longer."""
        if self.held is not None:
            self.whole, self.held = self.held.value(), None
        return self.whole

    @value.setter
    def value(self, value: bytes | None) -> None:
        self.whole, self.held = value, None

    def next_record(self, taken: int) -> int | None:
        """Return the position of its next record among the first `taken` of the batch; None: there is none."""
        if self.done < len(self.own) and (position := self.own[self.done]) < taken:
            return position
        return None

    def take(self, move: Move) -> None:
        """Note its move, and the state after it."""
        self.value, self.changed, self.move = move.value, True, move

    def drops_silently(self) -> bool:
        """Return whether nothing of a due customer may be published; then its entry of the due index is dropped."""
        whole = self.whole
        if not (self.held.silent if self.held is not None else whole is not None and is_silent(whole)):
            return False
        self.searched = True
        return True

    def wait(self, due: int, target: int, wake: int) -> None:
        """Note its next move by time alone; its move of this round foretells it."""
        self.due, self.target, self.wake, self.searched = due, target, wake, True
        if self.move is not None:
            if due < NEVER_DUE:
                self.move.next_at, self.move.next_to = due, target
            self.move = None


def score_customers(
    customers: Sequence[Customer], requests: Sequence[ScoreRequest], scoring: ScoringContext
) -> list[Move]:
    """Return the moves that the model makes now, noted in their customers. `requests[i]` is about `customers[i]`."""
    found = score(requests, scoring)
    for row, move in zip(found.rows, found.moves, strict=True):
        customers[row].take(move)
    return found.moves


def search_customers(customers: Sequence[Customer], starts: Sequence[int], scoring: ScoringContext) -> None:
    """Search when time alone moves each customer next, from its start (ms) on, and note it."""
    found = search([c.value or EMPTY for c in customers], starts, scoring)
    for customer, due, target, wake in zip(customers, *found, strict=True):
        customer.wait(due, target, wake)


def search_open_customers(customers: Sequence[Customer], starts: Sequence[int], scoring: ScoringContext) -> None:
    """Do as `search_customers` for customers whose states are held open, in segments that the model knows."""
    found = search_open([c.held for c in customers if c.held is not None], starts, scoring)
    for customer, due, target, wake in zip(customers, *found, strict=True):
        customer.wait(due, target, wake)


def search_fired(customers: Sequence[Customer], published: int, scoring: ScoringContext) -> None:
    """Search the next move of customers whose entries of the due index have fired.

    `published`: all moves before this instant (ms) are. An earlier entry is what Redis had before it was set back: from
    there, a model that started since would give a move of before its start.
    """
    _search_any(customers, [max(c.fired_at or 0, published) for c in customers], scoring)


def is_due(c: Customer, end: tuple[int, bytes], scoring: ScoringContext | None) -> bool:
    """Return whether time alone moves a customer before (instant, customer).

    A search looks at so many intervals. Where it ended without a move before `end`, it goes on.
    """
    while scoring is not None and c.due >= NEVER_DUE and (c.wake, c.key) < end:
        _search_any([c], [c.wake], scoring)
    return c.due < NEVER_DUE and (c.due, c.key) < end


def _search_any(customers: Sequence[Customer], starts: Sequence[int], scoring: ScoringContext) -> None:
    """Search for customers whose states are bytes or held open."""
    if all(c.held is None for c in customers):
        search_customers(customers, starts, scoring)
        return
    rows = list(zip(customers, starts, strict=True))
    known = scoring.model.scorer.index_of
    opened = [(c, start) for c, start in rows if c.held is not None and c.held.segment in known]
    others = [(c, start) for c, start in rows if c.held is None or c.held.segment not in known]
    search_open_customers([c for c, _ in opened], [start for _, start in opened], scoring)
    search_customers([c for c, _ in others], [start for _, start in others], scoring)


def erase_customer(customer: Customer, request: ScoreRequest) -> Iterable[Move]:
    """Make the move to no segment, if one was published before (docs/explanation/state-format.md, section 8).

    The customer was erased, or its id merged into another.
    """
    customer.erased = True
    value = customer.value or EMPTY
    if not announcement(value)[0]:
        return []
    move = announce(customer.key, value, 0, request.at, request.cause or Cause.ERASURE, request.position)
    if move.cause is Cause.MERGED:
        move.merged_into = customer.merged_into
    move.causation_id = request.event.event_id if request.event else None
    customer.take(move)
    return [move]


def write_customers(customers: Iterable[Customer], turn: Turn) -> None:
    """Write into the turn the states and due times that are to be stored."""
    for c in customers:
        if c.held is not None:
            turn.held[c.key] = c.held
        elif c.changed and c.whole is not None:
            turn.states[c.key] = c.whole
        if not c.searched:
            continue
        if c.fired_at is None and not c.erased:
            if c.wake < NEVER_DUE:
                turn.earlier[c.key] = c.wake
        elif c.wake < NEVER_DUE:
            turn.due[c.key] = c.wake
        else:
            turn.idle.append(c.key)
