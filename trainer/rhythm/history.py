"""Is there enough history to learn from, and the outlook that it allows: fitted, or careful figures in its place.

With too little history maximum likelihood gives figures all the same, and they are wrong in one direction: of the gaps
between orders only those are seen that are shorter than the history. So each count has a least value, and below it
nothing is fitted. The outcome says which one was missed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.calibration import UNCHANGED
from segmentation.model_parts import ModelRates, ModelValues, OutlookModel
from trainer.errors import FitError
from trainer.outcome import HistoryCheck
from trainer.rhythm.holdout import corrections
from trainer.training.measure import rounded
from trainer.training.outlook_fit import LEAST_LOYAL, LEAST_REPEATERS, fit_outlook, log_gaps_of, purchases_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.calibration import CalibrationCurve
    from segmentation.outlook import OrderRates, OrderValues, Purchases
    from trainer.snapshot.redis import CustomerSnapshot

# The next three are what Klaviyo's predictive analytics asks for: 500 customers with an order, 180 days of history,
# orders in the last 30 days.
LEAST_CUSTOMERS: Final = 500
LEAST_DAYS: Final = 180.0
MOST_SILENCE_DAYS: Final = 30.0
# Days between two orders, at least, before a fit knows better: that of many shops, and nobody is called lost soon.
UNKNOWN_GAP_DAYS: Final = 60.0
_DAYS: Final = "days of history"
_SILENCE: Final = "days since the last order"
# The odds of having dropped out at the last order where the orders don't show who does: 1 to 20.
STAND_IN_ODDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class LearntOutlook:
    """The outlook of a training. `fitted`: by maximum likelihood; else careful figures stand in its place.

    `notes`: sentences for the report.
    """

    model: OutlookModel
    fitted: bool
    checks: tuple[HistoryCheck, ...]
    notes: tuple[str, ...]

    @property
    def rates(self) -> OrderRates:
        """The rates for the formulas."""
        return self.model.order_rates()

    @property
    def values(self) -> OrderValues | None:
        """The values for the formulas."""
        return self.model.order_values()


def learn_outlook(snapshot: CustomerSnapshot, seed: int) -> LearntOutlook:
    """Fit the outlook where the history allows it, and give careful figures where it doesn't.

    Raises FitError for a snapshot without lives.
    """
    purchases = purchases_of(snapshot)
    checks = history_checks(snapshot, purchases)
    missed = [check for check in checks if not check.passed]
    if missed:
        lacks = "; ".join(
            f"{check.name} {check.value:,.0f}, expected at {check.bound} {check.limit:,.0f}" for check in missed
        )
        return _careful(purchases, checks, f"{_complaint(missed)} to fit how customers order ({lacks})")
    try:
        found = fit_outlook(*_sampled(snapshot, purchases), seed)
    except FitError as error:
        return _careful(purchases, checks, f"How customers order couldn't be fitted ({str(error).rstrip('.')})")
    values = None if found.values is None else ModelValues(**found.values._asdict())
    rates = found.rates if found.has_drop_out else found.rates._replace(stand_in=STAND_IN_ODDS)
    outlook = OutlookModel(rates=ModelRates(**rates._asdict()), values=values)
    return LearntOutlook(outlook, True, checks, found.notes)


def with_corrections(learnt: LearntOutlook, snapshot: CustomerSnapshot, seed: int) -> LearntOutlook:
    """Return a fitted outlook with the corrections that the last 180 days support."""
    if not learnt.fitted or snapshot.days is None:
        return learnt
    found = corrections(snapshot.days, snapshot.as_of_ms, LEAST_DAYS, seed)
    if found is None:
        return learnt
    outlook = OutlookModel(
        rates=learnt.model.rates,
        values=learnt.model.values,
        chance_curve=_points(found.chance),
        orders_curve=_points(found.orders),
    )
    return replace(learnt, model=outlook)


def _points(curve: CalibrationCurve) -> tuple[tuple[float, float], ...] | None:
    return None if curve == UNCHANGED else tuple(zip(curve.at, curve.to, strict=True))


def history_checks(snapshot: CustomerSnapshot, purchases: Purchases) -> tuple[HistoryCheck, ...]:
    """Compare the history with what a fit needs."""
    days = float(purchases.age.max(initial=0.0))
    silence = float(snapshot.recency_days.min(initial=days))
    return (
        _at_least("customers with an order", len(snapshot.customers), LEAST_CUSTOMERS),
        _at_least(_DAYS, days, LEAST_DAYS),
        HistoryCheck(_SILENCE, silence, MOST_SILENCE_DAYS, "most", silence <= MOST_SILENCE_DAYS),
        _at_least("customers who came back", int(np.count_nonzero(purchases.repeats >= 1)), LEAST_REPEATERS),
        _at_least("customers with three orders or more", int(np.count_nonzero(purchases.repeats >= 2)), LEAST_LOYAL),
    )


def _complaint(missed: list[HistoryCheck]) -> str:
    """Return the beginning of the sentence that says what is missed.

    >>> _complaint([HistoryCheck(_SILENCE, 91.0, 30.0, "most", passed=False)])
    'The last order is too long ago'
    """
    names = {check.name for check in missed}
    found = ["the last order is too long ago"] if _SILENCE in names else []
    found += ["the history is too short"] if _DAYS in names else []
    found += ["there are too few customers"] if names - {_SILENCE, _DAYS} else []
    return " and ".join(found).capitalize()


def _at_least(name: str, value: float, limit: float) -> HistoryCheck:
    return HistoryCheck(name, float(value), float(limit), "least", value >= limit)


def _sampled(snapshot: CustomerSnapshot, purchases: Purchases) -> tuple[Purchases, NDArray[np.float64] | None]:
    """Return the customers whose purchase days are known, with the logarithms of their gaps; else all, without."""
    if snapshot.days is None:
        return purchases, None
    return type(purchases)(*[column[snapshot.days.rows] for column in purchases]), log_gaps_of(snapshot.days.days)


def _careful(purchases: Purchases, checks: tuple[HistoryCheck, ...], why: str) -> LearntOutlook:
    """Return rates that call nobody lost before a long silence: one prior order at a long usual gap.

    That of the customers who came back, or UNKNOWN_GAP_DAYS where it is shorter: a young shop has seen short gaps only.
    """
    repeats = purchases.repeats
    back = repeats >= 1
    seen = float(np.median(purchases.until_last[back] / repeats[back])) if back.any() else 0.0
    gap = rounded(max(seen, UNKNOWN_GAP_DAYS))
    outlook = OutlookModel(rates=ModelRates(r=1.0, alpha=gap, a=0.0, b=1.0, stand_in=STAND_IN_ODDS))
    note = (
        f"{why}: a usual gap of {gap:.3g} days stands in until a customer's own is known, and nobody counts as lost "
        "before a long silence."
    )
    return LearntOutlook(outlook, False, checks, (note,))
