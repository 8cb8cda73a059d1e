from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from bench.studies import uplift, uplift_contacts
from bench.studies.uplift_shops import CampaignShop, RealCustomers, path, random_shop


def test_the_truth_of_a_shop_is_what_its_customers_do_on_average() -> None:
    plain = CampaignShop(400_000, 0.5, 0.4, 1.0, "lognormal", 0.5, season=0.3)
    for shop in (
        plain._replace(change="orders", effect=-0.5),
        plain._replace(change="amounts", effect=1.0),
        plain._replace(change="few", effect=0.3),
    ):
        found = path(shop, np.random.default_rng(1))
        arms = (found.treated, ~found.treated)
        spend, orders = ([float(of[arm].mean()) for arm in arms] for of in (found.after, found.orders_after))
        assert spend[0] - spend[1] == pytest.approx(found.true_spend[-1], rel=0.08)
        assert orders[0] - orders[1] == pytest.approx(found.true_orders[-1], rel=0.08, abs=0.01)
        assert np.corrcoef(found.before, found.after)[0, 1] > 0.2


def test_the_interval_is_right_on_shops_drawn_at_random() -> None:
    """A quick look at what the study measures: enough to see a boundary that isn't uniform in time."""
    rng = np.random.default_rng(11)
    shops = [random_shop(rng)._replace(customers=3_000) for _ in range(25)]
    found = [uplift.judge_shop((shop, 16, number, None)) for number, shop in enumerate(shops)]
    total = {way: uplift.together(result.tallies[way] for result in found) for way in uplift.WAYS}
    ordinary, _, spend, orders = total.values()
    assert spend.given > 80
    assert orders.given > 200
    assert spend.coverage > 0.94
    assert orders.coverage > 0.94
    assert spend.false_alarms < 0.05
    assert ordinary.coverage < 0.9  # else the shops would be too easy to tell anything
    table = [uplift.line(title, results) for title, results in uplift.groups_of(found)]
    assert {row.count("|") for row in table} == {uplift.HEADER.splitlines()[0].count("|")}


def test_the_customers_of_a_real_shop_have_an_effect_that_is_known() -> None:
    rng = np.random.default_rng(2)
    spent = rng.gamma(2.0, 20.0, 2_000) * (rng.random(2_000) < 0.4)
    real = RealCustomers("shop", spent, spent, spent, spent)
    shop = CampaignShop(4_000, 0.5, 0.0, 0.0, "lognormal", 0.0, "amounts", -0.5)
    result = uplift.judge_shop((shop, 40, 1, real))
    assert result.tallies["spend"].given == 40
    assert result.tallies["spend"].coverage >= 0.95
    assert result.explained > 0.3


def test_leaving_customers_out_for_what_comes_later_bends_the_difference() -> None:
    for case in uplift_contacts.CASES:
        found = uplift_contacts.outcome(case, 400_000, np.random.default_rng(1))
        all_stay, other_group, all_reached = found.found
        assert all_stay == pytest.approx(found.true, abs=0.6)
        assert abs(other_group - found.true) > 2.0
        if case.follows:
            assert all_reached == 0.0
    assert uplift_contacts.main(["--customers", "1000"]) == 0


def test_more_customers_show_smaller_effects() -> None:
    table = [row.strip("| ").split(" | ") for row in islice(uplift.widths(1, 1), 1, 9)]
    shown = {tuple(row[:3]): row[3] for row in table}
    assert shown["3,000", "10%", "0.05"] == "too few"
    assert 0.2 < float(shown["10,000", "10%", "0.3"].strip("%")) / 100 < 0.5
