"""Invented outcomes of training runs: any number of segments, with and without an active model, refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from trainer.outcome import (
    CalibrationGroup,
    Comparison,
    Correlation,
    FeatureQuality,
    FeatureSpread,
    Fit,
    Gate,
    HistoryCheck,
    LaterWorth,
    PastModel,
    PastSegment,
    Projection,
    PublicationDecision,
    Quality,
    RankingWorth,
    RecipeUsed,
    Sample,
    SampledFeature,
    SegmentBefore,
    SegmentBorder,
    SegmentFacts,
    SegmentForecast,
    SegmentPast,
    Timing,
    TrainingOutcome,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.outcome import Verdict

NAMES = (
    "Champions",
    "Loyal",
    "Big Spenders",
    "Potential Loyalists",
    "New",
    "Need Attention",
    "At Risk",
    "Hibernating",
    "Lost",
)
RECIPE = RecipeUsed(
    name="rfm",
    choice="gates",
    k=(2, 3, 4, 5, 6, 7, 8, 9),
    transforms=("yeo-johnson", "log1p"),
    fitted="in window",
    starts=10,
    rounds=20,
    seed=42,
    floor=200,
    smallest_share=0.02,
    largest_share=0.6,
    least_stability=0.8,
    most_moved=0.2,
    margin=0.25,
)


CORRELATIONS = (
    Correlation(one="recency_days", other="frequency", rank=-0.56),
    Correlation(one="recency_days", other="monetary", rank=-0.5),
    Correlation(one="frequency", other="monetary", rank=0.79),
)
HISTORY = (
    HistoryCheck("customers with an order", 3000.0, 500.0, "least", passed=True),
    HistoryCheck("days of history", 151.0, 180.0, "least", passed=False),
)
LATER = LaterWorth(
    since="2011-09-11T00:00:00Z",
    until="2011-12-10T00:00:00Z",
    customers=2700,
    moves_per_year=1.32,
    back_14=0.071,
    back_30=0.12,
    rankings=(
        RankingWorth(by="segments", auc=0.719, top_tenth=0.504),
        RankingWorth(by="outlook", auc=0.771, top_tenth=0.561),
        RankingWorth(by="recency", auc=0.688, top_tenth=0.302),
        RankingWorth(by="spend", auc=0.701, top_tenth=None),
    ),
    calibration=tuple(
        CalibrationGroup(customers=270, chance=0.05 + 0.09 * n, ordered=0.04 + 0.094 * n) for n in range(10)
    ),
)


def outcome(
    k: int = 5,
    customers: int = 3000,
    *,
    names: Sequence[str] = NAMES,
    verdict: Verdict = "active",
    compared: bool = True,
    forced: bool = False,
    foreseen: bool = False,
) -> TrainingOutcome:
    """Return an outcome with consistent numbers: counts, sums and shares are those of the sample's customers.

    `foreseen`: with definitions, what is expected, what came the last times, and earlier models.
    """
    z, of, centroids = _customers(k, customers)
    raw = np.stack(
        [np.exp(4.0 + 1.2 * z[:, 0]), np.ceil(np.exp(1.0 + z[:, 1])), np.exp(6 + 1.3 * z[:, 2]) - 20], axis=1
    )
    money = float(raw[:, 2].sum())
    silhouettes = np.clip(0.35 + 0.25 * np.random.default_rng(k).standard_normal(customers), -0.4, 0.9)
    segments = tuple(
        SegmentFacts(
            id=index + 1,
            name=names[index],
            action=f"Action {index + 1}",
            lasting=index > 0,
            customers=int((of == index).sum()),
            share=float((of == index).mean()),
            money=float(raw[of == index, 2].sum()),
            money_share=float(raw[of == index, 2].sum()) / money,
            centroid=_three(centroids[index]),
            recency_days=spread(raw[of == index, 0]),
            frequency=spread(raw[of == index, 1]),
            monetary=spread(raw[of == index, 2]),
            silhouette=float(silhouettes[of == index].mean()),
        )
        for index in range(k)
    )
    if foreseen:
        segments = tuple(_foreseen(s, index, k) for index, s in enumerate(segments))
    fits = _fits(k)
    comparison = _comparison(segments, raw[:, 2], of) if compared else None
    return TrainingOutcome(
        recipe=RECIPE,
        source="orders.csv",
        as_of="2011-12-10T00:00:00Z",
        trained_at="2026-01-05T10:30:00Z",
        window_days=365.0,
        quality=_quality(raw),
        fits=fits,
        chosen=next(index for index, fit in enumerate(fits) if fit.chosen),
        version="5ccbe45f5ba98e4c",
        parent=comparison.version if comparison else None,
        segments=segments,
        sample=_sample(raw, z, of, silhouettes),
        projection=Projection(
            explained=(0.66, 0.25),
            loadings=((-0.45, 0.63, 0.63), (0.89, 0.3, 0.33)),
            centroids=tuple((float(x), float(y)) for x, y in _project(centroids)),
        ),
        comparison=comparison,
        correlations=CORRELATIONS if foreseen else (),
        past=_past(segments) if foreseen else (),
        later=LATER if foreseen else None,
        history=HISTORY if foreseen else (),
        decision=PublicationDecision(
            verdict=verdict,
            why=(f"k = {k} has the best silhouette of those that pass the gates.",),
            gates=(
                Gate(
                    name="smallest share", value=min(s.share for s in segments), limit=0.02, bound="least", passed=True
                ),
                Gate(name="largest share", value=max(s.share for s in segments), limit=0.6, bound="most", passed=True),
                Gate(name="stability", value=0.91, limit=0.8, bound="least", passed=True),
                *(
                    [Gate(name="moved", value=comparison.moved, limit=0.2, bound="most", passed=not forced)]
                    if comparison
                    else []
                ),
            ),
            forced=forced,
            activation=17 if verdict == "active" else None,
        ),
        timings=(Timing(step="snapshot", seconds=0.82), Timing(step="fits", seconds=14.5)),
    )


def refused() -> TrainingOutcome:
    """Return an outcome without a model: every fit fails a gate or couldn't be made."""
    whole = outcome()
    gate = Gate(name="smallest share", value=0.0004, limit=0.02, bound="least", passed=False)
    fits = [
        Fit(transform="identity", k=2, inertia=900.0, silhouette=0.66, smallest_share=0.0004, gates=(gate,)),
        Fit(transform="identity", k=3, failure="only 2 customers differ."),
    ]
    return TrainingOutcome(
        recipe=RECIPE,
        source="Redis",
        as_of=whole.as_of,
        trained_at=whole.trained_at,
        window_days=365.0,
        quality=whole.quality,
        fits=tuple(fits),
        decision=PublicationDecision(verdict="refused", why=("No fit passes the gates.",)),
    )


