"""Decision and search: against the scorer itself, against plain distances in extended precision, bits against bits."""

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segmentation import forecast
from segmentation.entries import DAY_MS
from segmentation.forecast import UNKNOWN, Scorer, standardise, transform
from segmentation.model import (
    FEATURES,
    MARGIN_FLOOR,
    TWIN_DISTANCE2,
    Feature,
    Segment,
    SegmentModel,
    Training,
    Transform,
)
from segmentation.pieces import Pieces
from segmentation.single import HORIZON_MS
from segmentation.step import NEVER_DUE

Floats = NDArray[np.float64]
Instants = NDArray[np.int64]

LAMBDAS = [0.0, 2.0, 1.0, 0.5, 0.25, 1e-9, -1e-9, 1e-17, 1e-3, -1e-3, -0.03, -0.034, -0.5, -1.0, -2.0, -5.0, 3.0, 7.0]
LAMBDAS += [2.0 - 1e-12, 60.0, -60.0]
KINDS: tuple[Transform, ...] = ("identity", "log1p", "yeo-johnson")
NO_ORDER = -(2**63)

# Each example is a seed of many rows: this many run in seconds, EXAMPLES asks for more.
EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
MANY = settings(max_examples=EXAMPLES, deadline=None)
SEEDS = st.integers(0, 2**63 - 1)


def feature(j: int, kind: Transform = "identity", lam: float = 1.0, mean: float = 0.0, scale: float = 1.0) -> Feature:
    name: Any = FEATURES[j]
    return Feature(name=name, transform=kind, lam=lam if kind == "yeo-johnson" else None, mean=mean, scale=scale)


def scorer(features: tuple[Feature, Feature, Feature], centroids: Floats, margin: float) -> Scorer:
    segments = tuple(
        Segment(id=10 + i, name=f"S{i}", action="", centroid=(x, y, z))
        for i, (x, y, z) in enumerate(centroids.tolist())
    )
    training = Training(
        as_of=datetime(2020, 1, 1, tzinfo=UTC),
        customers=0,
        k=len(segments),
        silhouette=None,
        inertia=None,
        shares={},
        feature_means={},
        seed=0,
    )
    return Scorer(SegmentModel(parent=None, features=features, segments=segments, margin=margin, training=training))


def plain_scorer(centroids: list[list[float]], margin: float) -> Scorer:
    """z is the value itself, recency in days."""
    return scorer((feature(0), feature(1), feature(2)), np.array(centroids), margin)


def any_scorer(rng: np.random.Generator) -> Scorer:
    def fitted(j: int, lo: float, hi: float) -> Feature:
        kind = KINDS[rng.integers(3)]
        lam = float(rng.choice(LAMBDAS[:-2])) if rng.random() < 0.5 else float(rng.uniform(-3, 4))
        t = transform(rng.uniform(lo, hi, 50), kind, lam)
        # np.mean and np.std only choose the numbers; rounded, they are the same on every machine.
        return feature(j, kind, lam, round(float(t.mean()), 6), max(round(float(t.std()), 6), 1e-6))

    k = int(rng.integers(2, 17))
    features = (fitted(0, 0, 365), fitted(1, 0, 30), fitted(2, -200, 5000))
    c = np.round(rng.normal(0, 1.2, (k, 3)), 6)
    style = rng.random()
    if style < 0.15:  # a grid: exact ties, parallel bisectors, equal recency coordinates
        c = np.round(c)
    elif style < 0.25:
        c[:, 0] = c[0, 0]
    elif style < 0.35:  # nearly parallel
        c[:, 0] = c[0, 0] + rng.normal(0, 1e-7, k)
    margin = float(rng.choice([0, 0, 1e-9, 0.05, 0.1, 0.5, 2.0, rng.uniform(0, 3)]))
    return scorer(features, without_twins(c), margin)


def without_twins(c: Floats) -> Floats:
    """Centroids that would make the model be refused, dropped; at least two are left."""
    kept: list[Floats] = []
    for one in c:
        if all(((one - other) ** 2).sum() > 2 * TWIN_DISTANCE2 for other in kept):
            kept.append(one)
    return np.array(kept if len(kept) > 1 else [kept[0], kept[0] + 1.0])


