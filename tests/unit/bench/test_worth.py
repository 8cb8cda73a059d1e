from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.studies import worth
from bench.studies.shop_logs import ShopLog
from bench.studies.simulated_shops import BOX, simulate_shop
from segmentation.entries import DAY_MS
from segmentation.lift import auc, captured
from trainer.training.plan import of_recipe


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
    shop = simulate_shop(BOX._replace(customers=900))
    log = ShopLog(BOX.title, shop.rows, "USD", shop.end_ms - 200 * DAY_MS, shop.end_ms)
    plans = replace(of_recipe("rfm"), ks=(4,), rounds=0, starts=2), replace(of_recipe("rhythm"), rounds=0, starts=2)
    rfm, rhythm = (worth.study(log, plan) for plan in plans)
    for found in (rfm, rhythm):
        assert (found.figures.later.moves_per_year or 0.0) > 0.0
        assert sum(found.figures.by_cause.values()) == pytest.approx(1.0)
        assert {ranking.by for ranking in found.figures.later.rankings} == {"recency", "spend", "segments", "outlook"}
        assert all(0.4 < (ranking.auc or 0.0) <= 1.0 for ranking in found.figures.later.rankings)
        assert json.loads(json.dumps(worth.plain(found)))["title"] == BOX.title
        assert worth.row(found).count("|") == worth.HEADER.splitlines()[0].count("|")
    assert "window" in rfm.figures.by_cause
    assert "window" not in rhythm.figures.by_cause


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    assert worth.main(["--only", "no such shop", "--json", str(out)]) == 0
    assert json.loads(out.read_text()) == []
    assert capsys.readouterr().out == worth.HEADER + "\n"
