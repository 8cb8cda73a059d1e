"""Properties of the decision and the search, each a function that raises AssertionError where it doesn't hold.

The ordinary tests check the code as it is, the mutants the code with one step taken out.
"""

from __future__ import annotations

import hashlib
import sys
from decimal import Context, Decimal, localcontext
from itertools import combinations
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from segmentation import kernels
from segmentation import scorer as scorer_module
from segmentation.entries import DAY_MS, HORIZON_MS
from segmentation.intervals import Intervals
from segmentation.model import TWIN_DISTANCE2
from segmentation.scorer import UNKNOWN, Scorer, standardise
from segmentation.step import NEVER_DUE
from tests.support.data.random_customers import (
    KINDS,
    LAMBDAS,
    Floats,
    Instants,
    RandomCustomers,
    feature,
    plain_scorer,
    random_customers,
    random_scorer,
    scorer,
)

ZERO = np.array([0])
ORIGIN = Intervals(np.array([0, 1]), ZERO, np.zeros(1), np.zeros(1), np.array([NEVER_DUE]))
GAPS = (1.0, 1e-2, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10)
RECORDED_Z = "d1c6ca3b89b12fd9e16a4a60b87582467f3f16d65e6d0ec99643bf84af908090"


def decided(s: Scorer, customers: RandomCustomers, i: int, at: Instants, a: int | None = None) -> Instants:
    """Return the scorer's decisions at many instants of customer i."""
    j = customers.interval_at(i, at)
    rest = s.rest(customers.intervals.frequency[j], customers.intervals.monetary[j])
    return s.decide(np.full(at.size, customers.a[i] if a is None else a), at, np.full(at.size, customers.last[i]), rest)


def instants_before(rng: np.random.Generator, customers: RandomCustomers, i: int, end: int) -> Instants:
    """Instants of [start, end) worth asking: 300 after the start, 2,000 before the end, all edges, grids."""
    start = int(customers.start[i])
    o, e = customers.intervals.offset[i], customers.intervals.offset[i + 1]
    span = max(end - start, 2)
    at = np.concatenate(
        [
            start + np.arange(300),
            end - np.arange(1, 2001),
            *(customers.intervals.start[o:e] + d for d in (-1, 0, 1)),
            np.linspace(start, end, 2000).astype(np.int64),
            start + np.geomspace(1, span, 500).astype(np.int64),
            rng.integers(start, start + span, 500),
        ]
    )
    return at[(at >= start) & (at < end)]


def the_first_millisecond(seed: int) -> None:
    """Check that no customer moves before the instant found and each does from it on, in columns and alone."""
    rng = np.random.default_rng(seed)
    s = random_scorer(rng)
    customers = random_customers(rng, s, 20)
    p = customers.intervals
    with patch.object(scorer_module, "_FEW", 0):
        at, to = s.next_move(customers.a, customers.last, customers.start, p)
    for i in range(20):
        starts = p.start[p.offset[i] : p.offset[i + 1]]
        if at[i] == NEVER_DUE:
            assert to[i] == customers.a[i]
            open_end = max(int(customers.last[i]), -HORIZON_MS) + HORIZON_MS
            end = min(max(open_end, int(starts[-1]), int(customers.start[i])) + 10 * DAY_MS, int(p.until[i]))
        else:
            end = int(at[i])
            assert customers.start[i] <= end < p.until[i]
            one = np.array([end])
            assert decided(s, customers, i, one).tolist() == [to[i]] != [customers.a[i]]
            assert decided(s, customers, i, one, a=int(to[i])).tolist() == [to[i]], "a second move at one instant"
            until_next_piece = int(starts[starts > end].min(initial=end + 2000))
            after = np.arange(end, min(end + 2000, until_next_piece))
            assert (decided(s, customers, i, after) != customers.a[i]).all(), "not monotone"
        assert (decided(s, customers, i, instants_before(rng, customers, i, end)) == customers.a[i]).all(), (
            "moved earlier"
        )
        alone = s.next_move(*customers.alone(i))
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


def plain_distances(seed: int) -> None:
    """Check that d²(a) - d²(b) > margin with b nearest at the instant found, not a millisecond before, up to 1e-9."""
    rng = np.random.default_rng(seed)
    s = random_scorer(rng)
    customers = random_customers(rng, s, 20)
    at, to = s.next_move(customers.a, customers.last, customers.start, customers.intervals)
    for i in np.flatnonzero(at != NEVER_DUE).tolist():
        for when, moved in ((int(at[i]), True), (int(at[i]) - 1, False)):
            j = int(customers.interval_at(i, np.array([when]))[0])
            recency = np.longdouble(min(max(when - int(customers.last[i]), 0), HORIZON_MS)) / DAY_MS
            f, m = customers.intervals.frequency[j], customers.intervals.monetary[j]
            d = distances2(s, [recency, np.longdouble(f), np.longdouble(m)])
            tolerance = 1e-9 + 1e-12 * float(d.max())
            lead = d[customers.a[i]] - d.min()
            if moved:
                assert lead > s.margin - tolerance
                assert d[to[i]] <= d.min() + tolerance
            elif when >= customers.start[i]:
                assert lead <= s.margin + tolerance


