"""The outlook on a customer: the chance of another order, expected orders and their value, from three dates and a mean.

The model is MBG/CNBD-k, a customer base without contracts: while alive, a customer orders at a rate of its own, and
after every order, the first one too, it drops out for good with a chance p of its own. The gap between two orders is
the sum of k equal exponential parts of rate λ (Erlang): k = 1 is MBG/NBD, orders at random; the greater k, the more
regular they are. λ is gamma distributed among customers (shape r, rate alpha), p is beta distributed (a, b), k is the
shop's. The value of an order is Gamma-Gamma distributed (p, q, v), whatever the rate. The trainer fits both
(trainer/training/outlook_fit.py).

Sources: Batislam, Denizel and Filiztekin, International Journal of Research in Marketing 24 (2007); Hoppe and Wagner,
Marketing JRM 3 (2007); for k Reutterer, Platzer and Schröder, International Journal of Research in Marketing 38
(2021); for the value of an order Fader and Hardie, "The Gamma-Gamma Model of Monetary Value" (2013).

**Same bits.** Only IEEE-754 ``+ - * /``, comparison and the kernels of segmentation/kernels.py, one ufunc at a time in
the order written, and sums one term after the other: a customer has the same figures alone, in any batch and on any
CPU.

**Falling in silence.** Without an order, the chance to be alive falls. With orders at random (k = 1) the chance of an
order within a fixed time and the expected orders fall too; with regular ones they first rise, because the next order
comes nearer. In the formulas silence enters by the odds of drop-out, which grow by the gap's hazard. In floating point
they do for k = 1 on whole milliseconds: each step is a monotone function, rounded monotonically, and the two kernels,
good to 1.6 units in the last place, are asked for arguments that differ by hundreds of units (a millisecond in a
hundred years is 3e-13). For k > 1 a sum of rising terms divides them: right after an order, while hardly anything
changes, the odds may step back by some units in the last place. So the instant at which the chance to be alive falls
below a level, found by halving, is exact wherever the level is crossed by more than rounding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.entries import DAY_MS, HORIZON_MS
from segmentation.kernels import expm1, expm1_of_one, log1p, log1p_of_one
from segmentation.step import NEVER_DUE

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Of Newton's method, for a guess that the search then makes exact.
_NEWTON_STEPS: Final = 8


class OrderRates(NamedTuple):
    """The parameters of MBG/CNBD-k; time in days.

    `a` 0: nobody drops out, as far as the history can show; `b` then has no meaning.
    """

    r: float
    alpha: float  # days
    a: float
    b: float
    regularity: int = 1  # k


class OrderValues(NamedTuple):
    """The parameters of Gamma-Gamma; `v` in currency units. A mean over all customers exists for q > 1."""

    p: float
    q: float
    v: float


class Purchases(NamedTuple):
    """The facts about customers that the outlook needs, columns [n] of float64.

    The first order is the start, not a repeat: `repeats` counts those after it. Orders of one day are one purchase.
    """

    repeats: NDArray[np.float64]  # x
    until_last: NDArray[np.float64]  # t_x: days from the first order to the last; 0 without repeats
    age: NDArray[np.float64]  # T: days since the first order
    mean_value: NDArray[np.float64]  # currency units an order, the first among them


def silence_days(history: Purchases) -> NDArray[np.float64]:
    """Return the days since the last order, [n]; one dated ahead counts as of now."""
    return np.maximum(history.age - history.until_last, 0.0)


def expected_gap(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return the days that a customer is expected to leave between two orders, [n]: k · (alpha + t_x) / (r + k · x).

    That is k parts by the rate expected at the last order, λ's posterior mean. It stands still in silence; customers
    with few orders are near the gap of all, k · alpha / r, and those with many near their own.

    >>> rates = OrderRates(0.5, 40.0, 0.8, 2.0)
    >>> expected_gap(rates, Purchases(*np.array([[0.0, 99.5], [0.0, 660.0], [9.0, 661.0], [9.0, 9.0]]))).tolist()
    [80.0, 7.0]
    """
    return rates.regularity * (rates.alpha + history.until_last) / shape_of(rates, history)


