"""Name the segments: lasting ids matched to the active model, and names and actions from templates, one to one.

The number of a cluster means nothing: another training of the same customers numbers them in another order. So a
segment keeps its id, name and action as long as a cluster lies where it lay, and only new clusters get a template's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import linear_sum_assignment

from segmentation.model import Segment
from segmentation.scorer import standardise

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from segmentation.model import Feature, SegmentModel

# Higher than the cost of any template, so that a numbered name is given only when all templates are used.
_LAST_RESORT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Template:
    """A name, its default action, and its position: each feature from 0 (lowest of the clusters) to 1 (highest).

    Recency counts days of silence: 0 is a purchase just now.
    """

    name: str
    action: str
    recency: float
    frequency: float
    monetary: float


_CHAMPIONS: Final = Template("Champions", "VIP offers and early access", 0.0, 1.0, 1.0)
_LOYAL: Final = Template("Loyal", "Points and premium products", 0.25, 0.75, 0.75)
_POTENTIAL: Final = Template("Potential Loyalists", "Onboarding", 0.25, 0.25, 0.25)
_AT_RISK: Final = Template("At Risk", "Win-back with 20 % off", 0.75, 0.5, 0.5)
_LOST: Final = Template("Lost", "Last-chance e-mail", 1.0, 0.0, 0.0)

# The five of the textbook recipe, the best first.
FIVE: Final = (_CHAMPIONS, _LOYAL, _POTENTIAL, _AT_RISK, _LOST)
# For any other number of clusters: these five and more, the best first.
MANY: Final = (
    _CHAMPIONS,
    _LOYAL,
    Template("Big Spenders", "Premium range and personal advice", 0.25, 0.5, 1.0),
    _POTENTIAL,
    Template("New", "Welcome series", 0.0, 0.0, 0.0),
    Template("Promising", "Second-order voucher", 0.1, 0.25, 0.5),
    Template("Need Attention", "Limited-time offer", 0.5, 0.5, 0.5),
    Template("About to Sleep", "Reminder of what they liked", 0.6, 0.25, 0.25),
    Template("Cannot Lose", "Personal call", 0.9, 1.0, 1.0),
    _AT_RISK,
    Template("Hibernating", "Seasonal offer", 0.85, 0.25, 0.25),
    _LOST,
)


@dataclass(frozen=True, slots=True)
class Lineage:
    """The models published before. `highest_id`: of any of their segments, 0 where there is none.

    `past`: the last models that were active, the active one last; for the report, no decision looks at them.
    """

    active: SegmentModel | None = None
    activation: int | None = None
    highest_id: int = 0
    past: tuple[SegmentModel, ...] = ()


def templates(k: int, taken: Collection[str] = ()) -> list[Template]:
    """Return at least k templates for k clusters, without the names that are taken; numbered ones come last.

    >>> [template.name for template in templates(5)][:6]
    ['Champions', 'Loyal', 'Potential Loyalists', 'At Risk', 'Lost', 'Segment 1']
    >>> [template.name for template in templates(5, taken={"Champions", "Lost"})][:3]
    ['Loyal', 'Big Spenders', 'Potential Loyalists']
    """
    numbered = (Template(f"Segment {n}", "None yet: choose one", 0.5, 0.5, 0.5) for n in range(1, k + len(taken) + 1))
    named = FIVE if k == len(FIVE) and not taken else MANY
    return [template for template in (*named, *numbered) if template.name not in taken]


def assign(
    centroids: NDArray[np.float64], wanted: Sequence[int] | None = None, taken: Collection[str] = ()
) -> dict[int, Template]:
    """Assign each cluster a different template at the least total cost; the result is in the order of the templates.

    `centroids`: [k, 3] in z space, in FEATURES order. Each feature is scaled to 0 … 1 between the lowest and the
    highest of all k (docs/adr/0011: with ranks a minimal difference would decide). `wanted`: the clusters to name
    (default all); `taken`: names that can't be given.

    >>> named = assign(np.array([[1.2, -0.9, -0.8], [-1.1, 1.0, 1.3]]))
    >>> [(cluster, template.name) for cluster, template in named.items()]
    [(1, 'Champions'), (0, 'Lost')]
    """
    k = len(centroids)
    rows = list(range(k) if wanted is None else wanted)
    low, spread = centroids.min(axis=0), np.ptp(centroids, axis=0)
    at = np.divide(centroids - low, spread, out=np.full_like(centroids, 0.5), where=spread > 0.0)
    choice = templates(k, taken)
    positions = np.array([(t.recency, t.frequency, t.monetary) for t in choice])
    cost = ((at[rows, None, :] - positions[None, :, :]) ** 2).sum(axis=2)
    cost[:, [t.name.startswith("Segment ") for t in choice]] += _LAST_RESORT
    given = sorted(zip(*linear_sum_assignment(cost), strict=True), key=lambda pair: int(pair[1]))
    return {rows[row]: choice[column] for row, column in given}


def match(new: NDArray[np.float64], old: NDArray[np.float64]) -> dict[int, int]:
    """Pair the clusters of two models so that the sum of the pairs' squared distances is least: {new: old}.

    Both [clusters, 3] in the same z space. Some clusters of the larger model have no pair.

    >>> match(np.array([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]]), np.array([[5.0, 5.0, 4.0], [0.0, 1.0, 0.0]]))
    {0: 1, 1: 0}
    """
    cost = ((new[:, None, :] - old[None, :, :]) ** 2).sum(axis=2)
    return {int(row): int(column) for row, column in zip(*linear_sum_assignment(cost), strict=True)}


def lasting(new: NDArray[np.float64], old: NDArray[np.float64]) -> dict[int, int]:
    """Return the pairs of `match` whose new cluster is nearer to its old one than to any other old cluster.

    A pair can lie far apart though the sum is least, and a name must not move to the customers of another segment.

    >>> lasting(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([[0.1, 0.0, 0.0], [9.0, 0.0, 0.0]]))
    {0: 0}
    """
    apart = ((new[:, None, :] - old[None, :, :]) ** 2).sum(axis=2)
    return {cluster: index for cluster, index in match(new, old).items() if apart[cluster].argmin() == index}


def untransformed(z: NDArray[np.float64], feature: Feature) -> NDArray[np.float64]:
    """Return the x with z(x) = z, in the feature's own unit: the inverse of segmentation.scorer.standardise.

    No decision depends on its last bits, so NumPy's functions are precise enough. A z that no x has gives the largest
    float64.
    """
    t = z * feature.scale + feature.mean
    if feature.transform == "identity":
        return t
    if feature.lam is None:  # log1p
        return np.expm1(t)
    above, below = _unpower(np.maximum(t, 0.0), feature.lam), _unpower(np.maximum(-t, 0.0), 2.0 - feature.lam)
    x: NDArray[np.float64] = np.where(t < 0.0, -below, above)
    return x


def _unpower(t: NDArray[np.float64], lam: float) -> NDArray[np.float64]:
    """Invert ((1 + x)^λ - 1) / λ for t >= 0."""
    if lam == 0.0:
        return np.expm1(t)
    with np.errstate(over="ignore", divide="ignore"):
        return np.nan_to_num(np.expm1(np.log1p(np.maximum(lam * t, -1.0)) / lam))


def carried(model: SegmentModel, features: Sequence[Feature]) -> NDArray[np.float64]:
    """Return a model's centroids in the z space of other features, [segments, 3], by way of the features' own units."""
    old = np.array([segment.centroid for segment in model.segments], dtype=np.float64)
    pairs = zip(old.T, model.features, features, strict=True)
    return np.stack([standardise(untransformed(z, was), now) for z, was, now in pairs], axis=1)


def name_segments(
    centroids: Sequence[tuple[float, float, float]], features: Sequence[Feature], lineage: Lineage
) -> list[Segment]:
    """Return a segment with id, name and action for each centroid ([k] in the z space of `features`), in their order.

    A centroid that matches a segment of the active model, and lies nearest to it, takes all three from it. The others
    take an id that no published model has used, and the name of a template that no segment of the active model has,
    even if that segment ends now: otherwise customers would move from "At Risk" to "At Risk". Without an active model,
    ids are 1 to k in the order of the templates.
    """
    new = np.array(centroids, dtype=np.float64)
    known: dict[int, Segment] = {}
    free, taken = 1, set[str]()
    if lineage.active is not None:
        free = lineage.highest_id + 1
        before = lineage.active.segments
        taken = {segment.name for segment in before}
        known = {cluster: before[index] for cluster, index in lasting(new, carried(lineage.active, features)).items()}
    fresh = [cluster for cluster in range(len(new)) if cluster not in known]
    named = assign(new, fresh, taken) if fresh else {}
    called = {cluster: (segment.id, segment.name, segment.action) for cluster, segment in known.items()}
    called |= {cluster: (free + i, t.name, t.action) for i, (cluster, t) in enumerate(named.items())}
    return [
        Segment(id=called[i][0], name=called[i][1], action=called[i][2], centroid=centroid)
        for i, centroid in enumerate(centroids)
    ]
