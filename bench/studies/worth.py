"""Are the moves worth acting on, and do segments predict? Real and simulated shops, before a change and after.

    python -m bench.studies.worth --data DIR [--only "CDNOW"] [--json FILE]

For each shop the default recipe is trained at the start, and the orders after it are replayed in event time through the
worker's own scoring step, with several margins and dwells. The outlook is fitted at the start too. 90 days later the
customers are ranked by each, and the next 90 days say how good each ranking is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from bench.studies.memory_replay import MemoryReplay
from bench.studies.simulated_shops import SHOPS, ShopNature, simulate_shop
from bench.studies.worth_lift import (
    DAYS,
    Calibration,
    Lift,
    SegmentValues,
    calibration,
    lifts,
    segment_values,
)
from bench.studies.worth_moves import Crossings, MoveFigures, by_customer, move_figures
from segmentation.entries import DAY_MS, PLACED, Entry
from segmentation.events import CustomerMerged, to_entry
from segmentation.outlook import expected_gap
from segmentation.output_events import Cause
from segmentation.rfm import Rules, announcement
from stream.orders.files import cdnow_path, read_orders
from stream.orders.rows import OrderRow, parse_at, to_event
from stream.orders.sorting import in_time_order
from stream.rehearsal.moves import Crossing
from trainer.errors import FitError
from trainer.snapshot.orders import OrderBook
from trainer.snapshot.redis import CustomerSnapshot, columns
from trainer.training.learn import Stopwatch, TrainingResult, learn
from trainer.training.naming import Lineage
from trainer.training.outlook_fit import OutlookFit, fit_outlook, log_gaps_of, purchases_of
from trainer.training.plan import TrainingPlan
from trainer.training.recalibrate import OutlookCurves, curves_of
from trainer.training.worth_gates import LaterOrders, later_orders

SETTINGS: Final = ((0.25, 0), (0.25, 7), (1.0, 7))  # margin, dwell in days; the first is the default
OUTLOOK: Final = "outlook"
_HORIZON_MS: Final = int(DAYS) * DAY_MS
_NOT_OWN: Final = (Cause.MODEL, Cause.SETTINGS, Cause.FIRST)


class ShopLog(NamedTuple):
    """Rows in time order; the model is trained at `start_ms`, and moves count from there to `end_ms`."""

    title: str
    rows: list[OrderRow]
    currency: str
    start_ms: int
    end_ms: int

    @property
    def judged_ms(self) -> int:
        """The instant at which customers are ranked."""
        return self.start_ms + _HORIZON_MS


class Worth(NamedTuple):
    """The figures of one shop."""

    title: str
    customers: int
    segments: tuple[str, ...]
    chosen: str
    moves: dict[str, MoveFigures]  # by margin and dwell
    lifts: dict[str, Lift]
    calibration: dict[str, Calibration]  # as fitted, and corrected
    fits: dict[str, OutlookFit]  # with the likeliest regularity, and with orders at random
    seconds: float


def shops(data: Path | None) -> dict[str, Callable[[], ShopLog]]:
    """Return how to read each shop: CDNOW, Online Retail where `data` has it, and the simulated ones."""
    found = {"CDNOW": lambda: _from_file("CDNOW", cdnow_path(), "USD", ("1997-10-01", "1998-07-01"))}
    if data is not None:
        path = data / "online_retail" / "orders.csv.gz"
        found["Online Retail"] = lambda: _from_file("Online Retail", path, "GBP", ("2011-06-01", "2011-12-09"))
    return found | {nature.title: partial(_simulated, nature) for nature in SHOPS}


def _from_file(title: str, path: Path, currency: str, span: tuple[str, str]) -> ShopLog:
    with in_time_order(read_orders(path, currency=currency)) as ordered:
        return ShopLog(title, list(ordered), currency, parse_at(span[0]), parse_at(span[1]))


def _simulated(nature: ShopNature) -> ShopLog:
    shop = simulate_shop(nature)
    return ShopLog(nature.title, shop.rows, "USD", shop.end_ms - 365 * DAY_MS, shop.end_ms)


def book_of(log: ShopLog) -> OrderBook:
    """Return the orders of a shop by customer, for snapshots as of any instant."""
    entries: dict[bytes, list[Entry]] = {}
    for row in log.rows:
        event = to_event(row)
        assert not isinstance(event, CustomerMerged), f"{row.event_id}: the shops merge no ids"
        entries.setdefault(row.customer_id.encode(), []).append(to_entry(event, log.currency))
    return OrderBook(entries, Rules(), 0)


def trained(snapshot: CustomerSnapshot, plan: TrainingPlan) -> TrainingResult:
    """Return the default recipe's model, whatever the gates say."""
    return learn(
        snapshot,
        plan,
        Lineage(),
        source="worth",
        now_ms=snapshot.as_of_ms,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _step, _done, _total: None,
        force=True,
    )


