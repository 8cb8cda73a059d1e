"""All moves of a shard by the definition (docs/explanation/time.md): record by record, after the moves due before.

Slow and plain. Figures are recomputed from all events ever sent (tests/support/oracles/batch.py). When a customer moves
by time is found by asking the scorer: at a hundred instants between any two at which an order leaves the window, then
by halving. No search, no intervals, no states, no index of the code under test takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from segmentation.entries import DAY_MS, HORIZON_MS, Kind, Rules
from segmentation.outlook import Purchases
from segmentation.output_events import Cause
from segmentation.scorer import Scorer
from segmentation.scorers import AnyScorer
from tests.support.data.random_customers import Instants
from tests.support.oracles import batch
from tests.support.oracles.batch import NONE, OracleEvent

CAUSES = {Kind.PLACED: Cause.ORDER, Kind.REFUNDED: Cause.REFUND, Kind.CANCELLED: Cause.CANCELLATION}
NO_SEGMENT = 0  # of a customer without a published move, or erased
GRID = 100


class LogEntry(NamedTuple):
    """A record: an event of a customer, or without one: event time has reached this instant."""

    at: int  # ms
    customer: str = ""
    event: OracleEvent | None = None


class OracleMove(NamedTuple):
    """A move. Segments by lasting id, 0: none."""

    customer: str
    sequence: int
    source: int
    target: int
    at: int  # ms
    cause: Cause


@dataclass
class _Life:
    """All that is known of a customer."""

    events: list[OracleEvent] = field(default_factory=list)  # as they came
    segment: int = NO_SEGMENT
    sequence: int = 0
    moved_at: int = NONE
    _standing: tuple[int, tuple[set[OracleEvent], set[OracleEvent]]] = (0, (set(), set()))

    @property
    def erased(self) -> int:
        return batch.erasure(self.events)

    @property
    def live(self) -> list[OracleEvent]:
        return [e for e in self.events if e.kind != Kind.ERASED and e.time > self.erased]

    def standing(self, rules: Rules) -> tuple[set[OracleEvent], set[OracleEvent]]:
        """In event time nothing is dated after the clock, so what stands does so until another event comes."""
        if self._standing[0] != len(self.events):
            standing = batch.standing(set(self.events), max(e.time for e in self.events), rules)
            self._standing = len(self.events), standing
        return self._standing[1]


class Definition:
    """Moves by the book, of one shard in event time under one model."""

    def __init__(self, scorer: AnyScorer, dwell_ms: int, rules: Rules) -> None:
        self._scorer = scorer
        self._dwell = max(dwell_ms, 1)
        self._rules = rules
        self._lives: dict[str, _Life] = {}
        self._due: dict[str, int] = {}
        self.moves: list[OracleMove] = []

    def run(self, log: Sequence[LogEntry]) -> list[OracleMove]:
        """Do the fold (docs/explanation/time.md, section 9) for every record."""
        clock = NONE
        for record in log:
            clock = max(clock, record.at)
            while self._due and (first := min((t, c.encode(), c) for c, t in self._due.items()))[0] < clock:
                self._by_time(first[2], first[0])
            if record.event is not None:
                self._by_record(record.customer, record.event, clock)
        return self.moves

    def _by_time(self, customer: str, at: int) -> None:
        life = self._lives[customer]
        if life.segment == NO_SEGMENT:
            cause = Cause.FIRST
        elif self._scorer.by_window and any(e.time == at - self._rules.window for e in life.live):
            cause = Cause.WINDOW
        else:
            cause = self._waited(life, at) or Cause.SILENCE
        self._decide(customer, life, at, cause)
        self._look_ahead(customer, at + 1)

    def _waited(self, life: _Life, at: int) -> Cause | None:
        """Return the event that moved the customer while it had to dwell: the latest since the last move, if any."""
        if at != life.moved_at + self._dwell or self._target(life, [at - 1]) is None:
            return None
        # One that came since, but is dated no later, shows in the scorer's decision on that instant now.
        came = any(e.time > life.moved_at for e in life.live) or self._target(life, [life.moved_at]) is not None
        return CAUSES.get(max(life.live, key=lambda e: e.row).kind) if came else None

    def _by_record(self, customer: str, event: OracleEvent, clock: int) -> None:
        life = self._lives.setdefault(customer, _Life())
        if event.time <= life.erased or event in life.events:
            return
        life.events.append(event)
        if event.kind == Kind.ERASED:
            if life.segment != NO_SEGMENT:
                self._note(customer, life, NO_SEGMENT, clock, Cause.ERASURE)
            life.moved_at = NONE
        elif life.segment == NO_SEGMENT or clock >= life.moved_at + self._dwell:
            self._decide(customer, life, clock, Cause.FIRST if life.segment == NO_SEGMENT else CAUSES[event.kind])
        self._look_ahead(customer, clock + 1)

    def _decide(self, customer: str, life: _Life, at: int, cause: Cause) -> None:
        index = self._target(life, [at])
        if index is not None:
            self._note(customer, life, int(self._scorer.ids[index[1]]), at, cause)

    def _note(self, customer: str, life: _Life, target: int, at: int, cause: Cause) -> None:
        life.sequence += 1
        self.moves.append(OracleMove(customer, life.sequence, life.segment, target, at, cause))
        life.segment, life.moved_at = target, at

    def _look_ahead(self, customer: str, start: int) -> None:
        due = self._first_move(self._lives[customer], start)
        self._due.pop(customer, None)
        if due is not None:
            self._due[customer] = due

    def _target(self, life: _Life, at: Sequence[int] | Instants) -> tuple[int, int] | None:
        """Return (position of the first instant of a move, index of the target). Figures as of the first instant."""
        instants = np.asarray(at, dtype=np.int64)
        figures = batch._figures(life.standing(self._rules), int(instants[0]), self._rules)
        if life.segment == NO_SEGMENT and figures.last == NONE:
            return None
        rest = self._rest(life, figures)
        a = np.full(instants.size, self._scorer.index_of.get(life.segment, -1))
        to = self._scorer.decide(a, instants, np.full(instants.size, figures.last), np.repeat(rest, instants.size, 0))
        moved = np.flatnonzero(to != a)
        return (int(moved[0]), int(to[moved[0]])) if moved.size else None

    def _rest(self, life: _Life, figures: batch.OracleFigures) -> np.ndarray:
        if isinstance(self._scorer, Scorer):
            return self._scorer.rest(np.array([float(figures.frequency)]), np.array([figures.monetary / 10_000.0]))
        whole = batch._life(life.standing(self._rules), self._rules)
        days = max(whole.days, 1)
        until_last = (figures.last - whole.first) / DAY_MS if whole.days > 1 else 0.0
        row = (days - 1.0, until_last, until_last, whole.money / 10_000.0 / days)
        return self._scorer.rest_of_purchases(Purchases(*(np.array([value]) for value in row)))

    def _first_move(self, life: _Life, start: int) -> int | None:
        """The first instant from `start` on at which the scorer, asked then, would move the customer."""
        if life.segment != NO_SEGMENT:
            start = max(start, life.moved_at + self._dwell)
        edges = {e.time + self._rules.window for e in life.live}
        last = max([e.time for e in life.live], default=start) + HORIZON_MS
        begins = [start, *sorted(t for t in edges if t > start)]
        for begin, end in pairwise([*begins, max(last, begins[-1]) + 1]):
            asked = np.unique(np.linspace(begin, end - 1, GRID).astype(np.int64))
            if (hit := self._target(life, asked)) is not None:
                low, high = int(asked[max(hit[0] - 1, 0)]), int(asked[hit[0]])
                while high - low > 1:
                    middle = (low + high) // 2
                    # The figures are those of the stretch, whose first instant goes along.
                    known = self._target(life, [begin, middle])
                    low, high = (low, middle) if known is not None else (middle, high)
                return high
        return None
