"""Choose the fit that becomes the model: the best silhouette that passes the gates, the silhouette alone, or the elbow.

The reasons are sentences of the report. The first one also stands in the model, so its words are part of the version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from trainer.outcome import Fit, Gate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.training.plan import TrainingPlan

# Transform and k of the active model.
ActiveFit = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """The index of the chosen fit, None where none passes, and the reasons, in sentences. `forced`: it fails a gate."""

    index: int | None
    why: tuple[str, ...]
    forced: bool = False


def gate(name: str, value: float | None, limit: float, bound: Literal["least", "most"]) -> Gate:
    """Judge one figure. One that couldn't be measured, None, doesn't pass.

    >>> gate("smallest share", 0.02, 0.02, "least").passed, gate("stability", None, 0.8, "least").passed
    (True, False)
    """
    passed = value is not None and (value >= limit if bound == "least" else value <= limit)
    return Gate(name=name, value=value, limit=limit, bound=bound, passed=passed)


def gates_of(fit: Fit, plan: TrainingPlan) -> tuple[Gate, ...]:
    """Judge a fit by the plan. A recipe without gates has none, and a plan without resamples has none of stability."""
    if plan.way != "gates":
        return ()
    shares = (
        gate("smallest share", fit.smallest_share, plan.smallest_share, "least"),
        gate("largest share", fit.largest_share, plan.largest_share, "most"),
    )
    return (*shares, gate("stability", fit.stability, plan.least_stability, "least")) if plan.rounds else shares


def choose(fits: Sequence[Fit], plan: TrainingPlan, active: ActiveFit | None, *, force: bool) -> Choice:
    """Choose a fit by the plan's `way`. `force`: where no fit passes the gates, choose the best silhouette of all."""
    fitted = [i for i, fit in enumerate(fits) if fit.failure is None]
    if not fitted:
        return Choice(None, ("No k could be fitted.", *_failures(fits)))
    if plan.way == "elbow":
        return _at_elbow(fits, fitted)
    passing = [i for i in fitted if all(g.passed for g in fits[i].gates)]
    if passing:
        return _best(fits, passing, plan, active)
    reasons = tuple(_failed(fits[i]) for i in fitted)
    if not force:
        return Choice(None, ("No fit passes the gates, so nothing was published.", *reasons))
    best = max(fitted, key=lambda i: _silhouette(fits[i]))
    forced = f"No fit passes the gates; {_named(fits[best])} has the best silhouette of all and was forced."
    return Choice(best, (forced, *reasons), forced=True)


def _best(fits: Sequence[Fit], passing: list[int], plan: TrainingPlan, active: ActiveFit | None) -> Choice:
    """Choose the best silhouette; with gates, the active model's k and transform while they come near enough to it."""
    best = max(passing, key=lambda i: _silhouette(fits[i]))
    if len(fits) == 1:
        gates = ", and it passes the gates" if plan.way == "gates" else ""
        return Choice(best, (f"{_named(fits[best])} was asked for{gates}.",))
    among = f"of the {len(passing)} of {len(fits)} fits that pass the gates" if plan.way == "gates" else "of all fits"
    best_of = f"{_named(fits[best])} has the best silhouette {among}: {_silhouette(fits[best]):.3f}."
    same = next((i for i in passing if (fits[i].transform, fits[i].k) == active), best)
    advantage = _silhouette(fits[best]) - _silhouette(fits[same])
    if plan.way != "gates" or same == best or advantage > plan.keep_within:
        return Choice(best, (best_of,))
    kept = (
        f"{_named(fits[same])} is kept from the active model: the best silhouette, of {_named(fits[best])}, is only "
        f"{advantage:.3f} higher, and {plan.keep_within:g} is what a change must be worth."
    )
    return Choice(same, (kept,))


def _at_elbow(fits: Sequence[Fit], fitted: list[int]) -> Choice:
    if len({fits[i].transform for i in fitted}) > 1:
        return Choice(None, ("The elbow is found over k for one transform.", "Several were asked for: give one."))
    ks = [fits[i].k for i in fitted]
    found = elbow(ks, [fits[i].inertia or 0.0 for i in fitted])
    if found is None:
        none = f"The inertia over k = {', '.join(map(str, ks))} has no elbow."
        return Choice(fitted[0], (none, "Only one k was asked for.")) if len(ks) == 1 else Choice(None, (none,))
    return Choice(fitted[ks.index(found)], (f"The inertia over k has its elbow at k = {found}.",))


def elbow(ks: Sequence[int], inertias: Sequence[float], sensitivity: float = 1.0) -> int | None:
    """Find the elbow of a falling, convex curve; None where there isn't one.

    Satopää, Albrecht, Irwin and Raghavan, "Finding a 'Kneedle' in a Haystack", ICDCS Workshops 2011 (offline form, as
    the package kneed has it, without smoothing): both axes scaled to 0 … 1, the curve turned to rise; a local maximum
    of its height over the diagonal is an elbow once the height falls below that maximum by `sensitivity` mean steps.

    >>> elbow(range(2, 9), [7737, 4441, 3202, 2630, 2224, 1921, 1684])
    4
    >>> elbow([2, 3, 4], [3.0, 2.0, 1.0]) is None
    True
    """
    x, y = np.asarray(ks, dtype=np.float64), np.asarray(inertias, dtype=np.float64)
    if len(x) < 3 or np.ptp(y) <= 0.0:
        return None
    x, y = (x - x.min()) / np.ptp(x), (y - y.min()) / np.ptp(y)
    height = (1.0 - y) - x
    allowance = sensitivity * float(np.abs(np.diff(x)).mean())
    for i in range(1, len(x) - 1):
        if not (height[i] > 1e-12 and height[i - 1] < height[i] >= height[i + 1]):
            continue
        after = height[i + 1 :]
        higher = np.flatnonzero(after > height[i])
        until = int(higher[0]) if len(higher) else len(after)
        if (after[:until] < height[i] - allowance).any():
            return int(ks[i])
    return None


def _named(fit: Fit) -> str:
    return f"k = {fit.k} with {fit.transform}"


def _silhouette(fit: Fit) -> float:
    return -1.0 if fit.silhouette is None else fit.silhouette


def _failures(fits: Sequence[Fit]) -> tuple[str, ...]:
    """Return each failure once, with the first fit that has it: a feature that can't be used fails for every k."""
    first: dict[str | None, Fit] = {}
    for fit in fits:
        first.setdefault(fit.failure, fit)
    return tuple(f"{_named(fit)}: {failure}" for failure, fit in first.items())


def _failed(fit: Fit) -> str:
    failed = [
        f"{g.name} {'not measurable' if g.value is None else f'{g.value:.3g}'} (at {g.bound} {g.limit:g})"
        for g in fit.gates
        if not g.passed
    ]
    return f"{_named(fit)} fails by {', '.join(failed)}."
