"""The outlook against the literature, the closed forms of SciPy, the package lifetimes, and its own promises."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import betaln, hyp2f1

from segmentation import outlook_orders
from segmentation.entries import DAY_MS
from segmentation.outlook import (
    OrderRates,
    OrderValues,
    Purchases,
    chance_alive,
    chance_of_order,
    expected_gap,
    expected_value,
    known_of,
    silence_days,
)
from segmentation.outlook_orders import expected_orders
from segmentation.silence import KnownOfOne, odds_of_one

# CDNOW in weeks, as BTYDplus and lifetimes have it; Gamma-Gamma as Fader and Hardie (2013) have it.
CDNOW = OrderRates(0.525, 6.183, 0.891, 1.614)
CDNOW_VALUES = OrderValues(6.25, 3.74, 15.44)
RATES = [
    CDNOW,
    OrderRates(0.05, 1.0, 0.2, 0.3),
    OrderRates(3.0, 20.0, 1.0, 40.0),  # a = 1, where the closed form is undefined
    OrderRates(12.0, 80.0, 4.0, 300.0),
    OrderRates(1.5, 300.0, 0.3, 6.0),
]


REGULAR = [OrderRates(4.5, 175.0, 1.0, 2.6, 6), OrderRates(0.8, 26.0, 1.0, 30.0, 2), OrderRates(5.0, 8.0, 0.0, 1.0, 3)]


def histories(count: int, seed: int = 1, most: int = 80) -> Purchases:
    rng = np.random.default_rng(seed)
    repeats = rng.integers(0, most, count).astype(np.float64)
    age = rng.uniform(0.1, 800.0, count)
    until_last = np.where(repeats > 0, age * rng.uniform(0.0, 1.0, count), 0.0)
    return Purchases(repeats, until_last, age, rng.gamma(2.0, 20.0, count))


def closed_form(rates: OrderRates, h: Purchases, t: float) -> NDArray[np.float64]:
    """Hoppe and Wagner (2007), as lifetimes and BTYDplus have it."""
    r, alpha, a, b, *_ = rates
    x = h.repeats
    shrunk = ((alpha + h.age) / (alpha + h.age + t)) ** (r + x)
    gauss = hyp2f1(r + x, b + x + 1, a + b + x, t / (alpha + h.age + t))
    alive = 1 / (1 + a / (b + x) * ((alpha + h.age) / (alpha + h.until_last)) ** (r + x))
    orders: NDArray[np.float64] = (a + b + x) / (a - 1) * (1 - shrunk * gauss) * alive
    return orders


def test_expected_orders_of_a_new_customer_of_cdnow() -> None:
    """Of a customer on the day of the first order: simulated, each with an own λ and p, for 78 weeks."""
    rng = np.random.default_rng(1)
    count = 400_000
    rate, drop_out = rng.gamma(CDNOW.r, 1 / CDNOW.alpha, count), rng.beta(CDNOW.a, CDNOW.b, count)
    at, orders = np.zeros(count), np.zeros(count)
    alive = rng.random(count) > drop_out
    while alive.any():
        at = at + rng.exponential(1 / rate)
        alive &= at < 78.0
        orders += alive
        alive &= rng.random(count) > drop_out
    new = Purchases(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1))
    error = orders.std() / count**0.5
    assert expected_orders(CDNOW, new, 78.0)[0] == pytest.approx(orders.mean(), abs=3 * error)


@pytest.mark.parametrize("rates", [rates for rates in RATES if rates.a != 1.0])
@pytest.mark.parametrize("days", [1.0, 90.0, 365.0])
def test_expected_orders_are_those_of_the_closed_form(rates: OrderRates, days: float) -> None:
    h = histories(2_000)
    np.testing.assert_allclose(expected_orders(rates, h, days), closed_form(rates, h, days), rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("repeats", [0, 1, 40, 5_000])
def test_expected_orders_are_the_integral(rates: OrderRates, repeats: int) -> None:
    """Also where the closed form is undefined or has no digits left: by adaptive quadrature over log-odds."""
    r, alpha, a, b, *_ = rates
    days, age = 90.0, 400.0
    h = Purchases(*(np.array([v]) for v in (repeats, 390.0 if repeats else 0.0, age, 20.0)))
    beta, shape = b + repeats + 1, r + repeats

    def term(u: float) -> float:
        p = 1 / (1 + np.exp(-u))
        log_density = -a * np.logaddexp(0, -u) - beta * np.logaddexp(0, u) - betaln(a, beta)
        return float(np.exp(log_density) * -np.expm1(-shape * np.log1p(p * days / (alpha + age))) / p)

    middle = float(np.log(a / beta))
    while_alive = sum(
        quad(term, lower, upper, epsrel=1e-11, limit=400)[0]
        for lower, upper in [(middle - 200, middle - 20), (middle - 20, middle), (middle, middle + 20)]
    )
    expected = while_alive * chance_alive(rates, h)[0]
    assert expected_orders(rates, h, days)[0] == pytest.approx(expected, rel=1e-6)


def test_the_figures_of_lifetimes() -> None:
    """The package gives the same figures from the same parameters; it is a developer's dependency, never a worker's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lifetimes import GammaGammaFitter, ModifiedBetaGeoFitter

    h = histories(500, most=30)
    theirs: Any = ModifiedBetaGeoFitter()
    theirs.params_ = {name: getattr(CDNOW, name) for name in ("r", "alpha", "a", "b")}
    values: Any = GammaGammaFitter()
    values.params_ = CDNOW_VALUES._asdict()
    alive = theirs.conditional_probability_alive(h.repeats, h.until_last, h.age)
    np.testing.assert_allclose(chance_alive(CDNOW, h), alive, rtol=1e-11)
    orders = theirs.conditional_expected_number_of_purchases_up_to_time(39.0, h.repeats, h.until_last, h.age)
    np.testing.assert_allclose(expected_orders(CDNOW, h, 39.0), orders, rtol=1e-8)
    new = Purchases(*(np.zeros(1) for _ in range(4)))
    for weeks in (0.1429, 3.0, 32.0, 78.0):
        whole = theirs.expected_number_of_purchases_up_to_time(weeks)
        assert expected_orders(CDNOW, new, weeks)[0] == pytest.approx(whole, rel=1e-8)
    value = values.conditional_expected_average_profit(h.repeats + 1, h.mean_value)
    np.testing.assert_allclose(expected_value(CDNOW_VALUES, h), value, rtol=1e-12)


