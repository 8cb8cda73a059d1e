from __future__ import annotations

from dataclasses import replace

import pytest

from bench.studies.shop_logs import ShopLog, book_of
from bench.studies.simulated_shops import GROCER, simulate_shop
from segmentation.entries import DAY_MS, Rules
from segmentation.rfm import CustomerState, settle
from tests.support.data.clock_models import clock_model
from trainer.snapshot.sampled_histories import book_of_sample, history_of
from trainer.training.worth_gates import replayed_figures


def test_states_give_the_purchase_days_of_the_whole_life_back() -> None:
    shop = simulate_shop(GROCER._replace(customers=60))
    whole = book_of(ShopLog("Grocer", shop.rows, "USD", 0, shop.end_ms))
    sample = book_of_sample(whole.as_of(shop.end_ms), whole.rules)
    assert sample is not None
    for ago in (0, 200, 500):
        known, found = whole.as_of(shop.end_ms - ago * DAY_MS), sample.as_of(shop.end_ms - ago * DAY_MS)
        assert found.customers == known.customers
        assert found.life is not None
        assert known.life is not None
        assert found.life.purchase_days.tolist() == known.life.purchase_days.tolist()
        assert found.life.first_order.tolist() == known.life.first_order.tolist()
        if ago < 365:
            assert found.recency_days.tolist() == known.recency_days.tolist()
        if ago == 0:
            assert found.life.monetary == pytest.approx(known.life.monetary)
    span = shop.end_ms - 181 * DAY_MS, shop.end_ms
    of_file, of_states = (replayed_figures(book, clock_model(), *span) for book in (whole, sample))
    assert of_states.later.customers == of_file.later.customers
    assert of_states.later.moves_per_year == pytest.approx(of_file.later.moves_per_year, rel=0.1)
    assert [r.by for r in of_states.later.rankings] == [r.by for r in of_file.later.rankings]


def test_without_states_there_is_no_book() -> None:
    shop = simulate_shop(GROCER._replace(customers=3))
    snapshot = book_of(ShopLog("Grocer", shop.rows, "USD", 0, shop.end_ms)).as_of(shop.end_ms)
    assert snapshot.days is not None
    assert book_of_sample(replace(snapshot, days=None), Rules()) is None


def test_an_empty_state_has_no_history() -> None:
    assert list(history_of(settle(CustomerState(), [], 0, Rules()))) == []
