"""The next 90 days of each segment by the model's outlook, and the last 90 days of those whom it would have held."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.clock_scorer import ClockScorer
from segmentation.entries import DAY_MS
from segmentation.outlook import Purchases
from segmentation.outlook_figures import OUTLOOK_DAYS, outlook_columns
from trainer.outcome import SegmentForecast, SegmentPast
from trainer.training.measure import rounded
from trainer.training.outlook_fit import purchases_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segmentation.model import SegmentModel
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.fit import TrainedModel

_LEAST: Final = 30  # customers of a segment then, below which the share that ordered says nothing


def forecasts(snapshot: CustomerSnapshot, trained: TrainedModel) -> list[SegmentForecast | None]:
    """Return one for each segment of the model; None where it has no customers, or the model no outlook."""
    outlook = trained.model.outlook
    if outlook is None or snapshot.life is None:
        return [None] * len(trained.model.segments)
    columns = outlook_columns(outlook, purchases_of(snapshot))
    found: list[SegmentForecast | None] = []
    for index in range(len(trained.model.segments)):
        inside = trained.labels == index
        if not inside.any():
            found.append(None)
            continue
        found.append(
            SegmentForecast(
                ordering=rounded(float(columns.chance_90d[inside].sum())),
                orders=rounded(float(columns.orders_90d[inside].sum())),
                spend=rounded(float(columns.spend_90d[inside].sum())) if outlook.values else None,
                usual_gap_days=rounded(float(np.median(columns.usual_gap_days[inside]))),
                silence_in_gaps=rounded(float(np.median(columns.silence_in_gaps[inside]))),
            )
        )
    return found


def pasts(snapshot: CustomerSnapshot, model: SegmentModel) -> list[SegmentPast | None]:
    """Return for each segment what its customers of 90 days ago did since; None where there were too few of them.

    Only for models by own clock, from the sample of purchase days: what a window held then isn't known any more. The
    values of orders are today's.
    """
    if model.format == 1 or snapshot.days is None or snapshot.life is None:
        return [None] * len(model.segments)
    then = snapshot.as_of_ms / DAY_MS - OUTLOOK_DAYS
    known = [bisect_left(days, math.floor(then)) for days in snapshot.days.days]
    rows = [i for i, count in enumerate(known) if count]
    if not rows:
        return [None] * len(model.segments)
    columns = [_as_of(snapshot.days.days[i][: known[i]], then) for i in rows]
    repeats, until_last, age = (np.array(column, dtype=np.float64) for column in zip(*columns, strict=True))
    value = purchases_of(snapshot).mean_value[snapshot.days.rows[rows]]
    labels = _placed(ClockScorer(model), Purchases(repeats, until_last, age, value))
    orders = np.array([len(snapshot.days.days[i]) - known[i] for i in rows])
    return [_past(orders[labels == index]) for index in range(len(model.segments))]


def _as_of(days: Sequence[int], then: float) -> tuple[int, int, float]:
    """Return repeats, days until the last one, and age; an order counts as of noon."""
    until_last = days[-1] - days[0]
    return len(days) - 1, until_last, max(then - days[0] - 0.5, float(until_last))


def _placed(scorer: ClockScorer, purchases: Purchases) -> NDArray[np.int64]:
    last = -np.rint((purchases.age - purchases.until_last) * DAY_MS).astype(np.int64)
    return scorer.place(purchases, np.zeros_like(last), last)


def _past(orders: NDArray[np.int64]) -> SegmentPast | None:
    if len(orders) < _LEAST:
        return None
    return SegmentPast(customers=len(orders), ordered=int(np.count_nonzero(orders)), orders=int(orders.sum()))
