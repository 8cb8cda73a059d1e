"""The model's answers for many customers at once: who moves now, and when will time alone move them. In columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation.decoder import Arrival
from segmentation.events import Cause
from segmentation.intervals import MOST_PIECES, pieces, window_leaves_at
from segmentation.model import SegmentModel
from segmentation.money import UNITS
from segmentation.moves import Move, MoveWriter
from segmentation.rfm import EMPTY, NONE, Kind, Rules, advance_bytes, announcement, headers, with_announcement
from segmentation.rfm import rows as entries
from segmentation.scorer import UNKNOWN, Scorer
from segmentation.step import NEVER_DUE

CAUSE_OF_KIND: Final = {Kind.PLACED: Cause.ORDER, Kind.REFUNDED: Cause.REFUND, Kind.CANCELLED: Cause.CANCELLATION}
_FEW: Final = 24  # up to so many one look is cheaper than two
FoldPosition = tuple[int, int, int, bytes]  # of a move in the fold: record, by time or by record, instant, customer


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A model as the step uses it."""

    scorer: Scorer
    writer: MoveWriter

    @classmethod
    def of(cls, model: SegmentModel, group: str, names: dict[int, str]) -> CompiledModel:
        """Compile; `names` are those of earlier models, by segment id."""
        return cls(Scorer(model), MoveWriter(group, model, names | {s.id: s.name for s in model.segments}))


@dataclass(slots=True, eq=False)
class Customer:
    """One customer's part of a turn."""

    key: bytes
    value: bytes | None
    own: Sequence[int] = ()  # its records, by place in the batch
    fired_at: int | None = None  # its entry of the due index, where that has fired
    done: int = 0  # how many of its records are merged
    prior: bytes | None = None  # the value before the record merged last
    due: int = NEVER_DUE  # when time alone moves it (ms), where known
    to: int = UNKNOWN  # and where to: index in the model
    wake: int = NEVER_DUE  # when to look again: `due`, or earlier
    changed: bool = False  # the value is to be stored
    searched: bool = False  # `wake` is known
    erased: bool = False  # what the due index says of it belongs to a life that is over
    move: Move | None = None  # the move of this round, waiting for its forecast


class Asked(NamedTuple):
    """A customer to be scored at an instant at which its header holds; `arrival` is what changed it.

    `cause`: what else it was; None: the model.
    """

    customer: Customer
    at: int
    place: FoldPosition
    arrival: Arrival | None
    cause: Cause | None = None


def score(asked: Sequence[Asked], model: CompiledModel, dwell_ms: int, rules: Rules) -> list[Move]:
    """The moves that the model makes now (TIME 1), announced in the customers' values."""
    if not asked:
        return []
    scorer = model.scorer
    head = headers([a.customer.value or EMPTY for a in asked])
    at = np.array([a.at for a in asked], dtype=np.int64)
    source = scorer.index_from_ids(head["segment"])
    rest = rest_of(head, scorer)
    target = scorer.decide(source, at, head["last"], rest)
    unknown = source == UNKNOWN
    # Who never had an order that stands has no recency, hence no segment yet.
    may = np.where(unknown, (head["last"] != NONE) | (head["segment"] != 0), head["moved_at"] <= at - dwell_ms)
    rows = np.flatnonzero((target != source) & may)
    distances = published(scorer.distances(at[rows], head["last"][rows], rest[rows]))
    moves = []
    for row, apart in zip(rows.tolist(), distances, strict=True):
        customer, instant, place, arrival, cause = asked[row]
        if cause is None and unknown[row]:
            cause = Cause.MODEL if head["segment"][row] else Cause.FIRST
        elif cause is None:
            cause = Cause.MODEL if arrival is None else CAUSE_OF_KIND[Kind(arrival.entry[0] & 7)]
        before = None if customer.prior is None else advance_bytes(customer.prior, instant, rules)
        move = announce(customer, int(scorer.ids[target[row]]), instant, cause, place)
        move.before, move.before_at, move.distances = before, instant, apart
        move.causation_id = arrival.event_id if arrival else None
        moves.append(move)
    return moves


