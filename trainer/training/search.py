"""Fit and measure every k with every transform that the plan allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from trainer.errors import FitError
from trainer.outcome import Fit
from trainer.training.choose import gates_of
from trainer.training.fit import Clusters, cluster, coordinates, fit_features, nearest, refine, start_of
from trainer.training.measure import rounded, sample_of, separation, silhouette, stability
from trainer.training.quality import only, ordinary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.model import Transform
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.fit import Features
    from trainer.training.naming import Lineage
    from trainer.training.plan import TrainingPlan

# Customers that the fits are compared on, at most. K-Means then runs on all of them from the chosen fit's centroids.
SEARCH_SAMPLE: Final = 100_000


# Called as a run goes on: progress(next step, steps done, steps in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FitResult:
    """One fit with the features and clusters that a model is made of; both are None where it couldn't be fitted."""

    fit: Fit
    features: Features | None = None
    clusters: Clusters | None = None


@dataclass(frozen=True, slots=True)
class FitInput:
    """The rows that every k of one transform is fitted on. z: [rows, 3]."""

    kind: Transform
    features: Features
    z: NDArray[np.float64]


def fit_rows(snapshot: CustomerSnapshot, plan: TrainingPlan) -> NDArray[np.bool_]:
    """Return which customers take part in the fit, [customers]."""
    if plan.fitted == "ordinary":
        return ordinary(snapshot)
    return snapshot.frequency > 0 if plan.fitted == "in window" else np.ones(len(snapshot.customers), dtype=np.bool_)


def search(snapshot: CustomerSnapshot, plan: TrainingPlan, lineage: Lineage, progress: Progress) -> list[FitResult]:
    """Fit every k with every transform, in the order of the plan. A fit that fails carries the reason."""
    fitted = only(snapshot, fit_rows(snapshot, plan))
    found: list[FitResult] = []
    total = len(plan.transforms) * len(plan.ks)
    for kind in plan.transforms:
        try:
            features = fit_features(fitted, kind)
        except FitError as error:
            found += [FitResult(Fit(transform=kind, k=k, failure=str(error))) for k in plan.ks]
            continue
        z = coordinates(fitted, features)
        rows = FitInput(kind, features, z[sample_of(len(z), SEARCH_SAMPLE, plan.seed)])
        for k in plan.ks:
            progress(f"k = {k}, {kind}", len(found), total)
            warm = start_of(lineage, features, k) if plan.way == "gates" else None
            found.append(fit_k(rows, k, plan, warm))
    progress("fitted", total, total)
    return found


def fit_k(rows: FitInput, k: int, plan: TrainingPlan, warm: NDArray[np.float64] | None) -> FitResult:
    """Fit and measure one k. `warm`: centroids to start from beside random ones, [k, 3] in the z space of the rows."""
    try:
        clusters = cluster(rows.z, k, plan.seed, plan.starts, warm=warm)
    except FitError as error:
        return FitResult(Fit(transform=rows.kind, k=k, failure=str(error)))
    shares = np.bincount(clusters.labels, minlength=k) / len(clusters.labels)
    davies_bouldin, calinski_harabasz = separation(rows.z, clusters.labels)
    fit = Fit(
        transform=rows.kind,
        k=k,
        inertia=clusters.inertia,
        silhouette=silhouette(rows.z, clusters.labels, plan.seed),
        davies_bouldin=davies_bouldin,
        calinski_harabasz=calinski_harabasz,
        stability=stability(rows.z, clusters.labels, k, plan.seed, plan.rounds),
        smallest_share=rounded(float(shares.min())),
        largest_share=rounded(float(shares.max())),
        warm=clusters.warm,
    )
    fit = msgspec.structs.replace(fit, gates=gates_of(fit, plan))
    return FitResult(fit, rows.features, clusters)


def on_all_customers(snapshot: CustomerSnapshot, found: FitResult, plan: TrainingPlan) -> Clusters:
    """Return a fit's clusters with a label for every customer of the snapshot. Raises FitError where it wasn't fitted.

    A fit on a sample is first refined on all customers that take part in the fit; inertia and silhouette are theirs.
    The others are assigned to their nearest centroid.
    """
    if found.features is None or found.clusters is None:
        raise FitError(f"k = {found.fit.k} with {found.fit.transform} wasn't fitted.")
    clusters = replace(found.clusters, silhouette=found.fit.silhouette)
    z = coordinates(snapshot, found.features)
    keep = fit_rows(snapshot, plan)
    if len(clusters.labels) < int(np.count_nonzero(keep)):
        warm = clusters.warm
        clusters = refine(z[keep], clusters.centroids)
        clusters = replace(clusters, silhouette=silhouette(z[keep], clusters.labels, plan.seed), warm=warm)
    return clusters if keep.all() else replace(clusters, labels=nearest(z, clusters.centroids))
