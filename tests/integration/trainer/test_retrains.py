"""Twelve monthly retrains over Online Retail: customers moved by the model alone, and names that keep their meaning."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

from bench.studies.retrains import RULES, moved_by_active, retrains
from trainer.snapshot.orders import read_book
from trainer.training.plan import TrainingPlan

if TYPE_CHECKING:
    from pathlib import Path

    from bench.studies.retrains import Month


@pytest.fixture(scope="module")
def months(test_data: Path) -> list[Month]:
    path = test_data / "online_retail" / "orders.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} isn't there")
    return list(retrains(read_book(path, RULES, "GBP"), TrainingPlan()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_month_moves_few_by_the_model_alone(months: list[Month]) -> None:
    moved = moved_by_active(months)
    # The median means something only if models are replaced: one that is never activated moves nobody.
    assert len(moved) == 11
    assert statistics.median(moved) <= 0.05
    assert max(moved) <= TrainingPlan().most_moved


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_name_takes_the_place_of_another(months: list[Month]) -> None:
    assert [month.swapped for month in months] == [()] * 12
    # The same by customers, since by centroids it is the trainer's own rule.
    assert [month.usurped for month in months] == [()] * 12
    for month in months:
        assert month.names[0] == "Champions"
        assert month.names[-1] == "Lost"
