"""Fit the outlook's model to a snapshot by maximum likelihood: order rates with drop-out, and the values of orders.

**An order is a purchase day.** The model wants arrivals that are independent within a customer. A basket that is split
into three invoices, or a forgotten item an hour later, isn't: counted as orders they would make a weekly shopper look
like a burst of gaps of an hour, and every silence like a drop-out. Lives have both counts; days also make files with
dates alone (CDNOW) and files with times (Online Retail) mean the same. An order's value is then a day's.

The likelihoods are those of Batislam and others (2007) and Hoppe and Wagner (2007) for the rates, and of Fader and
Hardie (2013) for the values, with their gradients, in the logarithms of the parameters. Time and money are scaled to
their means, so that a fit doesn't depend on units; parameters are rounded, so that the last bits of a sum don't either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, expit, gammaln

from segmentation.outlook import OrderRates, OrderValues, Purchases
from trainer.errors import FitError
from trainer.training.measure import sample_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from trainer.snapshot.redis import CustomerSnapshot

# Customers that a fit is made on: with more the parameters hardly get better (their error is about 1 % by then).
MOST_CUSTOMERS: Final = 50_000
# With fewer who came back, the parameters' own errors are as large as what they say (about 10 % each at 200).
LEAST_REPEATERS: Final = 200
# Of those, so many must have come back twice: with one gap each, own rates can't be told from the customers' at large.
LEAST_LOYAL: Final = 50
# Twice the log-likelihood that drop-out must add to the same model without it: the 1 % point of chi² with two degrees
# of freedom. Both parameters lie on the border of their range without drop-out, so the true chance is below 1 %.
LEAST_GAIN: Final = 9.21
_DIGITS: Final = 6
# Bounds of the logarithms: beyond them customers are alike (r and alpha, or a and b, run away together), and it doesn't
# matter how far.
_WIDEST: Final = 8.0
# Below this q the mean value of an order over all customers would be infinite, or nearly.
_LEAST_Q: Final = 1.1

Gradient = tuple[float, "NDArray[np.float64]"]


@dataclass(frozen=True, slots=True)
class OutlookFit:
    """The parameters, and what to know about them. `gain`: twice the log-likelihood that drop-out adds.

    `values` is None where the money can't be fitted; `notes` are sentences for the report.
    """

    rates: OrderRates
    values: OrderValues | None
    customers: int
    repeaters: int
    gain: float
    notes: tuple[str, ...]

    @property
    def has_drop_out(self) -> bool:
        """Whether the history shows that customers drop out; else silence says nothing about it."""
        return self.rates.a > 0.0


def purchases_of(snapshot: CustomerSnapshot) -> Purchases:
    """Return what the outlook needs of all customers of a snapshot, [customers].

    Raises FitError for one without lives.
    """
    life = snapshot.life
    if life is None:
        raise FitError("The snapshot has no lives.", hint="Read it from states or from a file of orders.")
    days = np.maximum(life.purchase_days, 1).astype(np.float64)
    since_first = (snapshot.as_of_ms - life.first_order) / 86_400_000.0
    until_last = np.where(days > 1.0, np.maximum(since_first - snapshot.recency_days, 0.0), 0.0)
    return Purchases(days - 1.0, until_last, until_last + snapshot.recency_days, life.monetary / days)


def fit_outlook(purchases: Purchases, seed: int = 42) -> OutlookFit:
    """Fit rates and values; more than 50,000 customers are sampled. Raises FitError where there is too little history.

    Where drop-out adds less than LEAST_GAIN, the model without it counts (`a` is 0): its parameters would run away, and
    a chance to be alive made of them would be noise.
    """
    chosen = sample_of(len(purchases.repeats), MOST_CUSTOMERS, seed)
    purchases = Purchases(*[column[chosen] for column in purchases])
    repeaters, loyal = (int(np.count_nonzero(purchases.repeats >= least)) for least in (1, 2))
    if repeaters < LEAST_REPEATERS or loyal < LEAST_LOYAL:
        raise FitError(
            f"{repeaters} customers came back once or more and {loyal} twice or more; "
            f"expected {LEAST_REPEATERS} and {LEAST_LOYAL}.",
            hint="Wait for more orders: nothing is known yet of how often these customers order.",
        )
    rates, gain, notes = _fit_rates(purchases)
    values, about_money = _fit_values(purchases)
    return OutlookFit(rates, values, len(purchases.repeats), repeaters, round(gain, 1), (*notes, *about_money))


def _fit_rates(purchases: Purchases) -> tuple[OrderRates, float, list[str]]:
    """Return the rates, the gain of drop-out, and notes."""
    scale = float(np.mean(purchases.age)) or 1.0
    x, until_last, age = purchases.repeats, purchases.until_last / scale, purchases.age / scale
    different, place = np.unique(x, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)

    def without(theta: NDArray[np.float64]) -> Gradient:
        r, alpha = np.exp(theta)
        observed = np.log(alpha + age)
        value = counts @ (gammaln(r + different) - gammaln(r)) + np.sum(r * np.log(alpha) - (r + x) * observed)
        by_r = counts @ (digamma(r + different) - digamma(r)) + np.sum(np.log(alpha) - observed)
        by_alpha = np.sum(r / alpha - (r + x) / (alpha + age))
        return -float(value), -np.array([by_r * r, by_alpha * alpha])

    def with_drop_out(theta: NDArray[np.float64]) -> Gradient:
        r, alpha, a, b = np.exp(theta)
        base, by_base = without(theta[:2])
        shape, gone = r + x, np.log((alpha + age) / (alpha + until_last))
        odds = (np.log(a) - np.log(b + different))[place] + shape * gone
        left = expit(odds)  # the chance to have dropped out
        at_most = gammaln(b + different + 1) + gammaln(a + b) - gammaln(b) - gammaln(a + b + different + 1)
        value = counts @ at_most + np.sum(np.logaddexp(0.0, odds))
        ends = digamma(a + b) - digamma(a + b + different + 1)
        by_r, by_alpha = np.sum(left * gone), np.sum(left * shape * (1 / (alpha + age) - 1 / (alpha + until_last)))
        by_a = counts @ ends + np.sum(left) / a
        by_b = counts @ (ends + digamma(b + different + 1) - digamma(b)) - np.sum(left / (b + x))
        return base - float(value), np.concatenate([by_base, [0.0, 0.0]]) - np.array(
            [by_r * r, by_alpha * alpha, by_a * a, by_b * b]
        )

    plain, plain_cost = _least(without, [[0.0, 0.0]])
    found, cost = _least(with_drop_out, [[*plain, -1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    gain = max(2.0 * (plain_cost - cost), 0.0)
    identified = gain >= LEAST_GAIN
    r, alpha = np.exp(found[:2] if identified else plain)
    a, b = np.exp(found[2:]) if identified else (0.0, 1.0)
    rates = OrderRates(*[_rounded(value) for value in (r, alpha * scale, a, b)])
    notes = []
    if not identified:
        notes.append(
            f"The orders don't show whether customers drop out (twice the log-likelihood gains {gain:.1f}, expected "
            f"{LEAST_GAIN:g}): everybody counts as a customer who will order again."
        )
    elif found[2:].max() > _WIDEST - 0.01:
        notes.append(f"All customers drop out with about the same chance, {a / (a + b):.1%} after each order.")
    if max(np.log(r), np.log(alpha)) > _WIDEST - 0.01:
        notes.append(f"All customers order at about the same rate, every {alpha * scale / r:.3g} days.")
    return rates, gain, notes


def _fit_values(purchases: Purchases) -> tuple[OrderValues | None, list[str]]:
    """Return the values, and notes; None where too few customers have paid something."""
    paying = purchases.mean_value > 0.0
    n, mean = purchases.repeats[paying] + 1.0, purchases.mean_value[paying]
    if len(n) < LEAST_REPEATERS or np.ptp(mean) <= 1e-9 * mean.max():
        return None, ["The values of orders hardly differ or are mostly 0: no expected value."]
    scale = float(np.mean(mean))
    z = mean / scale
    different, place = np.unique(n, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    log_z, log_n = np.log(z), np.log(n)

    def cost(theta: NDArray[np.float64]) -> Gradient:
        p, q, v = np.exp(theta)
        both = np.log(v + n * z)
        value = counts @ (gammaln(p * different + q) - gammaln(p * different) - gammaln(q))
        value += np.sum(q * np.log(v) + (p * n - 1) * log_z + p * n * log_n - (p * n + q) * both)
        grown = digamma(p * different + q)
        by_p = counts @ (different * (grown - digamma(p * different))) + np.sum(n * (log_z + log_n - both))
        by_q = counts @ (grown - digamma(q)) + np.sum(np.log(v) - both)
        by_v = np.sum(q / v - (p * n + q) / (v + n * z))
        return -float(value), -np.array([by_p * p, by_q * q, by_v * v])

    (p, q, v), _ = _least(cost, [[0.0, 1.0, 1.0]], least=[-_WIDEST, np.log(_LEAST_Q), -_WIDEST])
    notes = []
    if q <= np.log(_LEAST_Q) + 0.01:
        notes.append("A few customers' orders are so large that the mean value of an order is uncertain.")
    related = float(np.corrcoef(n, log_z)[0, 1]) if len(different) > 1 else 0.0
    if abs(related) > 0.3:
        notes.append(
            f"Customers who order more often spend {'more' if related > 0 else 'less'} each time: r {related:.2f}."
        )
    return OrderValues(*[_rounded(value) for value in (np.exp(p), np.exp(q), np.exp(v) * scale)]), notes


def _least(
    cost: Callable[[NDArray[np.float64]], Gradient],
    starts: Sequence[Sequence[float]],
    least: Sequence[float] | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Return where the cost is least, from the best of the starts, and that cost."""
    low = [-_WIDEST] * len(starts[0]) if least is None else list(least)
    bounds = [(bound, _WIDEST) for bound in low]
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-6}
    tried = [minimize(cost, np.array(s), jac=True, method="L-BFGS-B", bounds=bounds, options=options) for s in starts]
    best = min(tried, key=lambda one: float(one.fun))
    return np.asarray(best.x, dtype=np.float64), float(best.fun)


def _rounded(x: float) -> float:
    """Round to six significant digits: more than the optimiser agrees on from machine to machine.

    >>> _rounded(0.123456789)
    0.123457
    """
    return float(f"{x:.{_DIGITS - 1}e}")
