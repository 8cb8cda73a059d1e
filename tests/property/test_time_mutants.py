"""The decision and the search with one step taken out or done wrong: a check of the ordinary tests must catch each.

The table in docs/time.md lists them. A mutant gives a function other code in place, so that all who hold it get the mutant.
"""

from __future__ import annotations

import __future__
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, Final, NamedTuple

import pytest

from segmentation import kernels
from segmentation.forecast import Scorer
from segmentation.single import SingleScorer
from tests import time_checks

DOC: Final = Path(__file__).parents[2] / "docs" / "time.md"


class Edit(NamedTuple):
    """In this function, `old` (which must be there) becomes `new`."""

    function: Any
    old: str
    new: str


class Mutant(NamedTuple):
    """What is wrong, where, and the check that must fail."""

    wrong: str
    edits: tuple[Edit, ...]
    check: Callable[[], object]


def seeds(check: Callable[[int], object], n: int) -> Callable[[], None]:
    def checked() -> None:
        for seed in range(n):
            check(seed)

    return checked


def nearly_parallel() -> None:
    for seed, gap in itertools.product(range(4), time_checks.GAPS):
        time_checks.nearly_parallel_borders(seed, gap)


first_millisecond = seeds(time_checks.the_first_millisecond, 12)
sums_of_squares = (
    Edit(
        Scorer.gain,
        "return self._step[a] * ((z_recency + z_recency)[:, None] - self._both[a]) + (own - rest)",
        "d = (z_recency[:, None] - self._recency) ** 2 + rest; return np.take_along_axis(d, a[:, None], 1) - d",
    ),
    Edit(
        SingleScorer._gain,
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
            Edit(Scorer.__init__, "max(model.margin, MARGIN_FLOOR)", "model.margin"),
            Edit(SingleScorer.__init__, "max(model.margin, MARGIN_FLOOR)", "model.margin"),
        ),
        seeds(time_checks.no_second_move_on_a_sphere, 10),
    ),
    Mutant("sums of squares, not the factored form", sums_of_squares, nearly_parallel),
    Mutant(
        "the search ends one millisecond early",
        (
            Edit(Scorer._between, "high[done]", "high[done] - 1"),
            Edit(SingleScorer._between, "return high", "return high - 1"),
        ),
        first_millisecond,
    ),
    Mutant(
        "only the end of a piece is looked at, not its start",
        (
            Edit(Scorer._next_move, "((at_begin, begin), (at_end, end))", "((at_end, end),)"),
            Edit(SingleScorer.next_move, "if self._moves(a, begin, last, rest):", "if False:"),
        ),
        first_millisecond,
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
            Edit(SingleScorer._best, "gain.index(max(gain))", "len(gain) - 1 - gain[::-1].index(max(gain))"),
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
    Mutant("q off by 1e-7", q_off, seeds(time_checks.plain_distances, 12)),
    Mutant(
        "q off by 1e-7, for one customer at a time alone", q_off[1:], seeds(time_checks.one_by_one_as_in_columns, 12)
    ),
    Mutant(
        "the segment whose border was crossed, not the nearest",
        (Edit(Scorer.decide, "best = np.argmax(g, axis=1)", "best = np.argmax(g > self.margin, axis=1)"),),
        first_millisecond,
    ),
    Mutant(
        "recency that goes on past the horizon, where a millisecond no longer outweighs rounding",
        (
            Edit(Scorer.z_recency, "at - np.maximum(last, -HORIZON_MS), 0), HORIZON_MS)", "at - last, 0), 2**62)"),
            Edit(SingleScorer._gain, "at - max(last, -HORIZON_MS), 0), HORIZON_MS)", "at - last, 0), 2**62)"),
        ),
        first_millisecond,
    ),
    Mutant(
        "a move at `until` itself",
        (
            Edit(
                Scorer._next_move,
                "_stretches(last, start, pieces, owner)",
                "_stretches(last, start, replace(pieces, until=pieces.until + 1), owner)",
            ),
            Edit(SingleScorer.next_move, "until - 1", "until"),
        ),
        first_millisecond,
    ),
)


def mutated(edit: Edit) -> FunctionType:
    """The function with the edit in its source, compiled where the function lives."""
    source = textwrap.dedent(inspect.getsource(edit.function))
    assert source.count(edit.old) == 1, (
        f"{edit.function.__qualname__} holds {edit.old!r} {source.count(edit.old)} times"
    )
    found: dict[str, Any] = {}
    code = compile(source.replace(edit.old, edit.new), "mutant", "exec", flags=__future__.annotations.compiler_flag)
    exec(code, edit.function.__globals__, found)  # noqa: S102 — the repository's own source, one step changed
    (function,) = found.values()
    assert isinstance(function, FunctionType)
    return function


@pytest.fixture(params=MUTANTS, ids=lambda mutant: re.sub(r"\W+", "-", mutant.wrong))
def mutant(request: pytest.FixtureRequest) -> Iterator[Mutant]:
    yield request.param


def test_a_check_catches_it(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.check()
    for edit in mutant.edits:
        monkeypatch.setattr(edit.function, "__code__", mutated(edit).__code__)
    with pytest.raises(AssertionError):
        mutant.check()
