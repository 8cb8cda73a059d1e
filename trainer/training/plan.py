"""How a run fits and chooses: one plan for each recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from segmentation.model import Transform
from segmentation.model_parts import STAGES
from trainer.errors import PlanError
from trainer.training.recipe import RecipeName

Way = Literal["gates", "silhouette", "elbow"]
Fitted = Literal["in window", "all", "ordinary", "steady"]

LEAST_K: Final = 2
MOST_K: Final = 16
MOST_KINDS: Final = (
    MOST_K - len(STAGES) + 1
)  # of rhythm: each other stage is a segment too, steady customers have kinds
MIN_CUSTOMERS: Final = 200

_ONE_OR_RANGE: Final = re.compile(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?")


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that decides which model a snapshot gives. Shares are fractions of 1.

    `way`: "gates" takes the best silhouette of the fits that pass, and prefers the active model's k and transform
    (`keep_within`); "silhouette" takes the best of all; "elbow" takes the k at the elbow of the inertia. `fitted`: the
    customers that the centroids are fitted on and the gates judge: "in window" are those with an order in the window,
    "ordinary" those with |z| < 3 in every feature, "steady" those on their own rhythm with `few` purchase days. The
    model scores the others too (docs/adr/0018).
    """

    name: RecipeName = "rfm"
    way: Way = "gates"
    ks: tuple[int, ...] = (4, 5, 6, 7, 8)
    transforms: tuple[Transform, ...] = ("yeo-johnson",)
    fitted: Fitted = "in window"
    seed: int = 42
    starts: int = 10  # of K-Means; the one with the lowest inertia is kept
    rounds: int = 10  # resamples that the stability is measured on
    floor: int = MIN_CUSTOMERS  # with fewer customers nothing is trained
    smallest_share: float = 0.02
    largest_share: float = 0.6
    least_stability: float = 0.8
    most_moved: float = 0.2
    keep_within: float = 0.05
    margin: float = 0.25
    # Of rhythm: chances to be alive below which a customer is at risk, or lost, and purchase days of steady ones.
    at_risk: float = 0.2
    lost: float = 0.05
    levels_asked: bool = False  # the two stand; else others are taken where these aren't worth acting on
    few: int = 3
    kinds_moved: float = 0.1  # share of customers that other kinds may move; above it the active model's stay


def of_recipe(name: RecipeName) -> TrainingPlan:
    """Return the plan of a recipe.

    "rhythm": stages by each customer's own clock; kinds of steady customers by log1p of orders a year and order value.
    "textbook": raw figures, standard scaling, n_init 20, the best silhouette of k = 2…8 and nothing else.
    "tutorial": the same fits without customers of |z| >= 3, and the k at the elbow.

    >>> of_recipe("tutorial").fitted, of_recipe("textbook").starts
    ('ordinary', 20)
    """
    if name == "rfm":
        return TrainingPlan()
    if name == "rhythm":
        return TrainingPlan(
            name="rhythm",
            ks=(2, 3, 4),
            transforms=("log1p",),
            fitted="steady",
            margin=0.5,
            floor=50,
            least_stability=0.6,
        )
    textbook = TrainingPlan(
        name="textbook",
        way="silhouette",
        ks=(2, 3, 4, 5, 6, 7, 8),
        transforms=("identity",),
        fitted="all",
        starts=20,
        rounds=0,
    )
    return textbook if name == "textbook" else replace(textbook, name="tutorial", way="elbow", fitted="ordinary")


def parse_ks(text: str) -> tuple[int, ...]:
    """Parse the k to fit: numbers and ranges, separated by commas. Raises PlanError.

    >>> parse_ks("5"), parse_ks("2-4, 8")
    ((5,), (2, 3, 4, 8))
    """
    found: set[int] = set()
    for part in text.split(","):
        if not (match := _ONE_OR_RANGE.fullmatch(part)):
            raise PlanError(f"k is {text!r}, expected a number or a range.", hint="Give 5, 2-8 or 3,5,8.")
        first = int(match[1])
        last = int(match[2] or first)
        if not LEAST_K <= first <= last <= MOST_K:
            raise PlanError(
                f"k is {text!r}, expected {LEAST_K} to {MOST_K}, the smaller number first.", hint="Give 5 or 2-8."
            )
        found |= set(range(first, last + 1))
    return tuple(sorted(found))


def parse_transforms(text: str) -> tuple[Transform, ...]:
    """Parse the transforms to fit, separated by commas, in that order and without repetitions. Raises PlanError.

    >>> parse_transforms("yeo-johnson, log1p")
    ('yeo-johnson', 'log1p')
    """
    known: dict[str, Transform] = {name: name for name in get_args(Transform)}
    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise PlanError(
            f"transform is {unknown[0]!r}, expected {', '.join(known)}.", hint="Separate several by commas."
        )
    return tuple(dict.fromkeys(known[name] for name in names))
