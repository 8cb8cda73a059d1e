"""The simulated shops: seeded, as they claim to be, and what the fit recovers of their truth."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from bench.studies.simulated_shops import BEGIN_MS, BOX, GIFT_SHOP, GROCER, SHOPS, ShopNature, simulate_shop
from segmentation.entries import DAY_MS
from segmentation.outlook import Purchases, chance_alive, chance_of_order, expected_gap
from segmentation.outlook_orders import expected_orders
from stream.orders.rows import OrderRow
from trainer.training.outlook_fit import fit_outlook, log_gaps_of

SMALL = {nature.title: nature._replace(customers=count) for nature, count in zip(SHOPS, (400, 1_500, 600), strict=True)}


def purchases(shop_rows: list[OrderRow], at_ms: int) -> tuple[list[str], Purchases]:
    """Return the customers and their purchases before an instant, by plain Python."""
    days: dict[str, set[int]] = defaultdict(set)
    money: dict[str, int] = defaultdict(int)
    for row in shop_rows:
        if row.at_ms < at_ms:
            money[row.customer_id] += row.amount_units if row.kind == "placed" else -row.amount_units
            if row.kind == "placed":
                days[row.customer_id].add(row.at_ms // DAY_MS)
    names = sorted(days)
    table = [
        (len(own) - 1, max(own) - min(own), at_ms // DAY_MS - min(own), money[name] / 10_000 / len(own))
        for name in names
        if (own := days[name])
    ]
    return names, Purchases(*np.array(table, dtype=np.float64).T)


@pytest.mark.parametrize("nature", SMALL.values(), ids=SMALL)
def test_a_seed_gives_one_shop(nature: ShopNature) -> None:
    shop = simulate_shop(nature, seed=3)
    assert simulate_shop(nature, seed=3) == shop
    assert simulate_shop(nature, seed=4).rows != shop.rows
    assert [row.at_ms for row in shop.rows] == sorted(row.at_ms for row in shop.rows)
    assert shop.rows[0].at_ms >= BEGIN_MS
    assert shop.rows[-1].at_ms < shop.end_ms


@pytest.mark.parametrize("nature", SMALL.values(), ids=SMALL)
def test_nobody_orders_after_leaving(nature: ShopNature) -> None:
    shop = simulate_shop(nature)
    last = {row.customer_id: row.at_ms for row in shop.rows if row.kind == "placed"}
    left = {name: truth.left_ms for name, truth in shop.truth.items() if truth.left_ms is not None}
    assert left
    assert all(abs(last[name] - left_ms) <= DAY_MS // 24 for name, left_ms in left.items())
    name, left_ms = next(iter(left.items()))
    assert shop.is_customer(name, left_ms - 1)
    assert not shop.is_customer(name, left_ms)


@pytest.mark.parametrize("nature", SMALL.values(), ids=SMALL)
def test_customers_order_by_their_own_clock(nature: ShopNature) -> None:
    shop = simulate_shop(nature)
    names, own = purchases(shop.rows, shop.end_ms)
    true = np.array([shop.truth[name].gap for name in names])
    often = own.repeats >= (2 if nature.gap > 100 else 10)
    assert often.sum() > 50
    # Of those who came back often in the time there was, the gaps seen are a little too short.
    assert np.median(own.until_last[often] / own.repeats[often] / true[often]) == pytest.approx(0.95, abs=0.1)


@pytest.mark.parametrize("nature", [GROCER._replace(regular=1), BOX._replace(regular=1, customers=1_500)])
def test_where_gaps_are_random_the_truth_is_recovered(nature: ShopNature) -> None:
    shop = simulate_shop(nature)
    at_ms = shop.end_ms - 90 * DAY_MS
    names, then = purchases(shop.rows, at_ms)
    fit = fit_outlook(then)
    assert fit.has_drop_out
    true_gap = nature.gap * (nature.alike - 1) / nature.alike  # 1 / mean rate
    assert fit.rates.alpha / fit.rates.r == pytest.approx(true_gap, rel=0.1)
    leaves = nature.leave_a / (nature.leave_a + nature.leave_b)
    assert fit.rates.a / (fit.rates.a + fit.rates.b) == pytest.approx(leaves, rel=0.35)
    alive = np.mean([shop.is_customer(name, at_ms) for name in names])
    assert chance_alive(fit.rates, then).mean() == pytest.approx(alive, abs=0.03)
    everybody, at_end = purchases(shop.rows, shop.end_ms)
    later = dict(zip(everybody, at_end.repeats.tolist(), strict=True))
    came = np.array([later[name] for name in names]) - then.repeats
    assert expected_orders(fit.rates, then, 90.0).sum() == pytest.approx(came.sum(), rel=0.1)
    own = np.array([shop.truth[name].gap for name in names])
    known = then.repeats >= 20
    ratio = np.log(expected_gap(fit.rates, then)[known] / own[known])
    assert abs(float(ratio.mean())) < 0.1
    assert fit.values is not None
    mean = fit.values.p * fit.values.v / (fit.values.q - 1)
    assert mean == pytest.approx(nature.value * (1 + nature.again) * (1 - nature.refunds), rel=0.1)


@pytest.mark.parametrize(
    ("nature", "likely"),
    [(GROCER, (2,)), (GIFT_SHOP._replace(customers=3_000), (4, 6, 9)), (BOX._replace(customers=1_500), (9, 12))],
    ids=SMALL,
)
def test_regular_shops_are_seen_through(nature: ShopNature, likely: tuple[int, ...]) -> None:
    """With the likeliest regularity the drop-out is the true one, and so is the next quarter."""
    shop = simulate_shop(nature)
    at_ms = shop.end_ms - 90 * DAY_MS
    names, then = purchases(shop.rows, at_ms)
    days = defaultdict(set)
    for row in shop.rows:
        if row.at_ms < at_ms and row.kind == "placed":
            days[row.customer_id].add(row.at_ms // DAY_MS)
    fit = fit_outlook(then, log_gaps_of(sorted(days[name]) for name in names))
    assert fit.rates.regularity in likely
    leaves = nature.leave_a / (nature.leave_a + nature.leave_b)
    assert fit.rates.a / (fit.rates.a + fit.rates.b) == pytest.approx(leaves, rel=0.35)
    alive = np.mean([shop.is_customer(name, at_ms) for name in names])
    assert chance_alive(fit.rates, then).mean() == pytest.approx(alive, abs=0.05)
    everybody, at_end = purchases(shop.rows, shop.end_ms)
    later = dict(zip(everybody, at_end.repeats.tolist(), strict=True))
    came = np.array([later[name] for name in names]) - then.repeats
    assert expected_orders(fit.rates, then, 90.0).sum() == pytest.approx(came.sum(), rel=0.1)
    assert chance_of_order(fit.rates, then, 90.0).mean() == pytest.approx((came > 0).mean(), abs=0.03)


def test_gaps_of_the_truth_average_to_the_shops() -> None:
    for nature in SMALL.values():
        gaps = [truth.gap for truth in simulate_shop(nature).truth.values()]
        assert math.fsum(gaps) / len(gaps) == pytest.approx(nature.gap, rel=0.1)
