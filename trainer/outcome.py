"""All that a training run found out, as plain frozen values: what the report, `--json` and the tests read.

Nothing here computes. Segments stand in one order everywhere (that of the model, by id): `Sample.segment`, the rows of
`Outcome.segments`, `Projection.centroids` and the columns of `Comparison.moves` all count by it. Numbers are finite or
None, so that the JSON form gives back what went in.
"""

from __future__ import annotations

from typing import Final, Literal, Self

import msgspec

SAMPLE: Final = 20_000  # customers shown and measured one by one at most; a silhouette's cost is quadratic

Choice = Literal["gates", "silhouette", "elbow", "asked"]
Verdict = Literal["active", "candidate", "dry-run", "refused"]


class RecipeUsed(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that decided the model.

    `choice` says how k and transform were chosen: by the gates, the silhouette alone, the elbow; "asked" where only
    one combination was allowed. `fitted`: on whom: "in window", "all", "ordinary" (|z| < 3 in each feature). Others
    are left out of the fit, never of the model: they are scored all the same. `starts`: of K-Means. `rounds`: resamples behind each stability.
    """

    name: str  # "default", "textbook", "tutorial"
    choice: Choice
    k: tuple[int, ...]
    transforms: tuple[str, ...]
    fitted: str
    starts: int
    rounds: int
    seed: int
    floor: int
    smallest_share: float
    largest_share: float
    least_stability: float
    most_moved: float
    margin: float


class FeatureQuality(msgspec.Struct, frozen=True, kw_only=True):
    """How one untransformed feature lies over all customers; `beyond_3`: customers with |z| >= 3 in it."""

    name: str
    least: float
    median: float
    mean: float
    greatest: float
    deviation: float
    beyond_3: int


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """The input, counted. `left_out`: customers without an order that stands, who are not among `customers`.

    `without_orders`: every order has left the window; `without_money`: monetary is zero; `negative_money`: below it.
    `not_fitted`: left out of the fit, as the recipe's `fitted` has it.
    """

    customers: int
    left_out: int
    without_orders: int
    without_money: int
    negative_money: int
    not_fitted: int
    features: tuple[FeatureQuality, ...]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One condition on a fit or on the model. `bound` "least": value >= limit passes; "most": value <= limit does.

    `value` is None where it couldn't be measured, which doesn't pass. `name` is one of "smallest share",
    "largest share", "stability", "moved".
    """

    name: str
    value: float | None
    limit: float
    bound: Literal["least", "most"]
    passed: bool


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of transform and k. The measures are None where it couldn't be fitted; `failure` says why.

    `stability`: median adjusted Rand index between this clustering and those of bootstrap resamples; None where the
    recipe doesn't ask for it. Shares are parts of 1. `warm`: K-Means started at the active model's centroids, and no
    random start was better by enough.
    """

    transform: str
    k: int
    inertia: float | None = None
    silhouette: float | None = None
    davies_bouldin: float | None = None
    calinski_harabasz: float | None = None
    stability: float | None = None
    smallest_share: float | None = None
    largest_share: float | None = None
    warm: bool = False
    gates: tuple[Gate, ...] = ()
    chosen: bool = False
    failure: str | None = None


class FeatureSpread(msgspec.Struct, frozen=True, kw_only=True):
    """Five figures and the mean of a feature inside a segment, in the feature's own unit."""

    least: float
    lower: float  # quartile
    median: float
    upper: float  # quartile
    greatest: float
    mean: float


class SegmentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One segment of the new model on this snapshot. Spreads and silhouette are None where nobody is in it.

    `money`: sum of monetary, in currency units; `money_share`: part of the sum over all, None where that isn't above
    zero. `centroid`: in z space; `centroid_raw`: in the features' own units. `lasting`: id, name and action come from
    the active model. `silhouette`: mean over the sample.
    """

    id: int
    name: str
    action: str
    lasting: bool
    customers: int
    share: float
    money: float
    money_share: float | None
    centroid: tuple[float, float, float]
    centroid_raw: tuple[float, float, float]
    recency_days: FeatureSpread | None
    frequency: FeatureSpread | None
    monetary: FeatureSpread | None
    silhouette: float | None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Customers one by one, in columns of one length: all of them, or SAMPLE drawn by the seed. Without their ids.

    Raw and transformed (z) figures, index of the segment, silhouette (None where it isn't defined for the sample),
    and place in the projection (x, y).
    """

    recency_days: tuple[float, ...]
    frequency: tuple[float, ...]
    monetary: tuple[float, ...]
    z_recency_days: tuple[float, ...]
    z_frequency: tuple[float, ...]
    z_monetary: tuple[float, ...]
    segment: tuple[int, ...]
    silhouette: tuple[float, ...] | None
    x: tuple[float, ...]
    y: tuple[float, ...]


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """The plane of the two largest principal components of z. `explained`: parts of the variance; `loadings`: [2][3]."""

    explained: tuple[float, float]
    loadings: tuple[tuple[float, float, float], tuple[float, float, float]]
    centroids: tuple[tuple[float, float], ...]


class SegmentBefore(msgspec.Struct, frozen=True, kw_only=True):
    """One segment of the active model on this snapshot; money in currency units."""

    id: int
    name: str
    customers: int
    money: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The active model against the new one, both on this snapshot: what changes by the model alone.

    `moves[a][b]`: customers whom the active model puts in its segment a (order of `before`) and whom the workers then
    have in b (order of the new model), the margin in their favour. `money[a][b]`: their money. A customer has moved
    when the ids of the two differ. `moved`: their part of all; `moved_without_margin`: of nearest against nearest.
    """

    version: str
    activation: int | None
    before: tuple[SegmentBefore, ...]
    moves: tuple[tuple[int, ...], ...]
    money: tuple[tuple[float, ...], ...]
    moved: float
    moved_without_margin: float


class PublicationDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the model, and why: whole sentences, the decisive one first.

    `forced`: a gate failed and someone published anyway. `activation`: offset of the `active` record, None unless
    active.
    """

    verdict: Verdict
    why: tuple[str, ...]
    gates: tuple[Gate, ...] = ()  # of the chosen fit, then "moved"
    forced: bool = False
    activation: int | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long one step of the run took."""

    step: str
    seconds: float


class TrainingOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A run from snapshot to decision.

    Refused by the gates, there is no model: `version` is None, `segments` is empty, and `sample`, `projection` and
    `comparison` are None; `fits` say why. `source` is a few words: "Redis", or the file's name.
    `parent`: the version of the active model, None without one. `chosen`: index into `fits`.
    """

    format: Literal[1] = 1
    recipe: RecipeUsed
    source: str
    as_of: str  # ISO 8601
    trained_at: str  # ISO 8601
    quality: Quality
    fits: tuple[Fit, ...]
    chosen: int | None = None
    version: str | None = None
    parent: str | None = None
    segments: tuple[SegmentFacts, ...] = ()
    sample: Sample | None = None
    projection: Projection | None = None
    comparison: Comparison | None = None
    decision: PublicationDecision
    timings: tuple[Timing, ...] = ()
    warnings: tuple[str, ...] = ()
    currency: str | None = None  # of all money here; None where unknown

    def to_json(self) -> bytes:
        """Give the form that `from_json` reads."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Read what `to_json` gave. Raises msgspec.ValidationError or msgspec.DecodeError where it is something else."""
        return msgspec.json.decode(value, type=cls)
