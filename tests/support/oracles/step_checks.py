"""The step over a random log in event time against the definition (`moves.py`): AssertionError where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.entries import DAY_MS
from segmentation.events import (
    CONTROL_KEY,
    Amount,
    ClockAdvanced,
    CustomerErased,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    encode,
)
from segmentation.rfm import Kind, Rules
from segmentation.scorers import AnyScorer, compile_scorer
from segmentation.scoring import ScoringStep
from tests.support.data.random_customers import random_scorer
from tests.support.engine.memory_shard import T0, MemoryShard, Rec, a_model, at, ms_of, published_moves
from tests.support.oracles.batch import OracleEvent
from tests.support.oracles.moves import Definition, LogEntry, OracleMove

GRACE = 7 * DAY_MS
YEARS = 10


def moment(rng: np.random.Generator, clock: int, customers: Sequence[str], n: int) -> LogEntry:
    """A record at this clock, or up to five days late. n: what is new gets this number."""
    if rng.random() < 0.05:
        return LogEntry(clock)
    when = clock - int(rng.choice([0, 0, 0, DAY_MS, 5 * DAY_MS]))
    kind = rng.choice([Kind.PLACED, Kind.REFUNDED, Kind.CANCELLED, Kind.ERASED], p=[0.75, 0.1, 0.12, 0.03])
    order = f"o{n if kind == Kind.PLACED else int(rng.integers(0, n + 1))}"
    if kind == Kind.ERASED or (kind == Kind.REFUNDED and rng.random() < 0.3):
        order = ""
    units = int(rng.integers(0, 300)) * 10_000 if kind in (Kind.PLACED, Kind.REFUNDED) else 0
    return LogEntry(when, str(rng.choice(customers)), OracleEvent(Kind(int(kind)), f"e{n}", when, order or None, units))


def records(log: Sequence[LogEntry]) -> list[Rec]:
    """Return the log as producers send it."""
    return [Rec(n, entry.customer.encode() or CONTROL_KEY, body(entry, n)) for n, entry in enumerate(log)]


def body(entry: LogEntry, n: int) -> bytes:
    e, when = entry.event, at(entry.at)
    if e is None:
        return encode(ClockAdvanced(id=f"c{n}", to=when))
    amount = Amount(value=str(e.amount // 10_000), currency="USD")
    if e.kind == Kind.PLACED:
        assert e.order is not None
        return encode(
            OrderPlaced(id=e.id, order_id=e.order, customer_id=entry.customer, occurred_at=when, amount=amount)
        )
    if e.kind == Kind.REFUNDED:
        return encode(
            OrderRefunded(id=e.id, order_id=e.order, customer_id=entry.customer, occurred_at=when, amount=amount)
        )
    if e.kind == Kind.CANCELLED:
        assert e.order is not None
        return encode(OrderCancelled(id=e.id, order_id=e.order, customer_id=entry.customer, occurred_at=when))
    return encode(CustomerErased(id=e.id, customer_id=entry.customer, occurred_at=when))


def run(
    log: Sequence[LogEntry], scorer: AnyScorer, dwell_ms: int, rules: Rules, cuts: tuple[int, int], seed: int
) -> list[OracleMove]:
    """The step's moves, at most `cuts` = (records, due customers) a turn; 0: any number up to eight, ever another."""
    reader = Reader("USD", "event", 300_000, 100 * 365 * DAY_MS, 1_000_000)
    shard = MemoryShard(ScoringStep(reader, rules, dwell_ms=dwell_ms), CompiledModel.of(scorer.model, "g", {}))
    rng, sent = np.random.default_rng(seed), records(log)
    turns = 0
    while shard.offset < len(sent):
        size, slice_ = (cut or int(rng.integers(1, 9)) for cut in cuts)
        shard.turn(sent, size, slice_)
        turns += 1
        assert turns < 100_000, "no progress"
    assert not shard.dead, shard.reasons
    ids = {s.name: s.id for s in scorer.model.segments}
    return [
        OracleMove(
            m.customer_id, m.sequence, ids.get(m.from_ or "", 0), ids.get(m.to or "", 0), ms_of(m.occurred_at), m.cause
        )
        for m in published_moves(shard)
    ]


