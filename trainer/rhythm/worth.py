"""Would this recipe have been worth acting on? Trained as of half a year ago, and judged by the orders since then.

The levels of the stages are chosen by it: the first of a few pairs with which customers move seldom, hardly any of them
goes back soon, and the segments foretell who orders no worse than recency does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from trainer.training.worth_gates import HORIZON_MS, replayed_figures, worth_gates

if TYPE_CHECKING:
    from collections.abc import Callable

    from segmentation.model import SegmentModel
    from trainer.outcome import Gate, LaterWorth
    from trainer.snapshot.orders import OrderBook
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.naming import Lineage
    from trainer.training.plan import TrainingPlan

# Chances to be a customer still, below which one is at risk, or lost.
LEVELS: Final = ((0.2, 0.05), (0.3, 0.1), (0.1, 0.02))
# A quarter in which segments show what their customers do, and one to compare that with.
JUDGED_MS: Final = 2 * HORIZON_MS + DAY_MS


class RecipeWorth(NamedTuple):
    """The plan with the chosen levels, and what it was worth. `later` is None where that couldn't be judged."""

    plan: TrainingPlan
    later: LaterWorth | None
    gates: tuple[Gate, ...]
    why: tuple[str, ...]


def judged(
    book: OrderBook | None,
    at_ms: int,
    plan: TrainingPlan,
    lineage: Lineage,
    train: Callable[[CustomerSnapshot, TrainingPlan], SegmentModel | None],
) -> RecipeWorth:
    """Choose the levels on the half year before an instant, those of the active model first.

    Where no pair passes the gates, the first one stays, and its gates say what fails.
    """
    if book is None:
        return _unjudged(plan, "What the segments are worth wasn't measured: the orders aren't known.")
    begin = at_ms - JUDGED_MS
    snapshot = book.as_of(begin)
    levels = (levels_of(plan),) if plan.levels_asked else tuple(dict.fromkeys((*_active(lineage), *LEVELS)))
    first: RecipeWorth | None = None
    for at_risk, lost in levels:
        tried = replace(plan, at_risk=at_risk, lost=lost)
        model = train(snapshot, tried) if len(snapshot.customers) else None
        if model is None:
            return _unjudged(
                replace(plan, at_risk=levels[0][0], lost=levels[0][1]),
                f"What the segments are worth wasn't measured: the history up to {iso(begin)[:10]} is too short to "
                "train on and compare with the orders since.",
            )
        figures = replayed_figures(book, model, begin, at_ms)
        gates = worth_gates(figures)
        found = RecipeWorth(tried, figures.later, gates, ())
        if all(gate.passed for gate in gates):
            return found._replace(why=_chosen(first, levels[0], tried))
        first = first or found
    assert first is not None
    return first


def levels_of(plan: TrainingPlan) -> tuple[float, float]:
    """Return the levels of a plan."""
    return plan.at_risk, plan.lost


def _active(lineage: Lineage) -> tuple[tuple[float, float], ...]:
    """Return the levels of the active model; none of one by centroids. Another pair would move customers."""
    clock = lineage.active.clock if lineage.active else None
    return () if clock is None else ((clock.at_risk, clock.lost),)


def _unjudged(plan: TrainingPlan, why: str) -> RecipeWorth:
    return RecipeWorth(plan, None, (), (why,))


def _chosen(first: RecipeWorth | None, usual: tuple[float, float], plan: TrainingPlan) -> tuple[str, ...]:
    if first is None:
        return ()
    failed = " and ".join(gate.name for gate in first.gates if not gate.passed)
    why = (
        f"At risk is a chance to be a customer still below {plan.at_risk:g}, lost one below {plan.lost:g}: with "
        f"{usual[0]:g} and {usual[1]:g}, {failed} would not pass on the orders of the last half year."
    )
    return (why,)
