"""What a model would do to customers if it started now, and how they lie in the one that scores them: nothing is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from segmentation.decisions import CompiledModel, rest_of
from segmentation.entries import DAY_MS
from segmentation.forecast import UNKNOWN
from segmentation.money import UNITS
from segmentation.rfm import NONE, Rules, advance_bytes, heads, is_silent

_LEAST_SHARE: Final = 1e-4  # of an empty segment: the index would be infinite


class Verdict(NamedTuple):
    """One customer under a model that may not be its own. Segments by lasting id, 0: none; monetary in ten-thousandths."""

    key: bytes
    announced: int
    segment: int  # where the model would put it: its own, if it would stay
    monetary: int


def verdicts(
    rows: Sequence[tuple[bytes, bytes]], at: int, model: CompiledModel, *, dwell_ms: int, rules: Rules
) -> list[Verdict]:
    """Say where each customer (key, state) would be after a start of this model at an instant (ms): the worker's own rule.

    Margin and dwell count where the announced segment is one of the model's. Who has no order that stands and no segment gets
    none; who isn't scored (muted, or every order lost) stays. Raises StateFormatError.
    """
    if not rows:
        return []
    head = heads([advance_bytes(value, at, rules) for _, value in rows])
    scorer = model.scorer
    source = scorer.index_from_ids(head["segment"])
    target = scorer.decide(source, np.full(len(rows), at, dtype=np.int64), head["last"], rest_of(head, scorer))
    known = source != UNKNOWN
    may = np.where(known, head["moved_at"] <= at - max(dwell_ms, 1), (head["last"] != NONE) | (head["segment"] != 0))
    may &= np.array([not is_silent(value) for _, value in rows])
    after = np.where(may, scorer.ids[target], head["segment"])
    return [
        Verdict(key, announced, segment, monetary)
        for (key, _), announced, segment, monetary in zip(
            rows, head["segment"].tolist(), after.tolist(), head["monetary"].tolist(), strict=True
        )
    ]


@dataclass(slots=True)
class Fit:
    """How customers lie in a model: sums over those with an order that stands, added to page by page."""

    customers: int = 0
    squared_distance: float = 0.0  # to the centroid of the nearest segment, in z space
    nearest: dict[int, int] = field(default_factory=dict)  # segment id -> customers
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)  # recency in days, frequency, monetary

    def add(self, values: Sequence[bytes], at: int, model: CompiledModel, rules: Rules) -> None:
        """Take some more customers' states, as of an instant (ms). Raises StateFormatError."""
        if not values:
            return
        head = heads([advance_bytes(value, at, rules) for value in values])
        head = head[head["last"] != NONE]
        if not head.size:
            return
        scorer = model.scorer
        instants = np.full(head.size, at, dtype=np.int64)
        distances = scorer.distances(instants, head["last"], rest_of(head, scorer))
        nearest = distances.argmin(axis=1)
        self.customers += int(head.size)
        self.squared_distance += float(distances.min(axis=1).sum())
        for place, count in zip(*np.unique(nearest, return_counts=True), strict=True):
            segment = int(scorer.ids[place])
            self.nearest[segment] = self.nearest.get(segment, 0) + int(count)
        days = np.maximum(at - head["last"], 0) / float(DAY_MS)
        parts = (days.sum(), head["frequency"].sum(), head["monetary"].sum() / float(UNITS))
        self.sums = (
            self.sums[0] + float(parts[0]),
            self.sums[1] + float(parts[1]),
            self.sums[2] + float(parts[2]),
        )


def stability_index(expected: Mapping[str, float], found: Mapping[str, float]) -> float:
    """The population stability index of two sets of shares: the sum of (found - expected) ln(found / expected).

    By the usual reading below 0.1 nothing has changed, above 0.25 much has.

    >>> stability_index({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}), round(stability_index({"a": 0.5, "b": 0.5}, {"a": 0.8, "b": 0.2}), 3)
    (0.0, 0.416)
    """
    total = 0.0
    for name in {*expected, *found}:
        was, is_ = max(expected.get(name, 0.0), _LEAST_SHARE), max(found.get(name, 0.0), _LEAST_SHARE)
        total += (is_ - was) * math.log(is_ / was)
    return total