def replayed(log: ShopLog, before: MemoryReplay, training: TrainingResult, margin: float, dwell: int) -> Replayed:
    """Replay from the start on, and stop at the instant of the ranking to look at the segments."""
    assert training.trained is not None
    shard = before.copy(dwell_ms=dwell * DAY_MS)
    shard.start(training.trained.model.model_copy(update={"margin": margin}))
    shard.send([row for row in log.rows if log.start_ms <= row.at_ms < log.judged_ms], until_ms=log.judged_ms)
    segments = {key: announcement(value)[0] for key, value in shard.states.items()}
    shard.send([row for row in log.rows if row.at_ms >= log.judged_ms], until_ms=log.end_ms)
    crossings = by_customer(
        (move.customer_id, Crossing(parse_at(move.occurred_at), move.from_, move.to, move.cause.value))
        for move in shard.moves()
        if move.from_ is not None and move.to is not None and move.cause not in _NOT_OWN
    )
    return Replayed(crossings, segments)


class Replayed(NamedTuple):
    crossings: Crossings
    segments: dict[bytes, int]  # at the instant of the ranking


def study(log: ShopLog, plan: TrainingPlan) -> Worth:
    """Measure one shop."""
    begun = time.perf_counter()
    book = book_of(log)
    before = MemoryReplay(log.currency, Rules())
    before.send([row for row in log.rows if row.at_ms < log.start_ms], until_ms=log.start_ms)
    at_start = columns(before.states.items(), log.start_ms, Rules())
    training = trained(at_start, plan)
    assert training.trained is not None
    fits = fits_of(book, at_start)
    fit = fits[OUTLOOK]
    orders = {key.decode(): [e.time for e in own if e.kind == PLACED] for key, own in book.entries.items()}
    orders = {customer: own for customer, own in orders.items() if own and own[0] < log.end_ms}
    gaps = gaps_of(fit, book.as_of(log.end_ms - 1))
    runs = {setting: replayed(log, before, training, *setting) for setting in SETTINGS}
    moves = {_named(s): move_figures(run.crossings, orders, log.start_ms, log.end_ms, gaps) for s, run in runs.items()}

    judged, after = book.as_of(log.judged_ms), book.as_of(log.judged_ms + _HORIZON_MS)
    learnt = _learnt(training, later_orders(at_start, judged))
    announced = runs[SETTINGS[0]].segments
    segments = np.array([announced.get(name, 0) for name in judged.customers], dtype=np.int64)
    outcome = later_orders(judged, after)
    purchases = purchases_of(judged)
    curves = _curves(book, log)
    found = {name: calibration(one, None, purchases, outcome) for name, one in fits.items()}
    if curves is not None:
        found["outlook, corrected"] = calibration(fit, curves, purchases, outcome)
    return Worth(
        log.title,
        len(orders),
        tuple(segment.name for segment in training.trained.model.segments),
        training.outcome.decision.why[0],
        moves,
        lifts(judged, segments, learnt, fits, outcome),
        found,
        fits,
        round(time.perf_counter() - begun, 1),
    )


