from __future__ import annotations

from dataclasses import replace

import pytest

from tests.protocol_model.sides import SideHazards, SideRules, search

CALM = SideHazards(crashes=0)
CRASH, TORN = replace(CALM, crashes=1), replace(CALM, torn=1)
BACK, LOST = replace(CALM, restores=True), replace(CALM, loses=True)

WORLDS = {
    "a crash": (CRASH, 12_000),
    "Redis set back": (BACK, 19_000),
    "Redis lost, and a torn turn": (replace(LOST, torn=1), 21_000),
}
LARGE_WORLDS = {
    "a crash and a torn turn": replace(CRASH, torn=1),
    "two crashes": replace(CALM, crashes=2),
    "two orders": replace(CRASH, orders=2, profiles=((2, True),)),
    "Redis set back, and a torn turn": replace(BACK, torn=1, profiles=((2, True),)),
}

# The ingredient that is taken out, the world that shows it, and what breaks.
MUTANTS = [
    ("ends_after_fence", TORN, "order"),
    ("profiles_first", TORN, "consent"),
    ("orders_before_due", TORN, "order"),
    ("with_states", CRASH, "consent"),
    ("store_effects", TORN, "consent"),
    ("set_back_too", BACK, "consent"),
    ("profiles_from_start", LOST, "consent"),
    ("orders_from_start", LOST, "order"),
    ("in_time", TORN, "order"),
    ("high_watermark", TORN, "order"),
    ("join_by_date", TORN, "view"),
    ("orders_by_date", TORN, "order"),
    ("whole_note", TORN, "answers"),
]


@pytest.mark.parametrize(("hazards", "states"), WORLDS.values(), ids=WORLDS)
def test_no_reachable_state_breaks_a_promise_and_each_leads_to_the_end(hazards: SideHazards, states: int) -> None:
    found = search(SideRules(), hazards)
    assert found.violation is None, "\n".join(found.trace)
    assert found.states > states
    assert found.finished > 250


@pytest.mark.slow
@pytest.mark.parametrize("hazards", LARGE_WORLDS.values(), ids=LARGE_WORLDS)
def test_larger_worlds(hazards: SideHazards) -> None:
    found = search(SideRules(), hazards)
    assert found.violation is None, "\n".join(found.trace)
    assert found.states > 15_000


@pytest.mark.parametrize(("ingredient", "hazards", "breaks"), MUTANTS)
def test_without_one_ingredient_a_promise_breaks(ingredient: str, hazards: SideHazards, breaks: str) -> None:
    found = search(replace(SideRules(), **{ingredient: False}), hazards)
    assert (found.violation or "").startswith(breaks), "\n".join(found.trace)


def test_every_ingredient_is_taken_out_once() -> None:
    assert [ingredient for ingredient, _, _ in MUTANTS] == list(SideRules.__dataclass_fields__)
