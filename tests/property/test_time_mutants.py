"""The decision and the search with one step taken out or done wrong: a check of the ordinary tests must catch each.

The table in docs/explanation/time.md lists them. A mutant replaces a function's code in place, for all its users.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest

from segmentation import decisions, intervals, kernels, scorer
from segmentation.scalar_scorer import SingleScorer
from segmentation.scorer import Scorer, SegmentIndex
from tests.support.mutated_code import Edit, mutated
from tests.support.oracles import step_checks, time_checks
from tests.support.paths import ROOT

DOC: Final = ROOT / "docs" / "explanation" / "time.md"


class Mutant(NamedTuple):
    """A fault, its edits, and the check that must fail for one of the arguments."""

    wrong: str
    edits: tuple[Edit, ...]
    check: Callable[..., object]
    arguments: tuple[tuple[Any, ...], ...] = ((),)

    def ask(self) -> None:
        for each in self.arguments:
            self.check(*each)


def seeds(n: int) -> tuple[tuple[int], ...]:
    return tuple((seed,) for seed in range(n))


sums_of_squares = (
    Edit(
        Scorer.leads,
        "return self._step[a] * ((z_recency + z_recency)[:, None] - self._both[a]) + (own - rest)",
        "d = (z_recency[:, None] - self._recency) ** 2 + rest; return np.take_along_axis(d, a[:, None], 1) - d",
    ),
    Edit(
        SingleScorer._leads,
        "step * (twice - both) + (own - q)",
        "((z - (both - step) / 2) ** 2 + own) - ((z - (both + step) / 2) ** 2 + q)",
    ),
)
q_off = (
    Edit(Scorer.rest, "df * df + dm * dm", "df * df + dm * dm + 1e-7 * np.arange(df.shape[1])"),
    Edit(
        SingleScorer._rest,
        "(m - cm) * (m - cm) for cf, cm in self._plane",
        "(m - cm) * (m - cm) + 1e-7 * k for k, (cf, cm) in enumerate(self._plane)",
    ),
)

MUTANTS: Final = (
    Mutant(
        "at least the margin (`≥`), not more than it",
        (
            Edit(Scorer.decide, "top > self.margin", "top >= self.margin"),
            Edit(Scorer.moves, "top > self.margin", "top >= self.margin"),
            Edit(SingleScorer._moves, "> self._margin", ">= self._margin"),
        ),
        time_checks.exactly_the_margin_stays,
    ),
    Mutant(
        "no floor under the margin",
        (
            Edit(SegmentIndex.__init__, "max(model.margin, MARGIN_FLOOR)", "model.margin"),
            Edit(SingleScorer.__init__, "max(model.margin, MARGIN_FLOOR)", "model.margin"),
        ),
        time_checks.no_second_move_on_a_sphere,
        seeds(10),
    ),
    Mutant(
        "sums of squares, not the factored form",
        sums_of_squares,
        time_checks.nearly_parallel_borders,
        tuple(itertools.product(range(4), time_checks.GAPS)),
    ),
    Mutant(
        "the search ends one millisecond early",
        (
            Edit(Scorer._between, "high[done]", "high[done] - 1"),
            Edit(SingleScorer._between, "return high", "return high - 1"),
        ),
        time_checks.the_first_millisecond,
        seeds(12),
    ),
    Mutant(
        "only the end of an interval is looked at, not its start",
        (
            Edit(Scorer._next_move, "((at_begin, begin), (at_end, end))", "((at_end, end),)"),
            Edit(SingleScorer.next_move, "if self._moves(a, begin, last, rest):", "if False:"),
        ),
        time_checks.the_first_millisecond,
        seeds(12),
    ),
    Mutant(
        "NumPy's own log1p",
        (Edit(kernels.log1p, "u = 1.0 + x\n", "return np.log1p(x)\n"),),
        time_checks.recorded_coordinates,
    ),
    Mutant(
        "of equally near segments the last",
        (
            Edit(Scorer.decide, "np.argmax(g, axis=1)", "g.shape[1] - 1 - np.argmax(g[:, ::-1], axis=1)"),
            Edit(SingleScorer._best, "leads.index(max(leads))", "len(leads) - 1 - leads[::-1].index(max(leads))"),
        ),
        time_checks.of_equally_near_the_first,
    ),
    Mutant(
        "log1p without the bits that 1 + x loses",
        (Edit(kernels.log1p, "+ lost)", "+ 0.0)"),),
        time_checks.log1p_is_exact,
    ),
    Mutant(
        "expm1 rounded twice",
        (Edit(kernels.expm1, "two_k * e + (two_k - 1.0)", "(two_k * e + two_k) - 1.0"),),
        time_checks.expm1_is_exact,
    ),
    Mutant("q off by 1e-7", q_off, time_checks.plain_distances, seeds(12)),
    Mutant(
        "q off by 1e-7, for one customer at a time alone", q_off[1:], time_checks.one_by_one_as_in_columns, seeds(12)
    ),
    Mutant(
        "the segment whose border was crossed, not the nearest",
        (Edit(Scorer.decide, "best = np.argmax(g, axis=1)", "best = np.argmax(g > self.margin, axis=1)"),),
        time_checks.the_first_millisecond,
        seeds(12),
    ),
    Mutant(
        "a search that gives up a year after the last order",
        (
            Edit(scorer._stretches, "last + HORIZON_MS", "last + 365 * DAY_MS"),
            Edit(SingleScorer.next_move, "last + HORIZON_MS", "last + 365 * DAY_MS"),
        ),
        time_checks.the_first_millisecond,
        seeds(12),
    ),
    Mutant(
        "a move at `until` itself, which belongs to the next search",
        (
            Edit(scorer._stretches, "intervals.until[owner] - 1", "intervals.until[owner]"),
            Edit(SingleScorer.next_move, "until - 1", "until"),
        ),
        time_checks.until_is_exclusive,
    ),
    Mutant(
        "an order that leaves the window a millisecond late",
        (Edit(intervals._plain, "time[taken] + rules.window", "time[taken] + rules.window + 1"),),
        step_checks.cut_anywhere,
        seeds(3),
    ),
    Mutant(
        "a dwell that ends a millisecond early",
        (Edit(decisions._ahead, "NONE + dwell_ms + 1) + dwell_ms", "NONE + dwell_ms + 1) + dwell_ms - 1"),),
        step_checks.cut_anywhere,
        seeds(3),
    ),
)


def called(mutant: Mutant) -> str:
    return re.sub(r"\W+", "-", mutant.wrong)


@pytest.mark.parametrize("mutant", MUTANTS, ids=called)
def test_a_check_catches_it(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.ask()
    for edit in mutant.edits:
        monkeypatch.setattr(edit.function, "__code__", mutated(edit).__code__)
    with pytest.raises(AssertionError):
        mutant.ask()


def test_the_documentation_lists_them() -> None:
    rows = re.findall(r"^\| (.+?) \| `(\w+)` \|$", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(mutant.wrong, mutant.check.__name__) for mutant in MUTANTS]
