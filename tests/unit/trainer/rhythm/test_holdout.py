"""Corrections of the outlook from hold-outs in time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from segmentation.calibration import UNCHANGED
from segmentation.entries import DAY_MS
from tests.support.data.rhythm_shop import BEGIN_MS, learnt, shop
from trainer.rhythm.history import LEAST_DAYS
from trainer.rhythm.holdout import corrections
from trainer.snapshot.purchase_days import PurchaseDays

TODAY = 1_000
AS_OF_MS = TODAY * DAY_MS


def weekly(days: int, paused: range = range(0)) -> PurchaseDays:
    """Return 600 weekly buyers of different luck, of whom a part leaves, and nobody orders in a pause."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(600):
        at, own = float(rng.integers(TODAY - days, TODAY - days // 2)), list[int]()
        while at <= TODAY:
            if int(at) not in paused and int(at) not in own[-1:]:
                own.append(int(at))
            if rng.random() < 0.05:
                break
            at += rng.gamma(2.0, rng.choice([3.0, 12.0]))
        found.append(tuple(own))
    return PurchaseDays(np.arange(len(found)), tuple(found))


def test_a_short_history_gives_none() -> None:
    assert corrections(weekly(300), AS_OF_MS, LEAST_DAYS, 42) is None
    assert corrections(PurchaseDays(np.arange(0), ()), AS_OF_MS, LEAST_DAYS, 42) is None


def test_curves_rise_from_zero() -> None:
    found = corrections(weekly(500), AS_OF_MS, LEAST_DAYS, 42)
    assert found is not None
    for curve in found:
        assert (curve.at[0], curve.to[0]) == (0.0, 0.0)
        for column in curve:
            assert all(one < other for one, other in pairwise(column))


def test_what_helped_once_but_not_again_is_not_taken() -> None:
    # Nobody ordered in the earlier 90 days: a correction by them would forecast next to nothing.
    found = corrections(weekly(500, paused=range(TODAY - 180, TODAY - 92)), AS_OF_MS, LEAST_DAYS, 42)
    assert found is None or found == (UNCHANGED, UNCHANGED)


def test_a_model_carries_the_corrections_of_its_snapshot() -> None:
    book = shop(520, 480, leave=0.15)
    result = learnt(book, 480)
    assert result.trained is not None
    outlook = result.trained.model.outlook
    snapshot = book.as_of(BEGIN_MS + 480 * DAY_MS)
    assert snapshot.days is not None
    found = corrections(snapshot.days, snapshot.as_of_ms, LEAST_DAYS, 42)
    assert outlook is not None
    assert found is not None
    assert outlook.curves() == tuple(found)
