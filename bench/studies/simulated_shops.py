"""Shops whose truth is known, as orders: a weekly grocer, a yearly gift shop, a subscription box. Seeded.

Each customer has a gap of its own between orders (the rate is gamma distributed), a chance of its own to leave after an
order (beta distributed), and a mean value of its own (inverse gamma, so values are Gamma-Gamma). Unlike the outlook's
model, gaps are regular to a degree that differs by shop, as those of real customers are: the sum of several equal
exponential parts (Erlang). What the model makes of that is part of what the studies show.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segmentation.entries import DAY_MS
from segmentation.money import UNITS
from stream.orders.rows import OrderRow, parse_at, placed, refunded

BEGIN_MS: Final = parse_at("2021-01-01")
_CURRENCY: Final = "USD"


class ShopNature(NamedTuple):
    """The way that a shop's customers behave. Times in days, money in dollars."""

    title: str
    customers: int
    years: int  # customers join evenly over all but the last of them
    gap: float  # the mean of all customers' mean gaps
    alike: float  # shape of the rates' gamma distribution: the greater, the more alike
    regular: int  # Erlang shape of the gaps; 1: at random
    leave_a: float
    leave_b: float
    value: float  # the mean of all orders
    spread: float = 4.0  # shape of one customer's values
    again: float = 0.0  # chance of a second order on the same day
    refunds: float = 0.02  # share of the orders


GROCER: Final = ShopNature("Weekly grocer", 600, 3, 8.0, 6.0, 2, 0.8, 80.0, 55.0, again=0.15)
GIFT_SHOP: Final = ShopNature("Yearly gift shop", 6_000, 4, 330.0, 4.0, 6, 1.0, 3.0, 48.0)
BOX: Final = ShopNature("Subscription box", 3_000, 3, 30.0, 60.0, 30, 1.5, 17.0, 25.0, spread=400.0, refunds=0.005)
SHOPS: Final = (GROCER, GIFT_SHOP, BOX)


class CustomerTruth(NamedTuple):
    """The truth about one customer."""

    gap: float  # mean days between orders
    leaves: float  # chance after each order
    left_ms: int | None  # the last order, after which the customer left; None: still there at the end
    value: float  # mean of an order


class SimulatedShop(NamedTuple):
    """The orders of a shop in time order up to `end_ms`, and the truth by customer."""

    nature: ShopNature
    rows: list[OrderRow]
    truth: dict[str, CustomerTruth]
    end_ms: int

    def is_customer(self, name: str, at_ms: int) -> bool:
        """Return whether a customer hasn't left yet."""
        left_ms = self.truth[name].left_ms
        return left_ms is None or left_ms > at_ms


def simulate_shop(nature: ShopNature, seed: int = 1) -> SimulatedShop:
    """Return a shop's orders; the same for the same seed."""
    rng = np.random.default_rng([seed, len(nature.title)])
    end_ms = BEGIN_MS + nature.years * 365 * DAY_MS
    gaps = nature.gap * (nature.alike - 1.0) / rng.gamma(nature.alike, 1.0, nature.customers)
    leaves = rng.beta(nature.leave_a, nature.leave_b, nature.customers)
    # Values have shape q = 3.5, hence the mean value · 2.5 / (q - 1).
    values = nature.value * 2.5 / rng.gamma(3.5, 1.0, nature.customers)
    rows: list[OrderRow] = []
    truth = {}
    for number in range(nature.customers):
        name = f"C{number:05}"
        begin_ms = BEGIN_MS + rng.uniform(0, (nature.years - 1) * 365) * DAY_MS
        times, has_left = _orders(rng, nature, begin_ms, float(gaps[number]), float(leaves[number]), end_ms)
        left_ms = int(times[-1]) if has_left else None
        truth[name] = CustomerTruth(float(gaps[number]), float(leaves[number]), left_ms, float(values[number]))
        for at in times.tolist():
            _add(rows, rng, nature, name, int(at), float(values[number]), end_ms)
    rows.sort(key=lambda row: row.at_ms)
    return SimulatedShop(nature, rows, truth, end_ms)


def _orders(
    rng: np.random.Generator, nature: ShopNature, begin_ms: float, gap: float, leaves: float, end_ms: int
) -> tuple[NDArray[np.float64], bool]:
    """Return one customer's purchases (ms), and whether it left before the end."""
    bought = int(rng.geometric(leaves)) if leaves > 1e-9 else 10**6
    most = min(bought, int((end_ms - begin_ms) / DAY_MS / gap * 2) + 20)
    steps = rng.gamma(nature.regular, gap / nature.regular, most - 1) * DAY_MS
    times = begin_ms + np.concatenate([[0.0], np.cumsum(steps)])
    return times[times < end_ms], bool(most == bought and times[-1] < end_ms)


def _add(
    rows: list[OrderRow], rng: np.random.Generator, nature: ShopNature, name: str, at: int, value: float, end_ms: int
) -> None:
    """Add a purchase: an order, perhaps a second one an hour later, perhaps a refund."""
    hours = (0, 1) if rng.random() < nature.again else (0,)
    for hour in hours:
        amount = max(round(value * rng.gamma(nature.spread, 1.0 / nature.spread) * 100), 1) * UNITS // 100
        order = placed(f"o{len(rows)}", name, at + hour * 3_600_000, amount, _CURRENCY)
        rows.append(order)
        if rng.random() < nature.refunds and (back := int(at + rng.uniform(0.5, 14.0) * DAY_MS)) < end_ms:
            rows.append(refunded(order.order_id or "", name, back, amount, _CURRENCY, names_order=True))
