"""Correct the outlook by a hold-out in time, from what customers did after an instant at which they were forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.calibration import UNCHANGED, CalibrationCurve
from segmentation.outlook import chance_of_order
from segmentation.outlook_orders import expected_orders
from trainer.training.measure import rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.outlook import OrderRates, Purchases

# Groups of customers with similar forecasts, from which the curve is made: enough for a bend, few enough for each to
# have a mean that isn't chance.
MOST_GROUPS: Final = 20
LEAST_IN_GROUP: Final = 100


class OutlookCurves(NamedTuple):
    """The corrections of the chance of an order and of the expected orders, for one horizon."""

    chance: CalibrationCurve
    orders: CalibrationCurve


def curves_of(rates: OrderRates, then: Purchases, orders_since: NDArray[np.float64], days: float) -> OutlookCurves:
    """Return the corrections for a horizon, from customers as they were that long ago and their orders since, [n].

    `rates` must be fitted to `then` or earlier: a fit that knows what came would need no correction.
    """
    chance = rising_curve(chance_of_order(rates, then, days), (orders_since > 0).astype(np.float64), ends_at_one=True)
    return OutlookCurves(chance, rising_curve(expected_orders(rates, then, days), orders_since))


def rising_curve(
    forecast: NDArray[np.float64], came: NDArray[np.float64], *, ends_at_one: bool = False
) -> CalibrationCurve:
    """Return the rising curve from forecasts to means of what came, both [n]; UNCHANGED for too few customers.

    Isotonic regression by pooling adjacent violators (Ayer and others, Annals of Mathematical Statistics 26, 1955) over
    groups of similar forecasts; one point a pool, so the curve rises strictly. It begins at (0, 0), and ends at (1, 1)
    where forecasts are chances.

    >>> forecast = np.repeat([0.2, 0.4, 0.6], 100)
    >>> rising_curve(forecast, np.repeat([0.1, 0.1, 0.5], 100))
    CalibrationCurve(at=(0.0, 0.3, 0.6), to=(0.0, 0.1, 0.5))
    """
    order = np.argsort(forecast, kind="stable")
    groups = min(MOST_GROUPS, len(order) // LEAST_IN_GROUP)
    if groups < 2:
        return UNCHANGED
    pools: list[tuple[float, float, float]] = []  # customers, sum of forecasts, sum of what came
    for group in np.array_split(order, groups):
        pools.append((float(len(group)), float(forecast[group].sum()), float(came[group].sum())))
        while len(pools) > 1 and pools[-2][2] * pools[-1][0] >= pools[-1][2] * pools[-2][0]:
            last, before = pools.pop(), pools.pop()
            pools.append((last[0] + before[0], last[1] + before[1], last[2] + before[2]))
    points = [(0.0, 0.0)]
    points += [(rounded(expected / n), rounded(found / n)) for n, expected, found in pools]
    if ends_at_one:
        points.append((1.0, 1.0))
    kept = points[:1]
    for point in points[1:]:
        if point[0] > kept[-1][0] and point[1] > kept[-1][1]:
            kept.append(point)
    at, to = zip(*kept, strict=True)
    return CalibrationCurve(at, to) if len(kept) > 1 else UNCHANGED
