"""The scorer for one customer, in plain floats: the same steps and bits as segmentation/scorer.py, ten times as fast.

A turn of a quiet shard holds two or three customers, where NumPy's cost per call is all there is; below a dozen
customers this is faster. segmentation/scorer.py describes the decision; a property test holds both to the same bits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.entries import DAY_MS, HORIZON_MS
from segmentation.kernels import expm1_of_one, log1p_of_one
from segmentation.model import MARGIN_FLOOR, Z_LIMIT
from segmentation.step import NEVER_DUE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segmentation.model import Feature, SegmentModel

# Below this |λ| the power is the logarithm to the last bit.
LAMBDA_ZERO: Final = 2.0**-52


def standardise_one(x: float, feature: Feature) -> float:
    """Return z = (t(x) - mean) / scale of one finite x, cut off at ±1024: the bits of `scorer.standardise`."""
    return min(max((_transform(x, feature) - feature.mean) / feature.scale, -Z_LIMIT), Z_LIMIT)


def _transform(x: float, feature: Feature) -> float:
    if feature.transform == "identity":
        return x
    if feature.lam is None:
        return log1p_of_one(max(x, 0.0))
    if x < 0.0:
        return -_power(log1p_of_one(-x), 2.0 - feature.lam)
    return _power(log1p_of_one(x), feature.lam)


def _power(log: float, lam: float) -> float:
    return log if abs(lam) < LAMBDA_ZERO else expm1_of_one(lam * log) / lam


class Interval(NamedTuple):
    """A time in which frequency and monetary value stand still, until the next interval begins."""

    start: int  # ms
    frequency: float  # orders
    monetary: float  # currency units


class SingleScorer:
    """A SegmentModel compiled for one customer at a time. Segments by index, instants in ms; `a` must be known."""

    def __init__(self, model: SegmentModel) -> None:
        self._model = model
        self._margin = max(model.margin, MARGIN_FLOOR)
        centroids = [segment.centroid for segment in model.segments]
        self._plane = [(f, m) for _, f, m in centroids]
        # By a: c_b - c_a and c_a + c_b in recency, of every b.
        self._borders = [[(b - a, b + a) for b, _, _ in centroids] for a, _, _ in centroids]

    def next_move(self, a: int, last: int, start: int, intervals: Iterable[Interval], until: int) -> tuple[int, int]:
        """Return the first instant in [start, until) at which time alone moves the customer, and where to.

        (NEVER_DUE, a) if there is none.
        """
        rows = list(intervals)
        ends = [interval.start - 1 for interval in rows[1:]]
        # The last interval is open. Past the horizon recency stands still, so the horizon stands for all later
        # instants.
        ends.append(max(last + HORIZON_MS, rows[-1].start, start))
        for interval, last_of_it in zip(rows, ends, strict=True):
            begin, end = max(interval.start, start), min(last_of_it, until - 1)
            if begin > end:
                continue
            rest = self._rest(interval.frequency, interval.monetary)
            # A lead only falls or only rises along an interval, so its first and last instant are enough.
            if self._moves(a, begin, last, rest):
                return begin, self._best(a, begin, last, rest)
            if self._moves(a, end, last, rest):
                at = self._between(a, last, rest, begin, end)
                return at, self._best(a, at, last, rest)
        return NEVER_DUE, a

    def _rest(self, frequency: float, monetary: float) -> list[float]:
        """Return the squared distance to every centroid without recency."""
        _, of_frequency, of_monetary = self._model.features
        f, m = standardise_one(frequency, of_frequency), standardise_one(monetary, of_monetary)
        return [(f - cf) * (f - cf) + (m - cm) * (m - cm) for cf, cm in self._plane]

    def _leads(self, a: int, at: int, last: int, rest: list[float]) -> list[float]:
        elapsed = min(max(at - max(last, -HORIZON_MS), 0), HORIZON_MS)
        z = standardise_one(elapsed / float(DAY_MS), self._model.features[0])
        twice, own = z + z, rest[a]
        return [step * (twice - both) + (own - q) for (step, both), q in zip(self._borders[a], rest, strict=True)]

    def _moves(self, a: int, at: int, last: int, rest: list[float]) -> bool:
        return max(self._leads(a, at, last, rest)) > self._margin

    def _best(self, a: int, at: int, last: int, rest: list[float]) -> int:
        """Return where a customer that moves at this instant goes; the first in the model's order on equal bits."""
        leads = self._leads(a, at, last, rest)
        return leads.index(max(leads))

    def _between(self, a: int, last: int, rest: list[float], low: int, high: int) -> int:
        """Find the first instant of a move, given that the customer stays at `low` and moves at `high` > `low`."""
        probe, step = min(max(self._guess(a, last, rest), low + 1), high), 1
        while True:
            yes = self._moves(a, probe, last, rest)
            low, high = (low, probe) if yes else (probe, high)
            if high - low <= 1:
                return high
            half = (high - low) >> 1
            probe = max(high - step, low + half) if yes else min(low + step, low + half)
            step *= 2

    def _guess(self, a: int, last: int, rest: list[float]) -> int:
        """Solve in closed form. Only a guess: the result of the search doesn't depend on it."""
        own = rest[a]
        roots = [
            ((self._margin - (own - q)) / step + both) / 2.0
            for (step, both), q in zip(self._borders[a], rest, strict=True)
            if step > 0.0
        ]
        feature = self._model.features[0]
        try:
            t = min(roots, default=math.inf) * feature.scale + feature.mean
            if feature.transform == "identity":
                days = t
            elif feature.lam is None or abs(feature.lam) < LAMBDA_ZERO:
                days = math.expm1(t)
            else:
                days = math.expm1(math.log1p(feature.lam * t) / feature.lam)
            return last + min(max(math.floor(days * DAY_MS) + 1, 0), HORIZON_MS)
        except (ValueError, OverflowError):  # no root
            return last + HORIZON_MS
