"""The outlook on a customer: the chance of another order, expected orders and their value, from three dates and a mean.

The model is MBG/NBD, a customer base without contracts: while alive, a customer orders at a rate λ of its own, and
after every order, the first one too, it drops out for good with a chance p of its own. λ is gamma distributed among
customers (shape r, rate alpha), p is beta distributed (a, b). The value of an order is Gamma-Gamma distributed (p, q,
v), whatever the rate. The trainer fits both (trainer/training/outlook_fit.py).

Sources: Batislam, Denizel and Filiztekin, International Journal of Research in Marketing 24 (2007); Hoppe and Wagner,
Marketing JRM 3 (2007); for the value of an order Fader and Hardie, "The Gamma-Gamma Model of Monetary Value" (2013).

**Same bits.** Only IEEE-754 ``+ - * /``, comparison and the kernels of segmentation/kernels.py, one ufunc at a time in
the order written, and sums over the nodes of an integral one node after the other: a customer has the same figures
alone, in any batch and on any CPU.

**Monotone in silence.** Without an order, the chance of one and the expected number of orders fall. In the formulas
they do, because silence enters only by alpha + T: the drop-out odds grow with it, and each factor of the rest falls.
In floating point they do on whole milliseconds: each step is a monotone function, rounded monotonically, and the two
kernels, good to 1.6 units in the last place, are asked for arguments that differ by hundreds of units (a millisecond
in a hundred years is 3e-13). So the instant at which a chance falls below a level can be found by halving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.entries import DAY_MS
from segmentation.kernels import expm1, expm1_of_one, log1p, log1p_of_one
from segmentation.scalar_scorer import HORIZON_MS
from segmentation.step import NEVER_DUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Nodes of the integral over the chance of dropping out, and how far they reach. The result is off by less than 1e-6 of
# itself for a and b from 0.2 up and t up to 100 times alpha + T.
_NODES: Final = 65
_REACH: Final = 3.7
# Customers integrated at a time: bounds the memory, 2 MiB an array.
_BLOCK: Final = 4_096
# Below this log-odds a chance of dropping out weighs nothing; it keeps the smallest of them a normal number.
_LEAST_LOGIT: Final = -575.0


class OrderRates(NamedTuple):
    """The parameters of MBG/NBD; time in days.

    `a` 0: nobody drops out, as far as the history can show; `b` then has no meaning.
    """

    r: float
    alpha: float  # days
    a: float
    b: float


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
    """Return the days that a customer is expected to leave between two orders, [n]: (alpha + t_x) / (r + x).

    That is one by the rate expected at the last order, λ's posterior mean. It stands still in silence; customers with
    few orders are near the gap of all, alpha / r, and those with many near their own.

    >>> rates = OrderRates(0.5, 40.0, 0.8, 2.0)
    >>> expected_gap(rates, Purchases(*np.array([[0.0, 99.5], [0.0, 660.0], [9.0, 661.0], [9.0, 9.0]]))).tolist()
    [80.0, 7.0]
    """
    return (rates.alpha + history.until_last) / (rates.r + history.repeats)


def chance_alive(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return the chance that each customer hasn't dropped out, [n]; it falls in silence.

    1 / (1 + a / (b + x) · ((alpha + T) / (alpha + t_x))^(r + x)): Hoppe and Wagner (2007); Batislam and others (2007),
    appendix A.
    """
    return 1.0 / (1.0 + _odds_of_drop_out(rates, history))


