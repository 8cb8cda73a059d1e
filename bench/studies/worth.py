"""Are the moves worth acting on, and do segments predict? Real and simulated shops, under each recipe.

    python -m bench.studies.worth --data DIR [--only "CDNOW"] [--recipes rfm rhythm] [--json FILE]

For each shop a model is trained at the start, and the orders after it are replayed under it, as the worker would. 90
days before the end the customers are ranked by each way, and those 90 days say how good each ranking is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from bench.studies.shop_logs import ShopLog, book_of, shops
from segmentation.lift import auc, captured
from trainer.rhythm.learn import learn_by_recipe
from trainer.snapshot.orders import OrderBook
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.learn import Stopwatch, TrainingResult
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan, of_recipe
from trainer.training.recipe import NAMES, RecipeName
from trainer.training.worth_gates import HORIZON_MS, WorthFigures, later_orders, replayed_figures

RECIPES: Final[tuple[RecipeName, ...]] = ("rfm", "rhythm")


class Worth(NamedTuple):
    """The figures of one shop under one recipe. `quintiles`: AUC and top tenth of the textbooks' RFM scores."""

    title: str
    recipe: str
    customers: int
    segments: tuple[str, ...]
    chosen: tuple[str, ...]
    figures: WorthFigures
    quintiles: tuple[float, float]
    seconds: float


def trained(snapshot: CustomerSnapshot, plan: TrainingPlan, book: OrderBook | None = None) -> TrainingResult:
    """Return a recipe's model, whatever the gates say. `book`: orders, of which those up to the snapshot are used."""
    return learn_by_recipe(
        snapshot,
        plan,
        Lineage(),
        source="worth",
        now_ms=snapshot.as_of_ms,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _step, _done, _total: None,
        force=True,
        book=book,
    )


def study(log: ShopLog, plan: TrainingPlan) -> Worth:
    """Measure one shop under one recipe."""
    begun = time.perf_counter()
    book = book_of(log)
    training = trained(book.as_of(log.start_ms), plan, book)
    assert training.trained is not None
    model = training.trained.model
    figures = replayed_figures(book, model, log.start_ms, log.end_ms)
    judged, after = book.as_of(log.end_ms - HORIZON_MS), book.as_of(log.end_ms)
    outcome, score = later_orders(judged, after), quintiles(judged)
    return Worth(
        log.title,
        plan.name,
        figures.later.customers,
        tuple(segment.name for segment in model.segments),
        training.outcome.decision.why,
        figures,
        (auc(score, outcome.orders > 0), captured(score, outcome.money)),
        round(time.perf_counter() - begun, 1),
    )


def quintiles(snapshot: CustomerSnapshot) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the sum of the scores 1 to 5 of recency, frequency and money: the RFM of the textbooks, [n]."""
    total = np.zeros(len(snapshot.customers))
    for x in (-snapshot.recency_days, snapshot.frequency, snapshot.monetary):
        total += np.searchsorted(np.quantile(x, [0.2, 0.4, 0.6, 0.8]), x, side="left") + 1.0
    return total


def row(worth: Worth) -> str:
    """Return the figures of one shop under one recipe as a line of Markdown."""
    later = worth.figures.later
    causes = ", ".join(f"{cause} {share:.0%}" for cause, share in worth.figures.by_cause.items() if share >= 0.005)
    ranked = {ranking.by: f"{_three(ranking.auc)} {ranking.top_tenth or 0.0:.1%}" for ranking in later.rankings}
    ranked["RFM quintiles"] = f"{_three(worth.quintiles[0])} {worth.quintiles[1]:.1%}"
    columns = [ranked.get(by, "") for by in ("segments", "recency", "spend", "RFM quintiles", "outlook")]
    return (
        f"| {worth.title} | {worth.recipe} | {later.moves_per_year or 0.0:.2f} | {later.back_14 or 0.0:.1%} | "
        f"{later.back_30 or 0.0:.1%} | {causes} | {' | '.join(columns)} | {_three(worth.figures.recency_cut)} | "
        f"{_worst(worth):.1%} |"
    )


HEADER: Final = """\
| shop | recipe | moves a year | back in 14 d | 30 d | by cause | segments | recency | spend | RFM quintiles | outlook \
| recency in as many groups | worst tenth |
|---|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|"""


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".removeprefix("0")


def _worst(worth: Worth) -> float:
    """Return the greatest difference of a forecast chance and what came, over tenths of the customers."""
    return max((abs(group.chance - group.ordered) for group in worth.figures.later.calibration), default=0.0)


def plain(worth: Worth) -> dict[str, Any]:
    """Return the figures as JSON has them."""
    figures = worth.figures._asdict() | {"later": msgspec.to_builtins(worth.figures.later)}
    return worth._asdict() | {"figures": figures}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the shops, print a line for each and recipe, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.worth", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with online_retail/orders.csv.gz (default: without it)")
    parser.add_argument("--only", nargs="+", help="titles of shops (default: all)")
    parser.add_argument("--recipes", nargs="+", choices=NAMES, default=RECIPES)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args(argv)
    found = []
    print(HEADER)
    for title, read in shops(arguments.data).items():
        if arguments.only is None or title in arguments.only:
            log = read()
            for recipe in arguments.recipes:
                found.append(study(log, of_recipe(recipe)))
                print(row(found[-1]), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([plain(one) for one in found], indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
