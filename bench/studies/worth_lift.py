"""How well a ranking of customers predicts their next 90 days: AUC, the top tenth's money, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation.calibration import corrected
from segmentation.lift import auc, captured
from segmentation.outlook import Purchases, chance_of_order, expected_gap, expected_value, silence_days
from segmentation.outlook_orders import expected_orders
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.outlook_fit import OutlookFit, purchases_of
from trainer.training.recalibrate import OutlookCurves
from trainer.training.worth_gates import LaterOrders

DAYS: Final = 90.0

Column = NDArray[np.float64]


class Lift(NamedTuple):
    auc: float  # chance that of two customers the one who orders ranks above the one who doesn't
    captured: float  # share of the money that the top tenth spends


def quintiles(snapshot: CustomerSnapshot) -> Column:
    """Return the sum of the scores 1 to 5 of recency, frequency and money: the RFM of the textbooks, [n]."""
    total = np.zeros(len(snapshot.customers))
    for x in (-snapshot.recency_days, snapshot.frequency, snapshot.monetary):
        total += np.searchsorted(np.quantile(x, [0.2, 0.4, 0.6, 0.8]), x, side="left") + 1.0
    return total


class SegmentValues(NamedTuple):
    """Each segment's share that ordered, and its money a customer, in an earlier 90 days; by segment id."""

    ordered: dict[int, float]
    money: dict[int, float]


def segment_values(segments: NDArray[np.int64], outcome: LaterOrders) -> SegmentValues:
    ids = np.unique(segments).tolist()
    return SegmentValues(
        {i: float((outcome.orders[segments == i] > 0).mean()) for i in ids},
        {i: float(outcome.money[segments == i].mean()) for i in ids},
    )


def lifts(
    snapshot: CustomerSnapshot,
    segments: NDArray[np.int64],
    learnt: SegmentValues,
    fits: Mapping[str, OutlookFit],
    outcome: LaterOrders,
) -> dict[str, Lift]:
    """Return the lift of each way to rank the customers of a snapshot; nothing of it knows the outcome."""
    life = snapshot.life
    assert life is not None
    rfm = quintiles(snapshot)
    rankings = {
        "recency": (-snapshot.recency_days, -snapshot.recency_days),
        "spend": (life.monetary, life.monetary),
        "RFM quintiles": (rfm, rfm),
        "segments": (
            np.array([learnt.ordered.get(i, 0.0) for i in segments.tolist()]),
            np.array([learnt.money.get(i, 0.0) for i in segments.tolist()]),
        ),
    }
    for name, fit in fits.items():
        chance, _, spend, _ = outlook_columns(fit, purchases_of(snapshot))
        rankings[name] = (chance, spend)
    came = outcome.orders > 0
    return {name: Lift(auc(by, came), captured(worth, outcome.money)) for name, (by, worth) in rankings.items()}


def outlook_columns(fit: OutlookFit, purchases: Purchases) -> tuple[Column, Column, Column, Column]:
    """Return chance, orders, spend of the next 90 days, and silence in own gaps, [n] each."""
    orders = expected_orders(fit.rates, purchases, DAYS)
    value = purchases.mean_value if fit.values is None else expected_value(fit.values, purchases)
    gaps = silence_days(purchases) / expected_gap(fit.rates, purchases)
    return chance_of_order(fit.rates, purchases, DAYS), orders, orders * value, gaps


class Calibration(NamedTuple):
    """Forecast and what came, of all customers: means; and the greatest difference over tenths by forecast."""

    chance: float
    ordered: float
    orders: float
    came: float
    spend: float
    spent: float
    worst: float  # |chance - share that ordered|, the worst tenth


def calibration(
    fit: OutlookFit, curves: OutlookCurves | None, purchases: Purchases, outcome: LaterOrders
) -> Calibration:
    """Compare the outlook, corrected by curves where there are some, with what came."""
    chance, orders, spend, _ = outlook_columns(fit, purchases)
    if curves is not None:
        better = corrected(curves.orders, orders)
        spend = spend * better / np.maximum(orders, 1e-12)
        chance, orders = corrected(curves.chance, chance), better
    ordered = (outcome.orders > 0).astype(np.float64)
    tenths = [group for group in np.array_split(np.argsort(chance, kind="stable"), 10) if len(group)]
    return Calibration(
        float(chance.mean()),
        float(ordered.mean()),
        float(orders.mean()),
        float(outcome.orders.mean()),
        float(spend.mean()),
        float(outcome.money.mean()),
        max(abs(float(chance[group].mean() - ordered[group].mean())) for group in tenths),
    )
