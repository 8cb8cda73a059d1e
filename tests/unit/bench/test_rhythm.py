from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.studies import rhythm
from bench.studies.rhythm import ByDefinition, Days, study, text
from bench.studies.simulated_shops import BOX, simulate_shop
from bench.studies.worth import ShopLog, book_of
from segmentation.entries import DAY_MS
from segmentation.outlook import OrderRates, Purchases
from stream.orders.rows import placed, refunded
from trainer.training.outlook_fit import OutlookFit, purchases_of
from trainer.training.plan import TrainingPlan


@pytest.fixture(scope="module")
def box() -> ShopLog:
    shop = simulate_shop(BOX._replace(customers=450))
    return ShopLog(BOX.title, shop.rows, "USD", shop.end_ms - 200 * DAY_MS, shop.end_ms)


@pytest.mark.parametrize("recipe", ["fade", "definitions"])
def test_a_shop_by_its_customers_clock(box: ShopLog, recipe: str) -> None:
    found = study(box, recipe, TrainingPlan(ks=(4,), rounds=0, starts=2))
    for name, moves in found.moves.items():
        assert 0 < moves.moves_per_year < 4, name
        assert 0.5 < found.lifts[name]["segments"].auc <= 1
    assert len(text(found).splitlines()) == 4 + len(found.moves)


def test_days_are_the_lives_of_the_states(box: ShopLog) -> None:
    book = book_of(box)
    days = Days(book, box.start_ms, box.end_ms)
    for day in range(days.first_day, days.last_day):
        days.add(day)
    own = days.purchases(days.last_day - 1)
    expected = purchases_of(book.as_of(box.end_ms - 1))
    assert [name.encode() for name in days.names] == list(book.entries)
    assert own.repeats.tolist() == expected.repeats.tolist()
    assert np.abs(own.until_last - expected.until_last).max() <= 1.0


def test_refunds_lessen_the_money() -> None:
    rows = [placed("o1", "c", 0, 200_000, "USD"), refunded("o1", "c", DAY_MS, 50_000, "USD", names_order=True)]
    days = Days(book_of(ShopLog("", rows, "USD", 2 * DAY_MS, 3 * DAY_MS)), 2 * DAY_MS, 3 * DAY_MS)
    assert days.purchases(1).mean_value.tolist() == [15.0]


def test_definitions_follow_a_customer() -> None:
    fit = OutlookFit(OrderRates(2.0, 30.0, 0.8, 10.0, 2), None, 1, 1, 100.0, ())

    def own(repeats: float, last: float, silence: float) -> Purchases:
        return Purchases(*(np.array([v]) for v in (repeats, last, last + silence, 20.0)))

    others = Purchases(*(np.linspace(1, 9, 50) * v for v in (1.0, 30.0, 31.0, 4.0)))
    way = ByDefinition(fit, others, 0.3, 0.1)
    place, names = np.array([-1]), []
    for repeats, last, silence in [(0, 0, 1), (1, 30, 1), (5, 150, 1), (5, 150, 140), (5, 150, 400), (6, 560, 1)]:
        place = way.place(place, own(repeats, last, silence))
        names.append(way.names[place[0]])
    assert names == ["New", "Young", "Regular", "Slipping", "Lost", "Regular"]


def test_the_command_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert rhythm.main(["--only", "no such shop", "--json", str(out)]) == 0
    assert json.loads(out.read_text()) == []
