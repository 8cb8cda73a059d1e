"""How today's customers differ from those that their model was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from segmentation.clock_scorer import ClockScorer, purchases_of_heads
from segmentation.entries import NONE
from segmentation.features import feature_columns
from segmentation.model import SegmentModel
from segmentation.rfm import Rules, advance_bytes, headers
from segmentation.scorer import UNKNOWN
from segmentation.scorers import AnyScorer, compile_scorer

K = TypeVar("K")

SEGMENTS: Final = "segments"  # the name of the segments' index, beside those of the features
_LEAST_SHARE: Final = 1e-4  # stands in for an empty bin, whose index would be infinite


@dataclass(slots=True)
class Tally:
    """Counts of customers by segment and by histogram bin of a model; pages are added one by one."""

    model: SegmentModel
    rules: Rules
    customers: int = 0
    distance: float = 0.0  # to the nearest centroid in z space, summed; 0 for a model that decides by own clocks
    nearest: list[int] = field(init=False)  # customers that the model would put in each of its segments
    sums: dict[str, float] = field(init=False)  # of each feature
    bins: dict[str, NDArray[np.int64]] = field(init=False)  # of each feature's histogram at the training
    _scorer: AnyScorer = field(init=False)

    def __post_init__(self) -> None:
        """Begin without customers."""
        self._scorer = compile_scorer(self.model)
        self.nearest = [0] * len(self.model.segments)
        self.sums = dict.fromkeys(self.model.feature_names, 0.0)
        found = self.model.training.histograms
        self.bins = {name: np.zeros(len(found[name].shares), dtype=np.int64) for name in self.sums if name in found}

    def add(self, values: Sequence[bytes], at: int) -> None:
        """Add some customers' states, as of an instant (ms). Raises StateFormatError."""
        if not values:
            return
        head = headers([advance_bytes(value, at, self.rules) for value in values])
        head = head[head["last"] != NONE]
        if not head.size:
            return
        instants = np.full(head.size, at, dtype=np.int64)
        rest = self._scorer.rest_of(head)
        nobody = np.full(head.size, UNKNOWN, dtype=np.int64)
        counts = np.bincount(self._scorer.decide(nobody, instants, head["last"], rest), minlength=len(self.nearest))
        self.nearest = [count + more for count, more in zip(self.nearest, counts.tolist(), strict=True)]
        self.customers += head.size
        distances = self._scorer.distances(instants, head["last"], rest)
        if distances.size:
            self.distance += float(distances.min(axis=1).sum())
        for name, column in zip(self.sums, self._columns(head, at), strict=True):
            self.sums[name] += float(column.sum())
            if name in self.bins:
                self.bins[name] += binned(column, self.model.training.histograms[name].edges)

    def _columns(self, head: NDArray[np.void], at: int) -> tuple[NDArray[np.float64], ...]:
        if isinstance(self._scorer, ClockScorer):
            return self._scorer.columns(purchases_of_heads(head, np.full(head.size, at, dtype=np.int64)))
        found = feature_columns(head, at)
        return found.recency_days, found.frequency, found.monetary


class Drift(NamedTuple):
    """How far customers have drifted from the training.

    `indices`: population stability index of the segments' shares and of each feature, where the model has the facts.
    `shares`: segment -> (at training, now). `distance`: mean distance to the nearest centroid in z space, at training
    and now. `means`: feature -> (at training, now).
    """

    customers: int
    indices: dict[str, float]
    shares: dict[str, tuple[float, float]]
    distance: tuple[float | None, float]
    means: dict[str, tuple[float | None, float]]

    def worst(self) -> tuple[str, float]:
        """Return the name of the greatest index, and the index."""
        return max(self.indices.items(), key=lambda item: item[1], default=(SEGMENTS, 0.0))


def drift_of(tally: Tally) -> Drift:
    """Compare the counts with the training's facts."""
    facts, customers = tally.model.training, max(tally.customers, 1)
    now = {s.name: count / customers for s, count in zip(tally.model.segments, tally.nearest, strict=True)}
    indices = {SEGMENTS: stability_index(facts.shares, now)} if facts.shares else {}
    for name, counts in tally.bins.items():
        expected = dict(enumerate(facts.histograms[name].shares))
        indices[name] = stability_index(expected, dict(enumerate((counts / customers).tolist())))
    return Drift(
        customers=tally.customers,
        indices=indices if tally.customers else {},
        shares={name: (facts.shares.get(name, 0.0), share) for name, share in now.items()},
        distance=(facts.distance, tally.distance / customers),
        means={name: (facts.feature_means.get(name), total / customers) for name, total in tally.sums.items()},
    )


def binned(x: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int64]:
    """Count x, [n], in the bins of a histogram, [edges + 1]: the upper edge belongs to its bin.

    >>> binned(np.array([1.0, 1.0, 2.0, 9.0]), (1.0, 3.0)).tolist()
    [2, 1, 1]
    """
    return np.bincount(np.searchsorted(np.array(edges), x, side="left"), minlength=len(edges) + 1)


def stability_index(expected: Mapping[K, float], found: Mapping[K, float]) -> float:
    """Return the population stability index of two sets of shares: sum of (found - expected) ln(found / expected).

    By the usual reading below 0.1 nothing has changed, above 0.25 much has.

    >>> half = {"a": 0.5, "b": 0.5}
    >>> stability_index(half, half), round(stability_index(half, {"a": 0.8, "b": 0.2}), 3)
    (0.0, 0.416)
    """
    total = 0.0
    for name in expected.keys() | found.keys():
        was, is_ = max(expected.get(name, 0.0), _LEAST_SHARE), max(found.get(name, 0.0), _LEAST_SHARE)
        total += (is_ - was) * math.log(is_ / was)
    return total
