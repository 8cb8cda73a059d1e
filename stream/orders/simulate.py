"""An endless shop to try things with: orders in time order from a seeded BG/NBD process with gamma-gamma spend.

BG/NBD (Fader, Hardie & Lee 2005, "Counting Your Customers" the Easy Way): a customer buys at a rate of their own, drawn
from a gamma distribution, and after each purchase leaves for good with a probability of their own, drawn from a beta
distribution. Gamma-gamma (Fader & Hardie 2013): what they spend varies around a mean of their own. The parameters are those
that both papers find for CDNOW.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.entries import DAY_MS
from segmentation.money import UNITS
from stream.orders.rows import OrderRow, cancelled, placed, refunded

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOUR_MS: Final = 3_600_000
_WEEK_MS: Final = 7 * DAY_MS
_CENT: Final = UNITS // 100
# Whoever won't be back within this time is forgotten: else the memory would grow for ever with those who never return.
_FORGOTTEN_MS: Final = 3 * 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class PurchaseModel:
    """What the shop is like; rates a week. The defaults are CDNOW's."""

    joining_weeks: float = 12.0  # in this time as many customers come for the first time as the shop was asked for
    rate_shape: float = 0.243  # r
    rate_scale: float = 4.414  # alpha, weeks
    leave_a: float = 0.793
    leave_b: float = 2.426
    spend_shape: float = 6.25  # p
    spend_prior_shape: float = 3.74  # q
    spend_prior_scale: float = 15.44  # gamma, currency units
    refunded: float = 0.03  # part of the orders
    cancelled: float = 0.01


CDNOW: Final = PurchaseModel()


@dataclass(slots=True)
class _Customer:
    name: str
    rate: float  # purchases a week
    leaves: float  # probability after each purchase
    spend: float  # the customer's own rate of the gamma distribution of amounts, 1 / currency units


def simulate(
    seed: int, customers: int, start_ms: int, *, currency: str = "USD", shop: PurchaseModel = CDNOW
) -> Iterator[OrderRow]:
    """Give orders, refunds and cancellations without end, by time from `start_ms` on (ms since 1970).

    `customers` join within the first 12 weeks, and as many in all the 12 weeks that follow. Same arguments: same rows.
    """
    if customers < 1:
        raise ValueError(f"customers is {customers}, expected at least 1")
    rng = np.random.default_rng(seed)
    joining_ms = shop.joining_weeks * _WEEK_MS / customers
    serial, orders, names = count(), count(1), count(1)
    # What is to come: (instant, a number that keeps entries apart, a customer who buys or a row that follows an order).
    coming: list[tuple[int, int, _Customer | OrderRow]] = []
    joins = start_ms + rng.exponential(joining_ms)

    def plan(at_ms: float, what: _Customer | OrderRow) -> None:
        heapq.heappush(coming, (int(at_ms), next(serial), what))

    while True:
        if not coming or joins < coming[0][0]:
            plan(joins, _newcomer(rng, shop, next(names)))
            joins += rng.exponential(joining_ms)
            continue
        at_ms, _, what = heapq.heappop(coming)
        if isinstance(what, OrderRow):
            yield what
            continue
        order = placed(f"S{next(orders):08}", what.name, at_ms, _amount(rng, what, shop), currency)
        yield order
        if sequel := _sequel(rng, order, shop):
            plan(sequel.at_ms, sequel)
        if rng.random() >= what.leaves and (wait := rng.exponential(_WEEK_MS / what.rate)) < _FORGOTTEN_MS:
            plan(at_ms + wait, what)


def _newcomer(rng: np.random.Generator, shop: PurchaseModel, number: int) -> _Customer:
    # With so small a shape a rate can come out as zero, and nobody can wait for ever.
    rate = max(rng.gamma(shop.rate_shape, 1 / shop.rate_scale), 1e-12)
    leaves = rng.beta(shop.leave_a, shop.leave_b)
    spend = rng.gamma(shop.spend_prior_shape, 1 / shop.spend_prior_scale)
    return _Customer(f"C{number:07}", rate, leaves, spend)


def _amount(rng: np.random.Generator, customer: _Customer, shop: PurchaseModel) -> int:
    """Draw what is spent, in ten-thousandths: whole cents, one at least."""
    return max(round(rng.gamma(shop.spend_shape, 1 / customer.spend) * 100), 1) * _CENT


def _sequel(rng: np.random.Generator, order: OrderRow, shop: PurchaseModel) -> OrderRow | None:
    """Cancel the order within hours, or refund the whole or half of it within days; None for most."""
    luck = rng.random()
    order_id, customer_id, currency = order.order_id or "", order.customer_id, order.currency
    if luck < shop.cancelled:
        return cancelled(order_id, customer_id, order.at_ms + 1 + int(rng.exponential(6 * _HOUR_MS)), currency)
    if luck < shop.cancelled + shop.refunded:
        units = order.amount_units if rng.random() < 1 / 2 else order.amount_units // 2
        at_ms = order.at_ms + 1 + int(rng.exponential(5 * DAY_MS))
        return refunded(order_id, customer_id, at_ms, units, currency, names_order=True)
    return None
