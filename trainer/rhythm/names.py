"""Ids, names and actions of the segments of `rhythm`: by definition, and lasting from one training to the next.

A stage is the same at every training, so it keeps the id that the active model has for it, or for its name. A kind of
steady customers keeps id and name as long as a cluster lies where it lay and the name fits. Where the name doesn't fit
any more, the kind is another segment: events go by name, and each `from` is the `to` before, so no name of an id ever
changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trainer.training.naming import carried, lasting, untransformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segmentation.model import Feature, Segment, SegmentModel
    from segmentation.model_parts import Stage
    from trainer.training.naming import Lineage

# In standard deviations: a kind keeps its name until it lies so far beyond the border of the definition. Otherwise a
# kind near the border would be another segment at every training.
NAME_SLACK: Final = 0.25
# A kind that lies on the mean isn't above it: where all orders are of one value, nobody spends more than others.
_ON_THE_MEAN: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Called:
    """The lasting id of a segment, its name and its default action."""

    id: int
    name: str
    action: str


# The names of stages, and their actions. On rhythm nobody gets a discount, and nobody is asked to come back.
STAGE_NAMES: Final[dict[Stage, tuple[str, str]]] = {
    "young": ("Potential Loyalists", "Onboarding"),
    "new": ("New", "Welcome series"),
    "quiet": ("About to Sleep", "Reminder of what they liked"),
    "at risk, heavy": ("Cannot Lose", "Personal call"),
    "at risk": ("At Risk", "Reminder of what they liked"),
    "lost": ("Lost", "Win-back with 20 % off"),
}
# By whether orders a year, and the value of an order, are above the mean of steady customers.
KIND_NAMES: Final[dict[tuple[bool, bool], tuple[str, str]]] = {
    (True, True): ("Champions", "Early access and thanks"),
    (True, False): ("Loyal", "Points and premium products"),
    (False, True): ("Big Spenders", "Premium range and personal advice"),
    (False, False): ("Steady", "News of what they buy"),
}
_STEADY: Final = KIND_NAMES[False, False]


def name_all(
    kinds: NDArray[np.float64], features: Sequence[Feature], lineage: Lineage
) -> tuple[list[Called], dict[Stage, Called]]:
    """Return what the kinds and the stages are called. `kinds`: [kinds, 3] in the z space of `features`."""
    near = _kept(kinds, features, lineage.active)
    named = _kind_names(kinds, features, {kind: segment.name for kind, segment in near.items()})
    before = {kind: segment for kind, segment in near.items() if segment.name == named[kind][0]}
    active = lineage.active.segments if lineage.active else ()
    by_stage = {segment.stage: segment.id for segment in active if segment.stage not in (None, "steady")}
    by_name = {segment.name: segment.id for segment in active}
    taken = {segment.id for segment in before.values()} | set(by_stage.values())
    fresh = lineage.highest_id

    def id_of(name: str) -> int:
        nonlocal fresh
        known = by_name.get(name)
        if known is None or known in taken:
            fresh += 1
            known = fresh
        taken.add(known)
        return known

    # In this order ids are given where there are none yet.
    order = sorted(range(len(kinds)), key=lambda kind: _rank(named[kind][0]))
    ids = {kind: before[kind].id if kind in before else id_of(named[kind][0]) for kind in order}
    stages: dict[Stage, Called] = {}
    for stage, (name, action) in STAGE_NAMES.items():
        stages[stage] = Called(by_stage.get(stage) or id_of(name), name, action)
    return [Called(ids[kind], *named[kind]) for kind in range(len(kinds))], stages


def _kept(kinds: NDArray[np.float64], features: Sequence[Feature], active: SegmentModel | None) -> dict[int, Segment]:
    """Return the active model's kind that each cluster continues."""
    if active is None or active.format != features_format(features):
        return {}
    rows = [index for index, segment in enumerate(active.segments) if segment.stage == "steady"]
    pairs = lasting(kinds[:, 1:], carried(active, features)[rows][:, 1:])
    return {kind: active.segments[rows[index]] for kind, index in pairs.items()}


def features_format(features: Sequence[Feature]) -> int:
    """Return the format of models with these features."""
    return 2 if features[0].name == "silence_in_gaps" else 1


def _kind_names(
    kinds: NDArray[np.float64], features: Sequence[Feature], before: dict[int, str]
) -> list[tuple[str, str]]:
    """Return name and action of each kind: by definition, once each; descriptive where a definition is used up."""
    if len(kinds) == 1:
        return [_STEADY]
    defined = [_definition(pace, value, before.get(kind)) for kind, (_, pace, value) in enumerate(kinds.tolist())]
    holder: dict[str, int] = {}
    for kind, (name, _) in enumerate(defined):
        rival = holder.get(name)
        if rival is None or _claim(kind, name, kinds, before) > _claim(rival, name, kinds, before):
            holder[name] = kind
    found: list[tuple[str, str]] = []
    for kind, (name, action) in enumerate(defined):
        found.append((name if holder[name] == kind else _described(kinds[kind], features, before.get(kind)), action))
    # Two kinds so near to each other that their descriptions agree are numbered.
    names = [name for name, _ in found]
    return [
        (name if names.count(name) == 1 else f"{name} ({names[: kind + 1].count(name)})", action)
        for kind, (name, action) in enumerate(found)
    ]


def _definition(pace: float, value: float, before: str | None) -> tuple[str, str]:
    """Return the name that the definition gives, or the one before where the kind is still near its border."""
    for (often, much), named in KIND_NAMES.items():
        near = (pace >= -NAME_SLACK if often else pace < NAME_SLACK) and (
            value >= -NAME_SLACK if much else value < NAME_SLACK
        )
        if named[0] == before and near:
            return named
    return KIND_NAMES[pace > _ON_THE_MEAN, value > _ON_THE_MEAN]


def _claim(kind: int, name: str, kinds: NDArray[np.float64], before: dict[int, str]) -> tuple[bool, float]:
    """Return how strong a kind's claim to a name is: it had it, or it lies further out."""
    return before.get(kind) == name, float(np.abs(kinds[kind, 1:]).sum())


def _described(centroid: NDArray[np.float64], features: Sequence[Feature], before: str | None) -> str:
    """Return a name of figures; the one before stays, as long as the kind lies where it lay."""
    if before is not None and before not in {name for name, _ in KIND_NAMES.values()}:
        return before
    pace, value = (float(untransformed(centroid[i], features[i])) for i in (1, 2))
    return f"{pace:.3g} orders a year of {value:.3g}"


def _rank(name: str) -> int:
    names = [named for named, _ in KIND_NAMES.values()]
    return names.index(name) if name in names else len(names)