def shape_of(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return the shape of λ's posterior at the last order, R = r + k · x, [n]; its rate is A = alpha + t_x."""
    return rates.r + rates.regularity * history.repeats


def chance_alive(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return the chance that each customer hasn't dropped out, [n]; it falls in silence.

    1 / (1 + a / (b + x) / Q(s)), where Q(s) is the chance that a living customer is silent for s days: with the
    posterior of λ, Q(s) = (A / (A + s))^R · (sum over j < k of C(R + j - 1, j) · (s / (A + s))^j). For k = 1 this is
    Hoppe and Wagner (2007) and Batislam and others (2007), appendix A.
    """
    return 1.0 / (1.0 + odds_of_drop_out(rates, history))


def odds_of_drop_out(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return the odds, [n], at most 1e304: past that the kernel holds its result."""
    silence, known = silence_days(history), rates.alpha + history.until_last
    shape = shape_of(rates, history)
    powers = expm1(shape * log1p(silence / known)) + 1.0
    odds = rates.a / (rates.b + history.repeats) * powers
    return odds if rates.regularity == 1 else odds / total_of(phases(rates, shape, silence / (known + silence)))


def phases(rates: OrderRates, shape: NDArray[np.float64], share: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return k columns: how likely it is, up to a factor, that j parts of the gap are over. `share` is s / (A + s)."""
    found = [np.ones(len(share))]
    for j in range(1, rates.regularity):
        found.append(found[-1] * (share * (shape + (j - 1.0)) / j))
    return found


def total_of(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of columns, one after the other."""
    total = columns[0]
    for column in columns[1:]:
        total = total + column
    return total


def chance_of_order(rates: OrderRates, history: Purchases, days: float) -> NDArray[np.float64]:
    """Return the chance of at least one order in the next days, [n].

    The chance to be alive, times 1 - Q(s + t) / Q(s): a living customer can drop out only after an order, so the time
    until the next one is that of its rate alone. For k = 1 the second is 1 - ((alpha + T) / (alpha + T + t))^(r + x).

    >>> rates = OrderRates(0.525, 6.183 * 7, 0.891, 1.614)  # CDNOW
    >>> weekly_for_a_year = Purchases(*np.array([[52.0, 52.0], [364.0, 364.0], [364.0, 385.0], [9.0, 9.0]]))
    >>> chance_of_order(rates, weekly_for_a_year, 90.0).round(3).tolist()
    [0.984, 0.811]
    """
    shape, observed = shape_of(rates, history), observed_days(rates, history)
    none = expm1(-shape * log1p(days / observed))
    chance = -none
    if rates.regularity > 1:
        silence = silence_days(history)
        now = total_of(phases(rates, shape, silence / observed))
        then = total_of(phases(rates, shape, (silence + days) / (observed + days)))
        chance = np.maximum(chance - (none + 1.0) * (then / now - 1.0), 0.0)
    return chance / (1.0 + odds_of_drop_out(rates, history))


def observed_days(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return alpha + T, [n]: the rate of λ's posterior with the silence in it."""
    return rates.alpha + np.maximum(history.age, history.until_last)


def alive_of_one(rates: OrderRates, repeats: float, until_last: float, silence: float) -> float:
    """Return the chance of one customer to be alive: the bits of `chance_alive`.

    >>> round(alive_of_one(OrderRates(0.525, 6.183 * 7, 0.891, 1.614), 52.0, 364.0, 21.0), 3)
    0.811
    """
    known, shape = rates.alpha + until_last, rates.r + rates.regularity * repeats
    odds = rates.a / (rates.b + repeats) * (expm1_of_one(shape * log1p_of_one(silence / known)) + 1.0)
    if rates.regularity > 1:
        share, phase = silence / (known + silence), 1.0
        total = phase
        for j in range(1, rates.regularity):
            phase *= share * (shape + (j - 1.0)) / j
            total += phase
        odds /= total
    return 1.0 / (1.0 + odds)


class LifeSpan(NamedTuple):
    """One customer's orders: instants of the first and the last in ms, and how many came after the first."""

    first: int
    last: int
    repeats: int


def falls_below(rates: OrderRates, span: LifeSpan, level: float, start: int) -> int:
    """Return the first instant (ms) from `start` on at which the chance to be alive is below a level.

    NEVER_DUE where that takes more than a hundred years from the last order. Each customer has a clock of its own: a
    weekly one is given up after weeks, a yearly one after a year.

    >>> rates = OrderRates(0.525, 6.183 * 7, 0.891, 1.614)
    >>> weekly, monthly = LifeSpan(0, 364 * DAY_MS, 52), LifeSpan(0, 360 * DAY_MS, 12)
    >>> [round((falls_below(rates, span, 0.5, span.last) - span.last) / DAY_MS) for span in (weekly, monthly)]
    [33, 98]
    """
    until_last = max(span.last - span.first, 0) / DAY_MS if span.repeats else 0.0

    def is_below(at: int) -> bool:
        return alive_of_one(rates, float(span.repeats), until_last, max(at - span.last, 0) / DAY_MS) < level

    low, high = start, max(span.last + HORIZON_MS, start)
    if is_below(low):
        return low
    if not is_below(high):
        return NEVER_DUE
    probe, step = min(max(span.last + _guess(rates, span.repeats, until_last, level), low + 1), high), 1
    while True:
        low, high = (low, probe) if is_below(probe) else (probe, high)
        if high - low <= 1:
            return high
        half = (high - low) >> 1
        probe = max(high - step, low + half) if high == probe else min(low + step, low + half)
        step *= 2


def _guess(rates: OrderRates, repeats: int, until_last: float, level: float) -> int:
    """Return about how long a silence (ms) it takes to the level. Only a guess: the search doesn't depend on it."""
    shape, known = rates.r + rates.regularity * repeats, rates.alpha + until_last
    try:
        wanted = math.log((1.0 / level - 1.0) * (rates.b + repeats) / rates.a)
        days = known * math.expm1(wanted / shape)
        if rates.regularity > 1:
            days = max(days, rates.regularity * known / shape)  # before the usual gap -log Q is flat
        # Newton's steps from there on -log Q, whose slope is the hazard; exact at once for k = 1.
        for _ in range(_NEWTON_STEPS if rates.regularity > 1 else 0):
            phase, total = 1.0, 1.0
            for j in range(1, rates.regularity):
                phase *= days / (known + days) * (shape + (j - 1.0)) / j
                total += phase
            slope = phase * (shape + rates.regularity - 1.0) / (total * (known + days))
            days = max(days - (shape * math.log1p(days / known) - math.log(total) - wanted) / slope, 0.0)
        return min(max(math.floor(days * DAY_MS) + 1, 0), HORIZON_MS)
    except (ValueError, OverflowError, ZeroDivisionError):
        return HORIZON_MS


def expected_value(values: OrderValues, history: Purchases) -> NDArray[np.float64]:
    """Return the expected value of a coming order, currency units, [n]: p · (v + n · mean) / (p · n + q - 1).

    n counts all orders, the first among them; a mean below 0 (more refunded than paid) counts as 0. Customers with few
    orders are near the value of all, p · v / (q - 1), and those with many near their own mean.

    Source: Fader and Hardie (2013), the conditional expectation of a customer's mean.

    >>> three_orders = Purchases(*np.array([[2.0], [20.0], [30.0], [40.0]]))
    >>> expected_value(OrderValues(6.25, 3.74, 15.44), three_orders).round(2).tolist()  # CDNOW
    [39.39]
    """
    count = history.repeats + 1.0
    return values.p * (values.v + count * np.maximum(history.mean_value, 0.0)) / (values.p * count + (values.q - 1.0))
