"""The moves of a replay as columns, and how often customers move and go back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Self, TypeVar

import numpy as np

from segmentation.entries import DAY_MS, PLACED
from segmentation.output_events import Cause
from segmentation.state_bytes import HEAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream.rehearsal.replay import GroupReplay

    Ints = NDArray[np.int64]

_Segment = TypeVar("_Segment", str, int)
YEAR_MS: Final = 365 * DAY_MS
BACK_DAYS: Final = (14, 30)
# The shop changed its mind, or got to know somebody: no customer crossed a border.
NOT_OWN: Final = (Cause.MODEL, Cause.SETTINGS, Cause.FIRST, Cause.BACKFILL)


class MoveColumns(NamedTuple):
    """Moves of a group's customers, [moves], a customer's in time order."""

    customer: Ints  # by index in the group
    at: Ints  # ms
    source: Ints  # segment ids; 0: none
    target: Ints
    cause: list[Cause]
    head: NDArray[np.void]  # the state's header at the move, as far as decisions need it

    @classmethod
    def joined(cls, parts: Sequence[MoveColumns]) -> Self:
        """Return some columns one after the other."""
        if not parts:
            nothing = np.empty(0, np.int64)
            return cls(nothing, nothing, nothing, nothing, [], np.empty(0, HEAD))
        customer, at, source, target, head = (np.concatenate([part[i] for part in parts]) for i in (0, 1, 2, 3, 5))
        return cls(customer, at, source, target, [cause for part in parts for cause in part.cause], head)


class Crossing(NamedTuple, Generic[_Segment]):
    """A customer's move from one segment, by its id or its name, to another."""

    at: int  # ms
    source: _Segment
    target: _Segment
    cause: str


@dataclass(slots=True)
class MoveTally:
    """Counts of the moves of customers from one segment to another. Those of several groups can be added.

    `followed`: the moves that can be followed for 30 days; `back`: those of them whose source is entered again within
    so many days.
    """

    customers: int = 0
    customer_ms: int = 0  # their time, from the start or the first order on
    by_cause: Counter[str] = field(default_factory=Counter)
    followed: int = 0
    back: Counter[int] = field(default_factory=Counter)

    @property
    def moves(self) -> int:
        """The number of moves."""
        return self.by_cause.total()

    @property
    def moves_per_year(self) -> float:
        """Moves a customer and year."""
        return self.moves / max(self.customer_ms / YEAR_MS, 1e-12)

    def share_back(self, days: int) -> float:
        """Return the share of the moves that go back within so many days."""
        return self.back[days] / max(self.followed, 1)

    def causes(self) -> dict[str, float]:
        """Return the share of the moves by cause."""
        return {cause: count / max(self.moves, 1) for cause, count in sorted(self.by_cause.items())}

    def add(self, other: MoveTally) -> None:
        """Add the counts of other customers."""
        self.customers += other.customers
        self.customer_ms += other.customer_ms
        self.by_cause.update(other.by_cause)
        self.followed += other.followed
        self.back.update(other.back)


def tally_of(
    crossings: Mapping[str, Sequence[Crossing[Any]]], first_orders: Mapping[str, int], start: int, end: int
) -> MoveTally:
    """Count the moves in [start, end) of customers, by their names; `first_orders`: instants (ms), of all customers.

    >>> own = [Crossing(0, "A", "B", "silence"), Crossing(10 * DAY_MS, "B", "A", "order")]
    >>> tally = tally_of({"c": own}, {"c": -5}, 0, YEAR_MS)
    >>> tally.moves_per_year, tally.share_back(14), tally.causes()
    (2.0, 0.5, {'order': 0.5, 'silence': 0.5})
    """
    found = MoveTally(len(first_orders), sum(max(end - max(start, first), 0) for first in first_orders.values()))
    for own in crossings.values():
        count_moves(own, end, found)
    return found


def add_moves(group: GroupReplay, start: int, end: int, tally: MoveTally) -> Counter[tuple[int, int]]:
    """Count the customers and the moves of a replay of [start, end). Return the moves by source and target.

    Those that only place a customer are none.
    """
    for own in group.entries:
        first = next((entry.time for entry in own if entry.kind == PLACED), end)
        if first < end:
            tally.customers += 1
            tally.customer_ms += end - max(start, first)
    flows: Counter[tuple[int, int]] = Counter()
    for crossings in crossings_of(group.moves):
        count_moves(crossings, end, tally)
        flows.update([(crossing.source, crossing.target) for crossing in crossings])
    return flows


def crossings_of(moves: MoveColumns) -> Iterable[list[Crossing[int]]]:
    """Return each customer's moves from one segment to another."""
    found: dict[int, list[Crossing[int]]] = {}
    columns = (moves.customer, moves.at, moves.source, moves.target)
    for customer, at, source, target, cause in zip(*(c.tolist() for c in columns), moves.cause, strict=True):
        if source and target and cause not in NOT_OWN:
            found.setdefault(customer, []).append(Crossing(at, source, target, cause.value))
    return found.values()


def count_moves(own: Sequence[Crossing[Any]], end: int, tally: MoveTally) -> None:
    """Count one customer's moves before `end`, which are in time order."""
    for i, crossing in enumerate(own):
        tally.by_cause[crossing.cause] += 1
        if crossing.at < end - BACK_DAYS[-1] * DAY_MS:
            tally.followed += 1
            tally.back.update(returns(own, i))


def returns(own: Sequence[Crossing[Any]], i: int) -> list[int]:
    """Return the spans in BACK_DAYS within which the customer is back in the segment that move i leaves."""
    for later in own[i + 1 :]:
        if later.target == own[i].source:
            return [days for days in BACK_DAYS if later.at - own[i].at <= days * DAY_MS]
    return []
