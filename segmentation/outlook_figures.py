"""The outlook on customers as it is published: columns from the headers of their states, and rounded figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.calibration import corrected
from segmentation.clock_scorer import purchases_of_heads
from segmentation.entries import DAY_MS, NONE
from segmentation.money import UNITS, format_units
from segmentation.outlook import Purchases, chance_of_order, expected_gap, silence_days, value_of_order
from segmentation.outlook_orders import expected_orders
from segmentation.output_events import OutlookFigures
from segmentation.silence import recency_days

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segmentation.life_figures import LifeAt
    from segmentation.model_parts import OutlookModel

OUTLOOK_DAYS: Final = 90.0
_MOST_UNITS: Final = 2.0**62


class OutlookColumns(NamedTuple):
    """The outlook on the next 90 days, [n] each; days of purchase count as orders."""

    chance_90d: NDArray[np.float64]  # of an order
    orders_90d: NDArray[np.float64]
    spend_90d: NDArray[np.float64]  # currency units
    usual_gap_days: NDArray[np.float64]  # expected between two orders
    silence_in_gaps: NDArray[np.float64]  # silence so far, in usual gaps


def outlook_columns(outlook: OutlookModel, purchases: Purchases) -> OutlookColumns:
    """Return the outlook on customers by the facts of their whole lives."""
    rates, values = outlook.order_rates(), outlook.order_values()
    by_chance, by_orders = outlook.curves()
    chance = np.minimum(corrected(by_chance, chance_of_order(rates, purchases, OUTLOOK_DAYS)), 1.0)
    orders = corrected(by_orders, expected_orders(rates, purchases, OUTLOOK_DAYS))
    gap = expected_gap(rates, purchases)
    return OutlookColumns(
        chance, orders, orders * value_of_order(values, purchases), gap, silence_days(purchases) / gap
    )


def outlook_figures(
    outlook: OutlookModel | None, head: NDArray[np.void], at: NDArray[np.int64]
) -> list[OutlookFigures | None]:
    """Return the outlook of customers at an instant (ms) each as it is published, from headers that hold then, [n].

    None without a fitted outlook, and for a customer without an order that stands.
    """
    if outlook is None or not len(head):
        return [None] * len(head)
    found = _rounded(outlook_columns(outlook, purchases_of_heads(head, at)))
    return [one if stands else None for one, stands in zip(found, (head["last"] != NONE).tolist(), strict=True)]


def outlook_of_lives(outlook: OutlookModel | None, lives: Sequence[LifeAt], at: int) -> list[OutlookFigures | None]:
    """Return the same from whole lives at one instant (ms)."""
    if outlook is None or not lives:
        return [None] * len(lives)
    found = _rounded(outlook_columns(outlook, purchases_of_lives(lives, at)))
    return [one if life.life.orders else None for one, life in zip(found, lives, strict=True)]


def purchases_of_lives(lives: Sequence[LifeAt], at: int) -> Purchases:
    """Return the facts of whole lives at an instant (ms), as `purchases_of_heads` does. No order: as if new."""
    ordered = np.array([bool(one.life.orders) for one in lives])
    last = np.where(ordered, np.array([one.last for one in lives], dtype=np.int64), at)
    first = np.minimum(np.where(ordered, np.array([one.life.first for one in lives], dtype=np.int64), at), last)
    days = np.maximum(np.array([one.life.days for one in lives], dtype=np.float64), 1.0)
    until_last = np.where(days > 1.0, (last - first) / float(DAY_MS), 0.0)
    money = np.array([one.life.money for one in lives], dtype=np.float64)
    return Purchases(days - 1.0, until_last, until_last + recency_days(at, last), money / float(UNITS) / days)


def _rounded(columns: OutlookColumns) -> list[OutlookFigures]:
    spend = np.rint(np.minimum(columns.spend_90d * 100.0, _MOST_UNITS / UNITS)) * (UNITS / 100.0)
    rounded = [np.round(column, digits).tolist() for column, digits in zip(columns, (4, 3, 2, 2, 2), strict=True)]
    rounded[2] = [format_units(int(units)) for units in spend.tolist()]
    return [OutlookFigures(*row) for row in zip(*rounded, strict=True)]