def recency_is_monotone(seed: int, lam: float) -> None:
    """From each millisecond to the next, everywhere up to the horizon."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.uniform(0, np.log(HORIZON_MS), 4000)).astype(np.int64)
    ms = np.concatenate([rng.integers(0, HORIZON_MS, 4000), spread, np.arange(2000)])
    for kind in KINDS:
        f = feature(0, kind, lam, float(rng.normal()), float(np.exp(rng.uniform(-5, 5))))
        assert (standardise((ms + 1) / float(DAY_MS), f) >= standardise(ms / float(DAY_MS), f)).all()


def one_by_one_as_in_columns(seed: int) -> None:
    """Bit for bit."""
    rng = np.random.default_rng(seed)
    s = random_scorer(rng)
    customers = random_customers(rng, s, 40)
    some = slice(0, 12)
    extreme = feature(
        0, "yeo-johnson", float(rng.choice(LAMBDAS)), float(rng.normal()), float(rng.choice([5e-324, 1.0]))
    )
    signed = np.concatenate([rng.normal(0, 1000, 40), [0.0, -0.0, 1e300, 36_525.0]])

    def answers() -> list[bytes]:
        at, to = s.next_move(*customers)
        rest, z = (
            s.rest(customers.intervals.frequency, customers.intervals.monetary),
            s.z_recency(customers.start, customers.last),
        )
        first = rest[customers.intervals.offset[:-1]]
        there = s.decide(customers.a[some], customers.start[some], customers.last[some], first[some])
        return [column.tobytes() for column in (at, to, rest, z, there, standardise(signed, extreme))]

    with patch.object(scorer_module, "_FEW", 0):
        columns = answers()
    with patch.object(scorer_module, "_FEW", 10**9):
        assert answers() == columns


def nearly_parallel_borders(seed: int, gap: float) -> bool:
    """Check every millisecond within 20 s of the answer where the closed form is off by up to days. False: no root."""
    rng = np.random.default_rng(seed)
    recency = feature(0, "yeo-johnson", float(rng.uniform(-0.5, 0.6)), 3.0)
    days, f = float(rng.uniform(5, 300)), float(rng.normal())
    q_a, margin = float(rng.uniform(1, 2)), float(rng.choice([1e-3, 0.1]))
    z = float(standardise(np.array([days]), recency)[0])
    ca = z - float(rng.uniform(0, 2))
    cb = ca + gap * float(rng.uniform(0.5, 1))
    q_b = q_a + (cb - ca) * (2 * z - ca - cb) - margin
    if q_b <= 0:
        return False
    s = scorer((recency, feature(1), feature(2)), np.array([[ca, f - q_a**0.5, 0], [cb, f + q_b**0.5, 0]]), margin)
    p = Intervals(np.array([0, 1]), ZERO, np.array([f]), np.zeros(1), np.array([NEVER_DUE]))
    at, to = s.next_move(ZERO, ZERO, ZERO, p)
    if at[0] == NEVER_DUE:
        return False
    ms = np.maximum(at[0] + np.arange(-20_000, 20_000), 0)
    zeros = np.zeros(ms.size, dtype=np.int64)
    found = s.decide(zeros, ms, zeros, np.repeat(s.rest(np.array([f]), np.zeros(1)), ms.size, 0))
    assert (found == np.where(ms >= at[0], to[0], 0)).all()
    return True


def no_second_move_on_a_sphere(seed: int) -> bool:
    """Check that the floor keeps a customer amid twelve centroids on a sphere from going round. False: two are one."""
    rng = np.random.default_rng(seed)
    n = 200
    f, m, day = float(rng.normal()), float(rng.normal()), int(rng.integers(0, 100))
    ball = rng.normal(0, 1, (12, 3))
    sphere = np.array([day, f, m]) + ball / np.sqrt((ball * ball).sum(1, keepdims=True))
    if any(((one - other) ** 2).sum() <= 2 * TWIN_DISTANCE2 for one, other in combinations(sphere, 2)):
        return False
    s = scorer((feature(0), feature(1), feature(2)), sphere, 0.0)
    a, at, last = rng.integers(0, 12, n), day * DAY_MS + rng.integers(-1, 2, n), np.zeros(n, dtype=np.int64)
    rest = s.rest(np.full(n, f), np.full(n, m))
    once = s.decide(a, at, last, rest)
    assert (s.decide(once, at, last, rest) == once).all()
    return True


def exactly_the_margin_stays() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 8.0)  # 8 r - 16 > 8: r > 3 days
    at, both = np.array([3 * DAY_MS, 3 * DAY_MS + 1]), np.zeros(2, dtype=np.int64)
    assert s.decide(both, at, both, s.rest(np.zeros(2), np.zeros(2))).tolist() == [0, 1]
    assert s.moves(both, at, both, s.rest(np.zeros(2), np.zeros(2))).tolist() == [False, True]
    for few in (0, 1):
        with patch.object(scorer_module, "_FEW", few):
            found_at, found_to = s.next_move(ZERO, ZERO, ZERO, ORIGIN)
        assert (found_at.tolist(), found_to.tolist()) == ([3 * DAY_MS + 1], [1])


def until_is_exclusive() -> None:
    s = plain_scorer([[0, 0, 0], [4, 0, 0]], 8.0)
    for few in (0, 1):
        for until, found in ((3 * DAY_MS + 2, True), (3 * DAY_MS + 1, False), (0, False)):
            p = Intervals(ORIGIN.offset, ORIGIN.start, ORIGIN.frequency, ORIGIN.monetary, np.array([until]))
            with patch.object(scorer_module, "_FEW", few):
                at, to = s.next_move(ZERO, ZERO, ZERO, p)
            assert (at.tolist(), to.tolist()) == (([3 * DAY_MS + 1], [1]) if found else ([NEVER_DUE], [0]))


def of_equally_near_the_first() -> None:
    s = plain_scorer([[0, 0, 0], [4, 1, 0], [4, -1, 0]], 5.0)
    at, rest = np.array([4 * DAY_MS]), s.rest(np.zeros(1), np.zeros(1))
    assert s.decide(np.array([0]), at, ZERO, rest).tolist() == [1]
    assert s.decide(np.array([UNKNOWN]), at, ZERO, rest).tolist() == [1]
    assert s.decide(np.array([2]), at, ZERO, rest).tolist() == [2]
    for few in (0, 1):
        with patch.object(scorer_module, "_FEW", few):
            assert s.next_move(ZERO, ZERO, ZERO, ORIGIN)[1].tolist() == [1]


def arguments_of_log1p(n: int) -> Floats:
    rng = np.random.default_rng(3)
    milliseconds = rng.integers(0, HORIZON_MS, n) / float(DAY_MS)
    return np.concatenate(
        [milliseconds, np.exp(rng.uniform(-30, 20, n)), rng.uniform(0, 3, n), [0.0, 1.0, 2.0**0.5 - 1]]
    )


def arguments_of_expm1(n: int) -> Floats:
    rng = np.random.default_rng(4)
    near_halves = (rng.integers(-60, 60, n) + 0.5) * np.log(2.0) + rng.normal(0, 1e-3, n)
    return np.concatenate([rng.uniform(-60, 60, n), rng.uniform(-1, 1, n), near_halves, [0.0, 699.0, -699.0]])


def units_off(got: Floats, exact: list[Decimal]) -> float:
    """The largest error, in units in the last place of the exact value."""
    with localcontext(Context(prec=40)):
        return max(
            float(abs(Decimal(value) - truth)) / float(np.spacing(max(abs(float(truth)), sys.float_info.min)))
            for value, truth in zip(got.tolist(), exact, strict=True)
        )


def log1p_is_exact(n: int = 1_000) -> None:
    """To 0.8 units in the last place."""
    x = arguments_of_log1p(n)
    with localcontext(Context(prec=60)):
        exact = [(1 + Decimal(value)).ln() for value in x.tolist()]
    assert units_off(kernels.log1p(x), exact) < 0.8


def expm1_is_exact(n: int = 1_000) -> None:
    """To 1.6 units in the last place."""
    y = arguments_of_expm1(n)
    with localcontext(Context(prec=60)):
        exact = [Decimal(value).exp() - 1 for value in y.tolist()]
    assert units_off(kernels.expm1(y), exact) < 1.6


def recorded_coordinates() -> None:
    """The coordinates of 20,000 figures under each transform: on every CPU, system and NumPy the bits recorded here."""
    k = np.arange(20_000, dtype=np.int64)
    ms = (k * 2_654_435_761_003) % (HORIZON_MS + 1)
    sha = hashlib.sha256()
    for f in (
        feature(0, "identity", mean=91.5, scale=60.25),
        feature(0, "log1p", mean=4.0, scale=1.25),
        *(feature(0, "yeo-johnson", lam, 3.0, 2.0) for lam in (-0.5, 0.0, 0.25, 1.5)),
    ):
        sha.update(standardise(ms / float(DAY_MS), f).astype("<f8").tobytes())
        sha.update(standardise(100.0 - ms / float(DAY_MS), f).astype("<f8").tobytes())
    assert sha.hexdigest() == RECORDED_Z
