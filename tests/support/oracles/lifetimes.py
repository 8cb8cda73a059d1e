"""Whole lives in plain Python, from rows of a file or a generator: nothing of the project takes part."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Booking(NamedTuple):
    """An order or, with a negative amount, a refund that names none."""

    customer: str
    at: datetime
    amount: Decimal
    is_order: bool = True


class Lifetime(NamedTuple):
    """A customer's whole life, as exports and moves have it."""

    orders: int
    purchase_days: int
    monetary: Decimal
    mean_order_value: Decimal
    first_order_at: datetime
    last_order_at: datetime
    mean_gap_days: float | None
    typical_gap_days: float | None


def lifetimes(bookings: Iterable[Booking]) -> dict[str, Lifetime]:
    """Return the lives of all customers who have an order."""
    orders: dict[str, list[Booking]] = {}
    money: dict[str, Decimal] = {}
    for booking in bookings:
        money[booking.customer] = money.get(booking.customer, Decimal(0)) + booking.amount
        if booking.is_order:
            orders.setdefault(booking.customer, []).append(booking)
    return {customer: _lifetime(own, money[customer]) for customer, own in orders.items()}


def _lifetime(orders: list[Booking], money: Decimal) -> Lifetime:
    times = sorted(order.at for order in orders)
    days = sorted({time.astimezone(UTC).date() for time in times})
    gaps = [(later - earlier).days for earlier, later in pairwise(days)]
    return Lifetime(
        len(orders),
        len(days),
        money,
        (money / len(orders)).quantize(Decimal("0.0001"), ROUND_HALF_UP),
        times[0],
        times[-1],
        round(sum(gaps) / len(gaps), 6) if gaps else None,
        float(median(gaps)) if gaps else None,
    )


def cdnow_bookings(path: Path) -> list[Booking]:
    """Read CDNOW_master.txt: customer, day, number of CDs, dollars."""
    found = []
    for line in path.read_text("ascii").splitlines()[1:]:
        if fields := line.split():
            customer, day, _, dollars = fields
            found.append(Booking(customer, datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC), Decimal(dollars)))
    return found


def retail_bookings(path: Path) -> list[Booking]:
    """Read Online Retail's orders.csv.gz: orders and cancelling invoices of known customers."""
    found = []
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
            amount, is_order = Decimal(row["amount"]), row["kind"] == "order"
            if row["customer_id"] and (amount >= 0 if is_order else row["kind"] == "cancellation"):
                at = datetime.fromisoformat(row["ordered_at"])
                found.append(Booking(row["customer_id"], at, amount if is_order else -abs(amount), is_order))
    return found
