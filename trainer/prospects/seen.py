"""Customers of a snapshot as a model sees them: its features, and its decisions at any instant from now on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segmentation.entries import DAY_MS
from segmentation.scorer import Scorer, standardise
from segmentation.scorers import compile_scorer
from trainer.training.outlook_fit import purchases_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.scorers import AnyScorer
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.fit import TrainedModel


@dataclass(frozen=True, slots=True)
class SeenCustomers:
    """All customers of a snapshot. `columns`: a column [customers] of each feature, in the model's order."""

    scorer: AnyScorer
    columns: dict[str, NDArray[np.float64]]
    labels: NDArray[np.int64]  # index of the segment
    last_ms: NDArray[np.int64]  # the last order, before the snapshot: 0 or less
    rest: NDArray[np.float64]

    @classmethod
    def of(cls, snapshot: CustomerSnapshot, trained: TrainedModel) -> SeenCustomers:
        """Look at the customers that a model was trained on."""
        scorer = compile_scorer(trained.model)
        last = snapshot.last_orders_ms()
        if isinstance(scorer, Scorer):
            rest = scorer.rest(snapshot.frequency, snapshot.monetary)
            features = (snapshot.recency_days, snapshot.frequency, snapshot.monetary)
        else:
            purchases = purchases_of(snapshot)
            rest = scorer.rest_of_purchases(purchases)
            features = scorer.columns(purchases)
        columns = dict(zip(trained.model.feature_names, features, strict=True))
        return cls(scorer, columns, trained.labels, last, rest)

    def later(self, days: int) -> NDArray[np.int64]:
        """Return the segment of each customer after so many days without an order, [customers]."""
        at = np.full_like(self.last_ms, days * DAY_MS)
        return self.scorer.decide(self.labels, at, self.last_ms, self.rest)

    def coordinates(self) -> NDArray[np.float64]:
        """Return the customers' coordinates in z space, [customers, 3]."""
        features = self.scorer.model.features
        return np.stack([standardise(x, f) for x, f in zip(self.columns.values(), features, strict=True)], axis=1)
