"""Check that the customers can be trained on, and count what is unusual about them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.model import FEATURES
from trainer.errors import FitError
from trainer.outcome import FeatureQuality, Quality

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.snapshot.redis import CustomerSnapshot

OUTLIER_Z: Final = 3.0


def check(snapshot: CustomerSnapshot, floor: int, having: str = "an order that stands") -> None:
    """Raise FitError where there are too few customers, a figure is not finite, or a feature is equal for all.

    `having`: what the customers of the snapshot have in common, for the message.
    """
    customers = len(snapshot.customers)
    if customers < floor:
        raise FitError(
            f"{customers} customers have {having}, expected at least {floor}.",
            hint="Wait for more orders, or lower --min-customers.",
        )
    check_finite(snapshot)
    for name in FEATURES:
        x = snapshot.column(name)
        if x.min() == x.max():
            raise FitError(
                f"{name} is {x[0]:g} for all {customers} customers, so it can't separate them.",
                hint="Train on orders that differ in it: of a longer time, or of all customers.",
            )


def check_finite(snapshot: CustomerSnapshot) -> None:
    """Raise FitError where a figure is not a finite number."""
    customers = len(snapshot.customers)
    for name in FEATURES:
        x = snapshot.column(name)
        if wrong := int(np.count_nonzero(~np.isfinite(x))):
            first = snapshot.customers[int(np.argmin(np.isfinite(x)))]
            raise FitError(
                f"{name} isn't a finite number for {wrong} of {customers} customers, {first!r} first.",
                hint="Fix the source of the orders; states that a worker wrote never hold such a figure.",
            )


def ordinary(snapshot: CustomerSnapshot) -> NDArray[np.bool_]:
    """Return which customers have |z| < 3 in every untransformed feature, [customers]. No feature may be constant."""
    keep = np.ones(len(snapshot.customers), dtype=np.bool_)
    for name in FEATURES:
        keep &= np.abs(_z(snapshot.column(name))) < OUTLIER_Z
    return keep


def only(snapshot: CustomerSnapshot, keep: NDArray[np.bool_]) -> CustomerSnapshot:
    """Return the snapshot with only the customers of `keep`, [customers]."""
    if keep.all():
        return snapshot
    return replace(
        snapshot,
        customers=tuple([name for name, kept in zip(snapshot.customers, keep.tolist(), strict=True) if kept]),
        recency_days=snapshot.recency_days[keep],
        frequency=snapshot.frequency[keep],
        monetary=snapshot.monetary[keep],
    )


def examine(snapshot: CustomerSnapshot, not_fitted: int = 0, *, whole_lives: bool = False) -> Quality:
    """Count what an analyst asks about first. The snapshot must have passed `check`.

    `whole_lives`: orders and money are those of whole lives, not of the window.
    """
    orders, money = snapshot.spending(whole_lives=whole_lives)
    columns = dict(zip(FEATURES, (snapshot.recency_days, orders, money), strict=True))
    return Quality(
        customers=len(snapshot.customers),
        left_out=snapshot.left_out,
        without_orders=int(np.count_nonzero(snapshot.frequency == 0)),
        without_money=int(np.count_nonzero(money == 0)),
        negative_money=int(np.count_nonzero(money < 0)),
        not_fitted=not_fitted,
        features=tuple(_feature(name, column) for name, column in columns.items()),
    )


def _feature(name: str, x: NDArray[np.float64]) -> FeatureQuality:
    return FeatureQuality(
        name=name,
        least=float(x.min()),
        median=float(np.median(x)),
        mean=float(x.mean()),
        greatest=float(x.max()),
        deviation=float(x.std()),
        beyond_3=int(np.count_nonzero(np.abs(_z(x)) >= OUTLIER_Z)),
    )


def _z(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x standardised; zeros where rounding leaves no spread."""
    deviation = x.std()
    return (x - x.mean()) / deviation if deviation > 0 else np.zeros_like(x)
