"""A failure made as small as it can be: without every decision and every scene that it doesn't need."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.simulation.case import Case
from tests.simulation.choices import Decisions
from tests.simulation.runs import Change, RunOutcome, run

MOST_RUNS: Final = 400
SCENE: Final = "scene"

Part = tuple[str, int, int]  # kind, number of the point (or of the scene), what happens


def shrunk(failed: RunOutcome, change: Change | None = None, most_runs: int = MOST_RUNS) -> RunOutcome:
    """Return the smallest failure of the same kind that was found in so many runs (delta debugging)."""
    best, left = failed, most_runs
    parts = _parts(failed)
    size = max(len(parts) // 2, 1)
    while left > 0:
        at, smaller = 0, False
        while at < len(parts) and left > 0:
            fewer = parts[:at] + parts[at + size :]
            left -= 1
            outcome = run(_case(failed.case, fewer), change)
            if outcome.kind == failed.kind:
                best, parts, smaller = outcome, fewer, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(size // 2, 1)
    return best


def _parts(failed: RunOutcome) -> list[Part]:
    scenes = [(SCENE, number, 1) for number in range(failed.case.scenes) if number not in failed.case.skipped]
    return scenes + [(kind, at, value) for kind, made in failed.decisions.items() for at, value in made.items()]


def _case(case: Case, parts: list[Part]) -> Case:
    given: Decisions = {}
    for kind, at, value in parts:
        if kind != SCENE:
            given.setdefault(kind, {})[at] = value
    kept = {number for kind, number, _ in parts if kind == SCENE}
    return replace(case, given=given, skipped=tuple(n for n in range(case.scenes) if n not in kept))
