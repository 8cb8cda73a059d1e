"""The corrections of the outlook, from hold-outs in time: what came in the 90 days after each forecast.

Once for their worth, once for use. The outlook of 180 days ago is corrected by the 90 days after it; if that correction
improves the forecast of 90 days ago for the 90 days since, the outlook of 90 days ago is corrected by those, and the
model takes that correction. A shop that changed in between isn't helped by its past, and gets none.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.calibration import UNCHANGED, corrected
from segmentation.entries import DAY_MS
from segmentation.outlook import Purchases, chance_of_order
from segmentation.outlook_orders import expected_orders
from trainer.errors import FitError
from trainer.training.outlook_fit import fit_outlook, log_gaps_of
from trainer.training.recalibrate import OutlookCurves, curves_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.calibration import CalibrationCurve
    from segmentation.outlook import OrderRates
    from trainer.snapshot.purchase_days import PurchaseDays

_HORIZON: Final = 90


class _Forecast(NamedTuple):
    """Customers as they were on a day, the rates fitted then, and their purchase days in the 90 days after, [n]."""

    rates: OrderRates
    then: Purchases
    came: NDArray[np.float64]


def corrections(known: PurchaseDays, as_of_ms: int, least_days: float, seed: int) -> OutlookCurves | None:
    """Return the corrections; None where the history is too short for both hold-outs, or where they don't help.

    `least_days`: of history before the earlier forecast.
    """
    today = as_of_ms // DAY_MS
    first = min((days[0] for days in known.days if days), default=today)
    if today - 2 * _HORIZON - first < least_days:
        return None
    try:
        earlier, later = (_forecast(known, today - ago, seed) for ago in (2 * _HORIZON, _HORIZON))
    except FitError:
        return None
    tried, found = (curves_of(one.rates, one.then, one.came, float(_HORIZON)) for one in (earlier, later))
    ordered = (later.came > 0).astype(np.float64)
    chance = chance_of_order(later.rates, later.then, float(_HORIZON))
    orders = expected_orders(later.rates, later.then, float(_HORIZON))
    return OutlookCurves(
        found.chance if helps(tried.chance, chance, ordered) else UNCHANGED,
        found.orders if helps(tried.orders, orders, later.came) else UNCHANGED,
    )


def helps(curve: CalibrationCurve, forecast: NDArray[np.float64], came: NDArray[np.float64]) -> bool:
    """Return whether a correction brings forecasts nearer to what came, both [n], by the mean squared error.

    >>> from segmentation.calibration import CalibrationCurve
    >>> halved = CalibrationCurve((0.0, 1.0), (0.0, 0.5))
    >>> helps(halved, np.array([0.8, 0.8]), np.array([0.0, 1.0])), helps(halved, np.array([0.8]), np.array([1.0]))
    (True, False)
    """
    after = corrected(curve, forecast)
    return float(np.mean((after - came) ** 2)) < float(np.mean((forecast - came) ** 2))


def _forecast(known: PurchaseDays, day: int, seed: int) -> _Forecast:
    """Fit the rates as of the end of a day. Raises FitError where there is too little history then."""
    begun, came = [], []
    for days in known.days:
        count = bisect_right(days, day)
        if count:
            begun.append(days[:count])
            came.append(bisect_right(days, day + _HORIZON) - count)
    if not begun:
        raise FitError(f"Nobody had ordered by day {day}.")
    first, last = (np.array([own[i] for own in begun], dtype=np.float64) for i in (0, -1))
    repeats = np.array([len(own) - 1 for own in begun], dtype=np.float64)
    then = Purchases(repeats, last - first, day - first, np.ones(len(begun)))
    return _Forecast(fit_outlook(then, log_gaps_of(begun), seed).rates, then, np.array(came, dtype=np.float64))