class Crowd(NamedTuple):
    """Announced segments, last orders, earliest instants and pieces of n customers."""

    a: Instants
    last: Instants
    start: Instants
    pieces: Pieces

    def alone(self, i: int) -> "Crowd":
        p, row = self.pieces, slice(i, i + 1)
        o, e = int(p.offset[i]), int(p.offset[i + 1])
        only = Pieces(np.array([0, e - o]), p.start[o:e], p.frequency[o:e], p.monetary[o:e], p.until[row])
        return Crowd(self.a[row], self.last[row], self.start[row], only)

    def piece_at(self, i: int, at: Instants) -> Instants:
        o, e = self.pieces.offset[i], self.pieces.offset[i + 1]
        found: Instants = o + np.maximum(np.searchsorted(self.pieces.start[o:e], at, side="right") - 1, 0)
        return found


def any_crowd(rng: np.random.Generator, scorer: Scorer, n: int) -> Crowd:
    a = rng.integers(0, scorer.ids.size, n)
    as_of = rng.integers(1_200_000_000_000, 1_900_000_000_000, n)
    last = as_of - (rng.uniform(0, 400, n) * rng.choice([0, 0.01, 1, 1, 10], n) * DAY_MS).astype(np.int64)
    last += np.where(rng.random(n) < 0.03, 5 * DAY_MS, 0)  # dated ahead: recency is 0 until then
    last[rng.random(n) < 0.03] = NO_ORDER
    start = as_of + rng.choice([1, 1, DAY_MS, 7 * DAY_MS], n)
    count = rng.choice([1, 1, 2, 3, 8, 40], n)
    begin, frequency, monetary = [], [], []
    for i in range(n):
        # Equal instants make pieces of no length.
        gaps = (rng.uniform(0, 60, count[i] - 1) * DAY_MS).astype(np.int64) * rng.choice([0, 1, 1, 1], count[i] - 1)
        begin.append(as_of[i] + np.append(0, np.cumsum(gaps)))
        frequency.append(np.arange(count[i])[::-1].astype(float) + rng.integers(0, 3))
        monetary.append(np.round(rng.normal(200, 600, count[i]), 2))
    until = np.where(rng.random(n) < 0.6, NEVER_DUE, start + (rng.uniform(-1, 300, n) * DAY_MS).astype(np.int64))
    offset = np.append(0, np.cumsum(count))
    p = Pieces(offset, np.concatenate(begin), np.concatenate(frequency), np.concatenate(monetary), until)
    return Crowd(a, last, start, p)


def decided(s: Scorer, crowd: Crowd, i: int, at: Instants, a: int | None = None) -> Instants:
    """The scorer's own word at many instants of customer i."""
    j = crowd.piece_at(i, at)
    rest = s.rest(crowd.pieces.frequency[j], crowd.pieces.monetary[j])
    return s.decide(np.full(at.size, crowd.a[i] if a is None else a), at, np.full(at.size, crowd.last[i]), rest)


def instants_before(rng: np.random.Generator, crowd: Crowd, i: int, end: int) -> Instants:
    """Instants of [start, end) worth asking: 300 after the start, 2,000 before the end, all edges, grids."""
    start = int(crowd.start[i])
    o, e = crowd.pieces.offset[i], crowd.pieces.offset[i + 1]
    span = max(end - start, 2)
    at = np.concatenate(
        [
            start + np.arange(300),
            end - np.arange(1, 2001),
            *(crowd.pieces.start[o:e] + d for d in (-1, 0, 1)),
            np.linspace(start, end, 2000).astype(np.int64),
            start + np.geomspace(1, span, 500).astype(np.int64),
            rng.integers(start, start + span, 500),
        ]
    )
    return at[(at >= start) & (at < end)]


@MANY
@given(SEEDS)
def test_nothing_moves_before_the_first_millisecond_told_and_everything_from_it_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = any_scorer(rng)
    crowd = any_crowd(rng, s, 20)
    p = crowd.pieces
    at, to = s.next_move(crowd.a, crowd.last, crowd.start, p)
    for i in range(20):
        starts = p.start[p.offset[i] : p.offset[i + 1]]
        if at[i] == NEVER_DUE:
            assert to[i] == crowd.a[i]
            open_end = max(int(crowd.last[i]), -HORIZON_MS) + HORIZON_MS
            end = min(max(open_end, int(starts[-1]), int(crowd.start[i])) + 10 * DAY_MS, int(p.until[i]))
        else:
            end = int(at[i])
            assert crowd.start[i] <= end < p.until[i]
            one = np.array([end])
            assert decided(s, crowd, i, one).tolist() == [to[i]] != [crowd.a[i]]
            assert decided(s, crowd, i, one, a=int(to[i])).tolist() == [to[i]], "a second move at one instant"
            until_next_piece = int(starts[starts > end].min(initial=end + 2000))
            after = np.arange(end, min(end + 2000, until_next_piece))
            assert (decided(s, crowd, i, after) != crowd.a[i]).all(), "not monotone"
        assert (decided(s, crowd, i, instants_before(rng, crowd, i, end)) == crowd.a[i]).all(), "moved earlier"
        alone = s.next_move(*crowd.alone(i))
        assert (int(alone[0][0]), int(alone[1][0])) == (at[i], to[i])


