"""The features of many customers, untransformed (training and scoring use the same bits), and their whole lives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation.money import UNITS
from segmentation.rfm import NONE
from segmentation.silence import recency_days


class FeatureColumns(NamedTuple):
    """Columns of the customers with an order that stands, [n]; `stands` marks them among all, [customers]."""

    recency_days: NDArray[np.float64]
    frequency: NDArray[np.float64]
    monetary: NDArray[np.float64]  # currency units
    stands: NDArray[np.bool_]


class LifeColumns(NamedTuple):
    """Whole lives up to the same instant, columns of the same customers, [n]."""

    orders: NDArray[np.int64]
    purchase_days: NDArray[np.int64]
    monetary: NDArray[np.float64]  # currency units
    first_order: NDArray[np.int64]  # ms since 1970


def feature_columns(head: NDArray[np.void], at: int) -> FeatureColumns:
    """Read the features from headers of states, [customers], that hold at an instant (ms)."""
    stands = head["last"] != NONE
    head = head[stands]
    return FeatureColumns(
        recency_days(at, head["last"]), head["frequency"].astype(np.float64), head["monetary"] / float(UNITS), stands
    )


def life_columns(head: NDArray[np.void]) -> LifeColumns:
    """Read the whole lives from headers of states, [customers], each with an order that stands."""
    return LifeColumns(
        head["life_orders"].astype(np.int64),
        head["life_days"].astype(np.int64),
        head["life_money"] / float(UNITS),
        head["life_first"].astype(np.int64),
    )