def _foreseen(segment: SegmentFacts, index: int, k: int) -> SegmentFacts:
    chance = 0.8 - 0.75 * index / k
    return msgspec.structs.replace(
        segment,
        definition=f"Silent for less than {index + 1} of their usual gaps, with {k - index} orders or more.",
        forecast=SegmentForecast(
            ordering=chance * segment.customers,
            orders=1.7 * chance * segment.customers,
            spend=40.0 * chance * segment.customers,
            usual_gap_days=20.0 + 15.0 * index,
            silence_in_gaps=0.4 + index,
        ),
        past=SegmentPast(
            customers=segment.customers - 20,
            ordered=round(0.9 * chance * (segment.customers - 20)),
            orders=round(1.5 * chance * segment.customers),
        ),
        border=SegmentBorder(
            near=segment.customers // 20 if index + 1 < k else None,
            near_to=(index + 1) % k if index + 1 < k else None,
            leaving=segment.customers // 8 if index + 1 < k else 0,
            leaving_to=index + 1 if index + 1 < k else None,
        ),
    )


def _past(segments: Sequence[SegmentFacts]) -> tuple[PastModel, ...]:
    """Return three earlier models, a month apart: the first without the first segment, but with one that ended."""
    return tuple(
        PastModel(
            as_of=f"2011-{month:02d}-10T00:00:00Z",
            customers=2000 + 300 * run,
            segments=tuple(
                PastSegment(
                    id=99 if not run and not place else s.id,
                    name="Old Guard" if not run and not place else s.name,
                    share=s.share * (0.85 + 0.05 * run) if place else 1.0 - (0.85 + 0.05 * run) * (1.0 - s.share),
                )
                for place, s in enumerate(segments)
            ),
        )
        for run, month in enumerate((9, 10, 11))
    )


def spread(values: NDArray[np.float64]) -> FeatureSpread:
    least, lower, median, upper, greatest = (float(q) for q in np.percentile(values, (0, 25, 50, 75, 100)))
    return FeatureSpread(
        least=least, lower=lower, median=median, upper=upper, greatest=greatest, mean=float(values.mean())
    )


