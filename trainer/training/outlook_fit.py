"""Fit the outlook's model to a snapshot by maximum likelihood: order rates with drop-out, and the values of orders.

**An order is a purchase day.** The model wants arrivals that are independent within a customer. A basket that is split
into three invoices, or a forgotten item an hour later, isn't: counted as orders they would make a weekly shopper look
like a burst of gaps of an hour, and every silence like a drop-out. Lives have both counts; days also make files with
dates alone (CDNOW) and files with times (Online Retail) mean the same. An order's value is then a day's.

**Regularity is fitted first**, where the gaps are known. Customers who order regularly, taken for random ones, look as
if they never dropped out: their gaps scatter so little that no silence seems too long. After three
years the simulated gift shop, where 25 % leave after an order, shows no drop-out with k = 1, and 27 % with the k that
is likeliest.

The likelihoods are those of Batislam and others (2007) and Hoppe and Wagner (2007) for the rates, with k of Reutterer,
Platzer and Schröder (2021), and of Fader and Hardie (2013) for the values, with their gradients, in the logarithms of
the parameters. Time and money are scaled to their means, so that a fit doesn't depend on units; parameters are rounded,
so that the last bits of a sum don't either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, expit, gammaln

from segmentation.outlook import OrderRates, OrderValues, Purchases
from trainer.errors import FitError
from trainer.training.measure import sample_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
# Shapes of the gaps that are tried: from random to as regular as a subscription. Between the greater ones the figures
# hardly differ.
REGULARITIES: Final = (1, 2, 3, 4, 6, 9, 12)
MOST_FOR_REGULARITY: Final = 4_000
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


def fit_outlook(purchases: Purchases, log_gaps: NDArray[np.float64] | None = None, seed: int = 42) -> OutlookFit:
    """Fit rates and values; more than 50,000 customers are sampled. Raises FitError where there is too little history.

    `log_gaps`: the sum of the logarithms of each customer's gaps in days, [customers]; without it orders count as
    random (k = 1). Where drop-out adds less than LEAST_GAIN, the model without it counts (`a` is 0): its parameters
    would run away, and a chance to be alive made of them would be noise.
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
    regularity = 1 if log_gaps is None else _likeliest_regularity(purchases, log_gaps[chosen], seed)
    rates, gain, notes = _fit_rates(purchases, regularity)
    values, about_money = _fit_values(purchases)
    return OutlookFit(rates, values, len(purchases.repeats), repeaters, round(gain, 1), (*notes, *about_money))


def log_gaps_of(days: Iterable[Sequence[int]]) -> NDArray[np.float64]:
    """Return the sum of the logarithms of the gaps between purchase days, ascending, of each customer.

    >>> log_gaps_of([[3], [0, 1, 8]]).round(2).tolist()
    [0.0, 1.95]
    """
    return np.array([math.fsum(math.log(b - a) for a, b in pairwise(own)) for own in days])


def _likeliest_regularity(purchases: Purchases, log_gaps: NDArray[np.float64], seed: int) -> int:
    """Return the k of REGULARITIES with the greatest likelihood, on a sample of the customers who came back."""
    chosen = sample_of(len(log_gaps), MOST_FOR_REGULARITY, seed)
    own, logs = Purchases(*[column[chosen] for column in purchases]), log_gaps[chosen]
    best, least = 1, math.inf
    for k in REGULARITIES:
        cost = _RateCost(own, k)
        found = min(_least(cost.with_drop_out, cost.starts)[1], _least(cost.without, cost.plain_starts)[1])
        # What k adds beside the parameters: the density of the gaps between the first order and the last.
        found -= float(np.sum((k - 1) * (logs - own.repeats * math.log(cost.scale)) - own.repeats * gammaln(k)))
        if found >= least:
            break
        best, least = k, found
    return best