def test_the_chance_of_an_order_is_what_simulated_customers_do() -> None:
    """Customers of one history, drawn with their own λ and p: how many order within 90 days?"""
    rates, days = OrderRates(1.2, 30.0, 0.8, 4.0), 90.0
    rng = np.random.default_rng(3)
    count = 800_000
    rate, drop_out = rng.gamma(rates.r, 1 / rates.alpha, count), rng.beta(rates.a, rates.b, count)
    # x = 1: ordered again within [9.5, 10.5) days, then silent until day 60.
    gap = rng.exponential(1 / rate)
    first_stays, second_stays = rng.random(count) > drop_out, rng.random(count) > drop_out
    next_gap = rng.exponential(1 / rate)
    seen = first_stays & (abs(gap - 10.0) < 0.5) & ~(second_stays & (gap + next_gap < 60.0))
    orders = second_stays & (gap + next_gap < 60.0 + days)
    h = Purchases(np.ones(1), np.full(1, 10.0), np.full(1, 60.0), np.ones(1))
    assert seen.sum() > 3_000
    assert chance_of_order(rates, h, days)[0] == pytest.approx(orders[seen].mean(), abs=0.025)


def test_without_drop_out_everybody_goes_on() -> None:
    rates, h = OrderRates(2.0, 50.0, 0.0, 1.0), histories(50)
    assert (chance_alive(rates, h) == 1.0).all()
    expected = (2.0 + h.repeats) * 90.0 / (50.0 + h.age)
    np.testing.assert_allclose(expected_orders(rates, h, 90.0), expected, rtol=1e-14)


def test_little_drop_out_is_near_none() -> None:
    h = histories(200)
    rare = expected_orders(OrderRates(2.0, 50.0, 1e-3, 10.0), h._replace(until_last=h.age), 90.0)
    never = expected_orders(OrderRates(2.0, 50.0, 0.0, 10.0), h._replace(until_last=h.age), 90.0)
    np.testing.assert_allclose(rare, never, rtol=2e-3)


@pytest.mark.parametrize("rates", RATES + REGULAR)
def test_the_same_bits_alone_and_in_any_batch(rates: OrderRates) -> None:
    h = histories(5_000)
    together = [f(rates, h, 90.0) for f in (chance_of_order, expected_orders)] + [chance_alive(rates, h)]
    for i in [0, 1, 17, 4_095, 4_096, 4_999]:
        one = Purchases(*(column[i : i + 1] for column in h))
        alone = [f(rates, one, 90.0) for f in (chance_of_order, expected_orders)] + [chance_alive(rates, one)]
        assert [a[0] for a in alone] == [column[i] for column in together]
        known = KnownOfOne(*(float(column[0]) for column in known_of(rates, one)))
        single = odds_of_one(known, rates.regularity, float(silence_days(one)[0]))
        assert 1.0 / (1.0 + single) == together[2][i]
    back = Purchases(*(column[::-1] for column in h))
    assert (expected_orders(rates, back, 90.0)[::-1] == together[1]).all()


