"""The three features of many customers, untransformed: training and scoring use the same bits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation.money import UNITS
from segmentation.rfm import NONE
from segmentation.scorer import recency_days


class FeatureColumns(NamedTuple):
    """Columns of the customers with an order that stands, [n]; `stands` marks them among all, [customers]."""

    recency_days: NDArray[np.float64]
    frequency: NDArray[np.float64]
    monetary: NDArray[np.float64]  # currency units
    stands: NDArray[np.bool_]


def feature_columns(head: NDArray[np.void], at: int) -> FeatureColumns:
    """Read the features from headers of states, [customers], that hold at an instant (ms)."""
    stands = head["last"] != NONE
    head = head[stands]
    return FeatureColumns(
        recency_days(at, head["last"]), head["frequency"].astype(np.float64), head["monetary"] / float(UNITS), stands
    )