class _RateCost:
    """Minus the log-likelihood of the rates for one k, without what depends on k alone; time in units of `scale`."""

    starts: Final = ((0.0, 0.0, 0.0, 1.0), (1.0, 1.0, -1.0, 2.0))
    plain_starts: Final = ((0.0, 0.0),)

    def __init__(self, purchases: Purchases, k: int) -> None:
        self.scale = float(np.mean(purchases.age)) or 1.0
        self._k, self._x = k, purchases.repeats
        self._until_last, age = purchases.until_last / self.scale, purchases.age / self.scale
        self._silence = np.maximum(age - self._until_last, 0.0)
        self._different, self._place = np.unique(self._x, return_inverse=True)
        self._counts = np.bincount(self._place).astype(np.float64)

    def _orders(self, r: float, alpha: float) -> tuple[float, float, float]:
        """Return the log-likelihood of the orders made, and its derivatives by r and alpha."""
        shapes, known = r + self._k * self._different, alpha + self._until_last
        shape, logs = r + self._k * self._x, np.log(known)
        value = self._counts @ (gammaln(shapes) - gammaln(r)) + np.sum(r * np.log(alpha) - shape * logs)
        by_r = self._counts @ (digamma(shapes) - digamma(r)) + np.sum(np.log(alpha) - logs)
        return float(value), float(by_r), float(np.sum(r / alpha - shape / known))

    def _silences(self, r: float, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return log Q, the chance of a living customer to be so silent, and its derivatives by r and alpha, [n]."""
        shape, known = r + self._k * self._x, alpha + self._until_last
        observed = known + self._silence
        share = self._silence / observed
        # The terms of `segmentation.silence.phases`, and their derivatives by the shape relative to themselves.
        term, grown, total, by_shape = (
            np.ones(len(share)),
            np.zeros(len(share)),
            np.ones(len(share)),
            np.zeros(len(share)),
        )
        for j in range(1, self._k):
            term = term * (share * (shape + (j - 1.0)) / j)
            grown = grown + 1.0 / (shape + (j - 1.0))
            total, by_shape = total + term, by_shape + term * grown
        logs = np.log1p(self._silence / known)
        hazard = term * (shape + (self._k - 1.0)) / ((1.0 - share) * total)
        return np.log(total) - shape * logs, by_shape / total - logs, hazard * share / observed

    def without(self, theta: NDArray[np.float64]) -> Gradient:
        """Return the cost without drop-out, and its gradient by the logarithms of r and alpha."""
        r, alpha = np.exp(theta).tolist()
        value, by_r, by_alpha = self._orders(r, alpha)
        silent, silent_by_r, silent_by_alpha = self._silences(r, alpha)
        gradient = [(by_r + np.sum(silent_by_r)) * r, (by_alpha + np.sum(silent_by_alpha)) * alpha]
        return -(value + float(np.sum(silent))), -np.array(gradient)

    def with_drop_out(self, theta: NDArray[np.float64]) -> Gradient:
        """Return the cost, and its gradient by the logarithms of r, alpha, a and b."""
        r, alpha, a, b = np.exp(theta).tolist()
        x = self._different
        value, by_r, by_alpha = self._orders(r, alpha)
        silent, silent_by_r, silent_by_alpha = self._silences(r, alpha)
        left_at_once = (np.log(a) - np.log(b + x))[self._place]
        left = expit(left_at_once - silent)  # the chance to have dropped out
        stayed = gammaln(b + x + 1) + gammaln(a + b) - gammaln(b) - gammaln(a + b + x + 1)
        value += float(self._counts @ stayed + np.sum(np.logaddexp(silent, left_at_once)))
        ends = digamma(a + b) - digamma(a + b + x + 1)
        gradient = [
            (by_r + np.sum((1.0 - left) * silent_by_r)) * r,
            (by_alpha + np.sum((1.0 - left) * silent_by_alpha)) * alpha,
            (self._counts @ ends + np.sum(left) / a) * a,
            (self._counts @ (ends + digamma(b + x + 1) - digamma(b)) - np.sum(left / (b + self._x))) * b,
        ]
        return -value, -np.array(gradient)


def _fit_rates(purchases: Purchases, k: int) -> tuple[OrderRates, float, list[str]]:
    """Return the rates, the gain of drop-out, and notes."""
    cost = _RateCost(purchases, k)
    plain, plain_cost = _least(cost.without, cost.plain_starts)
    found, least = _least(cost.with_drop_out, [*cost.starts, (*plain, -1.0, 1.0)])
    gain = max(2.0 * (plain_cost - least), 0.0)
    identified = gain >= LEAST_GAIN
    r, alpha = np.exp(found[:2] if identified else plain)
    a, b = np.exp(found[2:]) if identified else (0.0, 1.0)
    rates = OrderRates(_rounded(r), _rounded(alpha * cost.scale), _rounded(a), _rounded(b), k)
    notes = []
    if not identified:
        notes.append(
            f"The orders don't show whether customers drop out (twice the log-likelihood gains {gain:.1f}, expected "
            f"{LEAST_GAIN:g}): everybody counts as a customer who will order again."
        )
    elif found[2:].max() > _WIDEST - 0.01:
        notes.append(f"All customers drop out with about the same chance, {a / (a + b):.1%} after each order.")
    if max(np.log(r), np.log(alpha)) > _WIDEST - 0.01:
        notes.append(f"All customers order at about the same rate, every {k * alpha * cost.scale / r:.3g} days.")
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