def compare(
    log: Sequence[LogEntry], scorer: AnyScorer, dwell_ms: int, rules: Rules, seed: int, *cuts: tuple[int, int]
) -> None:
    expected = Definition(scorer, dwell_ms, rules).run(log)
    for cut in cuts:
        assert run(log, scorer, dwell_ms, rules, cut, seed) == expected, f"cut {cut}"


def with_orders_at_moves(
    rng: np.random.Generator,
    log: list[LogEntry],
    scorer: AnyScorer,
    dwell_ms: int,
    rules: Rules,
    customers: Sequence[str],
) -> list[LogEntry]:
    """The same log with orders, and the clock, put on the very instants of moves, and a millisecond beside them."""
    log = list(log)
    for n, move in enumerate(Definition(scorer, dwell_ms, rules).run(log)):
        if rng.random() < 0.3:
            when = move.at + int(rng.choice([-1, 0, 0, 0, 1]))
            position = next((j for j, entry in enumerate(log) if entry.at > when), len(log))
            who = str(rng.choice([*customers, *[move.customer] * 3]))
            order = OracleEvent(Kind.PLACED, f"x{n}", when, f"x{n}", 400_000)
            log.insert(position, LogEntry(when, who, order) if rng.random() < 0.8 else LogEntry(when))
    return log


def cut_anywhere(seed: int) -> None:
    """A log of weeks, with orders on the instants of moves, in turns of any size."""
    rng = np.random.default_rng(seed)
    scorer, rules = compile_scorer(a_model(rng)), Rules(60 * DAY_MS, GRACE, 1_000)
    dwell_ms = int(rng.choice([0, 0, DAY_MS, 7 * DAY_MS]))
    customers = [f"c{i}" for i in range(int(rng.integers(1, 8)))]
    clock, log = T0, []
    for n in range(int(rng.integers(5, 60))):
        clock += int(
            rng.choice([0, 0, 1, 1000, DAY_MS, 5 * DAY_MS, 40 * DAY_MS], p=[0.2, 0.1, 0.1, 0.1, 0.3, 0.15, 0.05])
        )
        log.append(moment(rng, clock, customers, n))
        if rng.random() < 0.1:
            log.append(log[-1])
    log = with_orders_at_moves(rng, log, scorer, dwell_ms, rules, customers)
    log.append(LogEntry(clock + 400 * DAY_MS))
    compare(log, scorer, dwell_ms, rules, seed, (1, 1), (10**6, 10**6), (7, 2), (0, 0))


def ten_years(seed: int) -> None:
    """Any model, margin, window and dwell; customers who buy daily, yearly, or never again."""
    rng = np.random.default_rng(seed)
    scorer = random_scorer(rng)
    rules = Rules(int(rng.choice([30, 90, 365, 365, 730])) * DAY_MS, GRACE, 1_000)
    dwell_ms = int(rng.choice([0, 0, DAY_MS, 30 * DAY_MS]))
    end = T0 + YEARS * 365 * DAY_MS
    customers = [f"c{i}" for i in range(4)]
    times: list[tuple[int, str]] = []
    for customer in customers:
        gap_days, clock = float(rng.choice([1, 20, 90, 300])), T0
        for _ in range(int(rng.integers(1, 30))):
            times.append((clock, customer))
            clock += int(rng.exponential(gap_days if rng.random() < 0.9 else 400) * DAY_MS)
    log = [moment(rng, clock, [who], n) for n, (clock, who) in enumerate(sorted(times)) if clock < end]
    compare([*log, LogEntry(end)], scorer, dwell_ms, rules, seed, (0, 0))
