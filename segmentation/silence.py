"""Silence: days since the last order, the odds of having dropped out, and when they first pass a limit.

A customer is four numbers that stand still between orders: the shape R = r + k·x and the rate A = alpha + t_x of what
is known of its order rate, the odds at its last order, and when that was. With s days of silence::

    odds(s) = odds(0) / Q(s),  1 / Q(s) = (1 + s/A)^R / (sum over j < k of C(R + j - 1, j) · (s / (A + s))^j)

segmentation/outlook.py has the model and the sources. Columns and single customers take the same steps, so the bits are
the same alone and in any batch. Silence counts up to a hundred years.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.entries import DAY_MS, HORIZON_MS
from segmentation.kernels import expm1, expm1_of_one, log1p, log1p_of_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of Newton's method, for a guess that the search then makes exact.
_NEWTON_STEPS: Final = 8


class Known(NamedTuple):
    """The facts known of customers at their last orders, columns [n]."""

    shape: NDArray[np.float64]  # R
    rate: NDArray[np.float64]  # A, days
    odds: NDArray[np.float64]  # at the last order

    def rows(self, keep: NDArray[np.int64] | NDArray[np.bool_]) -> Known:
        """Return some of the customers."""
        return Known(self.shape[keep], self.rate[keep], self.odds[keep])


class KnownOfOne(NamedTuple):
    """`Known` of one customer."""

    shape: float
    rate: float
    odds: float


def recency_days(at: NDArray[np.int64] | int, last: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the days since each last order, [n], at most HORIZON_MS. One dated ahead counts as of now: 0."""
    elapsed = np.minimum(np.maximum(at - np.maximum(last, -HORIZON_MS), 0), HORIZON_MS)
    days: NDArray[np.float64] = elapsed / float(DAY_MS)
    return days


def first_past(days: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the least silence (ms) that is longer than so many days, [n]; beyond HORIZON_MS there is none.

    >>> first_past(np.array([0.0, 1.0])).tolist()
    [1, 86400001]
    """
    near = np.floor(np.minimum(np.maximum(days, 0.0) * DAY_MS, 2.0 * HORIZON_MS)).astype(np.int64)
    found: NDArray[np.int64] = near + 2
    # Rounding of the product puts it one off at most.
    for shift in (1, 0, -1):
        found = np.where((near + shift) / float(DAY_MS) > days, near + shift, found)
    return found


def odds_after(known: Known, regularity: int, silence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the odds after so many days of silence, [n], at most 1e304 times those at the last order."""
    odds = known.odds * (expm1(known.shape * log1p(silence / known.rate)) + 1.0)
    if regularity == 1:
        return odds
    return odds / total_of(phases(regularity, known.shape, silence / (known.rate + silence)))


def phases(regularity: int, shape: NDArray[np.float64], share: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return k columns: how likely it is, up to a factor, that j parts of the gap are over. `share` is s / (A + s)."""
    found = [np.ones(len(share))]
    for j in range(1, regularity):
        found.append(found[-1] * (share * (shape + (j - 1.0)) / j))
    return found


def total_of(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of columns, one after the other."""
    total = columns[0]
    for column in columns[1:]:
        total = total + column
    return total


def odds_of_one(known: KnownOfOne, regularity: int, silence: float) -> float:
    """Return the odds of one customer: the bits of `odds_after`."""
    shape, rate, odds = known
    odds *= expm1_of_one(shape * log1p_of_one(silence / rate)) + 1.0
    if regularity == 1:
        return odds
    share, phase = silence / (rate + silence), 1.0
    total = phase
    for j in range(1, regularity):
        phase *= share * (shape + (j - 1.0)) / j
        total += phase
    return odds / total


def passes_at(known: KnownOfOne, regularity: int, limit: float, last: int, low: int, high: int) -> int:
    """Return the first instant (ms) at which the odds are above a limit, given that they aren't at `low`.

    They are at `high` > `low`. Gallops from a guess with steps 1, 2, 4, … and halves once a step would pass the middle.
    """
    probe, step = min(max(last + guess(known, regularity, limit), low + 1), high), 1
    while True:
        passed = odds_of_one(known, regularity, min(max(probe - last, 0), HORIZON_MS) / DAY_MS) > limit
        low, high = (low, probe) if passed else (probe, high)
        if high - low <= 1:
            return high
        half = (high - low) >> 1
        probe = max(high - step, low + half) if passed else min(low + step, low + half)
        step *= 2


def all_pass_at(
    known: Known,
    regularity: int,
    limit: NDArray[np.float64],
    last: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Do as `passes_at` for many customers at a time, [n]; those that are done drop out."""
    out = np.empty(low.size, dtype=np.int64)
    row = np.arange(low.size)
    probe, step = np.minimum(np.maximum(last + _guesses(known, regularity, limit), low + 1), high), 1
    while row.size:
        passed = odds_after(known, regularity, recency_days(probe, last)) > limit
        low, high = np.where(passed, low, probe), np.where(passed, probe, high)
        gap = high - low
        done = gap <= 1
        out[row[done]] = high[done]
        keep = ~done
        known, row, limit, last = known.rows(keep), row[keep], limit[keep], last[keep]
        low, high, passed, half = low[keep], high[keep], passed[keep], (gap >> 1)[keep]
        probe = np.where(passed, np.maximum(high - step, low + half), np.minimum(low + step, low + half))
        # Held, because a far-off guess takes more rounds than int64 has doublings; past the middle it is cut anyway.
        step = min(step * 2, HORIZON_MS)
    return out


def guess(known: KnownOfOne, regularity: int, limit: float) -> int:
    """Return about how long a silence (ms) it takes to a limit. Only a guess: the search doesn't depend on it."""
    shape, rate, odds = known
    try:
        wanted = math.log(limit / odds)
        days = rate * math.expm1(wanted / shape)
        if regularity > 1:
            days = max(days, regularity * rate / shape)  # before the usual gap -log Q is flat
        # Newton's steps from there on -log Q, whose slope is the hazard; exact at once for k = 1.
        for _ in range(_NEWTON_STEPS if regularity > 1 else 0):
            phase, total = 1.0, 1.0
            for j in range(1, regularity):
                phase *= days / (rate + days) * (shape + (j - 1.0)) / j
                total += phase
            slope = phase * (shape + regularity - 1.0) / (total * (rate + days))
            days = max(days - (shape * math.log1p(days / rate) - math.log(total) - wanted) / slope, 0.0)
        return min(max(math.floor(days * DAY_MS) + 1, 0), HORIZON_MS)
    except (ValueError, OverflowError, ZeroDivisionError):
        return HORIZON_MS


def _guesses(known: Known, regularity: int, limit: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return `guess` of many customers, [n], but for the last bits."""
    shape, rate, odds = known
    with np.errstate(all="ignore"):
        wanted = np.log(limit / odds)
        days = rate * np.expm1(wanted / shape)
        if regularity > 1:
            days = np.maximum(days, regularity * rate / shape)
        for _ in range(_NEWTON_STEPS if regularity > 1 else 0):
            parts = phases(regularity, shape, days / (rate + days))
            total = total_of(parts)
            slope = parts[-1] * (shape + regularity - 1.0) / (total * (rate + days))
            days = np.maximum(days - (shape * np.log1p(days / rate) - np.log(total) - wanted) / slope, 0.0)
        ms = np.where(np.isfinite(days), np.floor(days * DAY_MS) + 1.0, np.inf)
    found: NDArray[np.int64] = np.minimum(np.maximum(ms, 0.0), HORIZON_MS).astype(np.int64)
    return found
