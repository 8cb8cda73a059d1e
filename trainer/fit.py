"""From a snapshot to a model: a transform and a scale per feature, K-Means on z, named segments.

scikit-learn and SciPy only fit (λ, centroids, silhouette). What turns a customer into z is segmentation.forecast, as in
the worker. Every number is rounded to 12 significant digits before anything is computed from it, so that the same
snapshot and settings give the same bytes, and with them the same version.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import sklearn
from pydantic import ValidationError
from scipy.stats import yeojohnson_normmax
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types; comes with scikit-learn

from segmentation.forecast import standardise, transform
from segmentation.model import FEATURES, Feature, SegmentModel, Training
from trainer.errors import FitError
from trainer.names import Lineage, christen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.model import Transform
    from trainer.snapshot import Snapshot

log = logging.getLogger(__name__)

MIN_CUSTOMERS: Final = 200
STARTS: Final = 10  # of K-Means; the best by inertia is kept
SILHOUETTE_SAMPLE: Final = 20_000  # customers; the cost is quadratic

_DIGITS: Final = 12
# A transformed feature with less spread than this, relative to its size, is rounding noise.
_NO_SPREAD: Final = 1e-9
# MiB for the distances of the silhouette at a time; scikit-learn's own default is 1,024.
_SILHOUETTE_MIB: Final = 64


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fit. `floor`: with fewer customers there is no model."""

    k: int = 5
    transform: Transform = "yeo-johnson"
    seed: int = 42
    floor: int = MIN_CUSTOMERS


@dataclass(frozen=True, slots=True)
class Trained:
    """A model, and for each customer of its snapshot the index of its segment in model.segments, [customers]."""

    model: SegmentModel
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clusters:
    """What K-Means found: centroids [k] in z space, the index of each customer's centroid, [customers], and how good it is."""

    centroids: tuple[tuple[float, float, float], ...]
    labels: NDArray[np.int64]
    inertia: float
    silhouette: float | None  # None with as many clusters as customers


def rounded(x: float) -> float:
    """Round to 12 significant digits.

    >>> rounded(1 / 3), rounded(123456789.123456)
    (0.333333333333, 123456789.123)
    """
    return float(f"{x:.{_DIGITS - 1}e}")


def train(snapshot: Snapshot, recipe: Recipe, lineage: Lineage | None = None) -> Trained:
    """Fit, name and describe a model. Raises FitError where these customers don't make one."""
    lineage = lineage or Lineage()
    _check(snapshot, recipe)
    one, two, three = (fit_feature(name, snapshot.column(name), recipe.transform) for name in FEATURES)
    features = (one, two, three)
    found = cluster(coordinates(snapshot, features), recipe)
    segments = christen(found.centroids, features, lineage)
    # By id, so that the order says nothing of how K-Means happened to number its clusters.
    order = sorted(range(recipe.k), key=lambda index: segments[index].id)
    place = np.empty(recipe.k, dtype=np.int64)
    place[order] = np.arange(recipe.k)
    labels = place[found.labels]
    names = [segments[index].name for index in order]
    training = _describe(snapshot, recipe, replace(found, labels=labels), names)
    try:
        model = SegmentModel(
            parent=lineage.active.version if lineage.active else None,
            features=features,
            segments=tuple(segments[index] for index in order),
            training=training,
        )
    except ValidationError as error:
        told = "; ".join(finding["msg"].removeprefix("Value error, ") for finding in error.errors())
        raise FitError(
            f"k={recipe.k} with {recipe.transform} makes no usable model: {told}.", hint="Try a smaller --k."
        ) from None
    for warning in model.warnings():
        log.warning("%s", warning)
    return Trained(model, labels)


