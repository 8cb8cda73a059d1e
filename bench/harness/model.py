"""The benchmark's model: trained once on the benchmark's orders (Yeo-Johnson, k = 5), fixed so that runs compare."""

from __future__ import annotations

from datetime import UTC, datetime

from segmentation.model import Feature, Segment, SegmentModel, Training


def nearer_at_risk(by: float) -> SegmentModel:
    """Return the model with the centroid of "At Risk" at a recency that is lower by `by`, in z space.

    >>> nearer_at_risk(0.0).version == bench_model().version, nearer_at_risk(0.25).version == bench_model().version
    (True, False)
    """
    model = bench_model()
    segments = []
    for segment in model.segments:
        recency, frequency, monetary = segment.centroid
        moved = recency - by if segment.name == "At Risk" else recency
        segments.append(segment.model_copy(update={"centroid": (moved, frequency, monetary)}))
    return SegmentModel.model_validate(model.model_copy(update={"segments": tuple(segments)}).model_dump())


def bench_model() -> SegmentModel:
    """Return the model: five segments with the trainer's default names."""
    return SegmentModel(
        parent=None,
        features=(
            Feature(
                name="recency_days", transform="yeo-johnson", lam=0.21368197607, mean=4.63924147298, scale=2.03480905119
            ),
            Feature(
                name="frequency", transform="yeo-johnson", lam=0.47482520498, mean=2.75334483605, scale=0.867140265543
            ),
            Feature(
                name="monetary", transform="yeo-johnson", lam=0.587950273097, mean=94.2477924741, scale=30.3474126519
            ),
        ),
        segments=(
            Segment(
                id=1, name="Champions", action="VIP offers", centroid=(-0.385527580511, 1.38370460423, 1.39280654463)
            ),
            Segment(id=2, name="Loyal", action="Points", centroid=(-1.08459488169, 0.404967521487, 0.342350574932)),
            Segment(
                id=3,
                name="Potential Loyalists",
                action="Onboarding",
                centroid=(-0.553745992559, -0.755916159522, -0.810525459811),
            ),
            Segment(id=4, name="At Risk", action="Win-back", centroid=(0.602082215731, 0.103395535547, 0.135795580468)),
            Segment(id=5, name="Lost", action="Last chance", centroid=(1.20777880084, -1.31030189434, -1.24634653223)),
        ),
        margin=0.25,
        training=Training(
            as_of=datetime(2025, 6, 30, tzinfo=UTC),
            customers=198_687,
            k=5,
            silhouette=0.303547159384,
            inertia=163909.724454,
            shares={},
            feature_means={},
            seed=42,
        ),
    )
