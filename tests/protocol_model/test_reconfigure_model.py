from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.protocol_model.reconfigure import Change, ModelSettings, ReconfigureRules, search

FIRST = ModelSettings()
READ_AGAIN = ModelSettings(window=1, limit=1)
RESCORED = ModelSettings(dwell=1)
JUDGED = ModelSettings(limit=1)

WORLDS = {
    "read again": Change((READ_AGAIN,), restore=True),
    "rescored and judged otherwise": Change((ModelSettings(dwell=1, limit=1),), restore=True),
    "judged otherwise": Change((JUDGED,), restore=True),
    "read again, and then rescored": Change((READ_AGAIN, ModelSettings(dwell=1, limit=1))),
    "an earlier version, read again": Change((READ_AGAIN,), saved=True, earlier_version=True),
    "an earlier version, rescored": Change((RESCORED,), saved=True, earlier_version=True),
    "rescored, and back": Change((RESCORED, FIRST), saved=True, former_worker=False),
    "read again, and back but for the limit": Change((READ_AGAIN, JUDGED), saved=True, former_worker=False),
}

# The ingredient that is taken out, the world that shows it, and what breaks.
MUTANTS = [
    ("compare", "read again", "judged"),
    ("kafka_decides", "read again", "judged"),
    ("fenced", "read again", "back"),
    ("note_emptied", "read again", "states"),
    ("keep_moves", "read again", "chain"),
    ("note_judged", "rescored and judged otherwise", "states"),
    ("rescore", "rescored and judged otherwise", "moves"),
    ("count", "an earlier version, read again", "states"),
    ("count", "rescored, and back", "due"),
    ("count", "read again, and back but for the limit", "states"),
    ("reread", "an earlier version, read again", "states"),
    ("reread", "read again, and back but for the limit", "states"),
]


@pytest.mark.parametrize("world", WORLDS)
def test_no_reachable_state_breaks_a_promise_and_each_leads_to_the_end(world: str) -> None:
    found = search(ReconfigureRules(), WORLDS[world])
    assert found.violation is None, "\n".join(found.trace)
    assert found.states > 5_000
    assert found.finished > 30


@pytest.mark.parametrize(("ingredient", "world", "breaks"), MUTANTS)
def test_without_one_ingredient_a_promise_breaks(ingredient: str, world: str, breaks: str) -> None:
    found = search(replace(ReconfigureRules(), **{ingredient: False}), WORLDS[world])
    assert (found.violation or "").startswith(breaks), "\n".join(found.trace)
    assert found.trace


def test_each_ingredient_has_a_mutant() -> None:
    assert {name for name, *_ in MUTANTS} == {rule.name for rule in fields(ReconfigureRules)}
