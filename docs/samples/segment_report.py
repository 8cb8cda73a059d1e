# ruff: noqa: INP001 — started by its path, from the root of the repository
"""Write docs/samples/segment-report.html and .md: a training run over Online Retail, the sixth in as many months.

The argument is a file of the orders (docs/how-to/files.md), in pounds:

.venv/bin/python docs/samples/segment_report.py ORDERS
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from segmentation.rfm import Rules
from trainer.outcome import TrainingOutcome
from trainer.prospects.foresee import foreseen
from trainer.report.render import html, markdown
from trainer.rhythm.learn import learn_by_recipe
from trainer.snapshot.orders import OrderBook, read_book
from trainer.training.learn import Stopwatch, TrainingResult
from trainer.training.naming import Lineage
from trainer.training.plan import of_recipe

HERE: Final = Path(__file__).parent
RUNS: Final = tuple(datetime(2011, month, 10, tzinfo=UTC) for month in range(6, 12))
# As `segtrainer run --dry-run` would.
PLAN: Final = of_recipe("rhythm")


def train(book: OrderBook, at: datetime, lineage: Lineage) -> TrainingResult:
    """Train on the orders up to an instant."""
    at_ms = int(at.timestamp() * 1000)
    watch = Stopwatch(time.perf_counter)
    with watch.step("snapshot"):
        snapshot = book.as_of(at_ms)
    found = learn_by_recipe(
        snapshot, PLAN, lineage, source="Online Retail", now_ms=at_ms, watch=watch, progress=lambda *_: None, book=book
    )
    assert found.trained is not None
    with watch.step("prospects"):
        outcome = foreseen(found.outcome, snapshot, found.trained, lineage, "GBP")
    return replace(found, outcome=msgspec.structs.replace(outcome, timings=tuple(watch.timings)))


def run(orders: Path) -> TrainingOutcome:
    """Train each month, with the model of the month before active."""
    book, lineage = read_book(orders, Rules(), "GBP"), Lineage()
    for number, at in enumerate(RUNS):
        result = train(book, at, lineage)
        assert result.trained is not None
        highest = max(lineage.highest_id, *(segment.id for segment in result.trained.model.segments))
        past = (*lineage.past, result.trained.model)
        lineage = Lineage(active=result.trained.model, activation=number, highest_id=highest, past=past)
    would = "active" if result.may_activate else "a candidate"
    why = (*result.outcome.decision.why, f"Dry run: nothing was published; the model would be {would}.")
    decision = msgspec.structs.replace(result.outcome.decision, why=why)
    return msgspec.structs.replace(result.outcome, decision=decision, currency="GBP")


def main() -> None:
    """Write both files."""
    outcome = run(Path(sys.argv[1]))
    (HERE / "segment-report.html").write_text(html(outcome), encoding="utf-8")
    (HERE / "segment-report.md").write_text(markdown(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
