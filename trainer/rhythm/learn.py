"""From a snapshot to a model of stages by each customer's own clock, and kinds of steady customers.

The definitions of the stages are absolute: the same at every training, whatever the customers. Learnt are the outlook,
which says what a long silence is for whom, the border of being heavy, and the kinds. Where the history is too short for
one of them, careful figures or a single kind stand in, and the outcome says so: there is always a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from pydantic import ValidationError

from segmentation.clock_scorer import ClockScorer
from segmentation.event_text import iso
from segmentation.model import CLOCK_FEATURES, Feature, Segment, SegmentModel, Training
from segmentation.model_parts import STAGES, OwnClock
from segmentation.outlook import Purchases
from trainer.errors import FitError
from trainer.outcome import PublicationDecision, TrainingOutcome
from trainer.rhythm.centroids import judged_by_centroids
from trainer.rhythm.history import LearntOutlook, learn_outlook, with_corrections
from trainer.rhythm.kinds import find_kinds, kept_kinds
from trainer.rhythm.names import name_all
from trainer.rhythm.worth import judged
from trainer.training.compare import compare
from trainer.training.describe import describe
from trainer.training.fit import TrainedModel, coordinates, histogram
from trainer.training.learn import TrainingResult, learn, moved_gate, recipe_used
from trainer.training.measure import rounded
from trainer.training.naming import Lineage
from trainer.training.outlook_fit import purchases_of
from trainer.training.quality import check_finite, examine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.model_parts import Stage
    from trainer.outcome import Comparison
    from trainer.rhythm.kinds import Kinds
    from trainer.rhythm.worth import RecipeWorth
    from trainer.snapshot.orders import OrderBook
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.learn import Stopwatch
    from trainer.training.plan import TrainingPlan
    from trainer.training.search import Progress

# Who counts as heavy: the top fifth by expected money a month.
HEAVY_SHARE: Final = 0.2


def learn_by_recipe(
    snapshot: CustomerSnapshot,
    plan: TrainingPlan,
    lineage: Lineage,
    *,
    source: str,
    now_ms: int,
    watch: Stopwatch,
    progress: Progress,
    force: bool = False,
    book: OrderBook | None = None,
) -> TrainingResult:
    """Train by the plan's recipe. Models by centroids get an outlook too, where the history allows it.

    `book`: orders of the customers, or of a sample of them, to judge what the segments would have been worth.
    Raises FitError where no model can be made at all.
    """
    if plan.name == "rhythm":
        with watch.step("worth"):
            progress("replaying the last half year", 0, 1)
            worth = judged(book, snapshot.as_of_ms, plan, lineage, partial(_model_then, progress=progress))
        result = learn_rhythm(
            snapshot, worth.plan, lineage, source=source, now_ms=now_ms, watch=watch, progress=progress, force=force
        )
        return TrainingResult(_with_worth(result.outcome, worth), result.trained)
    result = learn(snapshot, plan, lineage, source=source, now_ms=now_ms, watch=watch, progress=progress, force=force)
    if result.trained is None or snapshot.life is None:
        return result
    with watch.step("outlook"):
        learnt = with_corrections(learn_outlook(snapshot, plan.seed), snapshot, plan.seed)
    outcome = msgspec.structs.replace(result.outcome, history=learnt.checks)
    if book is not None:
        with watch.step("worth"):
            progress("replaying the last half year", 0, 1)
            found = judged_by_centroids(book, snapshot.as_of_ms, plan, result.trained.model)
        decision = msgspec.structs.replace(outcome.decision, why=(*outcome.decision.why, found.why))
        outcome = msgspec.structs.replace(outcome, later=found.later, decision=decision)
    outcome = msgspec.structs.replace(outcome, timings=tuple(watch.timings))
    if not learnt.fitted:
        return TrainingResult(outcome, result.trained)
    model = result.trained.model.model_copy(update={"outlook": learnt.model})
    outcome = msgspec.structs.replace(outcome, version=model.version)
    return TrainingResult(outcome, TrainedModel(model, result.trained.labels))


def _model_then(snapshot: CustomerSnapshot, plan: TrainingPlan, *, progress: Progress) -> SegmentModel | None:
    """Return the model of an earlier snapshot, as a first training would have made it; None: too short a history."""
    purchases = purchases_of(snapshot)
    learnt = learn_outlook(snapshot, plan.seed)
    if not learnt.fitted:
        return None
    staged = _staged(purchases, snapshot, learnt, plan)
    kinds = find_kinds(staged.columns, staged.of("steady"), plan, Lineage(), progress)
    return _model(staged, kinds, plan, Lineage()).model


def _with_worth(outcome: TrainingOutcome, worth: RecipeWorth) -> TrainingOutcome:
    decision = msgspec.structs.replace(
        outcome.decision, why=outcome.decision.why + worth.why, gates=outcome.decision.gates + worth.gates
    )
    return msgspec.structs.replace(outcome, later=worth.later, decision=decision)


def learn_rhythm(
    snapshot: CustomerSnapshot,
    plan: TrainingPlan,
    lineage: Lineage,
    *,
    source: str,
    now_ms: int,
    watch: Stopwatch,
    progress: Progress,
    force: bool = False,
) -> TrainingResult:
    """Learn outlook, borders and kinds. Raises FitError for a snapshot without lives, or with a figure that is none.

    1. The outlook: fitted, or careful figures where the history is too short.
    2. The stage of each customer, by the worker's own scorer.
    3. The kinds of those who are steady.
    4. Ids and names that last; then all customers under the active model and this one.
    """
    with watch.step("quality"):
        check_finite(snapshot)
        purchases = purchases_of(snapshot)
        quality = examine(snapshot, whole_lives=True)
    with watch.step("outlook"):
        progress("outlook", 0, 1)
        learnt = with_corrections(learn_outlook(snapshot, plan.seed), snapshot, plan.seed)
    staged = _staged(purchases, snapshot, learnt, plan)
    with watch.step("fits"):
        kinds = find_kinds(staged.columns, staged.of("steady"), plan, lineage, progress)
    seen = staged.snapshot
    with watch.step("model"):
        kinds, trained, comparison = _steadily(staged, kinds, plan, lineage, force=force)
    with watch.step("description"):
        segments, sample, projection = describe(seen, trained, lineage)
    chosen = kinds.choice.index
    gates = kinds.fits[chosen].gates if chosen is not None else ()
    outcome = TrainingOutcome(
        recipe=recipe_used(plan),
        source=source,
        as_of=iso(snapshot.as_of_ms),
        trained_at=iso(now_ms),
        window_days=snapshot.window_days,
        whole_lives=True,
        version=trained.model.version,
        parent=lineage.active.version if lineage.active else None,
        quality=quality,
        history=learnt.checks,
        fits=tuple(msgspec.structs.replace(fit, chosen=i == chosen) for i, fit in enumerate(kinds.fits)),
        chosen=chosen,
        segments=segments,
        sample=sample,
        projection=projection,
        comparison=comparison,
        decision=PublicationDecision(
            verdict="dry-run", why=kinds.choice.why + learnt.notes, gates=gates + moved_gate(comparison, plan)
        ),
        timings=tuple(watch.timings),
        warnings=tuple(trained.model.warnings()),
    )
    return TrainingResult(outcome, trained)


def _steadily(
    staged: _Staged, kinds: Kinds, plan: TrainingPlan, lineage: Lineage, *, force: bool
) -> tuple[Kinds, TrainedModel, Comparison | None]:
    """Return the model with these kinds; with those of the active one where new ones would move too many customers.

    Otherwise a shop that gets a second kind, or another number of them, would have no new model for as long as that
    moves more customers than the limit: its stages would go by an old outlook.
    """
    trained = _model(staged, kinds, plan, lineage)
    comparison = compare(staged.snapshot, trained.model, lineage)
    if force or comparison is None or comparison.moved <= plan.kinds_moved:
        return kinds, trained, comparison
    why = (
        f"The active model's kinds stay: others would move {comparison.moved:.1%} of the customers, above the limit of "
        f"{plan.kinds_moved:.1%} (`segtrainer run --force --activate` takes them all the same)."
    )
    kept = kept_kinds(kinds, lineage, why)
    if kept is None:
        return kinds, trained, comparison
    calmer = _model(staged, kept, plan, lineage)
    moves_less = compare(staged.snapshot, calmer.model, lineage)
    assert moves_less is not None
    if moves_less.moved >= comparison.moved:
        return kinds, trained, comparison
    return kept, calmer, moves_less


@dataclass(frozen=True, slots=True)
class _Staged:
    """Customers by their stages. `snapshot` has the three features as columns, `columns` are those."""

    snapshot: CustomerSnapshot
    purchases: Purchases
    learnt: LearntOutlook
    clock: OwnClock
    columns: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    stage: NDArray[np.int64]  # index in STAGES

    def of(self, stage: Stage) -> NDArray[np.bool_]:
        """Return who is in a stage, [customers]."""
        inside: NDArray[np.bool_] = self.stage == STAGES.index(stage)
        return inside


def _staged(purchases: Purchases, snapshot: CustomerSnapshot, learnt: LearntOutlook, plan: TrainingPlan) -> _Staged:
    """Judge everybody by a model that has one kind only: the stages don't depend on the kinds."""
    clock = OwnClock(at_risk=plan.at_risk, lost=plan.lost, few=plan.few, heavy=0.0)
    pace, value = ClockScorer(_unnamed(learnt, clock, snapshot)).features(purchases)
    money = pace * value / 12.0
    heavy = rounded(max(float(np.quantile(money, 1.0 - HEAVY_SHARE)), 0.0))
    clock = clock.model_copy(update={"heavy": heavy})
    scorer = ClockScorer(_unnamed(learnt, clock, snapshot))
    stage = _placed(scorer, purchases, snapshot)
    columns = scorer.columns(purchases)
    named = snapshot.with_columns(dict(zip(CLOCK_FEATURES, columns, strict=True)))
    return _Staged(named, purchases, learnt, clock, columns, stage)


