"""The scorer: a customer's segment, and the first millisecond at which time alone moves the customer.

A `Scorer` is a SegmentModel made ready for NumPy. Everything that decides is built from IEEE-754 ``+ - * /``,
comparison and exact scaling, one ufunc at a time in the order written: no dot product, sum, power or NumPy logarithm.
So the bits are the same for a row alone, in any batch, at any stride, on any CPU.

**The decision.** With recency r, frequency f, monetary m of the customer in z space and centroids c, for a customer
announced in a and every b::

    q_k  = (z_f - c_kf)² + (z_m - c_km)²
    g_ab = (c_br - c_ar) · (2 z_r - (c_ar + c_br)) + (q_a - q_b)        = d²_a - d²_b

The customer moves if and only if max_b g_ab > margin, strictly; to the b of that maximum, the first in the model's
order on equal bits. Rounding is monotone, so as a product and a sum of monotone steps each g_ab is monotone in z_r *in
floating point*, and z_r is monotone in whole milliseconds up to the horizon. While f and m stand still, "moves" is
therefore false … false true … true, and bisection finds the first true exactly. The ordinary form (sums of squares,
then argmin) isn't monotone: near parallel borders it flickers for milliseconds to seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.entries import DAY_MS, HORIZON_MS
from segmentation.intervals import Intervals
from segmentation.kernels import expm1, log1p
from segmentation.model import MARGIN_FLOOR, Z_LIMIT
from segmentation.money import UNITS
from segmentation.scalar_scorer import LAMBDA_ZERO, Interval, SingleScorer, standardise_one
from segmentation.silence import recency_days
from segmentation.step import NEVER_DUE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segmentation.model import Feature, SegmentModel, Transform

UNKNOWN: Final = -1

# Up to so many customers, or numbers, one at a time is faster than in columns.
_FEW: Final = 24
# Rows examined in one step of the search: bounds its memory (16 segments: about 4 MiB an array) and keeps it in cache.
_BLOCK: Final = 32_768


def transform(x: NDArray[np.float64], kind: Transform, lam: float | None = None) -> NDArray[np.float64]:
    """Return t(x), same shape: identity, log1p of max(x, 0), or Yeo-Johnson with λ = lam. x must be finite.

    The trainer takes its means and scales over these values, so that both sides mean the same by z.
    Yeo-Johnson (Biometrika 87, 2000): ((1 + x)^λ - 1) / λ for x >= 0, -((1 - x)^(2 - λ) - 1) / (2 - λ) below.
    ValueError if Yeo-Johnson comes without λ.

    >>> transform(np.array([0.0, 3.0, -3.0]), "yeo-johnson", 1.0).tolist()
    [0.0, 3.0, -3.0]
    """
    if kind == "identity":
        return x
    magnitude = log1p(np.maximum(x, 0.0))
    if kind == "log1p":
        return magnitude
    if lam is None:
        raise ValueError("lam is None: Yeo-Johnson needs its λ, a finite number")
    above = _power(magnitude, lam)
    below_zero = x < 0.0
    if not below_zero.any():
        return above
    return np.where(below_zero, -_power(log1p(np.maximum(-x, 0.0)), 2.0 - lam), above)


def _power(log: NDArray[np.float64], lam: float) -> NDArray[np.float64]:
    """Return (exp(log)^λ - 1) / λ, which is log itself at λ = 0."""
    return log if abs(lam) < LAMBDA_ZERO else expm1(lam * log) / lam


def standardise(x: NDArray[np.float64], feature: Feature) -> NDArray[np.float64]:
    """Return z = (t(x) - mean) / scale, cut off at ±1024, same shape."""
    if x.ndim == 1 and x.size <= _FEW:
        return np.array([standardise_one(one, feature) for one in x.tolist()], dtype=np.float64)
    # Extreme λ or scale may overflow to infinity, which the cut-off then takes to the limit: meant, not an accident.
    with np.errstate(over="ignore"):
        z = (transform(x, feature.transform, feature.lam) - feature.mean) / feature.scale
    return np.minimum(np.maximum(z, -Z_LIMIT), Z_LIMIT)


def _undo(z: NDArray[np.float64], feature: Feature) -> NDArray[np.float64]:
    """Return an x >= 0 with z(x) near z, or NaN or infinity. Only a guess, so NumPy's own functions will do."""
    t = z * feature.scale + feature.mean
    if feature.transform == "identity":
        return t
    if feature.lam is None or abs(feature.lam) < LAMBDA_ZERO:
        return np.expm1(t)
    return np.expm1(np.log1p(feature.lam * t) / feature.lam)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a search: announced index, last order (ms) and rest [n, K] of each."""

    a: NDArray[np.int64]
    last: NDArray[np.int64]
    rest: NDArray[np.float64]

    def __getitem__(self, keep: NDArray[np.int64] | NDArray[np.bool_]) -> _Rows:
        return _Rows(self.a[keep], self.last[keep], self.rest[keep])


class SegmentIndex:
    """The segments of a model by *index*, their position in model.segments; and the margin that is applied."""

    def __init__(self, model: SegmentModel) -> None:
        self.model = model
        self.margin = max(model.margin, MARGIN_FLOOR)
        self.ids: NDArray[np.uint16] = np.array([segment.id for segment in model.segments], dtype=np.uint16)
        self.index_of: dict[int, int] = {segment.id: index for index, segment in enumerate(model.segments)}
        self._index_by_id: NDArray[np.int64] = np.full(2**16, UNKNOWN, dtype=np.int64)
        self._index_by_id[self.ids] = np.arange(self.ids.size)

    def index_from_ids(self, ids: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Return the index of each lasting segment id; UNKNOWN for 0 (none announced) and ids of other models."""
        index: NDArray[np.int64] = self._index_by_id[ids]
        return index