def distances2(s: Scorer, x: list[np.longdouble]) -> NDArray[np.longdouble]:
    """Squared distances of one customer the ordinary way, in 80 bits, with NumPy's own functions."""
    z = []
    for f, value in zip(s.model.features, x, strict=True):
        if f.transform == "identity":
            t = value
        elif f.transform == "log1p":
            t = np.log1p(max(value, np.longdouble(0)))
        else:
            lam = np.longdouble(f.lam if value >= 0 else 2.0 - (f.lam or 0.0))
            log = np.log1p(abs(value))
            power = log if abs(lam) < 2.0**-52 else np.expm1(lam * log) / lam
            t = power if value >= 0 else -power
        z.append(np.clip((t - np.longdouble(f.mean)) / np.longdouble(f.scale), -1024, 1024))
    centroids = np.array([segment.centroid for segment in s.model.segments], dtype=np.longdouble)
    total: NDArray[np.longdouble] = ((np.array(z) - centroids) ** 2).sum(1)
    return total


@MANY
@given(SEEDS)
def test_what_is_told_holds_by_plain_distances(seed: int) -> None:
    """At the instant told d²(a) - d²(b) > margin with b nearest, the millisecond before not: up to 1e-9 of rounding."""
    rng = np.random.default_rng(seed)
    s = any_scorer(rng)
    crowd = any_crowd(rng, s, 20)
    at, to = s.next_move(crowd.a, crowd.last, crowd.start, crowd.pieces)
    for i in np.flatnonzero(at != NEVER_DUE).tolist():
        for when, moved in ((int(at[i]), True), (int(at[i]) - 1, False)):
            j = int(crowd.piece_at(i, np.array([when]))[0])
            recency = np.longdouble(min(max(when - int(crowd.last[i]), 0), HORIZON_MS)) / DAY_MS
            f, m = crowd.pieces.frequency[j], crowd.pieces.monetary[j]
            d = distances2(s, [recency, np.longdouble(f), np.longdouble(m)])
            tolerance = 1e-9 + 1e-12 * float(d.max())
            lead = d[crowd.a[i]] - d.min()
            if moved:
                assert lead > s.margin - tolerance
                assert d[to[i]] <= d.min() + tolerance
            elif when >= crowd.start[i]:
                assert lead <= s.margin + tolerance


@MANY
@given(SEEDS)
def test_published_distances_and_the_unknown_agree_with_plain_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = any_scorer(rng)
    crowd = any_crowd(rng, s, 10)
    j = crowd.pieces.offset[:-1]
    f, m = crowd.pieces.frequency[j], crowd.pieces.monetary[j]
    rest = s.rest(f, m)
    got = s.distances(crowd.start, crowd.last, rest)
    nearest = s.decide(np.full(10, UNKNOWN), crowd.start, crowd.last, rest)
    for i in range(10):
        days = np.longdouble(min(max(int(crowd.start[i]) - int(crowd.last[i]), 0), HORIZON_MS)) / DAY_MS
        d = np.sqrt(distances2(s, [days, np.longdouble(f[i]), np.longdouble(m[i])]))
        np.testing.assert_allclose(got[i], d.astype(np.float64), rtol=1e-9, atol=1e-9)
        assert d[nearest[i]] <= d.min() + 1e-9 + 1e-12 * d.max()


@MANY
@given(SEEDS)
def test_first_is_the_first_of_its_stretch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = any_scorer(rng)
    crowd = any_crowd(rng, s, 40)
    rest = s.rest(crowd.pieces.frequency[crowd.pieces.offset[:-1]], crowd.pieces.monetary[crowd.pieces.offset[:-1]])
    hi = crowd.start + (rng.uniform(-1, 1, 40) * rng.choice([1, 1000, DAY_MS, 300 * DAY_MS], 40)).astype(np.int64)
    got = s.first(crowd.a, crowd.last, rest, crowd.start, hi)
    ask = [
        (crowd.start, crowd.start <= hi),
        (hi, crowd.start <= hi),
        (got, got != NEVER_DUE),
        (got - 1, got != NEVER_DUE),
    ]
    at_lo, at_hi, at_got, before = (
        s.moves(crowd.a, np.where(asked, at, 0), crowd.last, rest) & asked for at, asked in ask
    )
    found = got != NEVER_DUE
    assert (found == (at_lo | at_hi)).all()
    assert at_got[found].all()
    assert (got[at_lo] == crowd.start[at_lo]).all()
    assert not before[found & ~at_lo].any()
    assert (got[found] <= hi[found]).all()