def _placed(scorer: ClockScorer, purchases: Purchases, snapshot: CustomerSnapshot) -> NDArray[np.int64]:
    """Return the index of each customer's segment, as if nobody had been in one, [customers]."""
    last = snapshot.last_orders_ms()
    return scorer.place(purchases, np.zeros_like(last), last)


def _unnamed(learnt: LearntOutlook, clock: OwnClock, snapshot: CustomerSnapshot) -> SegmentModel:
    """Return a model with one segment for each stage, in their order, to judge by."""
    features = tuple(
        Feature.model_validate({"name": name, "transform": "log1p", "mean": 0.0, "scale": 1.0})
        for name in CLOCK_FEATURES
    )
    origin = (0.0, 0.0, 0.0)
    return SegmentModel.model_validate(
        {
            "format": 2,
            "parent": None,
            "features": features,
            "segments": tuple(
                Segment(id=i, name=stage, action="", centroid=origin, stage=stage) for i, stage in enumerate(STAGES, 1)
            ),
            "training": _training(snapshot, 1, 0),
            "clock": clock,
            "outlook": learnt.model,
        }
    )


def _model(staged: _Staged, kinds: Kinds, plan: TrainingPlan, lineage: Lineage) -> TrainedModel:
    """Name the segments, and place everybody in them by the worker's own scorer. Raises FitError."""
    called, stages = name_all(kinds.centroids, kinds.features, lineage)
    z = coordinates(staged.snapshot, kinds.features)
    segments = [
        Segment(
            id=one.id,
            name=one.name,
            action=one.action,
            centroid=_centre(z[staged.of(stage)]),
            stage=stage,
        )
        for stage, one in stages.items()
    ]
    segments += [
        Segment(id=one.id, name=one.name, action=one.action, centroid=tuple(centroid), stage="steady")
        for one, centroid in zip(called, kinds.centroids.tolist(), strict=True)
    ]
    segments.sort(key=lambda segment: segment.id)
    content = {
        "format": 2,
        "parent": lineage.active.version if lineage.active else None,
        "features": kinds.features,
        "segments": tuple(segments),
        "margin": plan.margin,
        "training": _training(staged.snapshot, len(called), plan.seed),
        "clock": staged.clock,
        "outlook": staged.learnt.model,
    }
    try:
        model = SegmentModel.model_validate(content)
    except ValidationError as error:
        reasons = "; ".join(finding["msg"].removeprefix("Value error, ") for finding in error.errors())
        raise FitError(f"{len(called)} kinds make no usable model: {reasons}.", hint="Try a smaller --k.") from None
    labels = _placed(ClockScorer(model), staged.purchases, staged.snapshot)
    training = _facts(staged, kinds, plan, model, labels, z)
    model = SegmentModel.model_validate(content | {"training": training})
    return TrainedModel(model, labels)


