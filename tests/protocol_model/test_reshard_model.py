from __future__ import annotations

from dataclasses import replace

import pytest

from tests.protocol_model.reshard import Hazards, ReshardRules, search

WORLDS = {
    "a worker of the former count goes on": Hazards(former_worker=True, later_worker=False, late_order=False),
    "a worker of the new count is too early, an order late": Hazards(),
    "Redis goes back": Hazards(restore=True, late_order=False, later_worker=False),
}
FORMER, LATER, RESTORE = WORLDS.values()

# The ingredient that is taken out, the world that shows it, and what breaks.
MUTANTS = [
    ("seal", FORMER, "chain"),
    ("guard_new", LATER, "chain"),
    ("copy_all_first", FORMER, "misplaced"),
    ("clean_before_heads", LATER, "chain"),
    pytest.param("compare_sealed", RESTORE, "chain", marks=pytest.mark.slow),
    ("compare_heads", RESTORE, "misplaced"),
    ("copy_once", FORMER, "misplaced"),
    ("forward", LATER, "lost"),
]


@pytest.mark.parametrize(
    "hazards",
    [FORMER, LATER, pytest.param(RESTORE, marks=pytest.mark.slow)],
    ids=WORLDS,
)
def test_no_reachable_state_breaks_a_promise_and_each_leads_to_the_end(hazards: Hazards) -> None:
    found = search(ReshardRules(), hazards)
    assert found.violation is None, "\n".join(found.trace)
    assert found.states > 5_000
    assert found.finished > 50


@pytest.mark.parametrize(("ingredient", "hazards", "breaks"), MUTANTS)
def test_without_one_ingredient_a_promise_breaks(ingredient: str, hazards: Hazards, breaks: str) -> None:
    found = search(replace(ReshardRules(), **{ingredient: False}), hazards)
    assert (found.violation or "").startswith(breaks), "\n".join(found.trace)
    assert found.trace
