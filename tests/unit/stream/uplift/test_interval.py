from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stream.uplift.interval import CONFIDENCE, FEWEST_BUYERS, boundary, difference, running_sums, sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream.uplift.interval import Sums

    Floats = NDArray[np.float64]


def spend(rng: np.random.Generator, customers: int, buyers: float = 0.3, mean: float = 50.0) -> Floats:
    """Return what customers spend: most of them nothing."""
    return rng.gamma(2.0, mean / 2, customers) * (rng.random(customers) < buyers)


def group(seed: int, customers: int, buyers: float = 0.3, mean: float = 50.0) -> Sums:
    rng = np.random.default_rng(seed)
    return sums(spend(rng, customers, buyers, mean), spend(rng, customers))


def test_the_sums_of_each_look_are_those_of_the_customers_up_to_it() -> None:
    rng = np.random.default_rng(1)
    after, before, look = spend(rng, 300) + 1e6, spend(rng, 300) + 3e5, rng.integers(2, 7, 300)
    running = running_sums(after, before, look, 8)
    for at in range(8):
        y, x = after[look <= at], np.sqrt(before[look <= at])
        n = len(y)
        if not n:
            assert running.customers[at] == 0
            continue
        y, x = y - y.mean(), x - x.mean()
        expected = {"customers": n, "buyers": n, "yy": y @ y, "xy": x @ y, "xx": x @ x}
        expected |= {"yyy": y @ y**2, "xyy": x @ y**2, "xxy": y @ x**2, "xxx": x @ x**2}
        for name, value in expected.items():
            assert getattr(running, name)[at] == pytest.approx(value, rel=1e-9, abs=1e-3), name
        assert running.y[at] == pytest.approx(after[look <= at].mean())
        assert running.x[at] == pytest.approx(np.sqrt(before[look <= at]).mean())


def test_the_boundary_is_that_of_the_theorem() -> None:
    """Theorem 2.2 is written for a mean of t values with variance 1: here in standard errors, which are 1 / √t."""
    rho = math.sqrt((-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 500)
    for t in (10.0, 500.0, 1e6):
        theorem = math.sqrt(2 * (t * rho**2 + 1) / (t**2 * rho**2) * math.log(math.sqrt(t * rho**2 + 1) / 0.05))
        assert boundary(np.array([t]), CONFIDENCE)[0] == pytest.approx(theorem * math.sqrt(t))


def test_the_unit_of_the_money_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    columns = [(spend(rng, n), spend(rng, n)) for n in (4_000, 500)]
    pounds = difference(*(sums(after, before) for after, before in columns))
    pence = difference(*(sums(after * 100, before * 100) for after, before in columns))
    assert pence.needed == pounds.needed
    assert pence.low[0] == pytest.approx(pounds.low[0] * 100)
    assert pence.high[0] == pytest.approx(pounds.high[0] * 100)


def test_the_spend_before_explains_what_it_explains() -> None:
    rng = np.random.default_rng(4)
    before = [spend(rng, n) for n in (4_000, 500)]
    after = [9.0 * np.sqrt(x) + 7.0 * (n == 0) + rng.normal(0, 1, len(x)) for n, x in enumerate(before)]
    found = difference(*(sums(y, x) for y, x in zip(after, before, strict=True)))
    assert found.explained[0] > 0.99
    assert found.low[0] < 7.0 < found.high[0]
    assert found.high[0] - found.low[0] < 1.0
    plain = difference(*(sums(y, np.zeros(len(y))) for y in after))
    assert plain.explained[0] == 0.0
    assert plain.high[0] - plain.low[0] > 5.0


def test_too_few_buyers_have_no_interval() -> None:
    few = difference(group(1, 400), group(2, 40))
    assert np.isnan(few.low[0])
    assert np.isnan(few.high[0])
    assert few.buyers[0] < few.needed[0]
    assert few.needed[0] >= FEWEST_BUYERS
    many = difference(group(1, 40_000), group(2, 4_000))
    assert many.low[0] < many.value[0] < many.high[0]


def test_nobody_at_all_is_too_few() -> None:
    nobody = sums(np.zeros(0), np.zeros(0))
    for treated, held_out in ((nobody, nobody), (group(1, 40_000), nobody), (nobody, group(1, 40_000))):
        assert np.isnan(difference(treated, held_out).low[0])


def test_a_campaign_after_which_nobody_buys_is_found_to_harm() -> None:
    """There are no buyers among the treated: those of both groups say whether there are enough."""
    found = difference(sums(np.zeros(9_000), np.zeros(9_000)), group(2, 1_000))
    assert found.high[0] < 0.0


def test_the_spread_of_spend_says_how_many_buyers_it_takes() -> None:
    rng = np.random.default_rng(5)

    def needed(spread: float) -> float:
        groups = (sums(np.exp(rng.normal(0, spread, n)), np.zeros(n)) for n in (40_000, 40_000))
        return float(difference(*groups).needed[0])

    # exp(3 s²) / 0.5², but for the logarithm's own error
    assert needed(0.2) == FEWEST_BUYERS
    assert needed(1.0) == pytest.approx(4 * math.exp(3.0), rel=0.2)
    assert needed(1.3) == pytest.approx(4 * math.exp(3 * 1.69), rel=0.4)


def test_tiny_orders_do_not_ask_for_more_buyers() -> None:
    rng = np.random.default_rng(6)
    usual = rng.gamma(4.0, 12.0, 5_000)
    cents = np.where(rng.random(5_000) < 0.02, 0.01, usual)
    needed = [float(difference(sums(of, of * 0), sums(of, of * 0)).needed[0]) for of in (usual, cents)]
    assert needed[1] < 2 * needed[0]


def test_a_small_group_counts_at_least_as_varied_as_both() -> None:
    """Ten held-out customers by chance spend the same: their own variance would make an interval out of nothing."""
    rng = np.random.default_rng(7)
    treated = sums(rng.gamma(2.0, 25.0, 1_000), np.zeros(1_000))
    alike = sums(np.full(100, 50.0), np.zeros(100))
    found = difference(treated, alike)
    spread = math.sqrt(float(treated.yy[0]) / 1_000 / 100)
    assert found.high[0] - found.low[0] > 2 * 3 * spread * 0.9


def test_the_bounds_reach_farther_where_a_skewed_group_is_small() -> None:
    """A small group of mostly small spenders is more often below its expectation: then the difference seems too big."""
    found = difference(group(8, 9_000), group(9, 1_000))
    assert found.value[0] - found.low[0] > found.high[0] - found.value[0]
    turned = difference(group(9, 1_000), group(8, 9_000))
    assert turned.value[0] - turned.low[0] < turned.high[0] - turned.value[0]
