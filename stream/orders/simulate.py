"""Simulate orders without end, in the order of time: a seeded BG/NBD process with gamma-gamma spend.

BG/NBD (Fader, Hardie & Lee 2005, "Counting Your Customers" the Easy Way): each customer buys at their own rate, drawn
from a gamma distribution, and after each purchase leaves for good with their own probability, drawn from a beta
distribution. Gamma-gamma (Fader & Hardie 2013): the amounts of a customer vary around the customer's own mean. The
parameters are those that both papers find for CDNOW.
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
# A customer whose next purchase is further away is dropped: else the memory would grow for ever.
_DROPPED_MS: Final = 3 * 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class PurchaseModel:
    """The parameters of the process; rates are per week. The defaults are CDNOW's."""

    joining_weeks: float = 12.0  # in which `customers` buy for the first time
    rate_shape: float = 0.243  # r
    rate_scale: float = 4.414  # alpha, weeks
    leave_a: float = 0.793
    leave_b: float = 2.426
    spend_shape: float = 6.25  # p
    spend_prior_shape: float = 3.74  # q
    spend_prior_scale: float = 15.44  # gamma, currency units
    refunded: float = 0.03  # share of the orders
    cancelled: float = 0.01


CDNOW: Final = PurchaseModel()


@dataclass(slots=True)
class _Customer:
    name: str
    rate: float  # purchases a week
    leaves: float  # probability after each purchase
    spend: float  # the customer's own rate of the gamma distribution of amounts, 1 / currency units


def simulate(
    seed: int, customers: int, start_ms: int, *, currency: str = "USD", model: PurchaseModel = CDNOW
) -> Iterator[OrderRow]:
    """Yield orders, refunds and cancellations without end, by time from `start_ms` on (ms since 1970).

    `customers` join within the first 12 weeks, and as many in all the 12 weeks that follow. The same arguments give the
    same rows.
    """
    if customers < 1:
        raise ValueError(f"customers is {customers}, expected at least 1")
    rng = np.random.default_rng(seed)
    joining_ms = model.joining_weeks * _WEEK_MS / customers
    serial, orders, names = count(), count(1), count(1)
    # The future: (instant, a serial number, a customer who buys or a row that follows an order).
    future: list[tuple[int, int, _Customer | OrderRow]] = []
    joins = start_ms + rng.exponential(joining_ms)

    def schedule(at_ms: float, what: _Customer | OrderRow) -> None:
        heapq.heappush(future, (int(at_ms), next(serial), what))

    while True:
        if not future or joins < future[0][0]:
            schedule(joins, _newcomer(rng, model, next(names)))
            joins += rng.exponential(joining_ms)
            continue
        at_ms, _, what = heapq.heappop(future)
        if isinstance(what, OrderRow):
            yield what
            continue
        order = placed(f"S{next(orders):08}", what.name, at_ms, _amount(rng, what, model), currency)
        yield order
        if follow_up := _follow_up(rng, order, model):
            schedule(follow_up.at_ms, follow_up)
        if rng.random() >= what.leaves and (wait := rng.exponential(_WEEK_MS / what.rate)) < _DROPPED_MS:
            schedule(at_ms + wait, what)


def _newcomer(rng: np.random.Generator, model: PurchaseModel, number: int) -> _Customer:
    # With such a small shape a rate can be zero, and the next purchase would be infinitely far away.
    rate = max(rng.gamma(model.rate_shape, 1 / model.rate_scale), 1e-12)
    leaves = rng.beta(model.leave_a, model.leave_b)
    spend = rng.gamma(model.spend_prior_shape, 1 / model.spend_prior_scale)
    return _Customer(f"C{number:07}", rate, leaves, spend)


def _amount(rng: np.random.Generator, customer: _Customer, model: PurchaseModel) -> int:
    """Return an amount in ten-thousandths: whole cents, at least one."""
    return max(round(rng.gamma(model.spend_shape, 1 / customer.spend) * 100), 1) * _CENT


def _follow_up(rng: np.random.Generator, order: OrderRow, model: PurchaseModel) -> OrderRow | None:
    """Return a cancellation within hours, or a refund of all or half within days; None for most orders."""
    luck = rng.random()
    order_id, customer_id, currency = order.order_id or "", order.customer_id, order.currency
    if luck < model.cancelled:
        return cancelled(order_id, customer_id, order.at_ms + 1 + int(rng.exponential(6 * _HOUR_MS)), currency)
    if luck < model.cancelled + model.refunded:
        units = order.amount_units if rng.random() < 1 / 2 else order.amount_units // 2
        at_ms = order.at_ms + 1 + int(rng.exponential(5 * DAY_MS))
        return refunded(order_id, customer_id, at_ms, units, currency, names_order=True)
    return None