def fit_feature(name: str, x: NDArray[np.float64], kind: Transform) -> Feature:
    """Fit λ by maximum likelihood (Yeo-Johnson alone), then mean and population standard deviation of the transformed x.

    `name` is one of FEATURES. Raises FitError where x hardly differs after the transform.
    """
    lam = rounded(float(yeojohnson_normmax(x))) if kind == "yeo-johnson" else None
    t = transform(x, kind, lam)
    mean, scale = float(np.mean(t)), float(np.std(t))
    if not np.isfinite(scale) or scale <= _NO_SPREAD * max(1e-300, float(np.abs(t).max())):
        raise FitError(
            f"{name} hardly differs between customers after {kind}.", hint="Try --transform log1p or identity."
        )
    return Feature.model_validate(
        {"name": name, "transform": kind, "lam": lam, "mean": rounded(mean), "scale": rounded(scale)}
    )


def coordinates(snapshot: Snapshot, features: tuple[Feature, ...]) -> NDArray[np.float64]:
    """Give the customers in z space, [customers, 3]: the figures that the worker scores by."""
    return np.stack([standardise(snapshot.column(feature.name), feature) for feature in features], axis=1)


def cluster(z: NDArray[np.float64], recipe: Recipe) -> Clusters:
    """Run K-Means on z, [customers, 3]. Raises FitError where there are fewer different customers than clusters."""
    different = len(np.unique(z, axis=0))
    if different < recipe.k:
        raise FitError(f"k={recipe.k}, but only {different} customers differ.", hint=f"Give --k {different} or less.")
    # One thread: several add up their parts in the order in which they happen to finish.
    with threadpool_limits(limits=1):
        fitted = KMeans(n_clusters=recipe.k, n_init=STARTS, random_state=recipe.seed).fit(z)
    labels = fitted.labels_.astype(np.int64)
    return Clusters(
        centroids=tuple([(rounded(r), rounded(f), rounded(m)) for r, f, m in fitted.cluster_centers_.tolist()]),
        labels=labels,
        inertia=rounded(float(fitted.inertia_)),
        silhouette=silhouette(z, labels, recipe.seed),
    )


def silhouette(z: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> float | None:
    """Give the mean silhouette, -1 to 1: of all up to 20,000 customers, of a sample of so many from there on."""
    sample = np.arange(len(z))
    if len(z) > SILHOUETTE_SAMPLE:
        sample = np.sort(np.random.default_rng(seed).choice(len(z), SILHOUETTE_SAMPLE, replace=False))
    # It isn't defined for one cluster, nor for as many as customers.
    if not 1 < len(np.unique(labels[sample])) < len(sample):
        return None
    with threadpool_limits(limits=1), sklearn.config_context(working_memory=_SILHOUETTE_MIB):
        return rounded(float(silhouette_score(z[sample], labels[sample])))


def _check(snapshot: Snapshot, recipe: Recipe) -> None:
    customers = len(snapshot.customers)
    if customers < recipe.floor:
        raise FitError(
            f"{customers} customers have an order that stands, expected at least {recipe.floor}.",
            hint="Wait for more orders, or lower --min-customers.",
        )
    if recipe.k > customers:
        raise FitError(f"k={recipe.k}, but there are {customers} customers.", hint=f"Give --k {customers} or less.")
    for name in FEATURES:
        x = snapshot.column(name)
        if x.min() == x.max():
            raise FitError(
                f"{name} is {x[0]:g} for all {customers} customers: it can't tell them apart.",
                hint="Train on orders that differ in it: over a longer time, or all of the shop's.",
            )


def _describe(snapshot: Snapshot, recipe: Recipe, found: Clusters, names: list[str]) -> Training:
    """Put down the facts of the training; `found.labels` are indices of `names`."""
    customers = len(snapshot.customers)
    counts = np.bincount(found.labels, minlength=recipe.k).tolist()
    return Training(
        as_of=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=snapshot.as_of_ms),
        customers=customers,
        k=recipe.k,
        silhouette=found.silhouette,
        inertia=found.inertia,
        shares={name: rounded(count / customers) for name, count in zip(names, counts, strict=True)},
        feature_means={name: rounded(float(np.mean(snapshot.column(name)))) for name in FEATURES},
        seed=recipe.seed,
        notes={"left_out": f"{snapshot.left_out} customers without an order that stands"},
    )
