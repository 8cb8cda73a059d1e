from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.protocol_model.explore import Found, Search, comes_to_rest
from tests.protocol_model.mutants import MUTANTS, REPAIR_MUTANTS, SMALL, TIME, Variant
from tests.protocol_model.rules import PROTOCOL
from tests.protocol_model.state import State, start


@pytest.mark.parametrize("variant", SMALL, ids=lambda variant: variant.name)
def test_no_reachable_state_breaks_a_promise_and_each_comes_to_rest(variant: Variant) -> None:
    found = Search(variant.rules, variant.world).run(sample_every=200)
    assert found.violation is None, "\n".join(found.trace)
    assert found.exhausted
    assert found.resting > 10
    rng = random.Random(1)
    assert len(found.sample) > 100
    assert {comes_to_rest(variant.rules, variant.world, state, rng) for state in found.sample} == {None}


@pytest.mark.parametrize("variant", [*MUTANTS, *REPAIR_MUTANTS], ids=lambda variant: variant.name)
def test_without_one_ingredient_a_promise_breaks(variant: Variant) -> None:
    found = Search(variant.rules, variant.world).run()
    assert found.violation is not None
    assert found.violation.startswith(variant.breaks or "nothing"), "\n".join(found.trace)
    assert len(found.trace) > 5


def test_each_mutant_is_in_once() -> None:
    assert [int(mutant.name.partition("-")[0]) for mutant in MUTANTS] == [*range(1, 28)]


def test_a_kept_hash_stands_for_one_state() -> None:
    world = replace(TIME, late_commit=True, rollbacks=0)

    def itself(state: State) -> State:
        return state

    exact = Search(PROTOCOL, world, digest=itself).run()
    assert _seen(Search(PROTOCOL, world).run()) == _seen(exact)


def _seen(found: Found) -> tuple[int, int, int, bool]:
    return found.states, found.steps, found.resting, found.exhausted


def test_a_search_can_be_cut_short() -> None:
    found = Search(PROTOCOL, TIME).run(limit_s=0.05)
    assert not found.exhausted
    assert found.violation is None


def test_a_shard_that_can_not_come_to_rest_is_noticed() -> None:
    rng = random.Random(1)
    # Kafka's head counts a move that isn't there: no takeover can end.
    stuck = start(0)._replace(kafka=start(0).kafka._replace(number=1))
    assert (comes_to_rest(PROTOCOL, TIME, stuck, rng) or "").startswith("stopped")
    # Redis has a later segment than the log: its move was never published.
    early = start(0).redis.customers[0]._replace(announced=2, sequence=1)
    wrong = start(0)._replace(redis=start(0).redis._replace(customers=(early, start(0).redis.customers[1])))
    assert (comes_to_rest(PROTOCOL, TIME, wrong, rng) or "").startswith("C2")
