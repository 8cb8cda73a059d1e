"""Many runs on all cores, and the mutants' table."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from statistics import median
from typing import Final

from tests.recovery.rig.mutants import BY_THE_BROKER, mutate
from tests.recovery.rig.replacing import Replace
from tests.simulation.case import Case
from tests.simulation.known import KNOWN
from tests.simulation.runs import Change, RunOutcome, run
from tests.simulation.shrink import shrunk
from tests.simulation.world import SimulatedWorld

CHUNK: Final = 20  # runs between two collections of cycles
CAUGHT: Final = 15  # of a mutant, for a median


@contextmanager
def quietly() -> Iterator[None]:
    """Let dead processes' tasks end without a word: they log, warn and complain while they are collected."""
    hook, level = sys.unraisablehook, logging.root.manager.disable
    sys.unraisablehook = lambda _: None
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        logging.disable(level)
        sys.unraisablehook = hook


def run_seeds(seeds: range, mutant: int | None = None, shards: int = 0) -> list[RunOutcome]:
    """Run some seeds in this process. Return what failed. `shards`: as `case_of`."""
    with quietly():
        found = (run(case_of(seed, shards), without(mutant)) for seed in seeds)
        return [outcome for outcome in found if outcome.violations]


def without(mutant: int | None) -> Change | None:
    """Return the change that takes an ingredient out (tests/recovery/rig/mutants.py); None: none."""
    if mutant is None:
        return None

    def change(replace: Replace, world: SimulatedWorld) -> None:
        if mutant == BY_THE_BROKER:
            world.broker.verifies = False
        else:
            mutate(mutant, replace)

    return change


def case_of(seed: int, shards: int = 0) -> Case:
    """Return the case of a seed. `shards`: so many, with merges, judged by the oracle of one id; 0: as it says."""
    return Case.of_one_id(seed, shards) if shards else Case.of(seed)


def run_many(first: int, runs: int, shards: int = 0) -> Iterator[RunOutcome]:
    """Run so many seeds on all cores. Yield what failed, shrunk, but for the known seeds. `shards`: as `case_of`."""
    parts = [range(at, min(at + CHUNK, first + runs)) for at in range(first, first + runs, CHUNK)]
    with _pool() as pool:
        for failed in chain.from_iterable(pool.map(partial(run_seeds, shards=shards), parts)):
            if failed.case.seed in KNOWN and not shards:
                yield failed
                continue
            with quietly():
                yield shrunk(failed)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(os.cpu_count(), initializer=gc.freeze)


def seeds_until_caught(mutants: Iterable[int], most: int) -> Iterator[tuple[int, list[int]]]:
    """Yield each mutant with the numbers of seeds that each of its catches took, among the first `most` seeds."""
    parts = [range(at, min(at + CHUNK, most + 1)) for at in range(1, most + 1, CHUNK)]
    with _pool() as pool:
        intact = {o.case.seed for o in chain.from_iterable(pool.map(run_seeds, parts))}
        for mutant in mutants:
            caught: list[int] = []
            for batch in _batches(parts, 2 * (os.cpu_count() or 1)):
                found = chain.from_iterable(pool.map(partial(run_seeds, mutant=mutant), batch))
                caught += [o.case.seed for o in found if o.case.seed not in intact]
                if len(caught) >= CAUGHT:
                    break
            yield mutant, [after - before for before, after in zip([0, *caught], caught, strict=False)]


def _batches(parts: list[range], size: int) -> Iterator[list[range]]:
    for at in range(0, len(parts), size):
        yield parts[at : at + size]


def table(mutants: Iterable[int], most: int) -> Iterator[str]:
    """Yield the rows of the table in docs/explanation/exactly-once.md."""
    for mutant, gaps in seeds_until_caught(mutants, most):
        shown = f"{median(gaps):.0f}" if gaps else f"not within {most:,}"
        yield f"| {mutant} | {shown} | {len(gaps)} |"
