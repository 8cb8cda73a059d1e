# ruff: noqa: INP001 — started by its path, from the root of the repository
"""Write docs/samples/segment-report.html and .md: a training run over Online Retail, a month after the first one.

The argument is a file of the orders (docs/how-to/files.md), in pounds:

.venv/bin/python docs/samples/segment_report.py ORDERS
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from segmentation.rfm import Rules
from trainer.outcome import TrainingOutcome
from trainer.report.render import html, markdown
from trainer.snapshot.orders import take_from_file
from trainer.training.learn import Stopwatch, TrainingResult, learn
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan

HERE: Final = Path(__file__).parent
BEFORE: Final = datetime(2011, 10, 10, tzinfo=UTC)
AFTER: Final = datetime(2011, 11, 10, tzinfo=UTC)
# As `segtrainer run --dry-run` would.
PLAN: Final = TrainingPlan()


def train(orders: Path, at: datetime, lineage: Lineage) -> TrainingResult:
    """Train on the orders up to an instant."""
    at_ms = int(at.timestamp() * 1000)
    watch = Stopwatch(time.perf_counter)
    with watch.step("snapshot"):
        snapshot = take_from_file(orders, at_ms, Rules(), "GBP")
    return learn(snapshot, PLAN, lineage, source="Online Retail", now_ms=at_ms, watch=watch, progress=lambda *_: None)


def run(orders: Path) -> TrainingOutcome:
    """Train twice, the second time with the first model active."""
    first = train(orders, BEFORE, Lineage()).trained
    assert first is not None
    highest = max(segment.id for segment in first.model.segments)
    lineage = Lineage(active=first.model, activation=0, highest_id=highest, past=(first.model,))
    result = train(orders, AFTER, lineage)
    would = "active" if result.may_activate else "a candidate"
    why = (*result.outcome.decision.why, f"Dry run: nothing was published; it would be {would}.")
    decision = msgspec.structs.replace(result.outcome.decision, why=why)
    return msgspec.structs.replace(result.outcome, decision=decision, currency="GBP")


def main() -> None:
    """Write both files."""
    outcome = run(Path(sys.argv[1]))
    (HERE / "segment-report.html").write_text(html(outcome), encoding="utf-8")
    (HERE / "segment-report.md").write_text(markdown(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
