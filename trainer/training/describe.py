"""Describe a trained model on its snapshot: facts of the segments, and a sample of single customers to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.outcome import SAMPLE, FeatureSpread, Projection, Sample, SampledFeature, SegmentFacts
from trainer.training.fit import coordinates
from trainer.training.measure import rounded, sample_of, silhouettes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.fit import TrainedModel
    from trainer.training.naming import Lineage

# Decimals of figures that are only drawn: they keep report.json small.
_DIGITS = 6


def describe(
    snapshot: CustomerSnapshot, trained: TrainedModel, lineage: Lineage
) -> tuple[tuple[SegmentFacts, ...], Sample, Projection]:
    """Return the facts of the segments, the sample of customers, and the plane that it is drawn in."""
    z = coordinates(snapshot, trained.model.features)
    projection, plane = _project(z, np.array([s.centroid for s in trained.model.segments]))
    at = sample_of(len(z), SAMPLE, trained.model.training.seed)
    # Stages are definitions: being near to others isn't a fault of theirs.
    values = silhouettes(z[at], trained.labels[at]) if trained.model.format == 1 else None
    x, y = ((z[at] - z.mean(axis=0)) @ plane.T).T
    sample = Sample(
        features=tuple(
            SampledFeature(name=f.name, values=_drawn(snapshot.column(f.name)[at]), z=_drawn(z[at, place]))
            for place, f in enumerate(trained.model.features)
        ),
        segment=tuple(trained.labels[at].tolist()),
        silhouette=None if values is None else _drawn(values),
        x=_drawn(x),
        y=_drawn(y),
    )
    return _segments(snapshot, trained, lineage, (trained.labels[at], values)), sample, projection


def _segments(
    snapshot: CustomerSnapshot,
    trained: TrainedModel,
    lineage: Lineage,
    measured: tuple[NDArray[np.int64], NDArray[np.float64] | None],
) -> tuple[SegmentFacts, ...]:
    known = {s.id for s in lineage.active.segments} if lineage.active else set()
    # Models by own clock know no window: their definitions are about whole lives.
    spent = snapshot.spending(whole_lives=trained.model.format == 2)
    total = float(spent.money.sum())
    sampled, silhouette_of = measured
    facts = []
    for index, segment in enumerate(trained.model.segments):
        inside = trained.labels == index
        money = float(spent.money[inside].sum())
        of_segment = None if silhouette_of is None else silhouette_of[sampled == index]
        facts.append(
            SegmentFacts(
                id=segment.id,
                name=segment.name,
                action=segment.action,
                lasting=segment.id in known,
                customers=int(np.count_nonzero(inside)),
                share=float(np.mean(inside)),
                money=rounded(money),
                money_share=rounded(money / total) if total > 0 else None,
                centroid=segment.centroid,
                recency_days=_spread(snapshot.recency_days[inside]),
                frequency=_spread(spent.orders[inside]),
                monetary=_spread(spent.money[inside]),
                silhouette=rounded(float(of_segment.mean())) if of_segment is not None and len(of_segment) else None,
            )
        )
    return tuple(facts)


def _spread(x: NDArray[np.float64]) -> FeatureSpread | None:
    if not len(x):
        return None
    least, lower, median, upper, greatest = np.quantile(x, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    return FeatureSpread(
        least=least, lower=lower, median=median, upper=upper, greatest=greatest, mean=rounded(float(x.mean()))
    )


def _project(z: NDArray[np.float64], centroids: NDArray[np.float64]) -> tuple[Projection, NDArray[np.float64]]:
    """Return the two largest principal components of z, [customers, 3], and the plane that they span, [2, 3].

    Each component's sign makes its largest loading positive, so that the chart doesn't flip from run to run.
    """
    mean = z.mean(axis=0)
    # A single customer has no variance, and equal ones have none to explain.
    variance, vectors = np.linalg.eigh(np.cov(z, rowvar=False) if len(z) > 1 else np.zeros((3, 3)))
    plane = vectors[:, ::-1][:, :2].T
    plane = plane * np.sign(plane[np.arange(2), np.abs(plane).argmax(axis=1)])[:, None]
    explained = variance[::-1][:2] / (float(variance.sum()) or 1.0)
    first, second = (tuple(_drawn(row)) for row in plane)
    projection = Projection(
        explained=(rounded(float(explained[0])), rounded(float(explained[1]))),
        loadings=((first[0], first[1], first[2]), (second[0], second[1], second[2])),
        centroids=tuple((px, py) for px, py in np.round((centroids - mean) @ plane.T, _DIGITS).tolist()),
    )
    return projection, plane


def _drawn(x: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.round(x, _DIGITS).tolist())
