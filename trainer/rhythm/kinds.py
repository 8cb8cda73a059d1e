"""The kinds of steady customers: K-Means on orders a year and the value of an order, both expected.

Silence is no coordinate: it changes every day, and the stages judge it. So a kind changes by orders alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.model import CLOCK_FEATURES, Feature
from segmentation.scorer import standardise, transform
from trainer.errors import FitError
from trainer.outcome import Fit
from trainer.training.choose import Choice, choose
from trainer.training.fit import Clusters, fit_feature, refine
from trainer.training.measure import rounded, sample_of, silhouette
from trainer.training.naming import carried
from trainer.training.search import SEARCH_SAMPLE, FitInput, FitResult, fit_k

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.training.fit import Features
    from trainer.training.naming import Lineage
    from trainer.training.plan import TrainingPlan
    from trainer.training.search import Progress

TRANSFORM: Final = "log1p"


@dataclass(frozen=True, slots=True)
class Kinds:
    """The features of a model, and its kinds: centroids [kinds, 3] in z space, of which the first column is 0.

    `fits`: none where there were too few steady customers to fit. `quality`: of the chosen fit; None for one kind.
    """

    features: Features
    centroids: NDArray[np.float64]
    fits: tuple[Fit, ...]
    choice: Choice
    quality: Clusters | None


def find_kinds(
    columns: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    steady: NDArray[np.bool_],
    plan: TrainingPlan,
    lineage: Lineage,
    progress: Progress,
) -> Kinds:
    """Find the kinds; one kind where steady customers are too few or no number of kinds passes the gates.

    `columns`: the three features of all customers, [customers] each; `steady`: who is.
    """
    silence, pace, value = columns
    fitted = steady if steady.any() else np.ones(len(pace), dtype=np.bool_)
    features = (
        _feature(CLOCK_FEATURES[0], silence),
        _feature(CLOCK_FEATURES[1], pace[fitted]),
        _feature(CLOCK_FEATURES[2], value[fitted]),
    )
    z = np.stack([np.zeros(len(pace)), standardise(pace, features[1]), standardise(value, features[2])], axis=1)[fitted]
    one = np.concatenate([[0.0], [rounded(mean) for mean in z[:, 1:].mean(axis=0).tolist()]])[None, :]
    customers = int(np.count_nonzero(steady))
    if customers < plan.floor:
        who = "1 customer is" if customers == 1 else f"{customers:,} customers are"
        why = f"{who} steady, expected {plan.floor:,} to tell kinds apart: they are one segment."
        return Kinds(features, one, (), Choice(None, (why,)), None)
    found = _fits(features, z, plan, lineage, progress)
    fits = [result.fit for result in found]
    choice = choose(fits, plan, (TRANSFORM, len(_before(lineage, features))), force=False)
    if choice.index is None:
        kept = _before(lineage, features)
        what = "the active model's kinds stay" if len(kept) > 1 else "steady customers are one segment"
        reasons = (f"No number of kinds passes the gates: {what}.", *choice.why[1:])
        return Kinds(features, kept if len(kept) else one, tuple(fits), replace(choice, why=reasons), None)
    chosen = found[choice.index].clusters
    assert chosen is not None  # a fit that failed isn't chosen
    clusters = replace(chosen, silhouette=fits[choice.index].silhouette)
    if len(z) > SEARCH_SAMPLE:
        clusters = refine(z, chosen.centroids)
        clusters = replace(clusters, silhouette=silhouette(z, clusters.labels, plan.seed), warm=chosen.warm)
    return Kinds(features, np.array(clusters.centroids), tuple(fits), choice, clusters)


def kept_kinds(kinds: Kinds, lineage: Lineage, why: str) -> Kinds | None:
    """Return the active model's kinds where they lay, in place of those that were found; None: it has none."""
    before = _before(lineage, kinds.features)
    if not len(before):
        return None
    return replace(kinds, centroids=before, choice=Choice(None, (why, *kinds.choice.why)), quality=None)


def _fits(
    features: Features, z: NDArray[np.float64], plan: TrainingPlan, lineage: Lineage, progress: Progress
) -> list[FitResult]:
    rows = FitInput(TRANSFORM, features, z[sample_of(len(z), SEARCH_SAMPLE, plan.seed)])
    before = _before(lineage, features)
    found: list[FitResult] = []
    for k in plan.ks:
        progress(f"{k} kinds", len(found), len(plan.ks))
        found.append(fit_k(rows, k, plan, before if len(before) == k else None))
    progress("fitted", len(plan.ks), len(plan.ks))
    return found


def _before(lineage: Lineage, features: Features) -> NDArray[np.float64]:
    """Return the centroids of the active model's kinds in the new z space, [kinds, 3]; none of another format."""
    active = lineage.active
    if active is None or active.format == 1:
        return np.empty((0, 3))
    rows = [index for index, segment in enumerate(active.segments) if segment.stage == "steady"]
    before = carried(active, features)[rows]
    before[:, 0] = 0.0
    return before


def _feature(name: str, x: NDArray[np.float64]) -> Feature:
    """Fit a feature; where customers hardly differ in it, their distances to its mean are taken as they are."""
    try:
        return fit_feature(name, x, TRANSFORM)
    except FitError:
        mean = rounded(float(np.mean(transform(x, TRANSFORM, None))))
        return Feature.model_validate({"name": name, "transform": TRANSFORM, "mean": mean, "scale": 1.0})