def _odds_of_drop_out(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return the odds, [n], at most 1e304: past that the kernel holds its result."""
    grown = log1p(silence_days(history) / (rates.alpha + history.until_last))
    return rates.a / (rates.b + history.repeats) * (expm1((rates.r + history.repeats) * grown) + 1.0)


def chance_of_order(rates: OrderRates, history: Purchases, days: float) -> NDArray[np.float64]:
    """Return the chance of at least one order in the next days, [n]; it falls in silence.

    The chance to be alive, times 1 - (A / (A + t))^(r + x) with A = alpha + T: a living customer can drop out only
    after an order, so the time until the next one is that of its rate alone, with λ's posterior Gamma(r + x, A).

    >>> rates = OrderRates(0.525, 6.183 * 7, 0.891, 1.614)  # CDNOW
    >>> weekly_for_a_year = Purchases(*np.array([[52.0, 52.0], [364.0, 364.0], [364.0, 385.0], [9.0, 9.0]]))
    >>> chance_of_order(rates, weekly_for_a_year, 90.0).round(3).tolist()
    [0.984, 0.811]
    """
    ahead = days / _observed(rates, history)
    return -expm1(-(rates.r + history.repeats) * log1p(ahead)) / (1.0 + _odds_of_drop_out(rates, history))


def chance_of_one(rates: OrderRates, repeats: float, until_last: float, age: float, days: float) -> float:
    """Return the chance of at least one order of one customer: the bits of `chance_of_order`.

    >>> round(chance_of_one(OrderRates(0.525, 6.183 * 7, 0.891, 1.614), 52.0, 364.0, 385.0, 90.0), 3)
    0.811
    """
    shape = rates.r + repeats
    grown = log1p_of_one(max(age - until_last, 0.0) / (rates.alpha + until_last))
    odds = rates.a / (rates.b + repeats) * (expm1_of_one(shape * grown) + 1.0)
    return -expm1_of_one(-shape * log1p_of_one(days / (rates.alpha + max(age, until_last)))) / (1.0 + odds)


class LifeSpan(NamedTuple):
    """One customer's orders: instants of the first and the last in ms, and how many came after the first."""

    first: int
    last: int
    repeats: int


def falls_below(rates: OrderRates, span: LifeSpan, days: float, level: float, start: int) -> int:
    """Return the first instant (ms) from `start` on at which the chance of an order in the next days is below a level.

    NEVER_DUE where that takes more than a hundred years from the last order. Without another order the chance falls, so
    halving finds the very millisecond.

    >>> span = LifeSpan(0, 364 * DAY_MS, 52)
    >>> round(falls_below(OrderRates(0.525, 6.183 * 7, 0.891, 1.614), span, 90.0, 0.5, span.last) / DAY_MS - 364, 1)
    33.0
    """
    until_last = max(span.last - span.first, 0) / DAY_MS if span.repeats else 0.0

    def is_below(at: int) -> bool:
        silence = max(at - span.last, 0) / DAY_MS
        return chance_of_one(rates, float(span.repeats), until_last, until_last + silence, days) < level

    low, high = start, max(span.last + HORIZON_MS, start)
    if is_below(low):
        return low
    if not is_below(high):
        return NEVER_DUE
    while high - low > 1:
        middle = (low + high) >> 1
        low, high = (low, middle) if is_below(middle) else (middle, high)
    return high


def _observed(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return alpha + T, [n]."""
    return rates.alpha + np.maximum(history.age, history.until_last)


def expected_orders(rates: OrderRates, history: Purchases, days: float) -> NDArray[np.float64]:
    """Return the expected number of orders in the next days, [n]; it falls in silence.

    The chance to be alive, times the mean over p of (1 - (1 + p·τ)^-(r + x)) / p with τ = t / A, A = alpha + T; p has
    the posterior of the living, Beta(a, b + x + 1). The literature solves that integral by Gauss's hypergeometric
    function::

        (a + b + x) / (a - 1) · (1 - (A / (A + t))^(r + x) · 2F1(r + x, b + x + 1; a + b + x; t / (A + t)))

    which is undefined at a = 1 and loses its digits for many orders. Here it is a sum of positive terms.
    """
    found = np.empty(len(history.repeats))
    for begin in range(0, len(found), _BLOCK):
        own = Purchases(*[column[begin : begin + _BLOCK] for column in history])
        living = _orders_while_alive(rates, own.repeats, days / _observed(rates, own))
        found[begin : begin + _BLOCK] = living / (1.0 + _odds_of_drop_out(rates, own))
    return found


def _orders_while_alive(
    rates: OrderRates, repeats: NDArray[np.float64], ahead: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the expected orders of customers who are alive, [n]; `ahead` is t / (alpha + T)."""
    shape = rates.r + repeats
    if rates.a == 0.0:
        return shape * ahead
    different, place = np.unique(repeats, return_inverse=True)
    chances, weights = _posterior_of_drop_out(rates, different)
    total, weight = np.zeros(len(repeats)), np.zeros(len(repeats))
    p = chances[:, place]
    terms = weights[:, place] * (-expm1(-shape * log1p(p * ahead)) / p)
    # One node after the other: NumPy's own sum takes another order for one customer than for many.
    for term, share in zip(terms, weights[:, place], strict=True):
        total = total + term
        weight = weight + share
    return total / weight


def _posterior_of_drop_out(
    rates: OrderRates, repeats: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes p and their weights, [nodes, n], for means over Beta(a, b + x + 1).

    The trapezoid rule over y, with log-odds u(y) = centre + right · (e^y - 1) / 2 - left · (e^-y - 1) / 2: where the
    density falls like e^(a·u) to the left and e^-((b + x + 1)·u) to the right, it falls double
    exponentially in y (Takahasi and Mori, Publications of RIMS 9, 1974).
    """
    a, b = rates.a, rates.b + repeats + 1.0
    width = np.sqrt(1.0 / a + 1.0 / b)
    left, right = width + 0.5 / a, width + 0.5 / b
    y = (np.arange(_NODES, dtype=np.float64) * (2.0 * _REACH / (_NODES - 1)) - _REACH)[:, None]
    up, down = expm1(y), expm1(-y)
    u = np.maximum(_log(a / b) + 0.5 * (right * up) - 0.5 * (left * down), _LEAST_LOGIT)
    upper, lower = expm1(u) + 1.0, expm1(-u) + 1.0  # e^u and e^-u
    density = -(a * log1p(lower)) - b * log1p(upper)
    slope = right * (up + 1.0) + left * (down + 1.0)
    return 1.0 / (1.0 + lower), slope * (expm1(density - density.max(axis=0)) + 1.0)


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(x) of x > 0, [n], by the kernel, which takes log(1 + x)."""
    large = log1p(np.maximum(x, 1.0) - 1.0)
    return np.where(x < 1.0, -log1p(np.maximum(1.0 / x, 1.0) - 1.0), large)


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
