"""A score from figures alone: by centres from the window's, by own clock from those of a whole life."""

from __future__ import annotations

import pytest

from segmentation.model import SegmentModel
from stream.models.scores import GivenFigures, ScoreRefused, score, score_lines
from tests.support.data.clock_models import clock_model

MODEL = clock_model()


def scored(model: SegmentModel, *figures: float | None) -> str:
    recency, days, monetary, first = figures
    assert recency is not None
    assert days is not None
    assert monetary is not None
    return score(model, GivenFigures(recency, int(days), int(monetary), first), "EUR").segment


def test_silence_is_judged_by_own_rhythm() -> None:
    weekly, yearly = (20, 12_000_000, 140.0 + 60.0), (4, 2_400_000, 1100.0 + 60.0)
    assert scored(MODEL, 60.0, *weekly) in {"At Risk", "Cannot Lose", "Lost"}
    assert scored(MODEL, 60.0, *yearly) in {"Champions", "Loyal", "Steady"}
    assert scored(MODEL, 1.0, 1, 500_000, None) == "New"
    assert scored(MODEL, 1.0, 2, 500_000, 30.0) == "Potential Loyalists"


def test_the_reasons_are_given_in_the_customers_own_figures() -> None:
    found = score(MODEL, GivenFigures(60.0, 20, 12_000_000, 200.0), "EUR")
    assert found.outlook is not None
    who, why, outlook = score_lines(found, "EUR")
    assert "silent for unusually long" in who
    assert "silent for 60 days" in why
    assert outlook.strip().startswith("outlook: ")


def test_two_days_with_an_order_need_the_first_one() -> None:
    with pytest.raises(ScoreRefused, match="2 days with an order need the first one"):
        score(MODEL, GivenFigures(1.0, 2, 500_000), "EUR")
