"""Decision and search: against the scorer itself, against plain distances in extended precision, bits against bits.

The checks that must catch the mutants are in `tests/support/oracles/time_checks.py`.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from segmentation import scorer as scorer_module
from segmentation.entries import DAY_MS, HORIZON_MS
from segmentation.intervals import Intervals
from segmentation.model import MARGIN_FLOOR
from segmentation.scorer import UNKNOWN, Scorer, _Rows, standardise, transform
from segmentation.step import NEVER_DUE
from tests.support.data.random_customers import (
    LAMBDAS,
    NO_ORDER,
    Floats,
    Instants,
    feature,
    plain_scorer,
    random_customers,
    random_scorer,
    scorer,
)
from tests.support.oracles import time_checks
from tests.support.oracles.time_checks import GAPS, ORIGIN, ZERO, distances2

# Each example is a seed of many rows: this many run in seconds, EXAMPLES asks for more.
EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
MANY = settings(max_examples=EXAMPLES, deadline=None)
SEEDS = st.integers(0, 2**63 - 1)


@MANY
@given(SEEDS)
def test_nothing_moves_before_the_first_millisecond_found_and_everything_from_it_on(seed: int) -> None:
    time_checks.the_first_millisecond(seed)


@MANY
@given(SEEDS)
def test_found_moves_agree_with_plain_distances(seed: int) -> None:
    time_checks.plain_distances(seed)


@MANY
@given(SEEDS)
def test_published_distances_and_the_unknown_agree_with_plain_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = random_scorer(rng)
    customers = random_customers(rng, s, 10)
    j = customers.intervals.offset[:-1]
    f, m = customers.intervals.frequency[j], customers.intervals.monetary[j]
    rest = s.rest(f, m)
    got = s.distances(customers.start, customers.last, rest)
    nearest = s.decide(np.full(10, UNKNOWN), customers.start, customers.last, rest)
    for i in range(10):
        days = np.longdouble(min(max(int(customers.start[i]) - int(customers.last[i]), 0), HORIZON_MS)) / DAY_MS
        d = np.sqrt(distances2(s, [days, np.longdouble(f[i]), np.longdouble(m[i])]))
        np.testing.assert_allclose(got[i], d.astype(np.float64), rtol=1e-9, atol=1e-9)
        assert d[nearest[i]] <= d.min() + 1e-9 + 1e-12 * d.max()


def first_move(s: Scorer, a: Instants, last: Instants, rest: Floats, lo: Instants, hi: Instants) -> Instants:
    """Search the first instant in [lo, hi] at which each customer moves, its figures standing still; else NEVER_DUE."""
    out = np.full(a.size, NEVER_DUE, dtype=np.int64)
    some = np.flatnonzero(lo <= hi)
    now = s.moves(a[some], lo[some], last[some], rest[some])
    out[some[now]] = lo[some[now]]
    some = some[~now]
    some = some[s.moves(a[some], hi[some], last[some], rest[some])]
    out[some] = s._between(_Rows(a[some], last[some], rest[some]), lo[some], hi[some])
    return out


@MANY
@given(SEEDS)
def test_first_is_the_first_of_its_stretch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = random_scorer(rng)
    customers = random_customers(rng, s, 40)
    rest = s.rest(
        customers.intervals.frequency[customers.intervals.offset[:-1]],
        customers.intervals.monetary[customers.intervals.offset[:-1]],
    )
    hi = customers.start + (rng.uniform(-1, 1, 40) * rng.choice([1, 1000, DAY_MS, 300 * DAY_MS], 40)).astype(np.int64)
    got = first_move(s, customers.a, customers.last, rest, customers.start, hi)
    ask = [
        (customers.start, customers.start <= hi),
        (hi, customers.start <= hi),
        (got, got != NEVER_DUE),
        (got - 1, got != NEVER_DUE),
    ]
    at_lo, at_hi, at_got, before = (
        s.moves(customers.a, np.where(asked, at, 0), customers.last, rest) & asked for at, asked in ask
    )
    found = got != NEVER_DUE
    assert (found == (at_lo | at_hi)).all()
    assert at_got[found].all()
    assert (got[at_lo] == customers.start[at_lo]).all()
    assert not before[found & ~at_lo].any()
    assert (got[found] <= hi[found]).all()


@pytest.mark.parametrize("guess", [0, NEVER_DUE, 1_700_000_000_000 + 30 * DAY_MS, 1_700_000_000_000 + HORIZON_MS // 2])
def test_the_guess_decides_nothing_but_the_time_it_takes(guess: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s = scorer((feature(0, scale=100.0), feature(1), feature(2)), np.array([[0.0, 0, 0], [300.0, 0, 0]]), 0.25)
    last = np.full(60, 1_700_000_000_000)
    # Roots all over the hundred years.
    rest = np.stack([np.zeros(60), np.linspace(-89_000, 128_000, 60)], axis=1)
    a, hi = np.zeros(60, dtype=np.int64), last + HORIZON_MS
    expected = first_move(s, a, last, rest, last, hi)
    assert (expected < NEVER_DUE).all()
    monkeypatch.setattr(Scorer, "_guess", lambda _, rows: np.full(rows.a.size, guess))
    rounds = 0
    moves = Scorer.moves

    def counted(*arguments: Any) -> Any:
        nonlocal rounds
        rounds += 1
        return moves(*arguments)

    monkeypatch.setattr(Scorer, "moves", counted)
    assert first_move(s, a, last, rest, last, hi).tolist() == expected.tolist()
    assert rounds <= 2 + 2 * 42


@MANY
@given(SEEDS, st.one_of(st.sampled_from(LAMBDAS), st.floats(-10, 10)))
def test_recency_never_steps_back_from_one_millisecond_to_the_next(seed: int, lam: float) -> None:
    time_checks.recency_is_monotone(seed, lam)


@pytest.mark.parametrize("lam", [-1.0, -0.3, 0.0, 0.3, 1.7])
def test_recency_never_steps_back_where_an_exponent_changes(lam: float) -> None:
    """Inside log1p and expm1; every millisecond around."""
    f = feature(0, "yeo-johnson", lam)
    edges = [2.0**k * c - 1 for k in range(16) for c in (1.0, 2**0.5)] + [1.0]
    if lam:
        edges += [float(v) for v in np.expm1((np.arange(-30, 60) + 0.5) * np.log(2) / lam) if 0 < v < 36_525]
    for days in edges:
        ms = int(days * DAY_MS) + np.arange(-3000, 3000)
        ms = ms[(ms >= 0) & (ms <= HORIZON_MS)]
        assert (np.diff(standardise(ms / float(DAY_MS), f)) >= 0).all(), days


@pytest.mark.parametrize(("mean", "scale", "lam"), [(0.0, 5e-324, 3.0), (-1e308, 1e-300, -60.0), (1e308, 1e308, 1e308)])
def test_extreme_features_give_a_score_within_the_limits(mean: float, scale: float, lam: float) -> None:
    z = standardise(np.array([0.0, 1e-9, 1.0, 36_525.0]), feature(0, "yeo-johnson", lam, mean, scale))
    assert (np.abs(z) <= 1024).all()
    assert (np.diff(z) >= 0).all()


def test_yeo_johnson_without_lambda_is_refused() -> None:
    with pytest.raises(ValueError, match="lam is None"):
        transform(np.zeros(1), "yeo-johnson")


def test_coordinates_have_the_bits_recorded() -> None:
    time_checks.recorded_coordinates()


def digest() -> str:
    """Every published figure and every answer of 40 models."""
    rng = np.random.default_rng(7)
    sha = hashlib.sha256()
    for seed in range(40):
        s = random_scorer(np.random.default_rng(seed))
        a, last, start, p = random_customers(rng, s, 100)
        rest = s.rest(p.frequency, p.monetary)
        z = s.z_recency(start, last)
        at, to = s.next_move(a, last, start, p)
        for column in (at, to, rest, z, s.distances(start, last, rest[p.offset[:-1]])):
            sha.update(column.tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("off", ["X86_V4 AVX512_ICL AVX512_SPR", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"])
def test_same_bits_on_another_cpu(off: str) -> None:
    roots = [str(Path(scorer_module.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    # NumPy warns of features that this CPU hasn't got anyway.
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": off, "PYTHONPATH": os.pathsep.join(filter(None, roots))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == digest()


def test_batch_alone_and_strided_give_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    for seed in range(20):
        s = random_scorer(np.random.default_rng(seed))
        a, last, start, p = random_customers(rng, s, 60)
        rest, z = s.rest(p.frequency, p.monetary), s.z_recency(start, last)
        assert s.rest(p.frequency[::-3], p.monetary[::-3]).tobytes() == rest[::-3].tobytes()
        g = s.leads(a, z, rest[:60])
        for i in range(60):
            row = slice(i, i + 1)
            assert s.rest(p.frequency[row], p.monetary[row]).tobytes() == rest[row].tobytes()
            assert s.z_recency(start[row], last[row]).tobytes() == z[row].tobytes()
            assert s.leads(a[row], z[row], rest[row]).tobytes() == g[row].tobytes()


@MANY
@given(SEEDS)
def test_one_by_one_and_in_columns_the_same_bits(seed: int) -> None:
    time_checks.one_by_one_as_in_columns(seed)


def test_blocks_of_the_search_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    s = random_scorer(rng)
    customers = random_customers(rng, s, 200)
    whole = s.next_move(*customers)
    for block in (1, 7, 64):
        monkeypatch.setattr(scorer_module, "_BLOCK", block)
        at, to = s.next_move(*customers)
        assert at.tolist() == whole[0].tolist()
        assert to.tolist() == whole[1].tolist()


def test_nobody_is_a_batch_too() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 0.25)
    none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    at, to = s.next_move(none, none, none, Intervals(np.zeros(1, dtype=np.int64), none, nothing, nothing, none))
    assert at.size == to.size == 0
    assert s.decide(none, none, none, s.rest(nothing, nothing)).size == 0


def test_from_no_known_segment_to_the_nearest_without_margin() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 100.0)
    rest = s.rest(np.zeros(1), np.zeros(1))
    assert s.decide(np.array([UNKNOWN]), np.array([3 * DAY_MS]), ZERO, rest).tolist() == [1]
    assert s.decide(np.array([0]), np.array([3 * DAY_MS]), ZERO, rest).tolist() == [0]
    with pytest.raises(ValueError, match="customer 0 has no known segment"):
        s.next_move(np.array([UNKNOWN]), ZERO, ZERO, ORIGIN)


def test_of_two_equally_near_the_first_of_the_model_is_taken() -> None:
    time_checks.of_equally_near_the_first()


def test_exactly_the_margin_is_not_a_move() -> None:
    time_checks.exactly_the_margin_stays()


def test_no_margin_means_the_least_one() -> None:
    assert plain_scorer([[0, 0, 0], [4, 0, 0]], 0.0).margin == MARGIN_FLOOR == 2.0**-20


def test_until_is_exclusive() -> None:
    time_checks.until_is_exclusive()


def test_a_crossing_before_the_start_is_found_at_the_start() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0], [8, 0, 0]], 0.0)
    at, to = s.next_move(ZERO, ZERO, np.array([7 * DAY_MS]), ORIGIN)
    assert (at.tolist(), to.tolist()) == ([7 * DAY_MS], [2])


def test_a_move_to_an_earlier_centroid_happens_where_an_interval_begins() -> None:
    """An hour and a bit into the second interval, recency would undo the move: the interval's end doesn't show it."""
    s = plain_scorer([[10, 0, 0], [0, 3, 0]], 0.0)
    p = Intervals(np.array([0, 2]), np.array([0, 1000]), np.array([0.0, 15.0]), np.zeros(2), np.array([NEVER_DUE]))
    nine_days_ago = np.array([-9 * DAY_MS])
    at, to = s.next_move(ZERO, nine_days_ago, ZERO, p)
    assert (at.tolist(), to.tolist()) == ([1000], [1])
    rest = s.rest(p.frequency[1:], p.monetary[1:])
    assert s.moves(ZERO, ZERO + 2 * 3_600_000, nine_days_ago, rest).tolist() == [False]


def test_without_an_order_recency_is_the_horizon_and_stands_still() -> None:
    s = plain_scorer([[0, 0, 0], [1000, 0, 0], [500, 30, 0]], 0.0)
    now = 1_700_000_000_000
    one, none, long_ago = np.array([now]), np.array([NO_ORDER]), np.array([now - HORIZON_MS])
    rest = s.rest(np.zeros(1), np.zeros(1))
    assert s.z_recency(one, none).tobytes() == s.z_recency(one, long_ago).tobytes()
    assert s.decide(ZERO, one, none, rest).tolist() == [1]
    assert first_move(s, np.array([1]), none, rest, one, one + DAY_MS).tolist() == [NEVER_DUE]
    p = Intervals(np.array([0, 1]), one, np.zeros(1), np.zeros(1), np.array([NEVER_DUE]))
    assert [column.tolist() for column in s.next_move(ZERO, none, one + 5, p)] == [[now + 5], [1]]
    assert [column.tolist() for column in s.next_move(np.array([1]), none, one, p)] == [[NEVER_DUE], [1]]


@pytest.mark.parametrize(("far", "never"), [(8.0, False), (12.0, True)])
def test_a_saturated_transform_has_no_root(far: float, *, never: bool) -> None:
    recency = feature(0, "yeo-johnson", -1.0, 0.5, 0.1)  # t tends to 1, so z < 5
    s = scorer((recency, feature(1), feature(2)), np.array([[0.0, 0, 0], [far, 0, 0]]), 0.0)
    at, _ = s.next_move(ZERO, ZERO, ZERO + 1, ORIGIN)
    assert (at[0] == NEVER_DUE) == never


@MANY
@given(SEEDS, st.sampled_from(GAPS))
@example(0, 1e-7)
def test_nearly_parallel_borders(seed: int, gap: float) -> None:
    assume(time_checks.nearly_parallel_borders(seed, gap))


@MANY
@given(SEEDS)
def test_no_second_move_where_many_segments_tie(seed: int) -> None:
    assume(time_checks.no_second_move_on_a_sphere(seed))


def test_indices_of_lasting_ids() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 0.25)
    assert s.ids.tolist() == [10, 11]
    assert s.index_of == {10: 0, 11: 1}
    assert s.index_from_ids(np.array([0, 11, 10, 12, 65_535], dtype=np.uint16)).tolist() == [-1, 1, 0, -1, -1]
    assert s.index_from_ids(s.ids).dtype == np.int64


if __name__ == "__main__":
    print(digest())
