"""Would a model by centroids have been worth acting on? Measured as for the recipe `rhythm`, but never decisive.

These recipes are kept for comparison: their models stay as they were. Where customers would have moved too often, a
sentence says which margin and dwell would have held them.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from trainer.errors import FitError
from trainer.rhythm.worth import JUDGED_MS
from trainer.training.learn import Stopwatch, learn
from trainer.training.naming import Lineage
from trainer.training.worth_gates import MOST_BACK, MOST_MOVES, replayed_figures, worth_gates

if TYPE_CHECKING:
    from segmentation.model import SegmentModel
    from trainer.outcome import Gate, LaterWorth
    from trainer.snapshot.orders import OrderBook
    from trainer.training.plan import TrainingPlan

# Margin, and dwell in days: tried in this order where the plan's own margin, without a dwell, isn't enough.
STEADIER: Final = ((0.5, 0), (1.0, 0), (1.0, 7), (2.0, 14))


class CentroidWorth(NamedTuple):
    """The worth that a model would have had; `later` is None where that couldn't be judged. `why`: a sentence on it."""

    later: LaterWorth | None
    why: str


def judged_by_centroids(book: OrderBook, at_ms: int, plan: TrainingPlan, model: SegmentModel) -> CentroidWorth:
    """Train as of half a year before an instant, with the model's own k and transform, and replay what came since."""
    begin = at_ms - JUDGED_MS
    try:
        then = _model_then(book, begin, plan, model)
        figures = replayed_figures(book, then, begin, at_ms)
    except FitError as error:
        unknown = f"the history up to {iso(begin)[:10]} can't be trained on ({str(error).split('.')[0]})."
        return CentroidWorth(None, f"What the segments are worth wasn't measured: {unknown}")
    failed = _restless(worth_gates(figures))
    measured = f"On the orders of the last half year customers would have moved {_pace(figures.later)}."
    if not failed:
        return CentroidWorth(figures.later, measured)
    for margin, dwell in STEADIER:
        if margin < plan.margin:
            continue
        steadier = then.model_copy(update={"margin": margin})
        found = replayed_figures(book, steadier, begin, at_ms, dwell_ms=dwell * DAY_MS)
        if not _restless(worth_gates(found)):
            wait = f" and SEGSTREAM_DWELL_HOURS={24 * dwell}" if dwell else ""
            held = f"With SEGSTREAM_TRAINER_MARGIN={margin:g}{wait} it would have been {_pace(found.later)}."
            return CentroidWorth(figures.later, f"{measured} {failed}. {held}")
    return CentroidWorth(figures.later, f"{measured} {failed}, and no margin helps: try the recipe rhythm.")


def _model_then(book: OrderBook, begin: int, plan: TrainingPlan, model: SegmentModel) -> SegmentModel:
    """Return the model of an earlier instant, whatever its gates say. Raises FitError."""
    same = replace(plan, ks=(len(model.segments),), transforms=(model.features[0].transform,), rounds=0)
    result = learn(
        book.as_of(begin),
        replace(same, way="silhouette"),
        Lineage(),
        source="worth",
        now_ms=begin,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _step, _done, _total: None,
        force=True,
    )
    if result.trained is None:
        raise FitError(" ".join(result.outcome.decision.why))
    return result.trained.model


def _restless(gates: tuple[Gate, ...]) -> str:
    """Return which limits of moves are passed, as text; "": none."""
    limits = {"moves a year": f"{MOST_MOVES:g} moves a year", "back in 14 days": f"{MOST_BACK:.0%} back in 14 days"}
    passed = [limits[gate.name] for gate in gates if gate.name in limits and not gate.passed]
    return f"That is more than {' and '.join(passed)}" if passed else ""


def _pace(later: LaterWorth) -> str:
    moves, back = later.moves_per_year or 0.0, later.back_14 or 0.0
    return f"{moves:.1f} times a year, {back:.1%} of the moves back within 14 days"