class Scorer(SegmentIndex):
    """A compiled SegmentModel: decides on columns of customers and finds their next moves by time.

    Segments are addressed by *index*, their position in model.segments, int64; UNKNOWN (-1) is "none that this model
    has". n customers, K segments. Instants are milliseconds since 1970, int64, not negative. `last` is the instant of
    the last order; rfm.NONE (-2**63: no order stands) counts as an order at -HORIZON_MS, so recency is the horizon.
    Nothing changes after the construction, so threads and shards may share one.
    """

    by_window: Final = True  # what leaves the window moves customers, too

    def __init__(self, model: SegmentModel) -> None:
        super().__init__(model)
        self._single = SingleScorer(model)
        centroids = np.array([segment.centroid for segment in model.segments], dtype=np.float64)
        recency, self._frequency, self._monetary = (np.ascontiguousarray(column) for column in centroids.T)
        self._recency: NDArray[np.float64] = recency
        # [a, b]: c_b - c_a and c_a + c_b in recency. Rounded once here, so the same for every instant.
        self._step: NDArray[np.float64] = recency[None, :] - recency[:, None]
        self._both: NDArray[np.float64] = recency[None, :] + recency[:, None]

    def rest_of(self, head: NDArray[np.void]) -> NDArray[np.float64]:
        """Return `rest` of states whose headers hold."""
        return self.rest(head["frequency"].astype(np.float64), head["monetary"] / float(UNITS))

    def rest(self, frequency: NDArray[np.float64], monetary: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return q, the squared distance to every centroid without recency, [n, K]. Monetary in currency units."""
        _, of_frequency, of_monetary = self.model.features
        df = standardise(frequency, of_frequency)[:, None] - self._frequency
        dm = standardise(monetary, of_monetary)[:, None] - self._monetary
        squares: NDArray[np.float64] = df * df + dm * dm
        return squares

    def z_recency(self, at: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the recency coordinate at each instant, [n]."""
        return standardise(recency_days(at, last), self.model.features[0])

    def leads(
        self, a: NDArray[np.int64], z_recency: NDArray[np.float64], rest: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return g = d²(a) - d²(b) for every b, [n, K], as a difference of squares; a must be known."""
        own = np.take_along_axis(rest, a[:, None], 1)
        return self._step[a] * ((z_recency + z_recency)[:, None] - self._both[a]) + (own - rest)

    def decide(
        self, a: NDArray[np.int64], at: NDArray[np.int64], last: NDArray[np.int64], rest: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Return the index each customer moves to at that instant, or a where they stay.

        From UNKNOWN it is the nearest, whatever the margin.
        """
        known = a >= 0
        g = self.leads(np.where(known, a, 0), self.z_recency(at, last), rest)
        best = np.argmax(g, axis=1)
        top = np.take_along_axis(g, best[:, None], 1)[:, 0]
        return np.where(~known | (top > self.margin), best, a)

    def moves(
        self, a: NDArray[np.int64], at: NDArray[np.int64], last: NDArray[np.int64], rest: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return for each customer whether it moves at that instant; a must be known. `decide` without the target."""
        top: NDArray[np.float64] = self.leads(a, self.z_recency(at, last), rest).max(axis=1)
        return top > self.margin

    def distances(
        self, at: NDArray[np.int64], last: NDArray[np.int64], rest: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the Euclidean distance to every centroid in z space, [n, K]: published, but no decision uses it."""
        dr = self.z_recency(at, last)[:, None] - self._recency
        return np.sqrt(dr * dr + rest)

    def _guess(self, rows: _Rows) -> NDArray[np.int64]:
        """Solve in closed form: the least root of g_ab = margin over all b of later recency, as an instant.

        A guess, because whole milliseconds and rounding decide: off by one as a rule, by days where borders are
        nearly parallel. No root gives the horizon.
        """
        own = np.take_along_axis(rows.rest, rows.a[:, None], 1)
        step = self._step[rows.a]
        with np.errstate(all="ignore"):
            roots = ((self.margin - (own - rows.rest)) / step + self._both[rows.a]) / 2.0
            days = _undo(np.where(step > 0.0, roots, np.inf).min(axis=1), self.model.features[0])
            elapsed = np.where(np.isfinite(days), np.floor(days * DAY_MS) + 1.0, np.inf)
        ms: NDArray[np.int64] = np.minimum(np.maximum(elapsed, 0.0), HORIZON_MS).astype(np.int64)
        return rows.last + ms

    def _between(self, rows: _Rows, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the first instant at which each row moves, given that it stays at `low` and moves at `high` > `low`.

        Gallops from the guess with steps 1, 2, 4, … and halves once a step would pass the middle, all rows at a time;
        rows that are done drop out.
        """
        out = np.empty(low.size, dtype=np.int64)
        row = np.arange(low.size)
        probe, step = np.minimum(np.maximum(self._guess(rows), low + 1), high), 1
        while row.size:
            yes = self.moves(rows.a, probe, rows.last, rows.rest)
            high, low = np.where(yes, probe, high), np.where(yes, low, probe)
            gap = high - low
            done = gap <= 1
            out[row[done]] = high[done]
            keep = ~done
            rows, row, low, high, yes, half = rows[keep], row[keep], low[keep], high[keep], yes[keep], (gap >> 1)[keep]
            probe = np.where(yes, np.maximum(high - step, low + half), np.minimum(low + step, low + half))
            # Held, because a far-off guess takes more rounds than int64 has doublings; past the middle it is cut
            # anyway.
            step = min(step * 2, HORIZON_MS)
        return out

    def next_move(
        self, a: NDArray[np.int64], last: NDArray[np.int64], start: NDArray[np.int64], intervals: Intervals
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first instant in [start, intervals.until) at which time moves each customer, and where to, [n].

        NEVER_DUE and a where nothing does. `start` is the first instant at which a move is allowed: the larger of
        as_of and the last move + max(dwell, 1). `a` must be known (ValueError): without a known segment a customer
        doesn't wait for time, `decide` places them at once.
        """
        if (a < 0).any():
            raise ValueError(f"customer {int(np.argmax(a < 0))} has no known segment: place it with decide() first")
        at = np.full(a.size, NEVER_DUE, dtype=np.int64)
        to = a.copy()
        if a.size <= _FEW:
            for row, move in enumerate(self._one_by_one(a, last, start, intervals)):
                at[row], to[row] = move
            return at, to
        # Customers are computed apart anyway: blocks change the memory needed, and no bit of the answer.
        cuts = np.searchsorted(intervals.offset, np.arange(0, intervals.start.size, _BLOCK))
        for begin, end in pairwise(np.unique(np.append(cuts, a.size)).tolist()):
            block = slice(begin, end)
            at[block], to[block] = self._next_move(a[block], last[block], start[block], _part(intervals, begin, end))
        return at, to

    def _one_by_one(
        self, a: NDArray[np.int64], last: NDArray[np.int64], start: NDArray[np.int64], intervals: Intervals
    ) -> Iterator[tuple[int, int]]:
        rows = [
            Interval(*row)
            for row in zip(
                intervals.start.tolist(), intervals.frequency.tolist(), intervals.monetary.tolist(), strict=True
            )
        ]
        stretches = pairwise(intervals.offset.tolist())
        columns = (column.tolist() for column in (a, last, start, intervals.until))
        for one, order, begin, until, (first, end) in zip(*columns, stretches, strict=True):
            yield self._single.next_move(one, order, begin, rows[first:end], until)

    def _next_move(
        self, a: NDArray[np.int64], last: NDArray[np.int64], start: NDArray[np.int64], intervals: Intervals
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        owner = np.repeat(np.arange(a.size), np.diff(intervals.offset))
        begin, end = _stretches(last, start, intervals, owner)
        rows = _Rows(a[owner], last[owner], self.rest(intervals.frequency, intervals.monetary))
        # Towards earlier centroids a lead only falls along an interval, towards later ones it only rises: the
        # customer moves within the interval if and only if at its first or at its last instant.
        at_begin, at_end = np.zeros(owner.size, dtype=np.bool_), np.zeros(owner.size, dtype=np.bool_)
        for hit, instant in ((at_begin, begin), (at_end, end)):
            ask = np.flatnonzero((begin <= end) & ~at_begin)
            hit[ask] = self.moves(rows.a[ask], instant[ask], rows.last[ask], rows.rest[ask])
        hits = np.flatnonzero(at_begin | at_end)
        # Only the earliest such interval of a customer is searched.
        movers, earliest = np.unique(owner[hits], return_index=True)
        interval = hits[earliest]
        moment = begin[interval]
        later = np.flatnonzero(~at_begin[interval])
        moment[later] = self._between(rows[interval[later]], begin[interval[later]], end[interval[later]])
        at, to = np.full(a.size, NEVER_DUE, dtype=np.int64), a.copy()
        at[movers] = moment
        to[movers] = self.decide(a[movers], moment, last[movers], rows.rest[interval])
        return at, to


def _part(intervals: Intervals, begin: int, end: int) -> Intervals:
    """Return the intervals of the customers [begin, end)."""
    first, last = int(intervals.offset[begin]), int(intervals.offset[end])
    return Intervals(
        offset=intervals.offset[begin : end + 1] - first,
        start=intervals.start[first:last],
        frequency=intervals.frequency[first:last],
        monetary=intervals.monetary[first:last],
        until=intervals.until[begin:end],
    )


def _stretches(
    last: NDArray[np.int64], start: NDArray[np.int64], intervals: Intervals, owner: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and last instant of each interval from `start` on and before `until`.

    Nothing of an interval is left where first > last.
    """
    begin = np.maximum(intervals.start, start[owner])
    end = np.empty_like(begin)
    end[:-1] = intervals.start[1:] - 1
    # The last interval is open. Past the horizon recency stands still, so its end there speaks for all that follows.
    tail = intervals.offset[1:] - 1
    end[tail] = np.maximum(last + HORIZON_MS, begin[tail])
    return begin, np.minimum(end, intervals.until[owner] - 1)
