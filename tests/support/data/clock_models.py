"""A model by each customer's own clock, for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from segmentation.model import Feature, Segment, SegmentModel, Training
from segmentation.model_parts import ModelRates, ModelValues, OutlookModel, OwnClock

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
RATES = ModelRates(r=1.5, alpha=45.0, a=0.6, b=3.0)


def clock_model(rates: ModelRates = RATES, kinds: int = 3, **changes: Any) -> SegmentModel:
    """Return a model of five stages and some kinds of steady customers, with the ids of the benchmark's names."""
    steady = [
        Segment(id=1, name="Champions", action="VIP offers", centroid=(0.1, 1.0, 1.0), stage="steady"),
        Segment(id=2, name="Loyal", action="Points", centroid=(0.1, 0.8, -0.6), stage="steady"),
        Segment(id=6, name="Steady", action="News", centroid=(0.2, -0.7, -0.2), stage="steady"),
    ]
    others = [
        Segment(id=3, name="Potential Loyalists", action="Onboarding", centroid=(0.3, -0.2, 0.0), stage="young"),
        Segment(id=7, name="New", action="Welcome", centroid=(0.2, -0.4, 0.0), stage="new"),
        Segment(id=9, name="About to Sleep", action="Reminder", centroid=(1.5, -0.3, 0.0), stage="quiet"),
        Segment(id=4, name="At Risk", action="Reminder", centroid=(2.0, -0.1, -0.3), stage="at risk"),
        Segment(id=8, name="Cannot Lose", action="Personal call", centroid=(2.0, 0.6, 0.9), stage="at risk, heavy"),
        Segment(id=5, name="Lost", action="Win-back", centroid=(3.5, -0.3, -0.2), stage="lost"),
    ]
    content: dict[str, Any] = {
        "format": 2,
        "parent": None,
        "features": (
            Feature(name="silence_in_gaps", transform="log1p", mean=0.7, scale=0.6),
            Feature(name="orders_per_year", transform="log1p", mean=2.1, scale=0.8),
            Feature(name="order_value", transform="log1p", mean=3.6, scale=0.7),
        ),
        "segments": tuple(steady[:kinds] + others),
        "margin": 0.5,
        "clock": OwnClock(at_risk=0.2, lost=0.05, heavy=60.0),
        "outlook": OutlookModel(rates=rates, values=ModelValues(p=3.4, q=3.3, v=60.0)),
        "training": Training(
            as_of=AS_OF,
            customers=1_000,
            k=kinds,
            silhouette=0.4,
            inertia=None,
            shares={},
            feature_means={},
            seed=42,
        ),
    }
    return SegmentModel(**content | changes)


def random_clock_model(rng: np.random.Generator) -> SegmentModel:
    """Return a model by own clock with any rates, levels and kinds; borders lie where random customers do."""
    at_risk, leaves = float(rng.choice([0.2, 0.3, 0.5])), float(rng.choice([0.0, 0.3, 1.5]))
    model = clock_model(
        ModelRates(
            r=float(rng.choice([0.5, 1.5, 8.0])),
            alpha=float(rng.choice([5.0, 20.0, 60.0])),
            a=leaves,
            b=float(rng.choice([1.2, 4.0])),
            regularity=int(rng.choice([1, 1, 2, 6])),
            stand_in=None if leaves else 0.05,
        ),
        kinds=int(rng.integers(1, 4)),
        margin=float(rng.choice([0, 0.1, 0.5])),
    )
    return model.model_copy(
        update={
            "clock": OwnClock(
                at_risk=at_risk,
                lost=at_risk * float(rng.choice([0.2, 0.7])),
                few=int(rng.choice([2, 3, 5])),
                quiet_gaps=float(rng.choice([0.5, 2.0])),
                lost_gaps=float(rng.choice([3.0, 6.0])),
                heavy=float(rng.choice([20.0, 100.0, 400.0])),
                hysteresis=float(rng.choice([1.0, 1.3])),
            )
        }
    )
