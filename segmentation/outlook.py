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

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segmentation.kernels import expm1, log1p
from segmentation.silence import Known, odds_after, phases, total_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OrderRates(NamedTuple):
    """The parameters of MBG/CNBD-k; time in days.

    `a` 0: nobody drops out, as far as the history can show; `b` then has no meaning. `stand_in`: odds of having dropped
    out at the last order that count instead of a / (b + x), so that a long silence says something all the same; None:
    they don't.
    """

    r: float
    alpha: float  # days
    a: float
    b: float
    regularity: int = 1  # k
    stand_in: float | None = None


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
    return odds_after(known_of(rates, history), rates.regularity, silence_days(history))


def known_of(rates: OrderRates, history: Purchases) -> Known:
    """Return what is known of customers at their last orders: λ's posterior, and the odds of having dropped out."""
    odds = rates.a / (rates.b + history.repeats)
    if rates.stand_in is not None:
        odds = np.full(len(odds), rates.stand_in)
    return Known(shape_of(rates, history), rates.alpha + history.until_last, odds)


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
        now = total_of(phases(rates.regularity, shape, silence / observed))
        then = total_of(phases(rates.regularity, shape, (silence + days) / (observed + days)))
        chance = np.maximum(chance - (none + 1.0) * (then / now - 1.0), 0.0)
    return chance / (1.0 + odds_of_drop_out(rates, history))


def observed_days(rates: OrderRates, history: Purchases) -> NDArray[np.float64]:
    """Return alpha + T, [n]: the rate of λ's posterior with the silence in it."""
    return rates.alpha + np.maximum(history.age, history.until_last)


def value_of_order(values: OrderValues | None, history: Purchases) -> NDArray[np.float64]:
    """Return the value that an order counts with, [n]: the expected one, or the mean so far where none was fitted."""
    return np.maximum(history.mean_value, 0.0) if values is None else expected_value(values, history)


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
