"""From a snapshot to a model that may be published, or the reasons why none may: the steps of a run that touch no server."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from segmentation.events import iso
from trainer.errors import FitError
from trainer.outcome import PublicationDecision, RecipeUsed, Timing, TrainingOutcome
from trainer.training.choose import Choice, choose, gate
from trainer.training.compare import compare
from trainer.training.describe import describe
from trainer.training.fit import ModelFacts, assemble
from trainer.training.quality import check, examine, only
from trainer.training.search import FitResult, fit_rows, search, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainer.outcome import Comparison, Gate
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.choose import ActiveFit
    from trainer.training.fit import Trained
    from trainer.training.naming import Lineage
    from trainer.training.plan import TrainingPlan
    from trainer.training.search import Progress


_HAVING: Final = {"in window": "an order in the window", "ordinary": "no figure of |z| >= 3"}


@dataclass(slots=True)
class Stopwatch:
    """Takes the time of each step. `clock_s`: seconds, only ever rising."""

    clock_s: Callable[[], float]
    timings: list[Timing] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done in the block, if it ends well."""
        begun_s = self.clock_s()
        yield
        self.timings.append(Timing(step=name, seconds=round(self.clock_s() - begun_s, 3)))


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a snapshot. `trained` is None where the gates refused every fit.

    `outcome` has the verdict "refused", or "dry-run" as long as nothing is published.
    """

    outcome: TrainingOutcome
    trained: Trained | None

    @property
    def may_activate(self) -> bool:
        """Whether the model moves few enough customers to become active by itself."""
        return self.trained is not None and all(g.passed for g in self.outcome.decision.gates if g.name == "moved")


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
    """Look at the input, fit, choose, match, name and compare. Raises FitError where no model can be made at all.

    1. The quality of the input: too few customers, no number, a feature alike for all end the run here.
    2. A fit for every k and transform, each measured and judged by the gates.
    3. The choice. With none that passes the lesson is a refusal, unless forced.
    4. Lasting ids and names by the active model, then all customers by both models.
    """
    with watch.step("quality"):
        check(snapshot, plan.floor)
        keep = fit_rows(snapshot, plan)
        if not keep.all():
            check(only(snapshot, keep), plan.floor, _HAVING[plan.fitted])
        quality = examine(snapshot, int((~keep).sum()))
    with watch.step("fits"):
        found = search(snapshot, plan, lineage, progress)
    choice = choose([one.fit for one in found], plan, _active(lineage), force=force)
    outcome = TrainingOutcome(
        recipe=_used(plan),
        source=source,
        as_of=iso(snapshot.as_of_ms),
        trained_at=iso(now_ms),
        quality=quality,
        fits=tuple(msgspec.structs.replace(one.fit, chosen=i == choice.index) for i, one in enumerate(found)),
        chosen=choice.index,
        parent=lineage.active.version if lineage.active else None,
        decision=PublicationDecision(verdict="refused", why=choice.why),
        timings=tuple(watch.timings),
    )
    if choice.index is None:
        if all(one.fit.failure for one in found):
            raise FitError(" ".join(choice.why))
        return TrainingResult(outcome, None)
    with watch.step("model"):
        trained = _model(snapshot, plan, lineage, found[choice.index], choice)
    with watch.step("comparison"):
        comparison = compare(snapshot, trained.model, lineage)
    with watch.step("description"):
        segments, sample, projection = describe(snapshot, trained, lineage)
    outcome = msgspec.structs.replace(
        outcome,
        version=trained.model.version,
        segments=segments,
        sample=sample,
        projection=projection,
        comparison=comparison,
        decision=PublicationDecision(
            verdict="dry-run",
            why=choice.why,
            gates=found[choice.index].fit.gates + _moved(comparison, plan),
            forced=choice.forced,
        ),
        timings=tuple(watch.timings),
        warnings=tuple(trained.model.warnings()),
    )
    return TrainingResult(outcome, trained)


def _model(
    snapshot: CustomerSnapshot, plan: TrainingPlan, lineage: Lineage, found: FitResult, choice: Choice
) -> Trained:
    clusters = whole(snapshot, found, plan)
    notes = {
        "recipe": plan.name,
        "fits": f"k = {', '.join(map(str, plan.ks))} with {', '.join(plan.transforms)}",
        "choice": choice.why[0],
    }
    if found.fit.stability is not None:
        notes["stability"] = f"{found.fit.stability:.3f}"
    # `whole` has made sure that there are features.
    assert found.features is not None
    return assemble(
        snapshot, found.features, clusters, lineage, ModelFacts(plan.seed, plan.margin, choice.forced, notes)
    )


def _active(lineage: Lineage) -> ActiveFit | None:
    if lineage.active is None:
        return None
    # Of recency, which is never negative: money may have fallen back to log1p.
    return lineage.active.features[0].transform, len(lineage.active.segments)


def _moved(comparison: Comparison | None, plan: TrainingPlan) -> tuple[Gate, ...]:
    return () if comparison is None else (gate("moved", comparison.moved, plan.most_moved, "most"),)


def _used(plan: TrainingPlan) -> RecipeUsed:
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
