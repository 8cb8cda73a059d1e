"""The difference between customers who were treated and held out, with an interval that may be looked at every day.

A confidence sequence: the interval holds the true difference at all looks together with 95 %, where an ordinary one
would do so at a single look that was fixed beforehand. Spend is hard on such intervals: most customers spend nothing,
few spend very much, and the held-out group is small. So four things are done about it, and bench/studies/uplift.py
measures what each is worth (docs/explanation/uplift.md):

1. The boundary is that of an asymptotic confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
   "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52 (2024), theorem 2.2.
2. What a customer spent before explains part of what the customer spends after, and is taken off (CUPED: Deng, Xu,
   Kohavi and Walker, WSDM 2013), with one slope for both groups: by its root, or the few large spenders would decide on
   the slope.
3. A small group without one of the rare large spenders shows too small a mean and too small a variance, both at once.
   So a group's variance counts at least as the one of both groups, and each bound is moved by the skewness of the group
   that makes it too narrow (the first term of the Edgeworth expansion of Student's t: Johnson, JASA 73, 1978). It
   counts at least as the spread of what buyers spend lets expect.
4. With too few buyers there is no interval. How many it takes grows with the spread of what buyers spend.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95
FEWEST_BUYERS: Final = 20  # in the smaller group
# The boundary is tightest at so many customers of the smaller group (of many times more in the other). It is flat: at
# a tenth of that it is 1.27 times as wide in standard errors, at a hundred times 1.17 times.
TIGHTEST: Final = 500.0
# Of the sum over a group's buyers, up to which a normal boundary with one Edgeworth term holds. So it takes
# exp(3 s²) / 0.25 buyers.
_LARGEST_SKEW: Final = 0.5


class Sums(NamedTuple):
    """The figures of a group of customers, at each look [looks]. y: what they did after; x: the root of that before."""

    customers: Floats
    buyers: Floats  # y > 0
    roots: Floats  # sum of √y over the buyers
    spent: Floats  # sum of y over the buyers
    y: Floats  # mean
    x: Floats
    yy: Floats  # sums of products of distances from the means
    xy: Floats
    xx: Floats
    yyy: Floats
    xyy: Floats
    xxy: Floats
    xxx: Floats


class Uplift(NamedTuple):
    """The difference per customer, treated less held out, at each look [looks].

    `low`, `high`: the interval; nan while there are too few buyers. `buyers`: those that the smaller group would have
    if both bought alike; `needed`: how many it takes. `explained`: the share of the variance that the time before
    explains.
    """

    value: Floats
    low: Floats
    high: Floats
    buyers: Floats
    needed: Floats
    explained: Floats


def sums(after: Floats, before: Floats) -> Sums:
    """Return the figures of a group at one look, when all its customers are there.

    >>> sums(np.array([0.0, 3.0]), np.array([1.0, 2.0])).yy.tolist()
    [4.5]
    """
    return running_sums(after, before, np.zeros(len(after), np.int64), 1)


def running_sums(after: Floats, before: Floats, look: NDArray[np.int64], looks: int) -> Sums:
    """Return the figures of a group at each look. `look`: of each customer, the first one that it is there at.

    The spend before may lie below zero, by refunds: then it counts as nothing.
    """

    def total(of: Floats) -> Floats:
        sums_so_far: Floats = np.cumsum(np.bincount(look, weights=of, minlength=looks))
        return sums_so_far

    # Sums of powers lose digits where the mean is large: so they are of distances from the mean of all.
    root = np.sqrt(np.maximum(before, 0.0))
    base_y, base_x = (float(of.mean()) if len(of) else 0.0 for of in (after, root))
    y, x = after - base_y, root - base_x
    n = total(np.ones(len(y)))
    m = np.maximum(n, 1.0)
    one = {"y": total(y), "x": total(x)}
    two = {"yy": total(y * y), "xy": total(x * y), "xx": total(x * x)}

    def second(a: str, b: str) -> Floats:
        found: Floats = two["".join(sorted(a + b))] - one[a] * one[b] / m
        return found

    def third(a: str, b: str, c: str, of: Floats) -> Floats:
        pairs = ((a, b, c), (b, a, c), (c, a, b))
        crossed = sum(one[single] * two["".join(sorted(left + right))] for single, left, right in pairs)
        found: Floats = total(of) - crossed / m + 2.0 * one[a] * one[b] * one[c] / m**2
        return found

    bought = after > 0
    spent = np.where(bought, after, 0.0)
    return Sums(
        customers=n,
        buyers=total(bought.astype(np.float64)),
        roots=total(np.sqrt(spent)),
        spent=total(spent),
        y=one["y"] / m + base_y,
        x=one["x"] / m + base_x,
        yy=second("y", "y"),
        xy=second("x", "y"),
        xx=second("x", "x"),
        yyy=third("y", "y", "y", y * y * y),
        xyy=third("x", "y", "y", x * y * y),
        xxy=third("x", "x", "y", x * x * y),
        xxx=third("x", "x", "x", x * x * x),
    )


def difference(treated: Sums, held_out: Sums, *, confidence: float = CONFIDENCE) -> Uplift:
    """Return the difference with its interval, at each look.

    >>> rng = np.random.default_rng(1)
    >>> def group(customers, mean):
    ...     return sums(rng.exponential(mean, customers) * (rng.random(customers) < 0.5), np.zeros(customers))
    >>> found = difference(group(9_000, 30.0), group(1_000, 20.0))
    >>> bool(found.low[0] < 5.0 < found.high[0]), bool(found.low[0] > 0.0)
    (True, True)
    """
    groups = (treated, held_out)
    slope = _ratio(treated.xy + held_out.xy, treated.xx + held_out.xx)
    second = [g.yy - 2 * slope * g.xy + slope**2 * g.xx for g in groups]
    third = [g.yyy - 3 * slope * g.xyy + 3 * slope**2 * g.xxy - slope**3 * g.xxx for g in groups]
    n = [np.maximum(g.customers, 1.0) for g in groups]
    variance = _at_least_common([np.maximum(of, 0.0) for of in second], [np.maximum(of - 1, 1.0) for of in n])
    squares = [of / size for of, size in zip(variance, n, strict=True)]  # of each mean's standard error
    error = np.sqrt(squares[0] + squares[1])
    reach = boundary(n[0] * n[1] / (n[0] + n[1]), confidence)
    share = (treated.buyers + held_out.buyers) / (n[0] + n[1])
    heavy = heaviness(groups)
    # The third cumulants of the means: of the customers who are there, but at least as their spread lets expect.
    cumulants = [
        np.maximum(own / size**2, heavy * _ratio(square**1.5, np.sqrt(share * size)))
        for own, size, square in zip(_at_least_common(third, n), n, squares, strict=True)
    ]
    # In standard errors: how much farther than in a normal distribution the truth may lie on the side where a group's
    # mean is below its own expectation.
    farther = [_ratio(of, error**3) * (2 * reach**2 + 1) / 6 for of in cumulants]
    value = treated.y - held_out.y - slope * (treated.x - held_out.x)
    buyers = (treated.buyers + held_out.buyers) * np.minimum(n[0], n[1]) / (n[0] + n[1])
    needed = np.ceil(np.maximum((heavy / _LARGEST_SKEW) ** 2, FEWEST_BUYERS))
    enough = (buyers >= needed) & (treated.customers > 1) & (held_out.customers > 1)
    return Uplift(
        value=value,
        low=np.where(enough, value - error * (reach + farther[1]), np.nan),
        high=np.where(enough, value + error * (reach + farther[0]), np.nan),
        buyers=buyers,
        needed=needed,
        explained=1.0 - _ratio(second[0] + second[1], treated.yy + held_out.yy, otherwise=1.0),
    )


def boundary(customers: Floats, confidence: float) -> Floats:
    """Return how many standard errors the interval reaches to each side.

    `customers`: n m / (n + m) for groups of n and m. With t for these, it is √((1 + 1 / rt) log((rt + 1) / a²)):
    theorem 2.2 in standard errors, r for the square of its rho, chosen so that it is least at t = 500 (its appendix
    B.2), and a for the chance of an error.

    >>> [round(float(of), 2) for of in boundary(np.array([50.0, 500.0, 50_000.0]), 0.95)]
    [3.86, 3.04, 3.56]
    """
    alpha = 1.0 - confidence
    log = -2.0 * math.log(alpha)
    grown = customers * ((log + math.log(log + 1.0)) / TIGHTEST)
    reach: Floats = np.sqrt((1.0 + 1.0 / grown) * np.log((grown + 1.0) / alpha**2))
    return reach


def heaviness(groups: tuple[Sums, Sums]) -> Floats:
    """Return E[y³] / E[y²]^1.5 of the buyers: over the root of their number, the skewness of a sum over them.

    Taken from third powers, it would be too small while the rare large spenders haven't come. So it is taken from √y
    and y, whose means are known from few: for a lognormal distribution with spread s it is exp(1.5 s²), where s² =
    4 log(E[y] / E[√y]²).
    """
    spreads = [4.0 * g.buyers * np.log(_ratio(g.spent * g.buyers, g.roots**2, otherwise=1.0)) for g in groups]
    spread = _ratio(spreads[0] + spreads[1], groups[0].buyers + groups[1].buyers)
    # Past exp(15) it makes no difference, and greater powers overflow.
    heavy: Floats = np.exp(np.minimum(1.5 * spread, 15.0))
    return heavy


def _at_least_common(totals: list[Floats], divisors: list[Floats]) -> list[Floats]:
    """Return each group's mean, but at least the one of both groups."""
    common = (totals[0] + totals[1]) / (divisors[0] + divisors[1])
    return [np.maximum(total / divisor, common) for total, divisor in zip(totals, divisors, strict=True)]


def _ratio(part: Floats, whole: Floats, otherwise: float = 0.0) -> Floats:
    """Return part / whole, and `otherwise` where the whole is nothing."""
    some = whole > 0
    found: Floats = np.where(some, part / np.where(some, whole, 1.0), otherwise)
    return found
