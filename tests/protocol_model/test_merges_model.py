from __future__ import annotations

from dataclasses import replace

import pytest

from tests.protocol_model.merge_members import MERGE, ORDER, MergeHazards, MergeRules, ModelRecord, root_of
from tests.protocol_model.merges import search

FIRST, SECOND, THIRD = range(3)  # customers; the second one lives in the other shard


def ordered(customer: int, order: int) -> ModelRecord:
    return ModelRecord(ORDER, customer, order)


def merged(customer: int, edge: int) -> ModelRecord:
    return ModelRecord(MERGE, customer, edge)


ONE = MergeHazards(
    homes=(0, 1),
    edges=((FIRST, SECOND),),
    sent=((ordered(FIRST, 0), merged(FIRST, 0), ordered(FIRST, 1)), (ordered(SECOND, 2),)),
    orders=3,
)
CYCLE = MergeHazards(
    homes=(0, 1),
    edges=((FIRST, SECOND), (SECOND, FIRST)),
    sent=((ordered(FIRST, 0), merged(FIRST, 0)), (ordered(SECOND, 1), merged(SECOND, 1))),
    orders=2,
)
BACK_AGAIN = replace(CYCLE, sent=((ordered(FIRST, 0), merged(FIRST, 0), ordered(FIRST, 1)), (merged(SECOND, 1),)))
CHAIN = MergeHazards(
    homes=(0, 1, 0),
    edges=((FIRST, SECOND), (SECOND, THIRD)),
    sent=((ordered(FIRST, 0), merged(FIRST, 0)), (merged(SECOND, 1),)),
    orders=1,
)
RING = MergeHazards(
    homes=(0, 1, 0),
    edges=((FIRST, SECOND), (SECOND, THIRD), (THIRD, FIRST)),
    sent=((merged(FIRST, 0), merged(THIRD, 2)), (ordered(SECOND, 0), merged(SECOND, 1))),
    orders=1,
)

WORLDS = {
    "a torn turn": (replace(ONE, torn=1), 7_000),
    "Redis set back": (replace(ONE, restores=True), 7_000),
    "Redis lost after a torn turn": (replace(ONE, torn=1, loses=True, batch=1), 6_000),
    "a cycle, torn": (replace(CYCLE, torn=1), 17_000),
    "a cycle, lost": (replace(BACK_AGAIN, loses=True), 16_000),
    "a ring, lost": (replace(RING, loses=True, batch=1), 11_000),
}
LARGE_WORLDS = {
    "two torn turns": replace(ONE, torn=2),
    "a chain, torn and lost": replace(CHAIN, torn=1, loses=True),
    "a cycle, set back and torn": replace(BACK_AGAIN, torn=1, restores=True),
    "a cycle, lost and torn, two records at a time": replace(BACK_AGAIN, torn=1, loses=True, tick=2),
    "a ring, torn": replace(RING, torn=1),
}
TORN, TORN_CYCLE, TORN_CHAIN = (replace(world, torn=1) for world in (ONE, CYCLE, CHAIN))
LOST, LOST_AND_TIED = replace(BACK_AGAIN, loses=True), replace(BACK_AGAIN, torn=1, loses=True, tick=2)

# The ingredient that is taken out, the world that shows it, and what breaks.
MUTANTS = [
    ("in_transaction", TORN, "counted"),
    ("cover_packages", TORN, "counted"),
    ("drop_repeats", TORN, "counted"),
    ("alias_remembers", TORN_CHAIN, "counted"),
    ("name_by_offset", LOST_AND_TIED, "counted"),
    pytest.param("learn_by_offset", LOST_AND_TIED, "rebuilt", marks=pytest.mark.slow),
    ("in_force", LOST, "rebuilt"),
    ("empty_aliases", LOST, "rebuilt"),
    ("leave_remnants", TORN, "remains"),
    ("carry_former", TORN_CHAIN, "remains"),
    ("publish_due", TORN_CHAIN, "stuck"),
]


@pytest.mark.parametrize(("hazards", "states"), WORLDS.values(), ids=WORLDS)
def test_no_reachable_state_breaks_a_promise_and_each_leads_to_the_end(hazards: MergeHazards, states: int) -> None:
    found = search(MergeRules(), hazards)
    assert found.violation is None, "\n".join(found.trace)
    assert found.states > states
    assert found.finished > 20


@pytest.mark.slow
@pytest.mark.parametrize("hazards", LARGE_WORLDS.values(), ids=LARGE_WORLDS)
def test_larger_worlds(hazards: MergeHazards) -> None:
    found = search(MergeRules(), hazards)
    assert found.violation is None, "\n".join(found.trace)
    assert found.states > 30_000


@pytest.mark.parametrize(("ingredient", "hazards", "breaks"), MUTANTS)
def test_without_one_ingredient_a_promise_breaks(ingredient: str, hazards: MergeHazards, breaks: str) -> None:
    found = search(replace(MergeRules(), **{ingredient: False}), hazards)
    assert (found.violation or "").startswith(breaks), "\n".join(found.trace)


def test_the_later_merge_of_a_cycle_counts() -> None:
    both = CYCLE.edges
    assert [root_of(both, known, FIRST) for known in range(4)] == [FIRST, SECOND, FIRST, FIRST]
    assert [root_of(RING.edges, 7, customer) for customer in range(3)] == [FIRST, FIRST, FIRST]