def _centre(z: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return where these customers lie, [customers, 3]; the middle of all where there are none."""
    if not len(z):
        return 0.0, 0.0, 0.0
    silence, pace, value = z.mean(axis=0).tolist()
    return rounded(silence), rounded(pace), rounded(value)


def _training(snapshot: CustomerSnapshot, k: int, seed: int) -> Training:
    return Training(
        as_of=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=snapshot.as_of_ms),
        customers=len(snapshot.customers),
        k=k,
        silhouette=None,
        inertia=None,
        shares={},
        feature_means={},
        seed=seed,
    )


def _facts(
    staged: _Staged,
    kinds: Kinds,
    plan: TrainingPlan,
    model: SegmentModel,
    labels: NDArray[np.int64],
    z: NDArray[np.float64],
) -> Training:
    """Return the facts of the training. `distance` is that of steady customers to their kinds: no other one decides."""
    counts = np.bincount(labels, minlength=len(model.segments)).tolist()
    notes = {
        "recipe": plan.name,
        "left_out": f"{staged.snapshot.left_out} customers without an order that stands",
        "choice": kinds.choice.why[0],
        "outlook": "fitted" if staged.learnt.fitted else staged.learnt.notes[0],
    }
    columns = dict(zip(CLOCK_FEATURES, staged.columns, strict=True))
    del z
    return _training(staged.snapshot, len(kinds.centroids), plan.seed).model_copy(
        update={
            "silhouette": kinds.quality.silhouette if kinds.quality else None,
            "inertia": kinds.quality.inertia if kinds.quality else None,
            "shares": {s.name: rounded(n / len(labels)) for s, n in zip(model.segments, counts, strict=True)},
            "feature_means": {name: rounded(float(np.mean(x))) for name, x in columns.items()},
            "histograms": {name: histogram(x) for name, x in columns.items()},
            "notes": notes,
        }
    )