def rest_of(head: NDArray[np.void], scorer: Scorer) -> NDArray[np.float64]:
    """Squared distances without recency, [customers, segments], of states whose headers hold."""
    return scorer.rest(head["frequency"].astype(np.float64), head["monetary"] / float(UNITS))


def published(distances: NDArray[np.float64]) -> list[list[float]]:
    """Distances as they are told, a row a move: six digits are plenty for a person."""
    rows: list[list[float]] = np.round(distances, 6).tolist()
    return rows


def announce(customer: Customer, target: int, at: int, cause: Cause, place: FoldPosition) -> Move:
    """The customer's next move, numbered, and noted in its value."""
    value = customer.value or EMPTY
    source, sequence, _ = announcement(value)
    sequence += 1
    customer.value = with_announcement(value, target, sequence, at if target else NONE)
    customer.changed = True
    customer.move = Move(place, customer.key, sequence, source, target, cause, at, customer.value)
    return customer.move


def move_by_time(
    customers: Sequence[Customer], places: Sequence[FoldPosition], model: CompiledModel, dwell_ms: int, rules: Rules
) -> list[Move]:
    """The moves at each customer's own due instant."""
    if not customers:
        return []
    moves = []
    for customer, place, waited in zip(customers, places, _waited(customers, model, dwell_ms, rules), strict=True):
        prior = customer.value or EMPTY
        at = customer.due
        known, _, _ = announcement(prior)
        if known in model.scorer.index_of:
            cause = Cause.WINDOW if window_leaves_at(prior, at, rules) else waited or Cause.SILENCE
        else:
            cause = Cause.MODEL if known else Cause.FIRST
        customer.value = advance_bytes(prior, at, rules)
        move = announce(customer, int(model.scorer.ids[customer.to]), at, cause, place)
        if cause is not Cause.FIRST:
            move.before, move.before_at = advance_bytes(prior, at - 1, rules), at - 1
        moves.append(move)
    head = headers([move.value for move in moves])
    rest = rest_of(head, model.scorer)
    instants = np.array([move.at for move in moves], dtype=np.int64)
    distances = model.scorer.distances(instants, head["last"], rest)
    for move, apart in zip(moves, published(distances), strict=True):
        move.distances = apart
    return moves


def _waited(customers: Sequence[Customer], model: CompiledModel, dwell_ms: int, rules: Rules) -> list[Cause | None]:
    """What really moved those whose border was crossed already while they had to dwell: their latest event (TIME 5).

    Two orders at one instant are such a case: the second one's move is told a millisecond later. None: time alone.
    """
    causes: list[Cause | None] = [None] * len(customers)
    rows = [i for i, c in enumerate(customers) if announcement(c.value or EMPTY)[2] == c.due - dwell_ms]
    if not rows:
        return causes
    due = np.array([customers[i].due for i in rows], dtype=np.int64)
    values = [customers[i].value or EMPTY for i in rows]
    latest = [entries([value])["key"] for value in values]
    # What came since, but is dated no later than the last move, shows by what the model says of that instant now.
    came = np.array(
        [k.size > 0 and int(k[-1]) >> 3 > t for k, t in zip(latest, (due - dwell_ms).tolist(), strict=True)]
    )
    waited = _crossed(values, due - 1, model.scorer, rules) & (
        came | _crossed(values, due - dwell_ms, model.scorer, rules)
    )
    for i, keys, held in zip(rows, latest, waited.tolist(), strict=True):
        if held and keys.size:
            causes[i] = CAUSE_OF_KIND.get(Kind(int(keys[-1]) & 7))
    return causes


def _crossed(values: Sequence[bytes], at: NDArray[np.int64], scorer: Scorer, rules: Rules) -> NDArray[np.bool_]:
    """Whether the model would move each customer at an instant of its own, by all that is known now."""
    head, stretches = headers(values), pieces(values, at, rules, 1)
    source = scorer.index_from_ids(head["segment"])
    rest = scorer.rest(stretches.frequency, stretches.monetary)
    crossed: NDArray[np.bool_] = scorer.decide(source, at, head["last"], rest) != source
    return crossed


