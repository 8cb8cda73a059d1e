"""The picture of docs/explanation/time.md shows what the code says, and the code what the scorer says."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from segmentation.scorer import Scorer
from tests.support.paths import ROOT

SCRIPT = ROOT / "docs" / "images" / "next_move.py"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("next_move", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["next_move"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_the_script_draws(drawing: ModuleType) -> None:
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.svg(), f"run {SCRIPT.name} and commit the picture"


@pytest.mark.parametrize("panel", ["silence", "leaving"])
def test_the_crossing_marked_is_the_first_at_which_the_scorer_moves_the_customer(
    drawing: ModuleType, panel: str
) -> None:
    course = getattr(drawing, panel)()
    scorer = Scorer(drawing.model())
    at = np.append(np.linspace(course.last, course.at - 1, 20_000).astype(np.int64), course.at)
    interval = np.searchsorted(course.intervals.start, at, side="right") - 1
    rest = scorer.rest(course.intervals.frequency[interval], course.intervals.monetary[interval])
    to = scorer.decide(np.ones(at.size, np.int64), at, np.full(at.size, course.last), rest)
    assert (to[:-1] == 1).all()
    assert scorer.model.segments[int(to[-1])].name == course.to
    # Of the lines, too: all below the margin before, one of them above it at the mark.
    leads = np.array([course.leads[name] for name in drawing.INK])
    days = np.array(course.days)
    moved = (course.at - course.last) / drawing.DAY_MS
    assert (leads[:, days < moved] <= scorer.margin).all()
    assert leads[:, days >= moved].max(axis=0).min() > scorer.margin
