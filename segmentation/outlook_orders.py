"""The expected number of a customer's orders: sums of positive terms, with the same bits alone and in any batch.

segmentation/outlook.py has the model and its sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.kernels import expm1, log1p
from segmentation.outlook import Purchases, observed_days, odds_of_drop_out, shape_of, silence_days
from segmentation.silence import phases, total_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segmentation.outlook import OrderRates

# Nodes of the integral over the chance of dropping out, and how far they reach. The result is off by less than 1e-6 of
# itself for a and b from 0.2 up and t up to 100 times alpha + T.
_NODES: Final = 65
_REACH: Final = 3.7
# Customers integrated at a time: bounds the memory, 2 MiB an array.
_BLOCK: Final = 4_096
# Below this log-odds a chance of dropping out weighs nothing; it keeps the smallest of them a normal number.
_LEAST_LOGIT: Final = -575.0
# Up to so many parts of gaps in the time ahead, and such a time ahead in units of alpha + T, parts are counted one by
# one; past it the beginning of a gap hardly counts, and the order of the parts doesn't matter.
_MOST_PARTS: Final = 600.0
_MOST_AHEAD: Final = 20.0


def expected_orders(rates: OrderRates, history: Purchases, days: float) -> NDArray[np.float64]:
    """Return the expected number of orders in the next days, [n].

    The chance to be alive, times the expected orders of a living customer. For k = 1 these are the mean over p of
    (1 - (1 + p·τ)^-(r + x)) / p with τ = t / A, A = alpha + T; p has the posterior of the living, Beta(a, b + x + 1).
    The literature solves that integral by Gauss's hypergeometric function::

        (a + b + x) / (a - 1) · (1 - (A / (A + t))^(r + x) · 2F1(r + x, b + x + 1; a + b + x; t / (A + t)))

    which is undefined at a = 1 and loses its digits for many orders. For regular orders the literature only has an
    approximation; here the parts of gaps are counted (`_regular`).
    """
    found = np.empty(len(history.repeats))
    for begin in range(0, len(found), _BLOCK):
        own = Purchases(*[column[begin : begin + _BLOCK] for column in history])
        ahead = days / observed_days(rates, own)
        living = _living(rates, own, ahead)
        found[begin : begin + _BLOCK] = living / (1.0 + odds_of_drop_out(rates, own))
    return found


def _living(rates: OrderRates, history: Purchases, ahead: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the expected orders of customers who are alive, [n]; `ahead` is τ = t / (alpha + T)."""
    shape = shape_of(rates, history)
    if rates.regularity == 1:
        return _at_random(rates, shape, history.repeats, ahead)
    many = (shape * ahead > _MOST_PARTS) | (ahead > _MOST_AHEAD)
    found = np.empty(len(ahead))
    if many.any():
        found[many] = _at_random(rates, shape[many], history.repeats[many], ahead[many] / rates.regularity)
    if not many.all():
        counted = Purchases(*[column[~many] for column in history])
        found[~many] = _regular(rates, counted, ahead[~many])
    return found


def _regular(rates: OrderRates, history: Purchases, ahead: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the expected orders of living customers, [n], for k > 1.

    With j parts of the present gap over, order m comes with part m·k - j.
    """
    over = phases(rates.regularity, shape_of(rates, history), silence_days(history) / observed_days(rates, history))
    found = list(_with_parts_over(rates, history, ahead))
    return total_of([share * orders for share, orders in zip(over, found, strict=True)]) / total_of(over)


def _with_parts_over(rates: OrderRates, history: Purchases, ahead: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the expected orders where j parts of the present gap are over, [k, n].

    The number of parts in the time ahead is negative binomial (shape + j, τ). The customer is still there for order m
    with the chance (B + 0) … (B + m - 2) / ((a + B + 0) … (a + B + m - 2)), B = b + x + 1: the mean of (1 - p)^(m - 1).
    """
    k = rates.regularity
    shape = shape_of(rates, history) + np.arange(k, dtype=np.float64)[:, None]
    chance = 1.0 / (expm1(shape * log1p(ahead)) + 1.0)
    step = ahead / (1.0 + ahead)
    mean = shape * ahead
    enough = mean + 12.0 * np.sqrt(mean * (1.0 + ahead)) + 30.0 * (1.0 + ahead)
    stays, orders, total = np.ones(shape.shape), np.zeros(shape.shape), np.zeros(shape.shape)
    lasting = np.tile(rates.b + history.repeats + 1.0, (k, 1))
    for parts in range(1, int(enough.max()) + 1):
        chance = chance * (step * (shape + (parts - 1.0)) / parts)
        j = -parts % k  # the one for which an order comes with this part
        orders[j] = orders[j] + stays[j]
        stays[j] = stays[j] * (lasting[j] / (rates.a + lasting[j]))
        lasting[j] = lasting[j] + 1.0
        # Each customer's sum ends where its own does, whoever else is in the batch.
        total = np.where(parts <= enough, total + chance * orders, total)
    return total


def _at_random(
    rates: OrderRates, shape: NDArray[np.float64], repeats: NDArray[np.float64], ahead: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the expected orders of living customers, [n], whose orders come at random."""
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
