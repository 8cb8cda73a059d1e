"""Every k with every transform that the plan allows, fitted and measured."""

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

# The search compares fits on so many customers at most. The chosen one is then run on all of them from where it came to.
SEARCH_SAMPLE: Final = 100_000


# Hears how far a run is: what comes next, and its place among so many steps.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FitResult:
    """One fit with what is needed to make the model of it; `clusters` is None where it couldn't be fitted."""

    fit: Fit
    features: Features | None = None
    clusters: Clusters | None = None


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all k of one transform are fitted on. z: [rows, 3]."""

    kind: Transform
    features: Features
    z: NDArray[np.float64]


def fit_rows(snapshot: CustomerSnapshot, plan: TrainingPlan) -> NDArray[np.bool_]:
    """Tell which customers take part in the fit, [customers]."""
    if plan.fitted == "ordinary":
        return ordinary(snapshot)
    return snapshot.frequency > 0 if plan.fitted == "in window" else np.ones(len(snapshot.customers), dtype=np.bool_)


def search(snapshot: CustomerSnapshot, plan: TrainingPlan, lineage: Lineage, progress: Progress) -> list[FitResult]:
    """Fit every k with every transform, in the order of the plan. What can't be fitted says why."""
    base = only(snapshot, fit_rows(snapshot, plan))
    found: list[FitResult] = []
    total = len(plan.transforms) * len(plan.ks)
    for kind in plan.transforms:
        try:
            features = fit_features(base, kind)
        except FitError as error:
            found += [FitResult(Fit(transform=kind, k=k, failure=str(error))) for k in plan.ks]
            continue
        z = coordinates(base, features)
        ground = _Ground(kind, features, z[sample_of(len(z), SEARCH_SAMPLE, plan.seed)])
        for k in plan.ks:
            progress(f"k = {k}, {kind}", len(found), total)
            found.append(_fit(ground, k, plan, lineage))
    progress("fitted", total, total)
    return found


def _fit(ground: _Ground, k: int, plan: TrainingPlan, lineage: Lineage) -> FitResult:
    warm = start_of(lineage, ground.features, k) if plan.way == "gates" else None
    try:
        clusters = cluster(ground.z, k, plan.seed, plan.starts, warm=warm)
    except FitError as error:
        return FitResult(Fit(transform=ground.kind, k=k, failure=str(error)))
    shares = np.bincount(clusters.labels, minlength=k) / len(clusters.labels)
    davies_bouldin, calinski_harabasz = separation(ground.z, clusters.labels)
    fit = Fit(
        transform=ground.kind,
        k=k,
        inertia=clusters.inertia,
        silhouette=silhouette(ground.z, clusters.labels, plan.seed),
        davies_bouldin=davies_bouldin,
        calinski_harabasz=calinski_harabasz,
        stability=stability(ground.z, clusters.labels, k, plan.seed, plan.rounds),
        smallest_share=rounded(float(shares.min())),
        largest_share=rounded(float(shares.max())),
        warm=clusters.warm,
    )
    fit = msgspec.structs.replace(fit, gates=gates_of(fit, plan))
    return FitResult(fit, ground.features, clusters)


def whole(snapshot: CustomerSnapshot, found: FitResult, plan: TrainingPlan) -> Clusters:
    """Bring a fit to all customers of the snapshot: run it on where it was fitted on a sample, label who was left out.

    The inertia and the silhouette stay those of the customers who took part in the fit.
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
