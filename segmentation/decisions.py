"""The model's decisions on many customers at once, in columns: the moves now, and the next moves by time alone.

Pure: states go in, moves and instants come out. The step writes them into its customers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from segmentation.decoder import DecodedEvent
from segmentation.entries import CANCELLED, PLACED, REFUNDED, Rules, kind_of, time_of
from segmentation.intervals import (
    MOST_INTERVALS,
    Intervals,
    entries_ahead,
    intervals_of,
    intervals_of_open,
    window_leaves_at,
)
from segmentation.model import SegmentModel
from segmentation.moves import Move, MoveWriter
from segmentation.open_state import OpenState
from segmentation.outlook_figures import outlook_figures
from segmentation.output_events import Cause
from segmentation.rfm import EMPTY, NONE, advance_bytes, announcement, headers, with_announcement
from segmentation.scorer import UNKNOWN, Scorer
from segmentation.scorers import AnyScorer, compile_scorer
from segmentation.state_bytes import HEAD, latest_key
from segmentation.step import NEVER_DUE

CAUSE_OF_KIND: Final = {PLACED: Cause.ORDER, REFUNDED: Cause.REFUND, CANCELLED: Cause.CANCELLATION}
_State = TypeVar("_State", bytes, OpenState)
_FEW: Final = 24  # up to so many customers one search is cheaper than two
BY_TIME, BY_RECORD = 0, 1  # at one position of the fold, what is due comes before the record
FoldPosition = tuple[int, int, int, bytes]  # of a move in the fold: record, by time or by record, instant, customer


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A model as the step uses it."""

    scorer: AnyScorer
    writer: MoveWriter

    @classmethod
    def of(cls, model: SegmentModel, group: str, names: dict[int, str]) -> CompiledModel:
        """Compile; `names` are those of earlier models, by segment id."""
        return cls(compile_scorer(model), MoveWriter(group, model, names | {s.id: s.name for s in model.segments}))


class ScoringContext(NamedTuple):
    """The model and the rules that every decision goes by."""

    model: CompiledModel
    dwell_ms: int  # least time between two moves of a customer, at least 1
    rules: Rules

    @classmethod
    def of(cls, model: CompiledModel, dwell_ms: int, rules: Rules) -> ScoringContext:
        """Make one whose dwell is at least 1 ms (docs/explanation/time.md, section 7)."""
        return cls(model, max(dwell_ms, 1), rules)


class ScoreRequest(NamedTuple):
    """A customer to be scored at an instant at which its header holds."""

    key: bytes
    value: bytes | None  # the state to score
    prior: bytes | None  # the state before `event`
    at: int  # ms
    position: FoldPosition
    event: DecodedEvent | None = None  # the event that changed the state
    cause: Cause | None = None  # the cause of a move; None: the event, or the model


class ScoredMoves(NamedTuple):
    """The moves among some requests, and the row of each move's request."""

    rows: list[int]
    moves: list[Move]


class DueMove(NamedTuple):
    """A move by time alone whose instant has come."""

    key: bytes
    value: bytes  # the state before it
    at: int  # ms
    target: int  # segment id
    position: FoldPosition


class NextMoves(NamedTuple):
    """The next move by time alone of some customers, [customers] each. Instants in ms."""

    due: list[int]  # the instant of the move; NEVER_DUE: none is known
    target: list[int]  # the id of the segment that it leads to; 0 for a customer without a segment and without a move
    wake: list[int]  # when to search again: `due`, or earlier


