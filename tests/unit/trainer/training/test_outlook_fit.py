"""The fit of the outlook: the literature's parameters of CDNOW, recovered truths, and what is refused."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from segmentation.outlook import OrderRates, OrderValues, Purchases, chance_of_order
from segmentation.outlook_orders import expected_orders
from stream.orders.files import cdnow_path
from trainer.errors import FitError
from trainer.training.outlook_fit import fit_outlook

CDNOW_SUMMARIES = cdnow_path().parent


def summaries(name: str) -> dict[str, np.ndarray]:
    with (CDNOW_SUMMARIES / name).open() as lines:
        rows = list(csv.DictReader(lines))
    return {column: np.array([float(row[column]) for row in rows]) for column in rows[0]}


def simulated(
    rates: OrderRates, values: OrderValues, count: int, days: float, seed: int
) -> tuple[Purchases, Purchases]:
    """Return customers as of `days`, and as of 90 days later; all began within the first half."""
    rng = np.random.default_rng(seed)
    own_rate = rng.gamma(rates.r, 1 / rates.alpha, count)
    leaves = rng.beta(rates.a, rates.b, count) if rates.a else np.zeros(count)
    begun = rng.uniform(0, days / 2, count)
    at, alive = begun.copy(), rng.random(count) >= leaves
    found = {limit: (np.zeros(count), np.zeros(count)) for limit in (days, days + 90)}
    while alive.any():
        at = at + rng.exponential(1 / own_rate)
        alive &= at < days + 90
        for limit, (repeats, last) in found.items():
            counts = alive & (at < limit)
            repeats[counts] += 1
            last[counts] = at[counts] - begun[counts]
        alive &= rng.random(count) >= leaves
    scale = rng.gamma(values.q, 1 / values.v, count)

    def purchases(limit: float) -> Purchases:
        repeats, last = found[limit]
        n = repeats + 1
        return Purchases(repeats, last, limit - begun, rng.gamma(values.p * n) / scale / n)

    return purchases(days), purchases(days + 90)


def test_the_rates_of_cdnow() -> None:
    """Those of BTYDplus and lifetimes: 0.525, 6.183, 0.891, 1.614, in weeks."""
    known = summaries("cdnow_customers_summary.csv")
    x = known["frequency"]
    fit = fit_outlook(Purchases(x, known["recency"], known["T"], np.ones(len(x))))
    *figures, stand_in = fit.rates
    assert np.round(np.array(figures), 3).tolist() == [0.525, 6.183, 0.891, 1.614, 1]
    assert stand_in is None
    assert fit.has_drop_out
    assert fit.values is None  # all orders of one value


def test_the_values_of_cdnow() -> None:
    """Those of Fader and Hardie (2013), who fit the means of repeat orders: 6.25, 3.74, 15.44."""
    known = summaries("cdnow_customers_summary_with_transactions.csv")
    x, mean = known["x"], known["zbar"]
    back = x > 0
    n = x[back]
    # `repeats` counts the orders after the first, the model all orders with a value.
    fit = fit_outlook(Purchases(n - 1, n, n + 40.0, mean[back]))
    assert fit.values is not None
    assert np.round(np.array(fit.values), 2).tolist() == pytest.approx([6.25, 3.74, 15.44], abs=0.011)


@pytest.mark.parametrize(
    "rates",
    [OrderRates(0.6, 60.0, 0.8, 2.5), OrderRates(6.0, 45.0, 0.9, 40.0), OrderRates(1.5, 300.0, 1.0, 3.0)],
    ids=["mixed", "weekly", "yearly"],
)
def test_true_parameters_are_recovered(rates: OrderRates) -> None:
    values = OrderValues(4.0, 3.5, 60.0)
    then, _ = simulated(rates, values, 20_000, 1_000.0, seed=11)
    fit = fit_outlook(then)
    assert fit.has_drop_out
    assert fit.rates.r / fit.rates.alpha == pytest.approx(rates.r / rates.alpha, rel=0.08)
    assert fit.rates.r == pytest.approx(rates.r, rel=0.15)
    assert fit.rates.a / (fit.rates.a + fit.rates.b) == pytest.approx(rates.a / (rates.a + rates.b), rel=0.12)
    assert fit.values is not None
    assert fit.values.p == pytest.approx(values.p, rel=0.15)  # means of a hundred orders hardly show it
    assert fit.values.q == pytest.approx(values.q, rel=0.1)
    assert fit.values.p * fit.values.v / (fit.values.q - 1) == pytest.approx(4.0 * 60.0 / 2.5, rel=0.05)


def test_the_outlook_comes_true() -> None:
    then, later = simulated(OrderRates(0.9, 50.0, 0.7, 4.0), OrderValues(4.0, 3.5, 60.0), 20_000, 500.0, seed=5)
    rates = fit_outlook(then).rates
    came = later.repeats - then.repeats
    chance, orders = chance_of_order(rates, then, 90.0), expected_orders(rates, then, 90.0)
    assert orders.sum() == pytest.approx(came.sum(), rel=0.03)
    for low in np.arange(0.0, 1.0, 0.1):
        group = (chance >= low) & (chance < low + 0.1)
        if group.sum() > 1_000:
            assert (came[group] > 0).mean() == pytest.approx(chance[group].mean(), abs=0.03)


def test_without_drop_out_nobody_is_said_to_leave() -> None:
    then, _ = simulated(OrderRates(1.2, 60.0, 0.0, 1.0), OrderValues(4.0, 3.5, 60.0), 4_000, 400.0, seed=7)
    fit = fit_outlook(then)
    assert not fit.has_drop_out
    assert fit.rates.a == 0.0
    assert "don't show whether customers drop out" in fit.notes[0]


def test_the_same_customers_give_the_same_fit() -> None:
    then, _ = simulated(OrderRates(0.6, 60.0, 0.8, 2.5), OrderValues(4.0, 3.5, 60.0), 50_500, 200.0, seed=2)
    assert fit_outlook(then, seed=1) == fit_outlook(then, seed=1)
    assert fit_outlook(then, seed=1).customers == 50_000


def test_units_of_time_and_money_do_not_matter() -> None:
    then, _ = simulated(OrderRates(0.6, 60.0, 0.8, 2.5), OrderValues(4.0, 3.5, 60.0), 5_000, 500.0, seed=2)
    hours = Purchases(then.repeats, then.until_last * 24, then.age * 24, then.mean_value * 100)
    days, other = fit_outlook(then), fit_outlook(hours)
    expected = days.rates._replace(alpha=days.rates.alpha * 24)
    assert other.rates.stand_in is expected.stand_in is None
    assert other.rates._replace(stand_in=0.0) == pytest.approx(expected._replace(stand_in=0.0), rel=1e-3)
    assert days.values is not None
    assert other.values == pytest.approx(days.values._replace(v=days.values.v * 100), rel=1e-3)


def test_too_few_who_came_back() -> None:
    x = np.concatenate([np.zeros(900), np.ones(150)])
    with pytest.raises(FitError, match="150 customers came back once or more and 0 twice or more; expected 200 and 50"):
        fit_outlook(Purchases(x, x, x + 30.0, x + 1.0))
