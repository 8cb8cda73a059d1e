"""Every move of a shard by brute force, customer by customer, from the log and the decision alone.

The definitions are those of docs/explanation/time.md, sections 1, 6, 7 and 9.

Nothing here is the code under test but one function: the coordinate of a single number (`standardise_one`, held to
80-bit arithmetic by tests of its own). Figures are sums over raw events; the first millisecond of a move is found by
bisection, stretch by stretch between whatever changes the figures. It knows no closed form, no due index, no batch and
no state.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np

from segmentation.model import SegmentModel
from segmentation.scalar_scorer import standardise_one

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
HORIZON_MS = 36_525 * DAY_MS
FLOOR = 2.0**-20
UNITS = 10_000
CONTROL = b"\0control"
KINDS = {"order.placed": "order", "order.refunded": "refund"}
# A forecast may miss from so many stretches ahead on: one search covers 64 (docs/explanation/time.md, section 6).
FAR_STRETCHES = 60


class LoggedEvent(NamedTuple):
    """An order or a refund that names no order, at `position` of its partition's log."""

    position: int
    id: str
    kind: str
    at: int
    units: int


class LoggedFigures(NamedTuple):
    last: int
    frequency: int
    units: int


class ExpectedMove(NamedTuple):
    """A move as it must be published. `causation`: the event that caused it.

    `upcoming`: segment and instant; "?": too far ahead to be checked.
    """

    customer: str
    sequence: int
    source: str | None
    target: str
    cause: str
    at: int
    causation: str | None
    figures: tuple[float, int, str]
    upcoming: tuple[str, int] | str | None


class PartitionLog(NamedTuple):
    """A partition: the clock after each record, each customer's events, and where the model starts."""

    clocks: list[int]
    events: dict[str, list[LoggedEvent]]
    start: int


class NextByTime(NamedTuple):
    at: int
    to: int
    stretch: int


def ms(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1)


def read_log(records: Iterable[Any]) -> PartitionLog:
    """Read one partition of the orders topic: record i has the clock C_i = max(C_i-1, time of i)."""
    clock, clocks, start = -1, [], -1
    events: dict[str, list[LoggedEvent]] = {}
    for position, record in enumerate(sorted(records, key=lambda r: r.offset)):
        fields = msgspec.json.decode(record.value)
        if record.key != CONTROL:
            at = ms(fields["occurred_at"])
            clock = max(clock, at)
            assert (
                fields.get("order_id") is None or fields["type"] == "order.placed"
            )  # no rule here for refunds of orders
            event = LoggedEvent(
                position, fields["id"], KINDS[fields["type"]], at, int(Decimal(fields["amount"]["value"]) * UNITS)
            )
            events.setdefault(fields["customer_id"], []).append(event)
        elif fields["type"] == "clock.advanced":
            clock = max(clock, ms(fields["to"]))
        else:
            assert (fields["type"], start) == ("model.activated", -1)
            start = position
        clocks.append(clock)
    return PartitionLog(clocks, events, start)


def figures_of(events: Iterable[LoggedEvent], at: int, window_ms: int) -> LoggedFigures | None:
    """Return the figures of these events, none dated later than `at`. None: no order."""
    orders = [e for e in events if e.kind == "order"]
    if not orders:
        return None
    inside = [e for e in events if at - window_ms < e.at <= at]
    units = sum(e.units if e.kind == "order" else -e.units for e in inside)
    return LoggedFigures(max(e.at for e in orders), sum(e.kind == "order" for e in inside), units)


