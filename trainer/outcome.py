"""The results of a training run as plain frozen values, for the report, `--json` and the tests.

Nothing here computes. Segments have one order everywhere (that of the model, by id): `Sample.segment`, the rows of
`TrainingOutcome.segments`, `Projection.centroids` and the columns of `Comparison.moves` refer to it. Numbers are finite
or None, so that the JSON can be read back without loss.
"""

from __future__ import annotations

from typing import Final, Literal, Self

import msgspec

SAMPLE: Final = 20_000  # customers of the sample, at most: the cost of a silhouette is quadratic

# The names of the gates on what a model would have been worth.
WORTH_GATES: Final = ("moves a year", "back in 14 days", "lift over recency", "outlook over recency")

Choice = Literal["gates", "silhouette", "elbow", "asked"]
Verdict = Literal["active", "candidate", "dry-run", "refused"]


class RecipeUsed(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that decided the model.

    `choice`: how k and transform were chosen: by the gates, the silhouette alone, or the elbow; "asked" where only one
    combination was allowed. `fitted`: the customers of the fit: "in window", "all", or "ordinary" (|z| < 3 in each
    feature); the others are scored too. `starts`: of K-Means. `rounds`: resamples for each stability.
    """

    name: str  # of the recipe
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
    """The distribution of one untransformed feature over all customers; `beyond_3`: customers with |z| >= 3."""

    name: str
    least: float
    median: float
    mean: float
    greatest: float
    deviation: float
    beyond_3: int


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of the input. `left_out`: customers without an order that stands, not counted in `customers`.

    `without_orders`: all orders have left the window; `without_money`: monetary is zero; `negative_money`: it is less.
    Monetary and `features` are of the time that `TrainingOutcome.whole_lives` names.
    `not_fitted`: left out of the fit by the recipe's `fitted`.
    """

    customers: int
    left_out: int
    without_orders: int
    without_money: int
    negative_money: int
    not_fitted: int
    features: tuple[FeatureQuality, ...]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One condition on a fit or on the model. `bound` "least": value >= limit passes; "most": value <= limit passes.

    A `value` of None couldn't be measured, and doesn't pass. `name` is one of "smallest share", "largest share",
    "stability", "moved"; on later orders "moves a year", "back in 14 days", "lift over recency" and "outlook over
    recency", the last two differences of AUCs.
    """

    name: str
    value: float | None
    limit: float
    bound: Literal["least", "most"]
    passed: bool


class HistoryCheck(msgspec.Struct, frozen=True):
    """One count of the history, and the value that a fit of the outlook needs; `bound` as in `Gate`."""

    name: str
    value: float
    limit: float
    bound: Literal["least", "most"]
    passed: bool


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of transform and k. Where it couldn't be fitted, `failure` says why and the measures are None.

    `stability`: median adjusted Rand index between this clustering and those of bootstrap resamples; None where the
    recipe has no resamples. Shares are fractions of 1. `warm`: the start at the active model's centroids was kept.
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
    """The quartiles, extremes and mean of a feature within a segment, in the feature's own unit."""

    least: float
    lower: float  # quartile
    median: float
    upper: float  # quartile
    greatest: float
    mean: float


class SegmentForecast(msgspec.Struct, frozen=True, kw_only=True):
    """The next 90 days of a segment's customers, by the model's own outlook.

    `ordering`: how many of them are expected to order; `orders`, `spend`: expected sums, spend in currency units (None
    where the values of orders couldn't be fitted). `usual_gap_days`, `silence_in_gaps`: of the median customer.
    """

    ordering: float
    orders: float
    spend: float | None
    usual_gap_days: float
    silence_in_gaps: float


class SegmentPast(msgspec.Struct, frozen=True, kw_only=True):
    """The customers whom this segment would have held 90 days earlier, and what they did since.

    Of a sample where there are many. `ordered`: how many of them ordered; `orders`: on how many days in all.
    """

    customers: int
    ordered: int
    orders: int


class SegmentBorder(msgspec.Struct, frozen=True, kw_only=True):
    """The customers of a segment who could soon be in another one.

    `near`: within the margin of another centroid, so that they would stay there, too (None where no centroid decides);
    `near_to`: the segment of most of those. `leaving`: in another segment 30 days later if they order nothing;
    `leaving_to`: most of those. Segments are indices into `TrainingOutcome.segments`, None where there is nobody.
    """

    near: int | None
    near_to: int | None
    leaving: int
    leaving_to: int | None


class SegmentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One segment of the new model on this snapshot. Spreads and silhouette are None where it has no customers.

    Orders and money are of the time that `TrainingOutcome.whole_lives` names: `frequency` is orders in the window, or
    days with an order in a whole life. `definition`: a sentence on who is in it, in plain units. `money`: sum of
    monetary, in currency units; `money_share`: its fraction of the sum over all, None unless that is above zero.
    `centroid`: in z space. `lasting`: id, name and action come from the active model. `silhouette`: mean over the
    sample.
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
    recency_days: FeatureSpread | None
    frequency: FeatureSpread | None
    monetary: FeatureSpread | None
    silhouette: float | None
    definition: str | None = None
    forecast: SegmentForecast | None = None
    past: SegmentPast | None = None
    border: SegmentBorder | None = None


class SampledFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature that the model scores by, of each customer of the sample: in its own unit, and in z space."""

    name: str
    values: tuple[float, ...]
    z: tuple[float, ...]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Single customers, without their ids, in columns of one length: all of them, or SAMPLE drawn by the seed.

    Their features in the model's order, index of the segment, silhouette (None where it isn't defined for the sample),
    and position in the projection (x, y).
    """

    features: tuple[SampledFeature, ...]
    segment: tuple[int, ...]
    silhouette: tuple[float, ...] | None
    x: tuple[float, ...]
    y: tuple[float, ...]


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """The plane of the two largest principal components of z.

    `explained`: their fractions of the variance; `loadings`: [component][feature]; `centroids`: (x, y) of each segment.
    """

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
    """The movement from the active model to the new one on this snapshot, without any new order.

    `moves[a][b]`: customers in segment a of the active model (order of `before`) whom the workers would put in segment
    b of the new one, applying the margin. `money[a][b]`: their money. A customer moves where the ids of the two differ.
    `moved`: the fraction of all who move; `moved_without_margin`: the same by the nearest centroid alone.
    """

    version: str
    activation: int | None
    before: tuple[SegmentBefore, ...]
    moves: tuple[tuple[int, ...], ...]
    money: tuple[tuple[float, ...], ...]
    moved: float
    moved_without_margin: float


class PastSegment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment of an earlier model, and its share of the customers at that training."""

    id: int
    name: str
    share: float


class PastModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was active before, as it was trained."""

    as_of: str  # ISO 8601
    customers: int
    segments: tuple[PastSegment, ...]


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """Spearman's rank correlation of two figures over all customers, -1 to 1; None where one is equal for all."""

    one: str
    other: str
    rank: float | None


class RankingWorth(msgspec.Struct, frozen=True, kw_only=True):
    """How well one way to rank customers told what they did later.

    `by`: "segments", "outlook", "recency", … `auc`: the chance that of two customers the one who ordered ranks higher.
    `top_tenth`: the share of the later money that the highest tenth spent.
    """

    by: str
    auc: float | None
    top_tenth: float | None


class CalibrationGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Customers with similar forecasts: their mean chance of an order, and the share of them that ordered."""

    customers: int
    chance: float
    ordered: float


class LaterWorth(msgspec.Struct, frozen=True, kw_only=True):
    """The worth of segments and outlook on orders that came after those they were made from.

    `since`, `until`: that time (ISO 8601). Moves are those that the customers would have had in it: `moves_per_year` of
    a customer; `back_14`, `back_30`: the share of moves that went back within so many days. None: not measured.
    """

    since: str
    until: str
    customers: int
    moves_per_year: float | None = None
    back_14: float | None = None
    back_30: float | None = None
    rankings: tuple[RankingWorth, ...] = ()
    calibration: tuple[CalibrationGroup, ...] = ()


class PublicationDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on the model, and the reasons: sentences, the decisive one first, which tells the choice of the fit.

    `forced`: a gate failed and was overruled. `activation`: offset of the `active` record, None unless active.
    """

    verdict: Verdict
    why: tuple[str, ...]
    gates: tuple[Gate, ...] = ()  # of the chosen fit, then "moved"
    forced: bool = False
    activation: int | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The duration of one step of the run."""

    step: str
    seconds: float


class TrainingOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A run from snapshot to decision.

    Where the gates refuse every fit there is no model: `version`, `sample`, `projection` and `comparison` are None,
    `segments` is empty, and `fits` show the reasons. `source`: "Redis", or the file's name. `whole_lives`: orders and
    money here, but for forecasts, are those of whole lives, which models by own clock judge by; otherwise those of the
    last `window_days`. `parent`: the version of the active model, None without one. `chosen`: index into `fits`.
    `past`: models that were active before, the oldest first. `later`: None where there isn't enough history to judge
    by.
    """

    format: Literal[2] = 2
    recipe: RecipeUsed
    source: str
    as_of: str  # ISO 8601
    trained_at: str  # ISO 8601
    window_days: float
    whole_lives: bool = False
    quality: Quality
    fits: tuple[Fit, ...]
    chosen: int | None = None
    version: str | None = None
    parent: str | None = None
    segments: tuple[SegmentFacts, ...] = ()
    sample: Sample | None = None
    projection: Projection | None = None
    comparison: Comparison | None = None
    correlations: tuple[Correlation, ...] = ()
    past: tuple[PastModel, ...] = ()
    later: LaterWorth | None = None
    decision: PublicationDecision
    timings: tuple[Timing, ...] = ()
    warnings: tuple[str, ...] = ()
    history: tuple[HistoryCheck, ...] = ()  # none for recipes that don't look at it
    currency: str | None = None  # of all money here; None where unknown

    def to_json(self) -> bytes:
        """Return the JSON that `from_json` reads."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Parse what `to_json` returned. Raises msgspec.DecodeError (ValidationError is one) for anything else."""
        return msgspec.json.decode(value, type=cls)
