"""From a snapshot to a model that may be published, or the reasons why none may: the steps of a run without servers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.event_text import iso
from trainer.errors import FitError
from trainer.outcome import WORTH_GATES, PublicationDecision, RecipeUsed, Timing, TrainingOutcome
from trainer.training.choose import choose, gate
from trainer.training.compare import compare
from trainer.training.describe import describe
from trainer.training.fit import ModelFacts, assemble
from trainer.training.quality import check, examine, only
from trainer.training.search import fit_rows, on_all_customers, search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainer.outcome import Comparison, Gate, Quality
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.choose import ActiveFit, Choice
    from trainer.training.fit import TrainedModel
    from trainer.training.naming import Lineage
    from trainer.training.plan import TrainingPlan
    from trainer.training.search import FitResult, Progress


# The common property of the fitted customers, for error messages.
_HAVING: Final = {"in window": "an order in the window", "ordinary": "no figure of |z| >= 3"}


# Gates on the model, not on its fit: whether it may become active without being asked for.
_ACTIVATING: Final = ("moved", *WORTH_GATES)


def held_back(gate: Gate) -> str:
    """Return what a gate on the model found, as a part of a sentence."""
    if gate.name == "moved":
        return f"{gate.value or 0.0:.1%} of the customers would move, above the limit of {gate.limit:.1%}"
    found = "not measurable" if gate.value is None else f"{gate.value:.3g}"
    return f"on the orders of the last half year {gate.name} is {found}, expected at {gate.bound} {gate.limit:g}"


@dataclass(slots=True)
class Stopwatch:
    """The durations of a run's steps. `clock_s`: seconds of a monotonic clock."""

    clock_s: Callable[[], float]
    timings: list[Timing] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure how long the block takes, unless it raises."""
        begun_s = self.clock_s()
        yield
        self.timings.append(Timing(step=name, seconds=round(self.clock_s() - begun_s, 3)))


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The outcome of a training, and its model; `trained` is None where the gates refused every fit.

    `outcome` has the verdict "refused", or "dry-run" as long as nothing is published.
    """

    outcome: TrainingOutcome
    trained: TrainedModel | None

    @property
    def may_activate(self) -> bool:
        """Whether the model may be activated without being asked for."""
        return self.trained is not None and not self.holding_back

    @property
    def holding_back(self) -> tuple[Gate, ...]:
        """The gates that keep a model a candidate. A first model goes ahead: the alternative is no segments at all."""
        if self.outcome.parent is None:
            return ()
        return tuple(g for g in self.outcome.decision.gates if not g.passed and g.name in _ACTIVATING)


def learn(
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
    """Check the input, fit, choose, name and compare. Raises FitError where no model can be made at all.

    1. The quality of the input: too few customers, a figure that is no number, or a feature equal for all raise here.
    2. A fit for every k and transform, each measured and judged by the gates.
    3. The choice. Where no fit passes, the result is a refusal, unless forced.
    4. Lasting ids and names, matched to the active model; then all customers under both models.
    """
    with watch.step("quality"):
        quality = _examined(snapshot, plan)
    with watch.step("fits"):
        fits = search(snapshot, plan, lineage, progress)
    choice = choose([one.fit for one in fits], plan, _active_fit(lineage), force=force)
    refusal = TrainingOutcome(
        recipe=recipe_used(plan),
        source=source,
        as_of=iso(snapshot.as_of_ms),
        trained_at=iso(now_ms),
        window_days=snapshot.window_days,
        quality=quality,
        fits=tuple(msgspec.structs.replace(one.fit, chosen=i == choice.index) for i, one in enumerate(fits)),
        chosen=choice.index,
        parent=lineage.active.version if lineage.active else None,
        decision=PublicationDecision(verdict="refused", why=choice.why),
        timings=tuple(watch.timings),
    )
    if choice.index is not None:
        return _result(snapshot, plan, lineage, fits[choice.index], choice, refusal, watch)
    if all(one.fit.failure for one in fits):
        raise FitError(" ".join(choice.why))
    return TrainingResult(refusal, None)


def _examined(snapshot: CustomerSnapshot, plan: TrainingPlan) -> Quality:
    """Check all customers, and those that are fitted where these are fewer. Raises FitError."""
    check(snapshot, plan.floor)
    keep = fit_rows(snapshot, plan)
    if not keep.all():
        check(only(snapshot, keep), plan.floor, _HAVING[plan.fitted])
    return examine(snapshot, int((~keep).sum()))


def _result(
    snapshot: CustomerSnapshot,
    plan: TrainingPlan,
    lineage: Lineage,
    chosen: FitResult,
    choice: Choice,
    refusal: TrainingOutcome,
    watch: Stopwatch,
) -> TrainingResult:
    """Make the model of the chosen fit, compare it with the active one and describe it. Raises FitError."""
    with watch.step("model"):
        trained = _model(snapshot, plan, lineage, chosen, choice)
    with watch.step("comparison"):
        comparison = compare(snapshot, trained.model, lineage)
    with watch.step("description"):
        segments, sample, projection = describe(snapshot, trained, lineage)
    outcome = msgspec.structs.replace(
        refusal,
        version=trained.model.version,
        segments=segments,
        sample=sample,
        projection=projection,
        comparison=comparison,
        decision=PublicationDecision(
            verdict="dry-run",
            why=choice.why,
            gates=chosen.fit.gates + moved_gate(comparison, plan),
            forced=choice.forced,
        ),
        timings=tuple(watch.timings),
        warnings=tuple(trained.model.warnings()),
    )
    return TrainingResult(outcome, trained)


def _model(
    snapshot: CustomerSnapshot, plan: TrainingPlan, lineage: Lineage, chosen: FitResult, choice: Choice
) -> TrainedModel:
    clusters = on_all_customers(snapshot, chosen, plan)
    notes = {
        "recipe": plan.name,
        "fits": f"k = {', '.join(map(str, plan.ks))} with {', '.join(plan.transforms)}",
        "choice": choice.why[0],
    }
    if chosen.fit.stability is not None:
        notes["stability"] = f"{chosen.fit.stability:.3f}"
    # `on_all_customers` has raised where there are none.
    assert chosen.features is not None
    return assemble(
        snapshot, chosen.features, clusters, lineage, ModelFacts(plan.seed, plan.margin, choice.forced, notes)
    )


def _active_fit(lineage: Lineage) -> ActiveFit | None:
    if lineage.active is None:
        return None
    # The transform of recency, which is never negative: that of money may be log1p in place of Yeo-Johnson.
    return lineage.active.features[0].transform, len(lineage.active.segments)


def moved_gate(comparison: Comparison | None, plan: TrainingPlan) -> tuple[Gate, ...]:
    """Return the gate on the customers whom the model alone would move; none without an active model."""
    return () if comparison is None else (gate("moved", comparison.moved, plan.most_moved, "most"),)


def recipe_used(plan: TrainingPlan) -> RecipeUsed:
    """Return the settings that decided the model, as the outcome has them."""
    return RecipeUsed(
        name=plan.name,
        choice="asked" if len(plan.ks) * len(plan.transforms) == 1 else plan.way,
        k=plan.ks,
        transforms=plan.transforms,
        fitted=plan.fitted,
        starts=plan.starts,
        rounds=plan.rounds,
        seed=plan.seed,
        floor=plan.floor,
        smallest_share=plan.smallest_share,
        largest_share=plan.largest_share,
        least_stability=plan.least_stability,
        most_moved=plan.most_moved,
        margin=plan.margin,
    )
