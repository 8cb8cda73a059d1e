"""The correction of forecasts: it rises, meets what came, and leaves a good forecast as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.calibration import UNCHANGED, CalibrationCurve, corrected
from segmentation.outlook import OrderRates, Purchases
from trainer.training.recalibrate import curves_of, rising_curve


@given(st.integers(0, 10_000), st.integers(200, 3_000), st.booleans())
def test_a_greater_forecast_never_becomes_a_smaller_one(seed: int, count: int, ends_at_one: bool) -> None:
    rng = np.random.default_rng(seed)
    forecast = rng.beta(0.5, 2.0, count)
    came = (rng.random(count) < rng.random(count)).astype(np.float64)
    curve = rising_curve(forecast, came, ends_at_one=ends_at_one)
    assert (np.diff(curve.at) > 0).all()
    assert (np.diff(curve.to) > 0).all()
    around = np.array([at + step * np.spacing(at) for at in curve.at for step in (-2, -1, 0, 1, 2) if at + step > 0])
    asked = np.sort(np.concatenate([forecast, around]))
    assert (np.diff(corrected(curve, asked)) >= 0.0).all()
    alone = [float(corrected(curve, asked[i : i + 1])[0]) for i in range(0, len(asked), 97)]
    assert alone == corrected(curve, asked)[::97].tolist()


def test_a_forecast_twice_too_high_is_halved() -> None:
    rng = np.random.default_rng(1)
    forecast = rng.uniform(0.0, 1.0, 100_000)
    came = (rng.random(100_000) < forecast / 2).astype(np.float64)
    curve = rising_curve(forecast, came)
    assert corrected(curve, np.array([0.2, 0.5, 0.8])) == pytest.approx([0.1, 0.25, 0.4], abs=0.02)


def test_chances_stay_chances() -> None:
    rng = np.random.default_rng(1)
    forecast = rng.uniform(0.0, 0.4, 10_000)
    curve = rising_curve(forecast, (rng.random(10_000) < 2 * forecast).astype(np.float64), ends_at_one=True)
    assert corrected(curve, np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


def test_too_few_customers_change_nothing() -> None:
    assert rising_curve(np.linspace(0, 1, 150), np.ones(150)) == UNCHANGED
    assert rising_curve(np.linspace(0, 1, 1_000), np.zeros(1_000)) == UNCHANGED
    assert corrected(UNCHANGED, np.array([0.3, 7.0])).tolist() == [0.3, 7.0]


def test_both_figures_have_a_curve() -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 20, 3_000).astype(np.float64)
    then = Purchases(x, x * 20, x * 20 + rng.uniform(0, 200, 3_000), np.ones(3_000))
    curves = curves_of(OrderRates(0.5, 30.0, 0.8, 2.0), then, rng.poisson(x / 10).astype(np.float64), 90.0)
    assert isinstance(curves.chance, CalibrationCurve)
    assert curves.chance.at[-1] == curves.chance.to[-1] == 1.0
    assert curves.orders.to[-1] > 1.0
