from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.studies import worth
from bench.studies.simulated_shops import BOX, simulate_shop
from bench.studies.worth_moves import by_customer, move_figures
from segmentation.entries import DAY_MS
from segmentation.lift import auc, captured
from stream.rehearsal.moves import Crossing
from trainer.training.plan import TrainingPlan

YEAR = 365 * DAY_MS


def test_moves_that_go_back_by_way_of_another_segment_count() -> None:
    own = [
        Crossing(0, "A", "B", "silence"),
        Crossing(5 * DAY_MS, "B", "C", "silence"),
        Crossing(13 * DAY_MS, "C", "A", "order"),
        Crossing(60 * DAY_MS, "A", "B", "silence"),
    ]
    found = move_figures({"c": own}, {"c": [0]}, 0, YEAR, {})
    assert found.moves_per_year == 4.0
    assert found.back == {14: 0.25, 30: 0.25}
    assert found.by_cause == {"order": 0.25, "silence": 0.75}


def test_customers_count_from_their_first_order() -> None:
    own = [Crossing(YEAR // 2 + 1, "A", "B", "order")]
    assert move_figures({"c": own}, {"c": [YEAR // 2], "d": [YEAR // 2]}, 0, YEAR, {}).moves_per_year == 1.0


def test_an_offer_to_a_customer_in_rhythm_who_buys_anyway() -> None:
    own = [Crossing(4 * DAY_MS, "Loyal", "At Risk", "silence"), Crossing(50 * DAY_MS, "Loyal", "At Risk", "silence")]
    found = move_figures({"c": own}, {"c": [0, 8 * DAY_MS]}, 0, YEAR, {"c": 8.0})
    assert (found.offers, found.offers_in_rhythm, found.offers_needless) == (2, 0.5, 0.5)


def test_moves_are_grouped_by_customer() -> None:
    one, other = Crossing(1, "A", "B", "order"), Crossing(2, "B", "A", "order")
    assert by_customer([("c", one), ("d", other), ("c", other)]) == {"c": [one, other], "d": [other]}


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    score, came = rng.integers(0, 5, 80).astype(np.float64), rng.random(80) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in score[came] for b in score[~came]]
    assert auc(score, came) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(score, np.zeros(80, dtype=bool)))


def test_the_top_tenth_of_a_perfect_ranking() -> None:
    money = np.arange(100.0)
    assert captured(money, money) == pytest.approx(np.arange(90, 100).sum() / money.sum())
    assert captured(np.zeros(100), money) == pytest.approx(0.1)


def test_a_shop_from_orders_to_figures() -> None:
    shop = simulate_shop(BOX._replace(customers=450))
    log = worth.ShopLog(BOX.title, shop.rows, "USD", shop.end_ms - 200 * DAY_MS, shop.end_ms)
    found = worth.study(log, TrainingPlan(ks=(4,), rounds=0, starts=2))
    default = found.moves["margin 0.25, dwell 0 d"]
    assert default.moves_per_year > found.moves["margin 1, dwell 7 d"].moves_per_year > 0
    assert sum(default.by_cause.values()) == pytest.approx(1.0)
    assert set(found.lifts) == {"recency", "spend", "RFM quintiles", "segments", "outlook", "outlook, k = 1"}
    assert all(0.4 < lift.auc <= 1.0 and 0.0 <= lift.captured <= 1.0 for lift in found.lifts.values())
    assert found.calibration["outlook"].ordered == found.calibration["outlook, corrected"].ordered
    assert json.loads(json.dumps(worth.plain(found)))["lifts"]["outlook"]["auc"] == found.lifts["outlook"].auc
    assert "| outlook |" in worth.text(found)


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    assert worth.main(["--only", "no such shop", "--json", str(out)]) == 0
    assert json.loads(out.read_text()) == []
    assert capsys.readouterr().out == ""