def _customers(k: int, customers: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(7)
    best = np.linspace(1.4, -1.2, k)
    centroids = np.stack([-best + rng.normal(0, 0.3, k), best, best + rng.normal(0, 0.2, k)], axis=1)
    of = rng.choice(k, customers, p=np.linspace(1, 2, k) / np.linspace(1, 2, k).sum())
    of[:k] = np.arange(k)
    return centroids[of] + rng.normal(0, 0.35, (customers, 3)), of.astype(np.int64), centroids


def _fits(chosen: int) -> tuple[Fit, ...]:
    def fit(transform: str, k: int) -> Fit:
        smallest, stability = 0.2 / k, 0.97 - 0.03 * k
        gates = (
            Gate(name="smallest share", value=smallest, limit=0.02, bound="least", passed=True),
            Gate(name="stability", value=stability, limit=0.8, bound="least", passed=stability >= 0.8),
        )
        log = 0.04 * (transform == "log1p")
        return Fit(
            transform=transform,
            k=k,
            inertia=9000.0 / k * (1 + log),
            silhouette=0.45 - 0.02 * k - log,
            davies_bouldin=0.9 + 0.01 * k,
            calinski_harabasz=4000.0 - 100 * k,
            stability=stability,
            smallest_share=smallest,
            largest_share=1.4 / k,
            gates=gates,
            chosen=transform == "yeo-johnson" and k == chosen,
        )

    return tuple(fit(transform, k) for transform in RECIPE.transforms for k in dict.fromkeys((*RECIPE.k, chosen)))


def _comparison(segments: Sequence[SegmentFacts], money: NDArray[np.float64], of: NDArray[np.int64]) -> Comparison:
    """Return a comparison with a model in which every 20th customer was in the next segment, and the last one ended."""
    k = len(segments)
    was = np.where(np.arange(len(of)) % 20 == 0, (of + 1) % k, of)
    ids = [s.id for s in segments[:-1]] + [99]
    names = [s.name for s in segments[:-1]] + ["Old Guard"]
    return Comparison(
        version="0123456789abcdef",
        activation=12,
        before=tuple(
            SegmentBefore(id=ids[a], name=names[a], customers=int((was == a).sum()), money=float(money[was == a].sum()))
            for a in range(k)
        ),
        moves=tuple(tuple(int(((was == a) & (of == b)).sum()) for b in range(k)) for a in range(k)),
        money=tuple(tuple(float(money[(was == a) & (of == b)].sum()) for b in range(k)) for a in range(k)),
        moved=float(np.mean([ids[a] != segments[b].id for a, b in zip(was, of, strict=True)])),
        moved_without_margin=0.31,
    )


def _quality(raw: NDArray[np.float64]) -> Quality:
    def feature(name: str, values: NDArray[np.float64]) -> FeatureQuality:
        return FeatureQuality(
            name=name,
            least=float(values.min()),
            median=float(np.median(values)),
            mean=float(values.mean()),
            greatest=float(values.max()),
            deviation=float(values.std()),
            beyond_3=int((np.abs(values - values.mean()) >= 3 * values.std()).sum()),
        )

    names = ("recency_days", "frequency", "monetary")
    return Quality(
        customers=len(raw),
        left_out=12,
        without_orders=0,
        without_money=0,
        negative_money=int((raw[:, 2] < 0).sum()),
        not_fitted=0,
        features=tuple(feature(name, raw[:, place]) for place, name in enumerate(names)),
    )


def _sample(
    raw: NDArray[np.float64], z: NDArray[np.float64], of: NDArray[np.int64], silhouettes: NDArray[np.float64]
) -> Sample:
    x, y = _project(z).T
    return Sample(
        features=tuple(
            SampledFeature(name=name, values=tuple(raw[:, place].tolist()), z=tuple(z[:, place].tolist()))
            for place, name in enumerate(("recency_days", "frequency", "monetary"))
        ),
        segment=tuple(of.tolist()),
        silhouette=tuple(silhouettes.tolist()),
        x=tuple(x.tolist()),
        y=tuple(y.tolist()),
    )


def _project(z: NDArray[np.float64]) -> NDArray[np.float64]:
    plane: NDArray[np.float64] = z @ np.array([[-0.45, 0.63, 0.63], [0.89, 0.3, 0.33]]).T
    return plane


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    r, f, m = values.tolist()
    return r, f, m
