"""How good a ranking of customers is, judged by what they did later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[np.float64]


def auc(score: Column, came: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve, ties counted half (Mann and Whitney, 1947).

    >>> auc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    0.875
    """
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2.0
    positive = int(came.sum())
    negative = len(came) - positive
    if not positive or not negative:
        return float("nan")
    return float((rank[place][came].sum() - positive * (positive + 1) / 2) / (positive * negative))


def captured(score: Column, money: Column, share: float = 0.1) -> float:
    """Return the share of the money that the top of the ranking spends; ties at the edge count by their mean.

    >>> captured(np.array([2.0, 1.0, 1.0, 0.0]), np.array([5.0, 3.0, 1.0, 1.0]), 0.5)
    0.7
    """
    wanted = share * len(score)
    values, place, counts = np.unique(-score, return_inverse=True, return_counts=True)
    sums = np.bincount(place, weights=money, minlength=len(values))
    taken = np.clip(wanted - (np.cumsum(counts) - counts), 0.0, counts) / counts
    return float((sums * taken).sum() / max(money.sum(), 1e-12))
