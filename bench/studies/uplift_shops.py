"""Shops with a campaign whose effect is known: what their customers spent before and after. Seeded.

Most customers spend nothing, few spend very much, and the spend before says something about the spend after, but not
all. No scenario is like the model that the interval's sample size is reckoned by (stream/uplift/interval.py): amounts
are lognormal or Pareto, times a customer's own scale, and a customer has several orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from bench.studies.shop_logs import ShopLog, book_of
from segmentation.entries import DAY_MS, PLACED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

MEAN_ORDER: Final = 50.0
AFTER_DAYS: Final = 30
BEFORE_DAYS: Final = 90
_CHANGED_SHARE: Final = 0.1

Tail = Literal["lognormal", "pareto"]
Change = Literal["none", "orders", "amounts", "few"]  # "few": only a tenth of the customers changes, tenfold


class CampaignShop(NamedTuple):
    """A shop and a campaign. `effect`: the change of all customers' mean spend, 0.1 is a tenth more."""

    customers: int
    share: float  # held out
    orders: float  # that a customer places in the time after, on average
    alike: float  # shape of the rates' gamma distribution: the smaller, the fewer customers place most orders
    tail: Tail
    weight: float  # of the tail: the lognormal's spread, the Pareto's exponent
    change: Change = "none"
    effect: float = 0.0
    days: int = 90  # over which the customers come
    season: float = 0.0  # how far the rate swings over these days, 0.3: by 30 %


class Outcomes(NamedTuple):
    """The customers of one path, [customers], and the true difference per customer at each look, [days]."""

    treated: NDArray[np.bool_]
    day: Ints  # on which the time after is over
    before: Floats
    after: Floats
    orders_before: Floats
    orders_after: Floats
    true_spend: Floats
    true_orders: Floats


def random_shop(rng: np.random.Generator) -> CampaignShop:
    """Return a shop drawn from a wide range; a third of the campaigns changes nothing."""
    tail: Tail = "lognormal" if rng.random() < 0.6 else "pareto"
    change: Change = (("none",) * 3 + ("orders", "amounts", "few") * 2)[rng.integers(9)]
    effect = {"none": 0.0, "few": rng.uniform(-0.1, 0.5)}.get(change, rng.uniform(-1.0, 2.0))
    return CampaignShop(
        customers=int(np.exp(rng.uniform(np.log(200), np.log(40_000)))),
        share=float(rng.choice([0.03, 0.05, 0.1, 0.2, 0.5])),
        orders=float(np.exp(rng.uniform(np.log(0.02), np.log(1.0)))),
        alike=float(np.exp(rng.uniform(np.log(0.3), np.log(3.0)))),
        tail=tail,
        weight=float(rng.uniform(0.3, 1.8) if tail == "lognormal" else rng.uniform(2.1, 4.0)),
        change=change,
        effect=float(effect),
        days=int(rng.integers(30, 181)),
        season=float(rng.choice([0.0, 0.3])),
    )


def path(shop: CampaignShop, rng: np.random.Generator) -> Outcomes:
    """Return the customers of one path through a shop's campaign."""
    n = shop.customers
    treated, day = rng.random(n) >= shop.share, rng.integers(0, shop.days, n)
    swing = 1.0 + shop.season * np.sin(2 * np.pi * np.arange(shop.days) / shop.days)
    own = rng.gamma(shop.alike, 1.0 / shop.alike, n)
    scale = np.exp(rng.normal(-0.125, 0.5, n))
    rate, amount = shop.orders * own * swing[day], np.full(n, MEAN_ORDER)
    if shop.change == "orders":
        rate = rate * (1.0 + shop.effect * treated)
    elif shop.change == "amounts":
        amount = amount * (1.0 + shop.effect * treated)
    elif shop.change == "few":
        rate = rate * (1.0 + shop.effect / _CHANGED_SHARE * (treated & (rng.random(n) < _CHANGED_SHARE)))

    def spend(orders: Ints, each: Floats) -> Floats:
        amounts = np.bincount(np.repeat(np.arange(n), orders), weights=_amounts(shop, orders.sum(), rng), minlength=n)
        return amounts * scale * each

    before = rng.poisson(shop.orders * own * BEFORE_DAYS / AFTER_DAYS)
    after = rng.poisson(rate)
    came = np.bincount(day, minlength=shop.days)
    mean_rate = shop.orders * np.cumsum(came * swing) / np.maximum(np.cumsum(came), 1)
    return Outcomes(
        treated,
        day,
        spend(before, np.full(n, MEAN_ORDER)),
        spend(after, amount),
        before.astype(np.float64),
        after.astype(np.float64),
        mean_rate * MEAN_ORDER * shop.effect,
        mean_rate * (0.0 if shop.change == "amounts" else shop.effect),
    )


def _amounts(shop: CampaignShop, count: int, rng: np.random.Generator) -> Floats:
    """Return amounts with a mean of 1."""
    if shop.tail == "lognormal":
        return np.exp(rng.normal(-(shop.weight**2) / 2, shop.weight, count))
    return (rng.pareto(shop.weight, count) + 1.0) * (shop.weight - 1.0) / shop.weight


class RealCustomers(NamedTuple):
    """The spend and orders of a real shop's customers in the 90 days before an instant and the 30 days after it."""

    title: str
    before: Floats
    after: Floats
    orders_before: Floats
    orders_after: Floats


def real_customers(log: ShopLog) -> RealCustomers:
    """Return the customers as of the shop's instant of training: those who had ordered in the half-year before it."""
    rows = []
    for entries in book_of(log).entries.values():
        orders = [(e.time, e.amount / 10_000) for e in entries if e.kind == PLACED]
        since = [log.start_ms - at for at, _ in orders if at <= log.start_ms]
        if since and min(since) < 2 * BEFORE_DAYS * DAY_MS:
            spans = (
                (log.start_ms - BEFORE_DAYS * DAY_MS, log.start_ms),
                (log.start_ms, log.start_ms + AFTER_DAYS * DAY_MS),
            )
            inside = [[amount for at, amount in orders if start < at <= end] for start, end in spans]
            rows.append((*(sum(amounts) for amounts in inside), *(len(amounts) for amounts in inside)))
    columns = np.array(rows, dtype=np.float64).T
    return RealCustomers(log.title, *columns)


def real_path(real: RealCustomers, shop: CampaignShop, rng: np.random.Generator) -> Outcomes:
    """Return a path of customers drawn from real ones. Treated ones spend `shop.effect` more; orders don't change."""
    n = shop.customers
    chosen = rng.integers(0, len(real.after), n)
    treated = rng.random(n) >= shop.share
    return Outcomes(
        treated,
        rng.integers(0, shop.days, n),
        real.before[chosen],
        real.after[chosen] * (1.0 + shop.effect * treated),
        real.orders_before[chosen],
        real.orders_after[chosen],
        np.full(shop.days, float(real.after.mean()) * shop.effect),
        np.zeros(shop.days),
    )
