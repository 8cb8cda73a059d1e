from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.studies.training import customers, table, template
from segmentation.entries import DAY_MS, Rules
from segmentation.rfm import announcement, headers, pack, settle, unpack
from trainer.snapshot.redis import columns

RULES = Rules()
NOW_MS = 1_790_000_000_123


def test_states_are_as_the_engine_makes_them() -> None:
    for _, value in customers(300, NOW_MS, RULES):
        state = unpack(value)
        assert pack(settle(state, state.entries, state.newest, RULES)) == value
        assert announcement(value)[:2] == (1, 1)
        assert state.newest < NOW_MS


def test_copies_of_a_template_differ_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.studies.training.TEMPLATES", 10)
    rows = dict(customers(1_000, NOW_MS, RULES))
    assert len(rows) == len(set(rows.values())) == 1_000


def test_figures_of_customers_are_skewed_like_real_ones() -> None:
    found = columns(customers(3_000, NOW_MS, RULES), NOW_MS, RULES)
    assert (len(found.customers), found.left_out) == (3_000, 0)
    assert np.median(found.frequency) < found.frequency.mean() < 10
    assert np.median(found.monetary) < 0.7 * found.monetary.mean()
    assert 0.2 < np.mean(found.frequency <= 1) < 0.6
    assert 40 < np.median(found.recency_days) < 70


def test_a_template_has_refunds_now_and_then() -> None:
    rng = np.random.default_rng(1)
    made = headers([template(rng, RULES).value for _ in range(500)])
    assert 0 < (made["n"] - made["frequency"]).sum() < 0.1 * made["frequency"].sum()
    assert (made["last"] - made["first"]).max() < 300 * DAY_MS


def test_table_has_a_row_for_each_step_of_both_runs() -> None:
    run: dict[str, Any] = {"seconds": 9.0, "cpu_s": 8.0, "peak_rss_mb": 1_500.0}
    text = table({"first": run | {"steps": {"fits": 5.0}}, "again": run | {"steps": {"fits": 4.0, "comparison": 1.0}}})
    assert "| fits, s | 5.0 | 4.0 |" in text
    assert "| comparison, s | - | 1.0 |" in text
    assert "| peak memory, MB | 1,500 | 1,500 |" in text