def fits_of(book: OrderBook, snapshot: CustomerSnapshot) -> dict[str, OutlookFit]:
    """Return the outlook fitted with the likeliest regularity, and with orders at random. Raises FitError."""
    purchases = purchases_of(snapshot)
    days = (
        sorted({e.time // DAY_MS for e in book.entries[name] if e.kind == PLACED and e.time <= snapshot.as_of_ms})
        for name in snapshot.customers
    )
    return {OUTLOOK: fit_outlook(purchases, log_gaps_of(days)), "outlook, k = 1": fit_outlook(purchases)}


def _learnt(training: TrainingResult, outcome: LaterOrders) -> SegmentValues:
    assert training.trained is not None
    ids = np.array([segment.id for segment in training.trained.model.segments], dtype=np.int64)
    return segment_values(ids[training.trained.labels], outcome)


def _curves(book: OrderBook, log: ShopLog) -> OutlookCurves | None:
    """Return the corrections from the 90 days before the start; None where the history is too short to fit before."""
    then = book.as_of(log.start_ms - _HORIZON_MS)
    earlier = purchases_of(then)
    try:
        fit = fits_of(book, then)[OUTLOOK]
    except FitError as error:
        print(f"{log.title}: no correction ({error})", file=sys.stderr)
        return None
    return curves_of(fit.rates, earlier, later_orders(then, book.as_of(log.start_ms)).orders, DAYS)


def gaps_of(fit: OutlookFit, snapshot: CustomerSnapshot) -> dict[str, float]:
    """Return the usual gap in days of each customer."""
    gaps = expected_gap(fit.rates, purchases_of(snapshot)).tolist()
    return {name.decode(): gap for name, gap in zip(snapshot.customers, gaps, strict=True)}


def _named(setting: tuple[float, int]) -> str:
    return f"margin {setting[0]:g}, dwell {setting[1]} d"


def text(worth: Worth) -> str:
    """Return the figures of one shop as Markdown."""
    lines = [f"**{worth.title}**: {worth.customers:,} customers; {', '.join(worth.segments)}. {worth.chosen}", ""]
    lines += ["| | moves a customer and year | back in 14 d | 30 d | by cause | offers | in rhythm | needless |"]
    lines += ["|---|---:|---:|---:|---|---:|---:|---:|"]
    for name, m in worth.moves.items():
        causes = ", ".join(f"{cause} {share:.0%}" for cause, share in m.by_cause.items())
        back = " | ".join(f"{share:.1%}" for share in m.back.values())
        lines.append(
            f"| {name} | {m.moves_per_year:.2f} | {back} | {causes} | {m.offers:,} | {m.offers_in_rhythm:.0%} | "
            f"{m.offers_needless:.0%} |"
        )
    lines += ["", "| ranked by | AUC | money of the top tenth |", "|---|---:|---:|"]
    lines += [f"| {name} | {lift.auc:.3f} | {lift.captured:.1%} |" for name, lift in worth.lifts.items()]
    lines.append("")
    for name, fit in worth.fits.items():
        lines += [f"{name}: {fit.rates}, {fit.values}", *fit.notes]
    for name, c in worth.calibration.items():
        lines.append(
            f"{name}: chance {c.chance:.1%} ({c.ordered:.1%} ordered), orders {c.orders:.2f} ({c.came:.2f}), "
            f"spend {c.spend:.2f} ({c.spent:.2f}), worst tenth {c.worst:.1%}"
        )
    return "\n".join([*lines, f"{worth.seconds} s"])


def plain(worth: Worth) -> dict[str, Any]:
    """Return the figures of one shop as JSON has them."""
    nested = {name: {key: one._asdict() for key, one in getattr(worth, name).items()} for name in _TABLES}
    fits = {
        name: {"rates": fit.rates._asdict(), "values": fit.values and fit.values._asdict(), "notes": fit.notes}
        for name, fit in worth.fits.items()
    }
    return worth._asdict() | nested | {"fits": fits}


_TABLES: Final = ("moves", "lifts", "calibration")


def plain_lifts(lifts: dict[str, Lift]) -> dict[str, Any]:
    """Return lifts as JSON has them."""
    return {name: lift._asdict() for name, lift in lifts.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the shops, print a table for each, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.worth", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with online_retail/orders.csv.gz (default: without it)")
    parser.add_argument("--only", nargs="+", help="titles of shops (default: all)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--k", type=int, nargs="+", help="numbers of segments to fit (default: the recipe's)")
    arguments = parser.parse_args(argv)
    plan = TrainingPlan() if arguments.k is None else TrainingPlan(ks=tuple(arguments.k))
    found = []
    for title, read in shops(arguments.data).items():
        if arguments.only is None or title in arguments.only:
            found.append(study(read(), plan))
            print(text(found[-1]), end="\n\n", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([plain(one) for one in found], indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
