"""The effect of margin and dwell on moves, flaps and delay, as Markdown: `python -m bench.studies.flapping --data DIR`.

Orders are replayed in event time through the worker's own scoring step, with states and due index in memory. One model
is trained at the start by the trainer's recipe, and then scores with each margin and dwell.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bench.studies.memory_replay import MemoryReplay, snapshot_of
from segmentation.entries import DAY_MS
from segmentation.model import SegmentModel
from segmentation.money import UNITS
from segmentation.output_events import Cause, SegmentChanged
from segmentation.rfm import Rules
from stream.orders.files import read_orders
from stream.orders.rows import OrderRow, parse_at, placed, refunded
from stream.orders.sorting import in_time_order
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.learn import Stopwatch, learn
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan

MARGINS: Final = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
DWELLS_DAYS: Final = (0, 7)
FLAP_MS: Final = 7 * DAY_MS
LASTING_MS: Final = 30 * DAY_MS
YEAR_DAYS: Final = 365
BY_TIME: Final = (Cause.SILENCE, Cause.WINDOW)


class Hop(NamedTuple):
    """A move between segments, by their names."""

    at: int  # ms
    source: str | None
    target: str
    by_time: bool


Hops = dict[str, list[Hop]]  # by customer, in time order; the first is at the model's activation


class OrderHistory(NamedTuple):
    """Rows in time order; the model is trained at `start_ms`, and moves count from there to `end_ms`."""

    title: str
    rows: list[OrderRow]
    currency: str
    start_ms: int
    end_ms: int


class MarginResult(NamedTuple):
    """The result of one margin and dwell. Shares are parts of 1."""

    moves_per_year: float  # of one customer
    flaps: float  # share of the moves that return the customer to the segment left at most 7 days before
    delay_days: float  # median over the lasting moves, which are by time, without margin and dwell
    missed: float  # share of the lasting moves that are never published while they last


@dataclass(frozen=True, slots=True)
class FlappingTable:
    """The results for one history of orders."""

    history: OrderHistory
    customers: int  # with a segment at the start
    lasting: int  # moves on which the delay is measured
    cells: dict[tuple[float, int], MarginResult]  # by margin and dwell in days


def retail(folder: Path) -> OrderHistory:
    """Return Online Retail; the second half-year counts."""
    with in_time_order(read_orders(folder / "online_retail" / "orders.csv.gz", currency="GBP")) as ordered:
        return OrderHistory("Online Retail", list(ordered), "GBP", parse_at("2011-06-01"), parse_at("2011-12-10"))


def synthetic(customers: int, seed: int = 1) -> OrderHistory:
    """Return synthetic orders of three years, of which the third counts: orders have left the window by then.

    Each customer joins within the first two years, and has an own rate of orders (gamma, shape 1.5, mean six a year),
    an own lifetime (exponential, mean two years) and an own mean amount. 6 % of the orders are refunded in full within
    two weeks.
    """
    rng = np.random.default_rng(seed)
    begin = parse_at("2020-01-01")
    end = begin + 3 * YEAR_DAYS * DAY_MS
    rows: list[OrderRow] = []
    for number in range(customers):
        name, at = f"C{number:05}", begin + rng.uniform(0, 2 * YEAR_DAYS) * DAY_MS
        gap_ms = YEAR_DAYS * DAY_MS / max(rng.gamma(1.5, 4.0), 0.05)
        end_of_life, spend = at + rng.exponential(2 * YEAR_DAYS) * DAY_MS, rng.lognormal(3.5, 0.7)
        while at < min(end_of_life, end):
            order = placed(f"o{len(rows)}", name, int(at), _cents(rng.lognormal(0.0, 0.5) * spend), "USD")
            rows.append(order)
            if rng.random() < 0.06 and (back := int(at + rng.uniform(0.5, 14) * DAY_MS)) < end:
                rows.append(refunded(order.order_id or "", name, back, order.amount_units, "USD", names_order=True))
            at += rng.exponential(gap_ms)
    rows.sort(key=lambda row: row.at_ms)
    return OrderHistory("Synthetic shop", rows, "USD", begin + 2 * YEAR_DAYS * DAY_MS, end)


def _cents(amount: float) -> int:
    """Return an amount in ten-thousandths, rounded to cents."""
    return max(round(amount * 100), 1) * UNITS // 100


def _five_segments(snapshot: CustomerSnapshot) -> SegmentModel:
    """Return a model of five segments of all customers, whatever the gates say."""
    plan = TrainingPlan(ks=(5,), fitted="all", rounds=0)
    result = learn(
        snapshot,
        plan,
        Lineage(),
        source="flapping",
        now_ms=snapshot.as_of_ms,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _step, _done, _total: None,
        force=True,
    )
    assert result.trained is not None
    return result.trained.model


def measure_all(
    orders: OrderHistory, margins: Sequence[float] = MARGINS, dwells: Sequence[int] = DWELLS_DAYS
) -> FlappingTable:
    """Replay the orders with every margin and dwell, and without either."""
    before = MemoryReplay(orders.currency, Rules())
    before.send([row for row in orders.rows if row.at_ms < orders.start_ms], until_ms=orders.start_ms)
    model = _five_segments(snapshot_of(before))
    rest = [row for row in orders.rows if row.at_ms >= orders.start_ms]

    def hops(margin: float, dwell_days: int) -> Hops:
        one = before.copy(dwell_ms=dwell_days * DAY_MS)
        one.start(model.model_copy(update={"margin": margin}))
        known = {move.customer_id for move in one.moves()}
        one.send(rest, until_ms=orders.end_ms)
        return by_customer(one.moves(), known)

    plain = hops(0.0, 0)
    wanted = list(lasting(plain, orders.end_ms))
    years = (orders.end_ms - orders.start_ms) / (YEAR_DAYS * DAY_MS) * len(plain)
    cells = {(margin, dwell): measure(hops(margin, dwell), wanted, years) for dwell in dwells for margin in margins}
    return FlappingTable(orders, len(plain), len(wanted), cells)


def by_customer(moves: Iterable[SegmentChanged], known: set[str]) -> Hops:
    """Return the moves of the customers with a segment from the model's activation on."""
    found: Hops = {}
    for move in moves:
        if move.customer_id in known and move.to is not None:
            hop = Hop(parse_at(move.occurred_at), move.from_, move.to, move.cause in BY_TIME)
            found.setdefault(move.customer_id, []).append(hop)
    return found


