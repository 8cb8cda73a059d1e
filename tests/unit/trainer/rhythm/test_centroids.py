from __future__ import annotations

import time
from functools import cache

from bench.studies.shop_logs import ShopLog, book_of
from bench.studies.simulated_shops import GROCER, ShopNature, simulate_shop
from bench.studies.worth import trained as by_study
from segmentation.entries import DAY_MS
from trainer.outcome import TrainingOutcome
from trainer.rhythm.centroids import judged_by_centroids
from trainer.rhythm.learn import learn_by_recipe
from trainer.snapshot.orders import OrderBook
from trainer.training.learn import Stopwatch
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan

PLAN = TrainingPlan(ks=(4,), floor=100, rounds=0, starts=2, way="silhouette")


@cache
def shop(nature: ShopNature) -> tuple[OrderBook, int]:
    made = simulate_shop(nature._replace(customers=150))
    return book_of(ShopLog(nature.title, made.rows, "USD", 0, made.end_ms)), made.end_ms


def trained(book: OrderBook, at_ms: int, *, known: bool) -> TrainingOutcome:
    return learn_by_recipe(
        book.as_of(at_ms),
        PLAN,
        Lineage(),
        source="test",
        now_ms=at_ms,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _what, _done, _total: None,
        book=book if known else None,
    ).outcome


def test_customers_who_move_too_often_are_said_with_what_would_hold_them() -> None:
    book, end = shop(GROCER)
    outcome = trained(book, end, known=True)
    assert outcome.later is not None
    assert outcome.later.moves_per_year is not None
    assert outcome.later.moves_per_year > 4
    assert "That is more than 4 moves a year and 10% back in 14 days" in outcome.decision.why[-1]
    assert f"moved {outcome.later.moves_per_year:.1f} times a year" in outcome.decision.why[-1]
    plain = trained(book, end, known=False)
    assert (plain.later, plain.version) == (None, outcome.version)


def test_too_short_a_history_is_said() -> None:
    book, end = shop(GROCER)
    model = by_study(book.as_of(end), PLAN).trained
    assert model is not None
    begun = min(own[0].time for own in book.entries.values())
    found = judged_by_centroids(book, begun + 190 * DAY_MS, PLAN, model.model)
    assert found.later is None
    assert found.why.startswith("What the segments are worth wasn't measured: the history up to ")
