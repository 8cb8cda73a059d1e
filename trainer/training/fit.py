"""From a snapshot to a model: a transform and a scale per feature, K-Means on z, named segments.

scikit-learn and SciPy only fit (λ, centroids). What turns a customer into z is segmentation.scorer, as in the worker.
Every number is rounded to 12 significant digits before anything is computed from it, so that the same snapshot and
settings give the same bytes, and with them the same version.
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
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types; comes with scikit-learn

from segmentation.drift import binned
from segmentation.model import FEATURES, Feature, Histogram, SegmentModel, Training
from segmentation.scorer import standardise, transform
from trainer.errors import FitError
from trainer.training.measure import rounded, silhouette
from trainer.training.naming import Lineage, carried, name_segments
from trainer.training.plan import MIN_CUSTOMERS
from trainer.training.quality import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segmentation.model import Segment, Transform
    from trainer.snapshot.redis import CustomerSnapshot

log = logging.getLogger(__name__)

STARTS: Final = 10  # of K-Means; the best by inertia is kept

# A transformed feature with less spread than this, relative to its size, is rounding noise.
_NO_SPREAD: Final = 1e-9
# The part by which a random start must be better than the active model's centroids: below it, lasting segments win.
_WORTH_MOVING: Final = 0.02
# Differences at a time when each customer is given its nearest centroid: bounds the memory.
_BLOCK: Final = 65_536

Features = tuple[Feature, Feature, Feature]
Centroids = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fit one model. `floor`: with fewer customers there is none."""

    k: int = 5
    transform: Transform = "yeo-johnson"
    seed: int = 42
    floor: int = MIN_CUSTOMERS
    starts: int = STARTS
    margin: float = 0.25


@dataclass(frozen=True, slots=True)
class Trained:
    """A model, and for each customer of its snapshot the index of its segment in model.segments, [customers]."""

    model: SegmentModel
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clusters:
    """What K-Means found: centroids [k] in z space, the index of each row's centroid, [rows], and how good it is.

    `warm`: it began at given centroids. `silhouette` is None where it isn't defined or wasn't asked for.
    """

    centroids: Centroids
    labels: NDArray[np.int64]
    inertia: float
    silhouette: float | None = None
    warm: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What goes into the model beside its numbers; it doesn't decide anything, but it is part of the version."""

    seed: int
    margin: float = 0.25
    forced: bool = False
    notes: dict[str, str] = field(default_factory=dict)


def train(snapshot: CustomerSnapshot, recipe: Recipe, lineage: Lineage | None = None) -> Trained:
    """Fit, name and describe one model, whatever the gates would say. Raises FitError where these customers make none."""
    lineage = lineage or Lineage()
    check(snapshot, recipe.floor)
    features = fit_features(snapshot, recipe.transform)
    z = coordinates(snapshot, features)
    found = cluster(z, recipe.k, recipe.seed, recipe.starts, warm=start_of(lineage, features, recipe.k))
    measured = silhouette(z, found.labels, recipe.seed)
    clusters = Clusters(found.centroids, found.labels, found.inertia, measured, found.warm)
    return assemble(snapshot, features, clusters, lineage, ModelFacts(recipe.seed, recipe.margin))


def fit_features(snapshot: CustomerSnapshot, kind: Transform) -> Features:
    """Fit all three features to a snapshot. Raises FitError.

    Where somebody's balance is negative, log1p takes Yeo-Johnson's place for that feature (docs/adr/0016): it counts a
    balance below zero as zero.
    """
    one, two, three = (fit_feature(name, x, _bearable(kind, x)) for name, x in _columns(snapshot))
    return one, two, three


def _columns(snapshot: CustomerSnapshot) -> Iterator[tuple[str, NDArray[np.float64]]]:
    return ((name, snapshot.column(name)) for name in FEATURES)


def _bearable(kind: Transform, x: NDArray[np.float64]) -> Transform:
    """Keep Yeo-Johnson from negative figures: it bends them by the power 2 - λ, and a few are enough to pull λ up."""
    return "log1p" if kind == "yeo-johnson" and float(x.min()) < 0.0 else kind


def fit_feature(name: str, x: NDArray[np.float64], kind: Transform) -> Feature:
    """Fit λ by maximum likelihood (Yeo-Johnson alone), then mean and population standard deviation of the transformed x.

    `name` is one of FEATURES. Raises FitError where x hardly differs after the transform.
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
    """Give the customers in z space, [customers, 3]: the figures that the worker scores by."""
    return np.stack([standardise(snapshot.column(feature.name), feature) for feature in features], axis=1)


def start_of(lineage: Lineage, features: Features, k: int) -> NDArray[np.float64] | None:
    """Give the active model's centroids in the new z space, [k, 3]; None without an active model of as many segments."""
    if lineage.active is None or len(lineage.active.segments) != k:
        return None
    return carried(lineage.active, features)


