"""From a snapshot to a model: a transform and a scale per feature, K-Means on z, named segments.

scikit-learn and SciPy only fit λ and the centroids. The worker's own code, segmentation.scorer, transforms customers to
z. Every number is rounded to 12 significant digits before anything is computed from it, so the same snapshot and
settings give the same bytes, and therefore the same version.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import ValidationError
from scipy.stats import yeojohnson_normmax
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types; a dependency of scikit-learn

from segmentation.drift import binned
from segmentation.model import FEATURES, Feature, Histogram, SegmentModel, Training
from segmentation.scorer import standardise, transform
from trainer.errors import FitError
from trainer.training.measure import rounded
from trainer.training.naming import carried, name_segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segmentation.model import Segment, Transform
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.naming import Lineage

log = logging.getLogger(__name__)

# A transformed feature with less spread than this, relative to its size, is rounding noise.
_NO_SPREAD: Final = 1e-9
# Relative gain in inertia that a random start needs to replace the active model's centroids.
_WORTH_MOVING: Final = 0.02
# Customers assigned to their nearest centroids at a time: bounds the memory.
_BLOCK: Final = 65_536

Features = tuple[Feature, Feature, Feature]
Centroids = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model, and the index in `model.segments` of the segment of each customer of its snapshot, [customers]."""

    model: SegmentModel
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clusters:
    """The result of K-Means: centroids [k] in z space, the index of each row's centroid, [rows], and its quality.

    `warm`: started at given centroids. `silhouette`: None where it isn't defined or wasn't measured.
    """

    centroids: Centroids
    labels: NDArray[np.int64]
    inertia: float
    silhouette: float | None = None
    warm: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of the training in a model, beside its numbers. They decide nothing, but are part of the version."""

    seed: int
    margin: float = 0.25
    forced: bool = False
    notes: dict[str, str] = field(default_factory=dict)


def fit_features(snapshot: CustomerSnapshot, kind: Transform) -> Features:
    """Fit all three features to a snapshot. Raises FitError.

    A feature with negative figures (balances of refunded customers) is fitted with log1p instead of Yeo-Johnson, which
    counts them as zero (docs/adr/0016).
    """
    recency, frequency, monetary = (fit_feature(name, x, _usable(kind, x)) for name, x in _columns(snapshot))
    return recency, frequency, monetary


def _columns(snapshot: CustomerSnapshot) -> Iterator[tuple[str, NDArray[np.float64]]]:
    return ((name, snapshot.column(name)) for name in FEATURES)


def _usable(kind: Transform, x: NDArray[np.float64]) -> Transform:
    """Return log1p instead of Yeo-Johnson for negative figures: its power for them is 2 - λ, so a few pull λ up."""
    return "log1p" if kind == "yeo-johnson" and float(x.min()) < 0.0 else kind


def fit_feature(name: str, x: NDArray[np.float64], kind: Transform) -> Feature:
    """Fit λ by maximum likelihood (only Yeo-Johnson has one), then mean and population standard deviation of t(x).

    `name` is one of FEATURES; t is the transform. Raises FitError where t(x) hardly differs between customers.
    """
    lam = rounded(float(yeojohnson_normmax(x))) if kind == "yeo-johnson" else None
    with np.errstate(over="ignore", invalid="ignore"):
        t = transform(x, kind, lam)
        mean, scale = float(np.mean(t)), float(np.std(t))
    if not np.isfinite(scale) or scale <= _NO_SPREAD * max(1e-300, float(np.abs(t).max())):
        raise FitError(
            f"{name} hardly differs between customers after {kind}.", hint="Try --transform log1p or identity."
        )
    return Feature.model_validate(
        {"name": name, "transform": kind, "lam": lam, "mean": rounded(mean), "scale": rounded(scale)}
    )


def coordinates(snapshot: CustomerSnapshot, features: tuple[Feature, ...]) -> NDArray[np.float64]:
    """Return the customers' coordinates in z space, [customers, 3], as the worker computes them."""
    return np.stack([standardise(snapshot.column(feature.name), feature) for feature in features], axis=1)


def start_of(lineage: Lineage, features: Features, k: int) -> NDArray[np.float64] | None:
    """Return the active model's centroids in the new z space, [k, 3]; None without an active model of k segments."""
    if lineage.active is None or len(lineage.active.segments) != k:
        return None
    return carried(lineage.active, features)


def cluster(
    z: NDArray[np.float64], k: int, seed: int, starts: int, *, warm: NDArray[np.float64] | None = None
) -> Clusters:
    """Run K-Means on z, [customers, 3], from `starts` random starts, and from `warm`, [k, 3], where it is given.

    The result from `warm` wins unless a random start has an inertia lower by 2 % or more: otherwise two optima of equal
    quality would alternate from training to training, and move the customers between them each time. K-Means runs to
    the end (tolerance 0), so a start at a result returns that result. Raises FitError where fewer than k customers
    differ.
    """
    # A few rows are usually enough to see k different ones; all are compared only where they aren't.
    if len(np.unique(z[: 64 * k], axis=0)) < k and (different := len(np.unique(z, axis=0))) < k:
        raise FitError(f"k={k}, but only {different} customers differ.", hint=f"Give --k {different} or less.")
    # One thread: several would add their parts in the order in which they finish, and rounding would differ.
    with threadpool_limits(limits=1):
        best = KMeans(n_clusters=k, n_init=starts, random_state=seed, tol=0.0).fit(z)
        was_warm = False
        if warm is not None:
            kept = KMeans(n_clusters=k, init=warm, n_init=1, tol=0.0).fit(z)
            was_warm = kept.inertia_ <= best.inertia_ * (1.0 + _WORTH_MOVING) and len(np.unique(kept.labels_)) == k
            best = kept if was_warm else best
    return _clusters(best, warm=bool(was_warm))