def staying(
    values: Sequence[bytes], head: NDArray[np.void], at: int, model: CompiledModel, dwell_ms: int, rules: Rules
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Tell whom the model leaves where they are at an instant, [customers], and when to look at each of those again, [those].

    Says of many what `score` and then `search` from `at` + 1 say of each, without an object for anyone: after a model's
    start most customers stay. `head`: their headers, which must hold at the instant; segments must be the model's.
    """
    scorer = model.scorer
    source = scorer.index_from_ids(head["segment"])
    target = scorer.decide(source, np.full(source.size, at, dtype=np.int64), head["last"], rest_of(head, scorer))
    stays = (target == source) | (head["moved_at"] > at - dwell_ms)
    if not stays.all():
        values, head, source = list(compress(values, stays.tolist())), head[stays], source[stays]
    ahead = _ahead(values, head, source, np.full(source.size, at + 1, dtype=np.int64), scorer, dwell_ms, rules)
    return stays, np.minimum(ahead.at, ahead.until)


class _Ahead(NamedTuple):
    """The next move by time of some customers, [customers], by index in the model; instants in ms."""

    start: NDArray[np.int64]  # from when on they may move
    at: NDArray[np.int64]
    to: NDArray[np.int64]
    until: NDArray[np.int64]  # from where on nothing was looked at


def _ahead(
    values: Sequence[bytes],
    head: NDArray[np.void],
    source: NDArray[np.int64],
    starts: NDArray[np.int64],
    scorer: Scorer,
    dwell_ms: int,
    rules: Rules,
) -> _Ahead:
    eligible = np.maximum(head["moved_at"], NONE + dwell_ms + 1) + dwell_ms
    start = np.maximum(starts, np.where(source == UNKNOWN, 0, eligible))
    own = np.maximum(source, 0)
    # Most move before anything leaves the window: with many, only the others are worth a look at what comes after.
    limit = 1 if source.size > _FEW else MOST_PIECES
    stretches = pieces(values, start, rules, limit)
    at, to = scorer.next_move(own, head["last"], start, stretches)
    until = stretches.until
    if limit < MOST_PIECES and (rest := np.flatnonzero((at == NEVER_DUE) & (until < NEVER_DUE))).size:
        stretches = pieces([values[row] for row in rest.tolist()], start[rest], rules, MOST_PIECES)
        at[rest], to[rest] = scorer.next_move(own[rest], head["last"][rest], start[rest], stretches)
        until[rest] = stretches.until
    return _Ahead(start, at, to, until)


def search(
    customers: Sequence[Customer], starts: Sequence[int], model: CompiledModel, dwell_ms: int, rules: Rules
) -> None:
    """Fill in when time alone moves each customer, from its start (ms) on, and where to; and the forecast of its move.

    Who is in no segment of the model doesn't wait: such a customer is due at its start, if it ever had an order by then.
    """
    if not customers:
        return
    scorer = model.scorer
    values = [c.value or EMPTY for c in customers]
    head = headers(values)
    source = scorer.index_from_ids(head["segment"])
    start, at, to, until = _ahead(values, head, source, np.array(starts, dtype=np.int64), scorer, dwell_ms, rules)
    wake = np.minimum(at, until)
    for row, customer in enumerate(customers):
        customer.searched = True
        if source[row] == UNKNOWN:
            _wait_for_an_order(customer, int(start[row]), int(until[row]), scorer, rules)
        else:
            customer.due, customer.to, customer.wake = int(at[row]), int(to[row]), int(wake[row])
        if (move := customer.move) is not None:
            if customer.due < NEVER_DUE:
                move.next_at, move.next_to = customer.due, int(scorer.ids[customer.to])
            customer.move = None


def _wait_for_an_order(customer: Customer, start: int, until: int, scorer: Scorer, rules: Rules) -> None:
    head = headers([advance_bytes(customer.value or EMPTY, start, rules)])
    if head["last"][0] == NONE and not head["segment"][0]:
        customer.due, customer.to, customer.wake = NEVER_DUE, UNKNOWN, until
        return
    rest = rest_of(head, scorer)
    nearest = scorer.decide(np.array([UNKNOWN]), np.array([start]), head["last"], rest)
    customer.due, customer.to, customer.wake = start, int(nearest[0]), start