class BruteForceModel:
    """The decision (docs/explanation/time.md, section 1): a move iff max_b g_ab = d²_a - d²_b > margin."""

    def __init__(self, model: SegmentModel) -> None:
        self.names = [s.name for s in model.segments]
        self.margin = max(model.margin, FLOOR)
        self._features = model.features
        self._centroids = [s.centroid for s in model.segments]

    def rest(self, figures: LoggedFigures) -> list[float]:
        """q of every segment: the squared distance without recency."""
        zf = standardise_one(float(figures.frequency), self._features[1])
        zm = standardise_one(figures.units / UNITS, self._features[2])
        return [(zf - f) * (zf - f) + (zm - m) * (zm - m) for _, f, m in self._centroids]

    def leads(self, a: int, at: int, last: int, rest: Sequence[float]) -> list[float]:
        z = standardise_one(min(max(at - last, 0), HORIZON_MS) / float(DAY_MS), self._features[0])
        own = self._centroids[a][0]
        return [
            (b - own) * ((z + z) - (own + b)) + (rest[a] - q)
            for (b, _, _), q in zip(self._centroids, rest, strict=True)
        ]

    def target(self, a: int | None, at: int, last: int, rest: Sequence[float]) -> int:
        """Return where a customer of `a` is from `at` on; `a` itself: it stays. None: the nearest, without a margin."""
        leads = self.leads(a or 0, at, last, rest)
        best = leads.index(max(leads))
        return best if a is None or leads[best] > self.margin else a


class BruteForceCustomer:
    """One customer, event by event."""

    def __init__(self, name: str, decision: BruteForceModel, window_ms: int, dwell_ms: int) -> None:
        self.name, self.decision, self.window_ms, self.dwell_ms = name, decision, window_ms, max(dwell_ms, 1)
        self.events: list[LoggedEvent] = []
        self.segment: int | None = None
        self.sequence = 0
        self.moved_at = -1
        self.heard = 0  # how many events there were at the last move
        self.due: NextByTime | None = None

    def figures(self, at: int) -> LoggedFigures | None:
        return figures_of(self.events, at, self.window_ms)

    def wait(self, since: int) -> None:
        """Find when time alone moves the customer, from `since` on, if nothing comes."""
        self.due = None if self.segment is None else self._first(max(since, self.moved_at + self.dwell_ms))

    def _first(self, since: int) -> NextByTime | None:
        assert self.segment is not None
        leaving = sorted({e.at + self.window_ms for e in self.events if e.at + self.window_ms > since})
        for number, (begin, following) in enumerate(itertools.pairwise([since, *leaving, None])):
            assert begin is not None
            figures = self.figures(begin)
            assert figures is not None
            rest, last = self.decision.rest(figures), figures.last
            end = max(last + HORIZON_MS, begin) if following is None else following - 1

            def moves(at: int, rest: list[float] = rest, last: int = last) -> bool:
                return self.decision.target(self.segment, at, last, rest) != self.segment

            if moves(begin):
                at = begin
            elif moves(end):
                at = bisect.bisect_left(range(begin, end), True, key=moves) + begin
            else:
                continue
            return NextByTime(at, self.decision.target(self.segment, at, last, rest), number)
        return None

    def decide(self, at: int) -> int | None:
        """Return where the customer goes at `at`; None: it stays."""
        figures = self.figures(at)
        if figures is None or (self.segment is not None and self.moved_at > at - self.dwell_ms):
            return None
        target = self.decision.target(self.segment, at, figures.last, self.decision.rest(figures))
        return None if target == self.segment else target

    def cause_of_time(self, at: int) -> str:
        """Return the cause of a move by time (docs/explanation/time.md, section 7)."""
        if any(e.at + self.window_ms == at for e in self.events):
            return "window"
        since = self.events[self.heard :]
        figures = self.figures(at - 1)
        assert figures is not None
        held = self.decision.target(self.segment, at - 1, figures.last, self.decision.rest(figures)) != self.segment
        return since[-1].kind if since and at == self.moved_at + self.dwell_ms and held else "silence"

    def move(self, target: int, at: int, cause: str, causation: str | None) -> ExpectedMove:
        """Note a move; look for the next."""
        source, self.segment = self.segment, target
        self.sequence += 1
        self.moved_at, self.heard = at, len(self.events)
        self.wait(at + 1)
        figures = self.figures(at)
        assert figures is not None
        upcoming: tuple[str, int] | str | None = None
        if self.due:
            far = self.due.stretch >= FAR_STRETCHES
            upcoming = "?" if far else (self.decision.names[self.due.to], self.due.at)
        return ExpectedMove(
            self.name,
            self.sequence,
            None if source is None else self.decision.names[source],
            self.decision.names[target],
            cause,
            at,
            causation,
            (min(at - figures.last, HORIZON_MS) / float(DAY_MS), figures.frequency, money(figures.units)),
            upcoming,
        )


