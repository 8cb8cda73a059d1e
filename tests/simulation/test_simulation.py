"""The simulation in short: some hundred seeds, the failures of the past, and the simulation itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segmentation import aliases
from stream.engine import takeover
from tests.recovery.rig.mutants import TAKEN_OUT
from tests.recovery.rig.replacing import Replace
from tests.simulation.batches import quietly, run_many, without
from tests.simulation.case import CALM, Case
from tests.simulation.fleet import engine_modules
from tests.simulation.runs import run
from tests.simulation.shrink import shrunk
from tests.simulation.unmended import UNMENDED
from tests.simulation.world import SimulatedWorld
from tests.support.paths import ROOT

SEEDS = 60
CASES = Path(__file__).parent / "cases"
OFTEN_CAUGHT = 7  # a mutant that most seeds of the storm catch: noting in Redis what was published


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quietly():
        yield


def test_nothing_is_wrong_without_troubles() -> None:
    for seed in range(4):
        outcome = run(replace(Case.of(seed), rates=CALM))
        assert outcome.violations == []
        assert outcome.moves


def test_no_seed_finds_a_fault() -> None:
    failed = [f"seed {o.case.seed}: {o.violations[:1]}\n{o.repeated().written()}" for o in run_many(1, SEEDS)]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("file", sorted(CASES.glob("*.json")), ids=lambda file: file.stem)
def test_no_failure_of_the_past_comes_back(file: Path) -> None:
    outcome = run(Case.parse(file.read_text("utf-8")))
    assert outcome.violations == [], "\n".join(outcome.trace)


@pytest.mark.parametrize("name", UNMENDED)
def test_a_failure_of_the_past_comes_back_without_its_fix(name: str) -> None:
    case = Case.parse((CASES / f"{name}.json").read_text("utf-8"))
    assert run(case, UNMENDED[name]).violations


def test_states_that_a_change_of_settings_did_not_read_again_are_noticed() -> None:
    def change(replace: Replace, _: SimulatedWorld) -> None:
        replace(takeover, "must_read_again", lambda *_: False)

    cases = (case for case in map(Case.of, range(1, 400)) if case.change == "window" and not case.wall)
    assert any("states of shard" in line for case in cases for line in run(case, change).violations)


def test_ids_over_eight_shards_become_persons_who_always_had_one_id() -> None:
    for seed in range(1, 5):
        assert run(Case.of_one_id(seed, 8)).violations == []


def test_a_person_who_lost_what_another_id_brought_is_noticed() -> None:
    def change(replace: Replace, _: SimulatedWorld) -> None:
        replace(aliases, "united", lambda own, *_: own)

    cases = (Case.of_one_id(seed, 8) for seed in range(1, 20))
    assert any("another state than one id" in line for case in cases for line in run(case, change).violations)


def test_a_failure_is_repeated_and_shrunk() -> None:
    change = without(OFTEN_CAUGHT)
    failed = next(o for o in (run(Case.of(seed), change) for seed in range(1, 200)) if o.violations)
    again = run(failed.repeated(), change)
    assert again.digest == failed.digest
    small = shrunk(again, change, most_runs=40)
    assert small.kind == failed.kind
    assert sum(map(len, small.decisions.values())) < sum(map(len, failed.decisions.values()))
    assert run(Case.parse(small.repeated().written()), change).digest == small.digest
    assert run(small.repeated()).violations == [], "the whole protocol survives what its mutant doesn't"


def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    code = "from tests.simulation.__main__ import main; main(['--seed', '3']); main(['--seed', '11'])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hashes},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hashes in ("1", "2")
    }
    assert len(seen) == 1


def test_every_clock_and_chance_of_the_engine_is_simulated() -> None:
    """Otherwise two runs of a seed would differ: `installed` replaces these names, no other import brings them."""
    for module in engine_modules():
        text = Path(module.__file__).read_text("utf-8")
        for name in (
            "from time import",
            "from random import",
            "from secrets import",
            "import uuid",
            "from uuid import",
        ):
            assert name not in text, f"{module.__name__}: {name}"
        assert not hasattr(module, "datetime"), module.__name__


def test_every_mutant_can_be_simulated() -> None:
    for number in TAKEN_OUT:
        assert run(replace(Case.of(1), rates=CALM), without(number)).moves, number
