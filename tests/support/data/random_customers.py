"""Random models, and random customers in the middle of their lives, as input of the decision and the search."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation.entries import DAY_MS
from segmentation.intervals import Intervals
from segmentation.model import FEATURES, TWIN_DISTANCE2, Feature, Segment, SegmentModel, Training, Transform
from segmentation.scorer import Scorer, transform
from segmentation.step import NEVER_DUE

Floats = NDArray[np.float64]
Instants = NDArray[np.int64]

LAMBDAS = [0.0, 2.0, 1.0, 0.5, 0.25, 1e-9, -1e-9, 1e-17, 1e-3, -1e-3, -0.03, -0.034, -0.5, -1.0, -2.0, -5.0, 3.0, 7.0]
LAMBDAS += [2.0 - 1e-12, 60.0, -60.0]
KINDS: tuple[Transform, ...] = ("identity", "log1p", "yeo-johnson")
NO_ORDER = -(2**63)


def feature(j: int, kind: Transform = "identity", lam: float = 1.0, mean: float = 0.0, scale: float = 1.0) -> Feature:
    name: Any = FEATURES[j]
    return Feature(name=name, transform=kind, lam=lam if kind == "yeo-johnson" else None, mean=mean, scale=scale)


def scorer(features: tuple[Feature, Feature, Feature], centroids: Floats, margin: float) -> Scorer:
    segments = tuple(
        Segment(id=10 + i, name=f"S{i}", action="", centroid=(x, y, z))
        for i, (x, y, z) in enumerate(centroids.tolist())
    )
    training = Training(
        as_of=datetime(2020, 1, 1, tzinfo=UTC),
        customers=0,
        k=len(segments),
        silhouette=None,
        inertia=None,
        shares={},
        feature_means={},
        seed=0,
    )
    return Scorer(SegmentModel(parent=None, features=features, segments=segments, margin=margin, training=training))


def plain_scorer(centroids: list[list[float]], margin: float) -> Scorer:
    """Make a scorer whose z is the value itself, recency in days."""
    return scorer((feature(0), feature(1), feature(2)), np.array(centroids), margin)


def random_scorer(rng: np.random.Generator) -> Scorer:
    def fitted(j: int, lo: float, hi: float) -> Feature:
        kind = KINDS[rng.integers(3)]
        lam = float(rng.choice(LAMBDAS[:-2])) if rng.random() < 0.5 else float(rng.uniform(-3, 4))
        t = transform(rng.uniform(lo, hi, 50), kind, lam)
        # np.mean and np.std only choose the numbers; rounded, they are the same on every machine.
        return feature(j, kind, lam, round(float(t.mean()), 6), max(round(float(t.std()), 6), 1e-6))

    k = int(rng.integers(2, 17))
    features = (fitted(0, 0, 365), fitted(1, 0, 30), fitted(2, -200, 5000))
    c = np.round(rng.normal(0, 1.2, (k, 3)), 6)
    style = rng.random()
    if style < 0.15:  # a grid: exact ties, parallel bisectors, equal recency coordinates
        c = np.round(c)
    elif style < 0.25:
        c[:, 0] = c[0, 0]
    elif style < 0.35:  # nearly parallel
        c[:, 0] = c[0, 0] + rng.normal(0, 1e-7, k)
    margin = float(rng.choice([0, 0, 1e-9, 0.05, 0.1, 0.5, 2.0, rng.uniform(0, 3)]))
    return scorer(features, without_twins(c), margin)


def without_twins(c: Floats) -> Floats:
    """Drop centroids that would make a model be refused; at least two are left."""
    kept: list[Floats] = []
    for one in c:
        if all(((one - other) ** 2).sum() > 2 * TWIN_DISTANCE2 for other in kept):
            kept.append(one)
    return np.array(kept if len(kept) > 1 else [kept[0], kept[0] + 1.0])


class RandomCustomers(NamedTuple):
    """Announced segments, last orders, earliest instants and intervals of n customers."""

    a: Instants
    last: Instants
    start: Instants
    intervals: Intervals

    def alone(self, i: int) -> RandomCustomers:
        p, row = self.intervals, slice(i, i + 1)
        o, e = int(p.offset[i]), int(p.offset[i + 1])
        only = Intervals(np.array([0, e - o]), p.start[o:e], p.frequency[o:e], p.monetary[o:e], p.until[row])
        return RandomCustomers(self.a[row], self.last[row], self.start[row], only)

    def interval_at(self, i: int, at: Instants) -> Instants:
        o, e = self.intervals.offset[i], self.intervals.offset[i + 1]
        found: Instants = o + np.maximum(np.searchsorted(self.intervals.start[o:e], at, side="right") - 1, 0)
        return found


def random_customers(rng: np.random.Generator, scorer: Scorer, n: int) -> RandomCustomers:
    a = rng.integers(0, scorer.ids.size, n)
    as_of = rng.integers(1_200_000_000_000, 1_900_000_000_000, n)
    last = as_of - (rng.uniform(0, 400, n) * rng.choice([0, 0.01, 1, 1, 10], n) * DAY_MS).astype(np.int64)
    last += np.where(rng.random(n) < 0.03, 5 * DAY_MS, 0)  # dated ahead: recency is 0 until then
    last[rng.random(n) < 0.03] = NO_ORDER
    start = as_of + rng.choice([1, 1, DAY_MS, 7 * DAY_MS], n)
    count = rng.choice([1, 1, 2, 3, 8, 40], n)
    begin, frequency, monetary = [], [], []
    for i in range(n):
        # Equal instants make intervals of no length.
        gaps = (rng.uniform(0, 60, count[i] - 1) * DAY_MS).astype(np.int64) * rng.choice([0, 1, 1, 1], count[i] - 1)
        begin.append(as_of[i] + np.append(0, np.cumsum(gaps)))
        frequency.append(np.arange(count[i])[::-1].astype(float) + rng.integers(0, 3))
        monetary.append(np.round(rng.normal(200, 600, count[i]), 2))
    until = np.where(rng.random(n) < 0.6, NEVER_DUE, start + (rng.uniform(-1, 300, n) * DAY_MS).astype(np.int64))
    offset = np.append(0, np.cumsum(count))
    p = Intervals(offset, np.concatenate(begin), np.concatenate(frequency), np.concatenate(monetary), until)
    return RandomCustomers(a, last, start, p)