def money(units: int) -> str:
    """Write ten-thousandths as they are published: two to four decimals."""
    sign, (whole, part) = "-" if units < 0 else "", divmod(abs(units), UNITS)
    text = f"{part:04}"
    return f"{sign}{whole}.{text[:2]}{text[2:].rstrip('0')}"


Key = tuple[int, int, int, bytes]  # sorts the moves of a partition (docs/explanation/time.md, section 9)


def moves_of_customer(
    life: BruteForceCustomer, events: Sequence[LoggedEvent], log: PartitionLog
) -> Iterator[tuple[Key, ExpectedMove]]:
    """All moves of one customer: before each event what fell due earlier than its clock, then the event's own."""
    key = life.name.encode()

    def by_time(until: int) -> Iterator[tuple[Key, ExpectedMove]]:
        while life.due and life.due.at < until:
            at = life.due.at
            position = (bisect.bisect_right(log.clocks, at), 0, at, key)
            yield position, life.move(life.due.to, at, life.cause_of_time(at), None)

    started = False
    event_at = {e.position: e for e in events}
    for position in sorted({log.start, *event_at}):
        clock = log.clocks[position]
        if position == log.start:
            started = True
            if (target := life.decide(clock)) is not None:
                yield (position, 1, clock, key), life.move(target, clock, "first", None)
            continue
        event = event_at[position]
        yield from by_time(clock)
        life.events.append(event)
        target = life.decide(clock) if started else None
        if target is not None:
            cause = "first" if life.segment is None else event.kind
            yield (position, 1, clock, key), life.move(target, clock, cause, event.id)
        else:
            life.wait(clock + 1)
    yield from by_time(log.clocks[-1])


def moves_of_log(log: PartitionLog, model: SegmentModel, window_ms: int, dwell_ms: int = 0) -> list[ExpectedMove]:
    """All moves of a partition, in their order."""
    decision = BruteForceModel(model)
    found: list[tuple[Key, ExpectedMove]] = []
    for name, events in log.events.items():
        found += moves_of_customer(BruteForceCustomer(name, decision, window_ms, dwell_ms), events, log)
    return [move for _, move in sorted(found, key=lambda row: row[0])]


def read_move(move: dict[str, Any]) -> ExpectedMove:
    """Convert a published move to the expected form."""
    rfm, upcoming = move["rfm"], move["next"]
    return ExpectedMove(
        move["customer_id"],
        move["sequence"],
        move["from"],
        move["to"],
        move["cause"],
        ms(move["occurred_at"]),
        move["causation_id"],
        (rfm["recency_days"], rfm["frequency"], rfm["monetary"]),
        upcoming and (upcoming["segment"], ms(upcoming["at"])),
    )


def plainly_wrong(moves: Iterable[ExpectedMove], model: SegmentModel) -> list[ExpectedMove]:
    """Return the moves whose target isn't nearer than their source by the margin, by plain squared distances.

    That form isn't the decision's own.

    Up to 1e-9: more than its rounding, less than any mistake.
    """
    rows = [m for m in moves if m.source is not None]
    centroid = {s.name: s.centroid for s in model.segments}
    z = np.array(
        [
            [standardise_one(x, f) for x, f in zip((r, float(n), float(m)), model.features, strict=True)]
            for r, n, m in (move.figures for move in rows)
        ]
    )
    source, target = (np.array([centroid[str(m[column])] for m in rows]) for column in (2, 3))
    leads = ((z - source) ** 2).sum(axis=1) - ((z - target) ** 2).sum(axis=1)
    margin = max(model.margin, FLOOR)
    return [m for m, g in zip(rows, leads.tolist(), strict=True) if g <= margin - 1e-9]