def lasting(hops: Hops, end_ms: int) -> Iterator[tuple[str, str, int, int]]:
    """Yield the moves by time that last 30 days or more: customer, segment, from (ms), until (ms)."""
    for customer, own in hops.items():
        ends = [*(hop.at for hop in own[1:]), end_ms]
        for hop, until in zip(own, ends, strict=True):
            if hop.by_time and until - hop.at >= LASTING_MS:
                yield customer, hop.target, hop.at, until


def measure(hops: Hops, wanted: Sequence[tuple[str, str, int, int]], years: float) -> MarginResult:
    """Compare one margin and dwell with the lasting moves without either; `years`: of all customers together.

    >>> first, second = Hop(0, None, "A", by_time=False), Hop(DAY_MS, "A", "B", by_time=True)
    >>> third = Hop(3 * DAY_MS, "B", "A", by_time=False)
    >>> measure({"c": [first, second, third]}, [("c", "B", 0, 40 * DAY_MS)], years=1.0)
    MarginResult(moves_per_year=2.0, flaps=0.5, delay_days=1.0, missed=0.0)
    """
    moves = [pair for own in hops.values() for pair in pairwise(own)]
    flaps = sum(
        then.source is not None and was.source == then.target and then.at - was.at <= FLAP_MS for was, then in moves
    )
    delays = [_delay(hops.get(customer, ()), target, since, until) for customer, target, since, until in wanted]
    published = [delay for delay in delays if delay is not None]
    return MarginResult(
        moves_per_year=len(moves) / years,
        flaps=flaps / max(len(moves), 1),
        delay_days=float(np.median(published)) / DAY_MS if published else 0.0,
        missed=1 - len(published) / len(delays) if delays else 0.0,
    )


def _delay(own: Sequence[Hop], target: str, since: int, until: int) -> int | None:
    """Return how long after `since` (ms) the move to the segment is published; None: not before `until`."""
    ends = [*(hop.at for hop in own[1:]), until]
    for hop, end in zip(own, ends, strict=True):
        if hop.target == target and end > since and hop.at < until:
            return max(hop.at - since, 0)
    return None


def markdown(table: FlappingTable) -> str:
    """Return the results of one history as a table, one row for each margin."""
    orders = table.history
    span = f"{_day(orders.start_ms)} to {_day(orders.end_ms)}"
    head = ["margin"]
    dwells = sorted({dwell for _, dwell in table.cells})
    for dwell in dwells:
        head += [
            f"{'with' if dwell else 'no'} dwell{f' {dwell} d' if dwell else ''}: moves",
            "flaps",
            "delay",
            "missed",
        ]
    lines = [f"**{orders.title}**: {table.customers:,} customers, {span}, {table.lasting:,} lasting moves by time", ""]
    lines += [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for margin in sorted({margin for margin, _ in table.cells}):
        cells = [f"{margin:g}"]
        for dwell in dwells:
            m = table.cells[margin, dwell]
            cells += [f"{m.moves_per_year:.2f}", f"{m.flaps:.1%}", f"{m.delay_days:.1f} d", f"{m.missed:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _day(ms: int) -> str:
    return date.fromordinal(date(1970, 1, 1).toordinal() + ms // DAY_MS).isoformat()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure Online Retail where `--data` names it, then the synthetic orders, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.flapping", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder with online_retail/orders.csv.gz (default: synthetic orders only)"
    )
    parser.add_argument("--customers", type=int, default=3_000, help="number of synthetic customers")
    parser.add_argument("--margins", type=float, nargs="+", default=MARGINS, help="margins, in squared distance")
    parser.add_argument("--dwells", type=int, nargs="+", default=DWELLS_DAYS, help="dwells, in days")
    arguments = parser.parse_args(argv)
    if arguments.data is not None and not (arguments.data / "online_retail" / "orders.csv.gz").is_file():
        parser.error(f"--data {arguments.data}: there is no online_retail/orders.csv.gz")
    real = [] if arguments.data is None else [retail(arguments.data)]
    for orders in [*real, synthetic(arguments.customers)]:
        print(markdown(measure_all(orders, arguments.margins, arguments.dwells)), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