def score(requests: Sequence[ScoreRequest], scoring: ScoringContext) -> ScoredMoves:
    """Return the moves that the model makes now (docs/explanation/time.md, section 1)."""
    if not requests:
        return ScoredMoves([], [])
    scorer, rules = scoring.model.scorer, scoring.rules
    head = headers([r.value or EMPTY for r in requests])
    at = np.array([r.at for r in requests], dtype=np.int64)
    rest = scorer.rest_of(head)
    rows, target, unknown = _moving(head, at, rest, scoring)
    distances = published(scorer.distances(at[rows], head["last"][rows], rest[rows]))
    outlooks = outlook_figures(scorer.model.outlook, head[rows], at[rows])
    found = ScoredMoves(rows.tolist(), [])
    for row, apart, outlook in zip(found.rows, distances, outlooks, strict=True):
        key, value, prior, instant, position, event, cause = requests[row]
        if cause is None and unknown[row]:
            cause = Cause.MODEL if head["segment"][row] else Cause.FIRST
        elif cause is None:
            cause = Cause.MODEL if event is None else CAUSE_OF_KIND[event.entry.kind]
        move = announce(key, value or EMPTY, int(scorer.ids[target[row]]), instant, cause, position)
        move.before = None if prior is None else advance_bytes(prior, instant, rules)
        move.before_at, move.distances, move.outlook = instant, apart, outlook
        move.causation_id = event.event_id if event else None
        found.moves.append(move)
    return found


def first_that_moves(heads: Sequence[bytes], at: int, scoring: ScoringContext) -> int | None:
    """Return the first of one customer's headers, after one event each at one instant, that moves it; None: none."""
    head = np.frombuffer(b"".join(heads), HEAD)
    rows, _, _ = _moving(head, np.full(head.size, at, np.int64), scoring.model.scorer.rest_of(head), scoring)
    return int(rows[0]) if rows.size else None