def refine(z: NDArray[np.float64], centroids: Centroids) -> Clusters:
    """Run K-Means once on all customers, z [customers, 3], from centroids found on a sample."""
    with threadpool_limits(limits=1):
        return _clusters(KMeans(n_clusters=len(centroids), init=np.array(centroids), n_init=1).fit(z), warm=False)


def _clusters(fitted: KMeans, *, warm: bool) -> Clusters:
    return Clusters(
        centroids=tuple([(rounded(r), rounded(f), rounded(m)) for r, f, m in fitted.cluster_centers_.tolist()]),
        labels=fitted.labels_.astype(np.int64),
        inertia=rounded(float(fitted.inertia_)),
        warm=warm,
    )


def nearest(z: NDArray[np.float64], centroids: Centroids) -> NDArray[np.int64]:
    """Return the index of each customer's nearest centroid, [customers], the first of equally near ones.

    z: [customers, 3].

    >>> nearest(np.array([[0.1, 0.0, 0.0], [5.0, 4.0, 5.0]]), ((0.0, 0.0, 0.0), (5.0, 5.0, 5.0))).tolist()
    [0, 1]
    """
    at = np.array(centroids, dtype=np.float64)
    labels = np.empty(len(z), dtype=np.int64)
    for begin in range(0, len(z), _BLOCK):
        apart = z[begin : begin + _BLOCK, None, :] - at[None, :, :]
        labels[begin : begin + _BLOCK] = (apart * apart).sum(axis=2).argmin(axis=1)
    return labels


def assemble(
    snapshot: CustomerSnapshot, features: Features, clusters: Clusters, lineage: Lineage, facts: ModelFacts
) -> TrainedModel:
    """Build the model of these clusters: lasting ids and names, segments ordered by id, the facts of the training.

    `clusters.labels`: of all customers of the snapshot. Raises FitError where the model would be unusable for scoring.
    """
    k = len(clusters.centroids)
    segments = name_segments(clusters.centroids, features, lineage)
    # By id, so that the order doesn't depend on how K-Means numbered its clusters.
    order = sorted(range(k), key=lambda index: segments[index].id)
    rank = np.empty(k, dtype=np.int64)
    rank[order] = np.arange(k)
    labels = rank[clusters.labels]
    ordered = [segments[index] for index in order]
    try:
        model = SegmentModel(
            parent=lineage.active.version if lineage.active else None,
            features=features,
            segments=tuple(ordered),
            margin=facts.margin,
            training=_describe(snapshot, clusters, coordinates(snapshot, features), labels, ordered, facts),
        )
    except ValidationError as error:
        reasons = "; ".join(finding["msg"].removeprefix("Value error, ") for finding in error.errors())
        raise FitError(
            f"k={k} with {features[0].transform} makes no usable model: {reasons}.", hint="Try a smaller --k."
        ) from None
    for warning in model.warnings():
        log.warning("%s", warning)
    return TrainedModel(model, labels)


def _describe(
    snapshot: CustomerSnapshot,
    clusters: Clusters,
    z: NDArray[np.float64],
    labels: NDArray[np.int64],
    segments: list[Segment],
    facts: ModelFacts,
) -> Training:
    """Return the facts of the training; `labels` are indices of `segments`."""
    customers, k = len(labels), len(segments)
    counts = np.bincount(labels, minlength=k).tolist()
    apart = z - np.array([segment.centroid for segment in segments])[labels]
    return Training(
        as_of=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=snapshot.as_of_ms),
        customers=customers,
        k=k,
        silhouette=clusters.silhouette,
        inertia=clusters.inertia,
        shares={s.name: rounded(count / customers) for s, count in zip(segments, counts, strict=True)},
        feature_means={name: rounded(float(np.mean(snapshot.column(name)))) for name in FEATURES},
        histograms={name: histogram(x) for name, x in _columns(snapshot)},
        distance=rounded(float(np.mean(np.sqrt((apart * apart).sum(axis=1))))),
        seed=facts.seed,
        forced=facts.forced,
        notes={"left_out": f"{snapshot.left_out} customers without an order that stands"} | facts.notes,
    )


def histogram(x: NDArray[np.float64]) -> Histogram:
    """Return the histogram of a column, [customers], cut at its deciles; equal deciles are merged, no bin is empty.

    >>> print(histogram(np.array([1.0] * 6 + [2.0, 2.0, 3.0, 9.0])))
    edges=(1.0, 2.0, 3.0) shares=(0.6, 0.2, 0.1, 0.1)
    """
    deciles = np.quantile(x, np.arange(1, 10) / 10, method="inverted_cdf").tolist()
    edges = sorted(set(deciles))  # figures of customers as they are: nothing to round
    shares = binned(x, edges) / len(x)
    if not shares[-1]:
        edges, shares = edges[:-1], shares[:-1]
    return Histogram(edges=tuple(edges), shares=tuple(rounded(share) for share in shares.tolist()))