def cluster(
    z: NDArray[np.float64], k: int, seed: int, starts: int, *, warm: NDArray[np.float64] | None = None
) -> Clusters:
    """Run K-Means on z, [customers, 3], from `starts` random starts, and from `warm`, [k, 3], where that is given.

    `warm` wins unless a random start has an inertia lower by 2 % or more: two optima as good as each other would
    otherwise take turns from retrain to retrain, and the customers between them with them. Run to the end (tolerance
    0), so that starting at a result gives that result. Raises FitError where fewer customers differ than clusters.
    """
    # A few rows tell it as a rule; only where they are alike all are compared.
    if len(np.unique(z[: 64 * k], axis=0)) < k and (different := len(np.unique(z, axis=0))) < k:
        raise FitError(f"k={k}, but only {different} customers differ.", hint=f"Give --k {different} or less.")
    # One thread: several add up their parts in the order in which they happen to finish.
    with threadpool_limits(limits=1):
        best = KMeans(n_clusters=k, n_init=starts, random_state=seed, tol=0.0).fit(z)
        was_warm = False
        if warm is not None:
            kept = KMeans(n_clusters=k, init=warm, n_init=1, tol=0.0).fit(z)
            was_warm = kept.inertia_ <= best.inertia_ * (1.0 + _WORTH_MOVING) and len(np.unique(kept.labels_)) == k
            best = kept if was_warm else best
    return _found(best, warm=bool(was_warm))


def refine(z: NDArray[np.float64], centroids: Centroids) -> Clusters:
    """Run K-Means once, from centroids found on a sample, on all customers, z [customers, 3]."""
    with threadpool_limits(limits=1):
        return _found(KMeans(n_clusters=len(centroids), init=np.array(centroids), n_init=1).fit(z), warm=False)


def _found(fitted: KMeans, *, warm: bool) -> Clusters:
    return Clusters(
        centroids=tuple([(rounded(r), rounded(f), rounded(m)) for r, f, m in fitted.cluster_centers_.tolist()]),
        labels=fitted.labels_.astype(np.int64),
        inertia=rounded(float(fitted.inertia_)),
        warm=warm,
    )


def nearest(z: NDArray[np.float64], centroids: Centroids) -> NDArray[np.int64]:
    """Give the index of each customer's nearest centroid, [customers], the first of equally near ones; z: [customers, 3].

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
    snapshot: CustomerSnapshot, features: Features, found: Clusters, lineage: Lineage, facts: ModelFacts
) -> Trained:
    """Make the model of what was found: lasting ids and names, segments by id, the facts of the training.

    `found.labels`: [customers], of all of the snapshot. Raises FitError where it can't be scored by.
    """
    k = len(found.centroids)
    segments = name_segments(found.centroids, features, lineage)
    # By id, so that the order says nothing of how K-Means happened to number its clusters.
    order = sorted(range(k), key=lambda index: segments[index].id)
    place = np.empty(k, dtype=np.int64)
    place[order] = np.arange(k)
    labels = place[found.labels]
    ordered = [segments[index] for index in order]
    try:
        model = SegmentModel(
            parent=lineage.active.version if lineage.active else None,
            features=features,
            segments=tuple(ordered),
            margin=facts.margin,
            training=_describe(snapshot, found, coordinates(snapshot, features), labels, ordered, facts),
        )
    except ValidationError as error:
        told = "; ".join(finding["msg"].removeprefix("Value error, ") for finding in error.errors())
        raise FitError(
            f"k={k} with {features[0].transform} makes no usable model: {told}.", hint="Try a smaller --k."
        ) from None
    for warning in model.warnings():
        log.warning("%s", warning)
    return Trained(model, labels)


def _describe(
    snapshot: CustomerSnapshot,
    found: Clusters,
    z: NDArray[np.float64],
    labels: NDArray[np.int64],
    segments: list[Segment],
    facts: ModelFacts,
) -> Training:
    """Put down the facts of the training; `labels` are indices of `segments`."""
    customers, k = len(labels), len(segments)
    counts = np.bincount(labels, minlength=k).tolist()
    apart = z - np.array([segment.centroid for segment in segments])[labels]
    return Training(
        as_of=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=snapshot.as_of_ms),
        customers=customers,
        k=k,
        silhouette=found.silhouette,
        inertia=found.inertia,
        shares={s.name: rounded(count / customers) for s, count in zip(segments, counts, strict=True)},
        feature_means={name: rounded(float(np.mean(snapshot.column(name)))) for name in FEATURES},
        histograms={name: histogram(x) for name, x in _columns(snapshot)},
        distance=rounded(float(np.mean(np.sqrt((apart * apart).sum(axis=1))))),
        seed=facts.seed,
        forced=facts.forced,
        notes={"left_out": f"{snapshot.left_out} customers without an order that stands"} | facts.notes,
    )


def histogram(x: NDArray[np.float64]) -> Histogram:
    """Cut a column, [customers], at its deciles; fewer bins where many have the same figure, and none is empty.

    >>> print(histogram(np.array([1.0] * 6 + [2.0, 2.0, 3.0, 9.0])))
    edges=(1.0, 2.0, 3.0) shares=(0.6, 0.2, 0.1, 0.1)
    """
    deciles = np.quantile(x, np.arange(1, 10) / 10, method="inverted_cdf").tolist()
    edges = sorted(set(deciles))  # figures that customers have: nothing to round
    shares = binned(x, edges) / len(x)
    if not shares[-1]:
        edges, shares = edges[:-1], shares[:-1]
    return Histogram(edges=tuple(edges), shares=tuple(rounded(share) for share in shares.tolist()))
