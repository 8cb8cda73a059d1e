"""Train one k with one transform on a test's customers, as a run does, whatever the gates decide."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trainer.training.learn import Stopwatch, learn
from trainer.training.naming import Lineage
from trainer.training.plan import MIN_CUSTOMERS, TrainingPlan

if TYPE_CHECKING:
    from segmentation.model import Transform
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.fit import TrainedModel


def one_fit(
    k: int = 5, transform: Transform = "yeo-johnson", seed: int = 42, floor: int = MIN_CUSTOMERS
) -> TrainingPlan:
    """Return a plan of a single fit on all customers, without a measure of stability."""
    return TrainingPlan(ks=(k,), transforms=(transform,), fitted="all", rounds=0, seed=seed, floor=floor)


def train(snapshot: CustomerSnapshot, plan: TrainingPlan | None = None, lineage: Lineage | None = None) -> TrainedModel:
    """Return the model of the plan (default: `one_fit()`). Raises FitError where these customers make none."""
    result = learn(
        snapshot,
        plan or one_fit(),
        lineage or Lineage(),
        source="test",
        now_ms=snapshot.as_of_ms,
        watch=Stopwatch(time.perf_counter),
        progress=lambda _step, _done, _total: None,
        force=True,
    )
    assert result.trained is not None
    return result.trained
