"""Add to the outcome of a training what its segments will do, who could soon leave them, and the models before."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from scipy.stats import rankdata

from segmentation.definitions import definition
from segmentation.event_text import iso
from trainer.outcome import Correlation, PastModel, PastSegment
from trainer.prospects.borders import borders
from trainer.prospects.expected import forecasts, pasts
from trainer.prospects.seen import SeenCustomers
from trainer.training.measure import rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.model import SegmentModel
    from trainer.outcome import TrainingOutcome
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.fit import TrainedModel
    from trainer.training.naming import Lineage

_MILLISECONDS: Final = 1000.0


def foreseen(
    outcome: TrainingOutcome,
    snapshot: CustomerSnapshot,
    trained: TrainedModel,
    lineage: Lineage,
    currency: str | None = None,
) -> TrainingOutcome:
    """Return the outcome of a run that made a model, with all that can be said of its segments."""
    model, customers = trained.model, SeenCustomers.of(snapshot, trained)
    facts = zip(
        outcome.segments,
        model.segments,
        forecasts(snapshot, trained),
        pasts(snapshot, model),
        borders(customers),
        strict=True,
    )
    return msgspec.structs.replace(
        outcome,
        segments=tuple(
            msgspec.structs.replace(
                known, definition=definition(model, segment, currency), forecast=forecast, past=past, border=border
            )
            for known, segment, forecast, past, border in facts
        ),
        correlations=correlations(customers.columns),
        past=tuple(sorted(map(past_model, lineage.past), key=lambda past: past.as_of)),
    )


def past_model(model: SegmentModel) -> PastModel:
    """Return what a model says of its own training."""
    shares = model.training.shares
    return PastModel(
        as_of=iso(round(model.training.as_of.timestamp() * _MILLISECONDS)),
        customers=model.training.customers,
        segments=tuple(PastSegment(id=s.id, name=s.name, share=shares.get(s.name, 0.0)) for s in model.segments),
    )


def correlations(columns: dict[str, NDArray[np.float64]]) -> tuple[Correlation, ...]:
    """Return Spearman's rank correlation of each two columns, [customers] each.

    >>> rising, falling = np.array([1.0, 2.0, 9.0]), np.array([5.0, 4.0, 3.0])
    >>> correlations({"a": rising, "b": falling})
    (Correlation(one='a', other='b', rank=-1.0),)
    """
    ranks = {name: rankdata(x) for name, x in columns.items()}
    return tuple(
        Correlation(one=one, other=other, rank=_correlation(ranks[one], ranks[other]))
        for one, other in combinations(columns, 2)
    )


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    if np.ptp(one) == 0.0 or np.ptp(other) == 0.0:
        return None
    return rounded(float(np.corrcoef(one, other)[0, 1]))