@pytest.mark.parametrize("guess", [0, NEVER_DUE, 1_700_000_000_000 + 30 * DAY_MS, 1_700_000_000_000 + HORIZON_MS // 2])
def test_the_guess_decides_nothing_but_the_time_it_takes(guess: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s = scorer((feature(0, scale=100.0), feature(1), feature(2)), np.array([[0.0, 0, 0], [300.0, 0, 0]]), 0.25)
    last = np.full(60, 1_700_000_000_000)
    # Roots all over the hundred years.
    rest = np.stack([np.zeros(60), np.linspace(-89_000, 128_000, 60)], axis=1)
    a, hi = np.zeros(60, dtype=np.int64), last + HORIZON_MS
    expected = s.first(a, last, rest, last, hi)
    assert (expected < NEVER_DUE).all()
    monkeypatch.setattr(Scorer, "_guess", lambda _, rows: np.full(rows.a.size, guess))
    rounds = 0
    moves = Scorer.moves

    def counted(*arguments: Any) -> Any:
        nonlocal rounds
        rounds += 1
        return moves(*arguments)

    monkeypatch.setattr(Scorer, "moves", counted)
    assert s.first(a, last, rest, last, hi).tolist() == expected.tolist()
    assert rounds <= 2 + 2 * 42


@MANY
@given(SEEDS, st.one_of(st.sampled_from(LAMBDAS), st.floats(-10, 10)))
def test_recency_never_steps_back_from_one_millisecond_to_the_next(seed: int, lam: float) -> None:
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.uniform(0, np.log(HORIZON_MS), 4000)).astype(np.int64)
    ms = np.concatenate([rng.integers(0, HORIZON_MS, 4000), spread, np.arange(2000)])
    for kind in KINDS:
        f = feature(0, kind, lam, float(rng.normal()), float(np.exp(rng.uniform(-5, 5))))
        assert (standardise((ms + 1) / float(DAY_MS), f) >= standardise(ms / float(DAY_MS), f)).all()


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


def digest() -> str:
    """Every published figure and every answer of 40 models."""
    rng = np.random.default_rng(7)
    sha = hashlib.sha256()
    for seed in range(40):
        s = any_scorer(np.random.default_rng(seed))
        a, last, start, p = any_crowd(rng, s, 100)
        rest = s.rest(p.frequency, p.monetary)
        z = s.z_recency(start, last)
        at, to = s.next_move(a, last, start, p)
        for column in (at, to, rest, z, s.distances(start, last, rest[p.offset[:-1]])):
            sha.update(column.tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("off", ["X86_V4 AVX512_ICL AVX512_SPR", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"])
def test_same_bits_on_another_cpu(off: str) -> None:
    roots = [str(Path(forecast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
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
        s = any_scorer(np.random.default_rng(seed))
        a, last, start, p = any_crowd(rng, s, 60)
        rest, z = s.rest(p.frequency, p.monetary), s.z_recency(start, last)
        assert s.rest(p.frequency[::-3], p.monetary[::-3]).tobytes() == rest[::-3].tobytes()
        g = s.gain(a, z, rest[:60])
        for i in range(60):
            row = slice(i, i + 1)
            assert s.rest(p.frequency[row], p.monetary[row]).tobytes() == rest[row].tobytes()
            assert s.z_recency(start[row], last[row]).tobytes() == z[row].tobytes()
            assert s.gain(a[row], z[row], rest[row]).tobytes() == g[row].tobytes()


@MANY
@given(SEEDS)
def test_one_by_one_and_in_columns_the_same_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = any_scorer(rng)
    crowd = any_crowd(rng, s, 40)
    some = slice(0, 12)
    extreme = feature(
        0, "yeo-johnson", float(rng.choice(LAMBDAS)), float(rng.normal()), float(rng.choice([5e-324, 1.0]))
    )
    signed = np.concatenate([rng.normal(0, 1000, 40), [0.0, -0.0, 1e300, 36_525.0]])

    def answers() -> list[bytes]:
        at, to = s.next_move(*crowd)
        rest, z = s.rest(crowd.pieces.frequency, crowd.pieces.monetary), s.z_recency(crowd.start, crowd.last)
        first = rest[crowd.pieces.offset[:-1]]
        there = s.decide(crowd.a[some], crowd.start[some], crowd.last[some], first[some])
        return [column.tobytes() for column in (at, to, rest, z, there, standardise(signed, extreme))]

    with patch.object(forecast, "_FEW", 0):
        columns = answers()
    with patch.object(forecast, "_FEW", 10**9):
        assert answers() == columns


def test_blocks_of_the_search_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    s = any_scorer(rng)
    crowd = any_crowd(rng, s, 200)
    whole = s.next_move(*crowd)
    for block in (1, 7, 64):
        monkeypatch.setattr(forecast, "_BLOCK", block)
        at, to = s.next_move(*crowd)
        assert at.tolist() == whole[0].tolist()
        assert to.tolist() == whole[1].tolist()


def test_nobody_is_a_batch_too() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 0.25)
    none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    at, to = s.next_move(none, none, none, Pieces(np.zeros(1, dtype=np.int64), none, nothing, nothing, none))
    assert at.size == to.size == 0
    assert s.decide(none, none, none, s.rest(nothing, nothing)).size == 0


ZERO = np.array([0])
ORIGIN = Pieces(np.array([0, 1]), ZERO, np.zeros(1), np.zeros(1), np.array([NEVER_DUE]))


def test_from_no_known_segment_to_the_nearest_without_margin() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 100.0)
    rest = s.rest(np.zeros(1), np.zeros(1))
    assert s.decide(np.array([UNKNOWN]), np.array([3 * DAY_MS]), ZERO, rest).tolist() == [1]
    assert s.decide(np.array([0]), np.array([3 * DAY_MS]), ZERO, rest).tolist() == [0]
    with pytest.raises(ValueError, match="customer 0 has no known segment"):
        s.next_move(np.array([UNKNOWN]), ZERO, ZERO, ORIGIN)


def test_of_two_equally_near_the_first_of_the_model_is_taken() -> None:
    s = plain_scorer([[0, 0, 0], [4, 1, 0], [4, -1, 0]], 5.0)
    at, rest = np.array([4 * DAY_MS]), s.rest(np.zeros(1), np.zeros(1))
    assert s.decide(np.array([0]), at, ZERO, rest).tolist() == [1]
    assert s.decide(np.array([UNKNOWN]), at, ZERO, rest).tolist() == [1]
    assert s.decide(np.array([2]), at, ZERO, rest).tolist() == [2]


def test_exactly_the_margin_is_not_a_move() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 8.0)  # 8 r - 16 > 8: r > 3 days
    at, both = np.array([3 * DAY_MS, 3 * DAY_MS + 1]), np.zeros(2, dtype=np.int64)
    assert s.decide(both, at, both, s.rest(np.zeros(2), np.zeros(2))).tolist() == [0, 1]
    assert s.moves(both, at, both, s.rest(np.zeros(2), np.zeros(2))).tolist() == [False, True]
    told_at, told_to = s.next_move(ZERO, ZERO, ZERO, ORIGIN)
    assert (told_at.tolist(), told_to.tolist()) == ([3 * DAY_MS + 1], [1])


@pytest.mark.parametrize(("until", "told"), [(3 * DAY_MS + 2, True), (3 * DAY_MS + 1, False), (0, False)])
def test_until_is_exclusive(until: int, *, told: bool) -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 8.0)
    p = Pieces(ORIGIN.offset, ORIGIN.start, ORIGIN.frequency, ORIGIN.monetary, np.array([until]))
    at, to = s.next_move(ZERO, ZERO, ZERO, p)
    assert (at.tolist(), to.tolist()) == (([3 * DAY_MS + 1], [1]) if told else ([NEVER_DUE], [0]))


def test_a_crossing_before_the_start_is_told_at_the_start() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0], [8, 0, 0]], 0.0)
    at, to = s.next_move(ZERO, ZERO, np.array([7 * DAY_MS]), ORIGIN)
    assert (at.tolist(), to.tolist()) == ([7 * DAY_MS], [2])


def test_a_move_to_an_earlier_centroid_happens_where_a_piece_begins() -> None:
    """An hour and a bit into the second piece, recency would have undone it: its end alone says nothing."""
    s = plain_scorer([[10, 0, 0], [0, 3, 0]], 0.0)
    p = Pieces(np.array([0, 2]), np.array([0, 1000]), np.array([0.0, 15.0]), np.zeros(2), np.array([NEVER_DUE]))
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
    assert s.first(np.array([1]), none, rest, one, one + DAY_MS).tolist() == [NEVER_DUE]
    p = Pieces(np.array([0, 1]), one, np.zeros(1), np.zeros(1), np.array([NEVER_DUE]))
    assert [column.tolist() for column in s.next_move(ZERO, none, one + 5, p)] == [[now + 5], [1]]
    assert [column.tolist() for column in s.next_move(np.array([1]), none, one, p)] == [[NEVER_DUE], [1]]


@pytest.mark.parametrize(("far", "never"), [(8.0, False), (12.0, True)])
def test_a_saturated_transform_has_no_root(far: float, *, never: bool) -> None:
    recency = feature(0, "yeo-johnson", -1.0, 0.5, 0.1)  # t tends to 1, so z < 5
    s = scorer((recency, feature(1), feature(2)), np.array([[0.0, 0, 0], [far, 0, 0]]), 0.0)
    at, _ = s.next_move(ZERO, ZERO, ZERO + 1, ORIGIN)
    assert (at[0] == NEVER_DUE) == never


@MANY
@given(SEEDS, st.sampled_from([1.0, 1e-2, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10]))
@example(0, 1e-7)
def test_nearly_parallel_borders(seed: int, gap: float) -> None:
    """The root lies inside, the closed form is off by up to days; every millisecond around the answer is asked."""
    rng = np.random.default_rng(seed)
    recency = feature(0, "yeo-johnson", float(rng.uniform(-0.5, 0.6)), 3.0)
    days, f = float(rng.uniform(5, 300)), float(rng.normal())
    q_a, margin = float(rng.uniform(1, 2)), float(rng.choice([1e-3, 0.1]))
    z = float(standardise(np.array([days]), recency)[0])
    ca = z - float(rng.uniform(0, 2))
    cb = ca + gap * float(rng.uniform(0.5, 1))
    q_b = q_a + (cb - ca) * (2 * z - ca - cb) - margin
    assume(q_b > 0)
    s = scorer((recency, feature(1), feature(2)), np.array([[ca, f - q_a**0.5, 0], [cb, f + q_b**0.5, 0]]), margin)
    p = Pieces(np.array([0, 1]), ZERO, np.array([f]), np.zeros(1), np.array([NEVER_DUE]))
    at, to = s.next_move(ZERO, ZERO, ZERO, p)
    assume(at[0] != NEVER_DUE)
    ms = np.maximum(at[0] + np.arange(-20_000, 20_000), 0)
    zeros = np.zeros(ms.size, dtype=np.int64)
    told = s.decide(zeros, ms, zeros, np.repeat(s.rest(np.array([f]), np.zeros(1)), ms.size, 0))
    assert (told == np.where(ms >= at[0], to[0], 0)).all()


@MANY
@given(SEEDS)
def test_no_second_move_where_many_segments_tie(seed: int) -> None:
    """Twelve centroids on a sphere round the customer, margin 0: the floor alone keeps it from going round."""
    rng = np.random.default_rng(seed)
    n = 200
    f, m, day = float(rng.normal()), float(rng.normal()), int(rng.integers(0, 100))
    ball = rng.normal(0, 1, (12, 3))
    sphere = np.array([day, f, m]) + ball / np.sqrt((ball * ball).sum(1, keepdims=True))
    assume(all(((one - other) ** 2).sum() > 2 * TWIN_DISTANCE2 for one, other in combinations(sphere, 2)))
    s = scorer((feature(0), feature(1), feature(2)), sphere, 0.0)
    assert s.margin == MARGIN_FLOOR
    a, at, last = rng.integers(0, 12, n), day * DAY_MS + rng.integers(-1, 2, n), np.zeros(n, dtype=np.int64)
    rest = s.rest(np.full(n, f), np.full(n, m))
    once = s.decide(a, at, last, rest)
    assert (s.decide(once, at, last, rest) == once).all()


def test_indices_of_lasting_ids() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 0.25)
    assert s.ids.tolist() == [10, 11]
    assert s.index_of == {10: 0, 11: 1}
    assert s.index_from_ids(np.array([0, 11, 10, 12, 65_535], dtype=np.uint16)).tolist() == [-1, 1, 0, -1, -1]
    assert s.index_from_ids(s.ids).dtype == np.int64


if __name__ == "__main__":
    print(digest())