def _moving(
    head: NDArray[np.void], at: NDArray[np.int64], rest: NDArray[np.float64], scoring: ScoringContext
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return (rows that move at their own instants, each row's target by index, rows without a known segment)."""
    scorer = scoring.model.scorer
    source = scorer.index_from_ids(head["segment"])
    target = scorer.decide(source, at, head["last"], rest)
    unknown = source == UNKNOWN
    # A customer who never had an order that stands has no recency, hence no segment yet.
    known_may = head["moved_at"] <= at - scoring.dwell_ms
    may = np.where(unknown, (head["last"] != NONE) | (head["segment"] != 0), known_may)
    return np.flatnonzero((target != source) & may), target, unknown


def published(distances: NDArray[np.float64]) -> list[list[float]]:
    """Round distances as they are published, a row a move: six digits are plenty for a person."""
    rows: list[list[float]] = np.round(distances, 6).tolist()
    return rows


def announce(key: bytes, value: bytes, target: int, at: int, cause: Cause, position: FoldPosition) -> Move:
    """Make the customer's next move, numbered; its `value` is the state with the move noted. `target`: 0 is none."""
    source, sequence, _ = announcement(value)
    sequence += 1
    after = with_announcement(value, target, sequence, at if target else NONE)
    return Move(position, key, sequence, source, target, cause, at, after)


def move_by_time(due: Sequence[DueMove], scoring: ScoringContext) -> list[Move]:
    """Make each move at its own instant, [due]."""
    if not due:
        return []
    model, _, rules = scoring
    moves = []
    for (key, prior, at, target, position), waited in zip(due, _waited(due, scoring), strict=True):
        known, _, _ = announcement(prior)
        if known in model.scorer.index_of:
            leaves = model.scorer.by_window and window_leaves_at(prior, at, rules)
            cause = Cause.WINDOW if leaves else waited or Cause.SILENCE
        else:
            cause = Cause.MODEL if known else Cause.FIRST
        move = announce(key, advance_bytes(prior, at, rules), target, at, cause, position)
        if cause is not Cause.FIRST:
            move.before, move.before_at = advance_bytes(prior, at - 1, rules), at - 1
        moves.append(move)
    head = headers([move.value for move in moves])
    rest = model.scorer.rest_of(head)
    instants = np.array([move.at for move in moves], dtype=np.int64)
    distances = model.scorer.distances(instants, head["last"], rest)
    outlooks = outlook_figures(model.scorer.model.outlook, head, instants)
    for move, apart, outlook in zip(moves, published(distances), outlooks, strict=True):
        move.distances, move.outlook = apart, outlook
    return moves


def _waited(due: Sequence[DueMove], scoring: ScoringContext) -> list[Cause | None]:
    """Return the cause of each move that only waited for the end of the dwell: the latest event; None: time alone.

    Such a customer had crossed the border before (docs/explanation/time.md, section 7). Two orders at one instant are a
    case of it: the move of the second one comes a millisecond later.
    """
    scorer, dwell_ms, rules = scoring.model.scorer, scoring.dwell_ms, scoring.rules
    causes: list[Cause | None] = [None] * len(due)
    rows = [i for i, move in enumerate(due) if announcement(move.value)[2] == move.at - dwell_ms]
    if not rows:
        return causes
    at = np.array([due[i].at for i in rows], dtype=np.int64)
    values = [due[i].value for i in rows]
    latest = [latest_key(value) for value in values]
    # An event that came since, but is dated no later than the last move, shows in the model's decision on that instant.
    came = np.array(
        [key is not None and time_of(key) > t for key, t in zip(latest, (at - dwell_ms).tolist(), strict=True)]
    )
    waited = _crossed(values, at - 1, scorer, rules) & (came | _crossed(values, at - dwell_ms, scorer, rules))
    for i, key, held in zip(rows, latest, waited.tolist(), strict=True):
        if held and key is not None:
            causes[i] = CAUSE_OF_KIND.get(kind_of(key))
    return causes


def _crossed(values: Sequence[bytes], at: NDArray[np.int64], scorer: AnyScorer, rules: Rules) -> NDArray[np.bool_]:
    """Return whether the model, knowing all that is known now, would move each customer at its own instant."""
    values = [advance_bytes(value, t, rules) for value, t in zip(values, at.tolist(), strict=True)]
    head = headers(values)
    source = scorer.index_from_ids(head["segment"])
    if isinstance(scorer, Scorer):
        stretches = intervals_of(values, at, rules, 1)
        rest = scorer.rest(stretches.frequency, stretches.monetary)
    else:
        rest = scorer.rest_of(head)
    crossed: NDArray[np.bool_] = scorer.decide(source, at, head["last"], rest) != source
    return crossed


def staying(
    values: Sequence[bytes], head: NDArray[np.void], at: int, scoring: ScoringContext
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which customers the model leaves in their segments, [customers], and when to search each again, [those].

    The same as `score` and then `search` from `at` + 1, without an object per customer: after the start of a model most
    customers stay. `head`: their headers, which must hold at the instant `at`; their segments must be the model's.
    """
    scorer = scoring.model.scorer
    source = scorer.index_from_ids(head["segment"])
    target = scorer.decide(source, np.full(source.size, at, dtype=np.int64), head["last"], scorer.rest_of(head))
    stays = (target == source) | (head["moved_at"] > at - scoring.dwell_ms)
    if not stays.all():
        values, head, source = list(compress(values, stays.tolist())), head[stays], source[stays]
    start = np.full(source.size, at + 1, dtype=np.int64)
    ahead = _ahead(_Cutting(values, intervals_of), head, source, start, scoring)
    return stays, np.minimum(ahead.at, ahead.until)


class _Ahead(NamedTuple):
    """The next move by time of some customers, [customers], by index in the model; instants in ms."""

    start: NDArray[np.int64]  # from when on they may move
    at: NDArray[np.int64]
    to: NDArray[np.int64]
    until: NDArray[np.int64]  # the search ended here


class _Cutting(NamedTuple, Generic[_State]):
    """States, and how their futures are cut into intervals."""

    states: Sequence[_State]
    cut: Callable[[Sequence[_State], NDArray[np.int64], Rules, int], Intervals]

    def only(self, rows: NDArray[np.int64]) -> Sequence[_State]:
        return [self.states[row] for row in rows.tolist()]


def _ahead(
    cutting: _Cutting[_State],
    head: NDArray[np.void],
    source: NDArray[np.int64],
    starts: NDArray[np.int64],
    scoring: ScoringContext,
) -> _Ahead:
    scorer, dwell_ms, rules = scoring.model.scorer, scoring.dwell_ms, scoring.rules
    eligible = np.maximum(head["moved_at"], NONE + dwell_ms + 1) + dwell_ms
    start = np.maximum(starts, np.where(source == UNKNOWN, 0, eligible))
    own = np.maximum(source, 0)
    head, until = entries_ahead(cutting.states, head, start, rules)
    if not isinstance(scorer, Scorer):
        at, to = scorer.next_move(own, head["last"], start, scorer.rest_of(head), until)
        return _Ahead(start, at, to, until)
    # Most move before anything leaves the window. Of many customers, only the others' later intervals are searched.
    limit = 1 if source.size > _FEW else MOST_INTERVALS
    stretches = cutting.cut(cutting.states, start, rules, limit)
    at, to = scorer.next_move(own, head["last"], start, stretches)
    until = stretches.until
    if limit < MOST_INTERVALS and (rest := np.flatnonzero((at == NEVER_DUE) & (until < NEVER_DUE))).size:
        stretches = cutting.cut(cutting.only(rest), start[rest], rules, MOST_INTERVALS)
        at[rest], to[rest] = scorer.next_move(own[rest], head["last"][rest], start[rest], stretches)
        until[rest] = stretches.until
    return _Ahead(start, at, to, until)


def search(values: Sequence[bytes], starts: Sequence[int], scoring: ScoringContext) -> NextMoves:
    """Return when time alone moves each customer, from its start (ms) on, and where to.

    A customer in no segment of the model doesn't wait: it is due at its start, if it ever had an order by then.
    """
    if not values:
        return NextMoves([], [], [])
    scorer = scoring.model.scorer
    head = headers(values)
    source = scorer.index_from_ids(head["segment"])
    cutting = _Cutting(values, intervals_of)
    start, at, to, until = _ahead(cutting, head, source, np.array(starts, dtype=np.int64), scoring)
    found = NextMoves(at.tolist(), scorer.ids[to].tolist(), np.minimum(at, until).tolist())
    for row in np.flatnonzero(source == UNKNOWN).tolist():
        due, target = _first_segment(values[row], int(start[row]), scoring)
        found.due[row], found.target[row] = due, target
        found.wake[row] = due if due < NEVER_DUE else int(until[row])
    return found


def search_open(states: Sequence[OpenState], starts: Sequence[int], scoring: ScoringContext) -> NextMoves:
    """Do as `search` with states held open, whose segments are the model's."""
    if not states:
        return NextMoves([], [], [])
    scorer = scoring.model.scorer
    head = np.frombuffer(b"".join([state.header() for state in states]), HEAD)
    source = scorer.index_from_ids(head["segment"])
    cutting = _Cutting(states, intervals_of_open)
    _, at, to, until = _ahead(cutting, head, source, np.array(starts, dtype=np.int64), scoring)
    return NextMoves(at.tolist(), scorer.ids[to].tolist(), np.minimum(at, until).tolist())


def _first_segment(value: bytes, start: int, scoring: ScoringContext) -> tuple[int, int]:
    """Return (instant, segment id) of the move of a customer without a segment; (NEVER_DUE, 0): no order yet."""
    scorer = scoring.model.scorer
    head = headers([advance_bytes(value, start, scoring.rules)])
    if head["last"][0] == NONE and not head["segment"][0]:
        return NEVER_DUE, 0
    nearest = scorer.decide(np.array([UNKNOWN]), np.array([start]), head["last"], scorer.rest_of(head))
    return start, int(scorer.ids[nearest[0]])
