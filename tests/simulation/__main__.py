"""The simulation from the command line: `make simulate`, and the table of mutants.

python -m tests.simulation --seed 1 --runs 10000
python -m tests.simulation --shards 8 --runs 500
python -m tests.simulation --case FILE
python -m tests.simulation --mutants --runs 2000
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.recovery.rig.mutants import TAKEN_OUT
from tests.simulation.batches import case_of, quietly, run_many, table, without
from tests.simulation.case import Case
from tests.simulation.known import KNOWN
from tests.simulation.runs import RunOutcome, run

MOST_SHOWN = 5


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="number of seeds")
    parser.add_argument(
        "--shards", type=int, default=0, help="shards of runs with merges, judged by persons who always had one id"
    )
    parser.add_argument("--case", type=Path, help="run a case from a file, and show its trace")
    parser.add_argument("--mutant", type=int, choices=sorted(TAKEN_OUT), help="take this ingredient out")
    parser.add_argument("--mutants", action="store_true", help="count the seeds until each mutant is caught")
    chosen = parser.parse_args(arguments)
    if chosen.mutants:
        for row in table([chosen.mutant] if chosen.mutant else sorted(TAKEN_OUT), chosen.runs):
            print(row, flush=True)
        return 0
    if chosen.case or chosen.runs == 1:
        case = Case.parse(chosen.case.read_text("utf-8")) if chosen.case else case_of(chosen.seed, chosen.shards)
        with quietly():
            outcome = run(case, without(chosen.mutant))
        _show(outcome)
        print(f"digest {outcome.digest}")
        return 1 if outcome.violations else 0
    return _run(chosen.seed, chosen.runs, chosen.shards)


def _run(first: int, runs: int, shards: int = 0) -> int:
    began, failed, known = time.monotonic(), 0, set[int]()
    expected = {} if shards else KNOWN
    for outcome in run_many(first, runs, shards):
        if outcome.case.seed in expected:
            known.add(outcome.case.seed)
            continue
        failed += 1
        _show(outcome)
        if failed == MOST_SHOWN:
            print(f"{failed} failures by seed {outcome.case.seed}: the rest isn't judged.", flush=True)
            return 1
    seconds = time.monotonic() - began
    for seed in sorted(set(expected) & set(range(first, first + runs))):
        print(f"seed {seed}, known: {expected[seed]}" if seed in known else f"seed {seed} passes: take it out of KNOWN")
    passing = len(set(expected) & set(range(first, first + runs)) - known)
    passed = runs - failed - len(known)
    print(f"seeds {first} to {first + runs - 1} in {seconds:.0f} s")
    print(f"{passed} passed, {failed} failed, {len(known)} failed as is known")
    return 1 if failed or passing else 0


def _show(outcome: RunOutcome) -> None:
    print(f"--- seed {outcome.case.seed}: SEED={outcome.case.seed} make simulate repeats it")
    print("\n".join(outcome.trace))
    print("\n".join(outcome.violations) or "nothing is wrong")
    if outcome.violations:
        print("as a file for tests/simulation/cases/:")
        print(outcome.repeated().written(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