@pytest.mark.parametrize("rates", RATES)
def test_silence_never_raises_a_figure(rates: OrderRates) -> None:
    """Millisecond by millisecond, from the first to a hundred years, for few orders and for thousands."""
    rng = np.random.default_rng(5)
    for repeats in (0, 1, 30, 3_000):
        until_last = float(rng.uniform(1.0, 1_000.0)) if repeats else 0.0
        for begin in (0, *(10 ** rng.uniform(3, 12.49, 20)).astype(np.int64).tolist()):
            silence = (begin + np.arange(60)) / DAY_MS
            n = np.ones(silence.size)
            h = Purchases(n * repeats, n * until_last, until_last + silence, n)
            for figures in (
                chance_of_order(rates, h, 90.0),
                expected_orders(rates, h, 90.0),
                chance_alive(rates, h),
            ):
                assert (np.diff(figures) <= 0.0).all(), (repeats, until_last, begin)
                assert np.isfinite(figures).all()
                assert (figures >= 0.0).all()


@pytest.mark.parametrize("rates", REGULAR)
def test_regular_customers_do_what_is_expected(rates: OrderRates) -> None:
    """Drawn with their own λ and p, all of one history up to a day: who is alive, who orders, how often?"""
    rng = np.random.default_rng(9)
    count, k, days = 3_000_000, rates.regularity, 90.0
    gap, silence = (60.0, 50.0) if rates.alpha > 100 else (12.0, 10.0)
    rate = rng.gamma(rates.r, 1 / rates.alpha, count)
    first = rng.gamma(k, 1 / rate)
    seen = abs(first - gap) < gap / 40  # x = 1
    rate = rate[seen]
    leaves = (
        rng.beta(rates.a, rates.b + 1, len(rate)) if rates.a else np.zeros(len(rate))
    )  # given that they stayed once
    at, orders = rng.gamma(k, 1 / rate), np.zeros(len(rate))
    alive = rng.random(len(rate)) >= leaves
    silent = ~alive | (at >= silence)
    was_alive = alive.copy()
    while (alive & (at < silence + days)).any():
        alive &= at < silence + days
        orders += alive
        alive &= rng.random(len(rate)) >= leaves
        at = at + rng.gamma(k, 1 / rate)
    h = Purchases(np.ones(1), np.full(1, gap), np.full(1, gap + silence), np.ones(1))
    error = 4 / np.sqrt(silent.sum())
    assert silent.sum() > 2_000
    assert chance_alive(rates, h)[0] == pytest.approx(was_alive[silent].mean(), abs=error)
    assert chance_of_order(rates, h, days)[0] == pytest.approx((orders[silent] > 0).mean(), abs=error)
    assert expected_orders(rates, h, days)[0] == pytest.approx(orders[silent].mean(), abs=error * orders[silent].std())


def test_at_random_and_counted_parts_agree() -> None:
    """k = 1 by counting, as for k > 1, is the integral."""
    h = histories(300, most=30)
    ahead = 90.0 / (CDNOW.alpha + h.age + 60.0)
    one = CDNOW._replace(alpha=CDNOW.alpha + 60.0)
    counted = outlook_orders._regular(one, h, ahead)
    np.testing.assert_allclose(counted, outlook_orders._at_random(one, one.r + h.repeats, h.repeats, ahead), rtol=1e-7)


def test_extremes_stay_finite() -> None:
    h = Purchases(
        np.array([0.0, 65_534.0, 65_534.0, 1.0]),
        np.array([0.0, 36_525.0, 36_525.0, 0.0]),
        np.array([0.0, 36_525.0, 73_050.0, 36_525.0]),
        np.array([0.0, -50.0, 1e12, 3.0]),
    )
    for rates in RATES + REGULAR:
        for figures in (chance_alive(rates, h), chance_of_order(rates, h, 90.0), expected_orders(rates, h, 90.0)):
            assert np.isfinite(figures).all()
            assert (figures >= 0.0).all()
        assert (expected_gap(rates, h) > 0.0).all()
    assert (expected_value(CDNOW_VALUES, h) > 0.0).all()


def test_an_order_dated_ahead_counts_as_of_now() -> None:
    h = Purchases(np.array([2.0]), np.array([30.0]), np.array([29.0]), np.array([10.0]))
    now = h._replace(age=h.until_last)
    assert silence_days(h).tolist() == [0.0]
    assert chance_of_order(CDNOW, h, 30.0) == chance_of_order(CDNOW, now, 30.0)
