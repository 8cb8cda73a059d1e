"""Twelve monthly retrains over a file of orders: how many customers each model moves by itself, and whether names keep their meaning.

    python -m bench.studies.retrains orders.csv.gz --currency GBP [--k 5] [--activate] [--fitted all] [--first 2011-01-01]
    python -m bench.studies.retrains cdnow --first 1997-07-01

Each month is trained as `segtrainer run` would: on the customers as of its first day, against the model that is active
then. A model that the gates refuse, or that moves more customers than the limit, doesn't become active; with --activate
every one does, as by `segtrainer run --force --activate`.
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
from trainer.snapshot.orders import OrderBook, read_book
from trainer.training.learn import Stopwatch, TrainingResult, learn
from trainer.training.naming import Lineage, carried
from trainer.training.plan import Fitted, TrainingPlan, parse_ks

FIRST = datetime(2011, 1, 1, tzinfo=UTC)
WINDOW_DAYS = 365
RULES = Rules(WINDOW_DAYS * DAY_MS, 7 * DAY_MS)


@dataclass(frozen=True)
class Month:
    """One retrain. `moved`: the part of the customers whom the model would move by itself; None for the first."""

    day: str
    customers: int
    verdict: str  # active, candidate, refused
    k: int | None
    moved: float | None
    moved_without_margin: float | None
    names: tuple[str, ...]
    swapped: tuple[str, ...]  # by where the centroids lie
    usurped: tuple[str, ...]  # by where the customers were


def months_from(first: datetime) -> list[datetime]:
    """Give the first days of twelve months.

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
        lesson = _lesson(book, plan, lineage, day, force=activate)
        becomes_active = lesson.trained is not None and (activate or lesson.may_activate)
        outcome, trained = lesson.outcome, lesson.trained
        comparison = outcome.comparison
        yield Month(
            day=day.date().isoformat(),
            customers=outcome.quality.customers,
            verdict="refused" if trained is None else "active" if becomes_active else "candidate",
            k=len(outcome.segments) or None,
            moved=comparison.moved if comparison else None,
            moved_without_margin=comparison.moved_without_margin if comparison else None,
            names=tuple(segment.name for segment in outcome.segments),
            swapped=swapped(lesson, lineage),
            usurped=usurped(lesson),
        )
        if trained is not None and becomes_active:
            highest = max(lineage.highest_id, *(segment.id for segment in trained.model.segments))
            lineage = Lineage(trained.model, number, highest)


def _lesson(book: OrderBook, plan: TrainingPlan, lineage: Lineage, day: datetime, *, force: bool) -> TrainingResult:
    at_ms = int(day.timestamp() * 1000)
    watch = Stopwatch(time.perf_counter)
    snapshot = book.as_of(at_ms)
    return learn(
        snapshot,
        plan,
        lineage,
        source="retrains",
        now_ms=at_ms,
        watch=watch,
        progress=lambda _what, _done, _total: None,
        force=force,
    )


def swapped(lesson: TrainingResult, lineage: Lineage) -> tuple[str, ...]:
    """Name the lasting segments that lie nearer to where another one of them lay than to where they lay themselves."""
    if lesson.trained is None or lineage.active is None:
        return ()
    model, active = lesson.trained.model, lineage.active
    before = carried(active, model.features)
    lay = {segment.id: before[i] for i, segment in enumerate(active.segments)}
    lasting = [segment for segment in model.segments if segment.id in lay]
    found = []
    for segment in lasting:
        apart = {other.id: float(np.sum((np.array(segment.centroid) - lay[other.id]) ** 2)) for other in lasting}
        if min(apart, key=apart.__getitem__) != segment.id:
            found.append(segment.name)
    return tuple(found)


def usurped(lesson: TrainingResult) -> tuple[str, ...]:
    """Name the lasting segments that have more customers from another segment than from their own."""
    comparison = lesson.outcome.comparison
    if comparison is None:
        return ()
    came = np.array(comparison.moves)
    ids = [segment.id for segment in comparison.before]
    columns = enumerate(lesson.outcome.segments)
    return tuple(s.name for j, s in columns if s.lasting and ids[int(came[:, j].argmax())] != s.id)


def table(months: Sequence[Month]) -> str:
    """Give the months as Markdown."""
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
    """What each model that replaced another moved. A month whose model stayed out isn't a calm one, so it doesn't count."""
    return [m.moved for m in months if m.verdict == "active" and m.moved is not None]


def summary(months: Sequence[Month]) -> str:
    moved = moved_by_active(months)
    stayed = ", ".join(f"{m.verdict} {m.day}" for m in months if m.verdict != "active") or "none"
    told = (
        f"median {_percent(statistics.median(moved))}, most {_percent(max(moved))}" if moved else "nothing to measure"
    )
    return f"{len(moved)} of {len(months) - 1} retrains replaced the active model: {told}. Not activated: {stayed}."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.studies.retrains", description="Twelve monthly retrains over a file of orders."
    )
    parser.add_argument("file", help="docs/how-to/files.md; or cdnow")
    parser.add_argument("--currency", default="USD")
    parser.add_argument("--k")
    parser.add_argument("--activate", action="store_true")
    parser.add_argument("--window-days", type=int, default=WINDOW_DAYS)
    parser.add_argument("--fitted", choices=get_args(Fitted))
    parser.add_argument(
        "--first", default=FIRST, type=lambda text: datetime.fromisoformat(text).replace(day=1, tzinfo=UTC)
    )
    given: Any = parser.parse_args(arguments)
    plan = TrainingPlan() if given.k is None else replace(TrainingPlan(), ks=parse_ks(given.k))
    plan = plan if given.fitted is None else replace(plan, fitted=given.fitted)
    rules = RULES._replace(window=given.window_days * DAY_MS)
    book = read_book(cdnow_path() if given.file == "cdnow" else Path(given.file), rules, given.currency)
    print(table(list(retrains(book, plan, activate=given.activate, first=given.first))))


if __name__ == "__main__":
    main()
