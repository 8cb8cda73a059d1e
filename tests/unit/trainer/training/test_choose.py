from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from trainer.errors import PlanError
from trainer.outcome import Fit
from trainer.training.choose import choose, elbow, gate, gates_of
from trainer.training.plan import TrainingPlan, of_recipe, parse_ks, parse_transforms

PLAN = TrainingPlan(ks=(2, 3, 4))


def a_fit(
    k: int, silhouette: float, plan: TrainingPlan = PLAN, *, transform: str = "yeo-johnson", **changed: float
) -> Fit:
    figures = {"inertia": 100.0 / k, "stability": 0.9, "smallest_share": 0.1, "largest_share": 0.5} | changed
    fit = msgspec.structs.replace(Fit(transform=transform, k=k, silhouette=silhouette), **figures)
    return msgspec.structs.replace(fit, gates=gates_of(fit, plan))


def changed_fit(figures: dict[str, float]) -> Fit:
    fit = msgspec.structs.replace(a_fit(2, 0.6), **figures)
    return msgspec.structs.replace(fit, gates=gates_of(fit, PLAN))


def test_the_best_silhouette_of_those_that_pass() -> None:
    fits = [a_fit(2, 0.66, largest_share=0.68), a_fit(3, 0.4), a_fit(4, 0.45)]
    choice = choose(fits, PLAN, None, force=False)
    assert (choice.index, choice.forced) == (2, False)
    assert choice.why == (
        "k = 4 with yeo-johnson has the best silhouette of the 2 of 3 fits that pass the gates: 0.450.",
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"smallest_share": 0.019}, "smallest share 0.019 (at least 0.02)"),
        ({"largest_share": 0.61}, "largest share 0.61 (at most 0.6)"),
        ({"stability": 0.79}, "stability 0.79 (at least 0.8)"),
    ],
)
def test_each_gate_alone_refuses_and_is_named(changed: dict[str, float], message: str) -> None:
    choice = choose([changed_fit(changed)], PLAN, None, force=False)
    assert choice.index is None
    assert message in choice.why[1]
    forced = choose([changed_fit(changed)], PLAN, None, force=True)
    assert (forced.index, forced.forced) == (0, True)


def test_force_changes_nothing_where_something_passes() -> None:
    fits = [a_fit(2, 0.9, stability=0.1), a_fit(3, 0.4)]
    assert choose(fits, PLAN, None, force=True) == choose(fits, PLAN, None, force=False)
    assert choose(fits, PLAN, None, force=True).index == 1


def test_the_limits_themselves_pass() -> None:
    assert gate("x", 0.6, 0.6, "most").passed
    assert gate("x", 0.02, 0.02, "least").passed
    assert not gate("x", None, -1.0, "least").passed


def test_the_active_k_and_transform_stay_until_another_fit_is_better_by_enough() -> None:
    fits = [a_fit(2, 0.44), a_fit(3, 0.40), a_fit(3, 0.41, transform="log1p")]
    assert choose(fits, PLAN, ("yeo-johnson", 3), force=False).index == 1
    assert choose(fits, PLAN, ("log1p", 3), force=False).index == 2
    assert choose(fits, replace(PLAN, keep_within=0.03), ("yeo-johnson", 3), force=False).index == 0
    assert choose(fits, PLAN, ("yeo-johnson", 7), force=False).index == 0
    worse = [a_fit(2, 0.44), a_fit(3, 0.43, stability=0.5)]
    assert choose(worse, PLAN, ("yeo-johnson", 3), force=False).index == 0


def test_the_textbook_asks_for_the_silhouette_alone_whatever_is_active() -> None:
    plan = of_recipe("textbook")
    fits = [a_fit(2, 0.66, plan, largest_share=0.99, smallest_share=0.0004), a_fit(3, 0.65, plan)]
    assert fits[0].gates == ()
    assert choose(fits, plan, ("yeo-johnson", 3), force=False).index == 0


def test_a_fit_that_failed_is_never_chosen() -> None:
    failed = Fit(transform="yeo-johnson", k=9, failure="only 3 customers differ.")
    assert choose([failed, a_fit(3, -0.2)], PLAN, None, force=False).index == 1
    nothing = choose([failed], PLAN, None, force=True)
    assert nothing.index is None
    assert "k = 9 with yeo-johnson: only 3 customers differ." in nothing.why


def test_the_tutorial_takes_the_elbow_of_one_transform() -> None:
    plan = of_recipe("tutorial")
    inertias = (7737.0, 4441.0, 3202.0, 2630.0, 2224.0, 1921.0, 1684.0)
    fits = [a_fit(k, 0.1, plan, inertia=inertia) for k, inertia in zip(plan.ks, inertias, strict=True)]
    choice = choose(fits, plan, None, force=False)
    assert choice.index == 2
    assert choice.why == ("The inertia over k has its elbow at k = 4.",)
    assert choose([*fits, a_fit(2, 0.1, plan, transform="log1p")], plan, None, force=False).index is None
    assert choose(fits[:1], plan, None, force=False).index == 0
    assert choose(fits[:2], plan, None, force=False).index is None


def test_the_elbow_is_the_papers() -> None:
    """Figure 2 of Satopää et al.: a rising curve with its knee at the third of ten points (x = 0.22), inverted."""
    rising = 5.0 - 1.0 / (np.linspace(0.0, 1.0, 10) + 0.1)
    assert elbow(range(10), (-rising).tolist()) == 2


def test_a_straight_line_a_rise_and_two_points_have_no_elbow() -> None:
    assert elbow([2, 3, 4, 5], [8.0, 6.0, 4.0, 2.0]) is None
    assert elbow([2, 3, 4, 5], [1.0, 1.0, 1.0, 1.0]) is None
    assert elbow([2, 3], [8.0, 1.0]) is None


@pytest.mark.parametrize("text", ["", "1", "17", "8-2", "two", "2-", "3,,4", "2-99"])
def test_a_k_that_is_none_is_reported(text: str) -> None:
    with pytest.raises(PlanError, match="k is "):
        parse_ks(text)


def test_several_k_and_transforms_are_read_once_each() -> None:
    assert parse_ks("3,2-4,3") == (2, 3, 4)
    assert parse_transforms("log1p,identity,log1p") == ("log1p", "identity")
    with pytest.raises(PlanError, match="transform is 'sqrt'"):
        parse_transforms("log1p,sqrt")
