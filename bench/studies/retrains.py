"""Twelve monthly trainings on a file of orders: how many customers each model moves, and whether names last.

    python -m bench.studies.retrains orders.csv.gz --currency GBP [--k 5] [--activate] [--fitted all]
    python -m bench.studies.retrains cdnow --first 1997-07-01

Each training is that of `segtrainer run`: on the customers as of the month's first day, against the active model. A
model that the gates refuse, or that moves more customers than the limit, isn't activated. With --activate every model
is, as by `segtrainer run --force --activate`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from segmentation.entries import DAY_MS
from segmentation.rfm import Rules
from stream.orders.files import cdnow_path
from trainer.rhythm.learn import learn_by_recipe
from trainer.snapshot.orders import OrderBook, read_book
from trainer.training.learn import Stopwatch, TrainingResult
from trainer.training.naming import Lineage, carried
from trainer.training.plan import Fitted, TrainingPlan, of_recipe, parse_ks
from trainer.training.recipe import NAMES

FIRST = datetime(2011, 1, 1, tzinfo=UTC)
WINDOW_DAYS = 365
RULES = Rules(WINDOW_DAYS * DAY_MS, 7 * DAY_MS)


@dataclass(frozen=True)
class Month:
    """One training. `moved`: the share of the customers that the change of the model would move; None for the first."""

    day: str
    customers: int
    verdict: str  # active, candidate, refused
    k: int | None
    moved: float | None
    moved_without_margin: float | None
    names: tuple[str, ...]
    swapped: tuple[str, ...]  # by the centroids
    usurped: tuple[str, ...]  # by the customers' segments before


def months_from(first: datetime) -> list[datetime]:
    """Return the first days of twelve months.

    >>> [day.date().isoformat() for day in months_from(datetime(1997, 7, 1, tzinfo=UTC))[5:7]]
    ['1997-12-01', '1998-01-01']
    """
    begin = first.year * 12 + first.month - 1
    return [first.replace(year=month // 12, month=month % 12 + 1) for month in range(begin, begin + 12)]


def retrains(
    book: OrderBook, plan: TrainingPlan, *, activate: bool = False, first: datetime = FIRST
) -> Iterator[Month]:
    lineage = Lineage()
    for number, day in enumerate(months_from(first), start=1):
        training = _training(book, plan, lineage, day, force=activate)
        becomes_active = training.trained is not None and (activate or training.may_activate)
        outcome, trained = training.outcome, training.trained
        comparison = outcome.comparison
        yield Month(
            day=day.date().isoformat(),
            customers=outcome.quality.customers,
            verdict="refused" if trained is None else "active" if becomes_active else "candidate",
            k=len(outcome.segments) or None,
            moved=comparison.moved if comparison else None,
            moved_without_margin=comparison.moved_without_margin if comparison else None,
            names=tuple(segment.name for segment in outcome.segments),
            swapped=swapped(training, lineage),
            usurped=usurped(training),
        )
        if trained is not None and becomes_active:
            highest = max(lineage.highest_id, *(segment.id for segment in trained.model.segments))
            lineage = Lineage(trained.model, number, highest)


def _training(book: OrderBook, plan: TrainingPlan, lineage: Lineage, day: datetime, *, force: bool) -> TrainingResult:
    at_ms = int(day.timestamp() * 1000)
    watch = Stopwatch(time.perf_counter)
    snapshot = book.as_of(at_ms)
    return learn_by_recipe(
        snapshot,
        plan,
        lineage,
        source="retrains",
        now_ms=at_ms,
        watch=watch,
        progress=lambda _what, _done, _total: None,
        force=force,
    )


def swapped(training: TrainingResult, lineage: Lineage) -> tuple[str, ...]:
    """Return the names of the lasting segments that lie nearer to the old place of another one than to their own."""
    if training.trained is None or lineage.active is None:
        return ()
    model, active = training.trained.model, lineage.active
    before = carried(active, model.features)
    lay = {segment.id: before[i] for i, segment in enumerate(active.segments)}
    lasting = [segment for segment in model.segments if segment.id in lay]
    found = []
    for segment in lasting:
        apart = {other.id: float(np.sum((np.array(segment.centroid) - lay[other.id]) ** 2)) for other in lasting}
        if min(apart, key=apart.__getitem__) != segment.id:
            found.append(segment.name)
    return tuple(found)


def usurped(training: TrainingResult) -> tuple[str, ...]:
    """Return the names of the lasting segments with more customers from another segment than from their own."""
    comparison = training.outcome.comparison
    if comparison is None:
        return ()
    came = np.array(comparison.moves)
    ids = [segment.id for segment in comparison.before]
    columns = enumerate(training.outcome.segments)
    return tuple(s.name for j, s in columns if s.lasting and ids[int(came[:, j].argmax())] != s.id)


def table(months: Sequence[Month]) -> str:
    """Return the months as Markdown."""
    rows = [
        "| as of | customers | | k | would move | without a margin | segments |",
        "|---|---:|---|---:|---:|---:|---|",
    ]
    rows += [
        f"| {m.day} | {m.customers:,} | {m.verdict} | {m.k or '-'} | {_percent(m.moved)} | "
        f"{_percent(m.moved_without_margin)} | {', '.join(m.names) or '-'} |"
        for m in months
    ]
    rows.append(f"\n{summary(months)}")
    return "\n".join(rows)


def moved_by_active(months: Sequence[Month]) -> list[float]:
    """Return the shares of customers that activated models moved. Months without an activation don't count."""
    return [m.moved for m in months if m.verdict == "active" and m.moved is not None]


def summary(months: Sequence[Month]) -> str:
    moved = moved_by_active(months)
    stayed = ", ".join(f"{m.verdict} {m.day}" for m in months if m.verdict != "active") or "none"
    shares = (
        f"median {_percent(statistics.median(moved))}, most {_percent(max(moved))}" if moved else "nothing to measure"
    )
    return f"{len(moved)} of {len(months) - 1} retrains replaced the active model: {shares}. Not activated: {stayed}."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.retrains", description="Train twelve times, monthly, on a file of orders."
    )
    parser.add_argument("file", help="docs/how-to/files.md; or cdnow")
    parser.add_argument("--currency", default="USD")
    parser.add_argument("--recipe", choices=NAMES, default=NAMES[0])
    parser.add_argument("--k")
    parser.add_argument("--activate", action="store_true")
    parser.add_argument("--window-days", type=int, default=WINDOW_DAYS)
    parser.add_argument("--fitted", choices=get_args(Fitted))
    parser.add_argument(
        "--first", default=FIRST, type=lambda text: datetime.fromisoformat(text).replace(day=1, tzinfo=UTC)
    )
    given: Any = parser.parse_args(arguments)
    plan = of_recipe(given.recipe)
    plan = plan if given.k is None else replace(plan, ks=parse_ks(given.k))
    plan = plan if given.fitted is None else replace(plan, fitted=given.fitted)
    rules = RULES._replace(window=given.window_days * DAY_MS)
    book = read_book(cdnow_path() if given.file == "cdnow" else Path(given.file), rules, given.currency)
    print(table(list(retrains(book, plan, activate=given.activate, first=given.first))))


if __name__ == "__main__":
    main()
