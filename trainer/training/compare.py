"""Compare a new model with the active one: the same customers, at the same instant, under both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segmentation.clock_scorer import ClockScorer
from segmentation.scorer import UNKNOWN
from segmentation.scorers import compile_scorer
from trainer.outcome import Comparison, SegmentBefore
from trainer.training.measure import rounded
from trainer.training.outlook_fit import purchases_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.model import SegmentModel
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.naming import Lineage


def compare(snapshot: CustomerSnapshot, model: SegmentModel, lineage: Lineage) -> Comparison | None:
    """Return the movement of all customers from the active model to the new one; None without an active model.

    The worker's scorer decides: a customer leaves a segment that both models have only for one nearer by more than the
    margin.
    """
    active = lineage.active
    if active is None:
        return None
    before = segment_indices(snapshot, active)
    ids_before = np.array([s.id for s in active.segments])[before]
    ids_after = np.array([s.id for s in model.segments])
    after = segment_indices(snapshot, model, ids_before)
    fresh = segment_indices(snapshot, model)
    shape = len(active.segments), len(model.segments)
    moves = np.zeros(shape, dtype=np.int64)
    money = np.zeros(shape)
    np.add.at(moves, (before, after), 1)
    np.add.at(money, (before, after), snapshot.spending(whole_lives=model.format == 2).money)
    return Comparison(
        version=active.version,
        activation=lineage.activation,
        before=tuple(
            SegmentBefore(id=s.id, name=s.name, customers=int(moves[i].sum()), money=rounded(float(money[i].sum())))
            for i, s in enumerate(active.segments)
        ),
        moves=tuple(tuple(row) for row in moves.tolist()),
        money=tuple(tuple(rounded(m) for m in row) for row in money.tolist()),
        moved=float(np.mean(ids_after[after] != ids_before)),
        moved_without_margin=float(np.mean(ids_after[fresh] != ids_before)),
    )


def segment_indices(
    snapshot: CustomerSnapshot, model: SegmentModel, announced: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the index of each customer's segment under a model, [customers].

    `announced`: the ids of the segments that the customers are in, [customers]; None: in none.
    """
    scorer = compile_scorer(model)
    known = (
        np.full(len(snapshot.customers), UNKNOWN)
        if announced is None
        else scorer.index_from_ids(announced.astype(np.uint16))
    )
    if isinstance(scorer, ClockScorer):
        rest = scorer.rest_of_purchases(purchases_of(snapshot))
    else:
        rest = scorer.rest(snapshot.frequency, snapshot.monetary)
    # Only the difference to `at` counts, so it is zero.
    last = snapshot.last_orders_ms()
    return scorer.decide(known, np.zeros_like(last), last, rest)
