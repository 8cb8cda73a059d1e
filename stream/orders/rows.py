"""A row of a file of orders: read from text to whole numbers, exactly, and made into an event."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal

from msgspec import Struct

from segmentation.event_text import instant, iso
from segmentation.events import (
    LARGEST_AMOUNT,
    Amount,
    CustomerEvent,
    CustomerMerged,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    millis,
)
from segmentation.money import DECIMALS, AmountError, TooManyDecimalsError, format_units, parse_units

RowKind = Literal["placed", "refunded", "cancelled", "merged"]

LONGEST_ID: Final = 256  # characters; the limit of the events
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# As spreadsheets write it in the United States: "12/1/2010 8:26" is the first of December.
_AMERICAN: Final = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?: ([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?")
_UNDECODED: Final = "\ufffd"


class LeftOutReason(StrEnum):
    """The reasons why a row of a file isn't sent. A closed list: the labels in a replay's report."""

    NO_CUSTOMER = "no_customer"
    NO_ORDER_ID = "no_order_id"
    ID_LENGTH = "id_length"
    NOT_UTF8 = "not_utf8"  # an id that isn't UTF-8: with replaced characters, two customers could become one
    DATE = "date"
    DATED_AHEAD = "dated_ahead"  # in the future: no event may be dated later than its arrival
    AMOUNT = "amount"
    TOO_MANY_DECIMALS = "too_many_decimals"
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    CURRENCY = "currency"  # not three letters
    KIND = "kind"  # not an order, refund, cancellation or merge: bad debts, adjustments of stock
    SAME_CUSTOMER = "same_customer"  # a merge of an id into itself
    TORN_INVOICE = "torn_invoice"  # a line so far behind its invoice's other lines that these have been summed already


class RowLeftOut(ValueError):
    """This row can't be sent, for `reason`. The reader counts it and goes on."""

    def __init__(self, reason: LeftOutReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class OrderRow(Struct, frozen=True, gc=False, array_like=True):
    """The content of one row. `at_ms`: since 1970 UTC; `amount_units`: ten-thousandths, never negative.

    `order_id` is None for a merge, and for a refund that names no order. `event_id` is made of the row's content, so
    that sending a file twice sends the same events.
    """

    kind: RowKind
    order_id: str | None
    customer_id: str
    at_ms: int
    amount_units: int
    currency: str
    event_id: str
    updated_at_ms: int | None = None  # of several contents of an order the one with the latest counts
    merged_into: str | None = None  # of a merge: the id that the customer has from now on


def placed(
    order_id: str, customer_id: str, at_ms: int, units: int, currency: str, updated_at_ms: int | None = None
) -> OrderRow:
    """Return the row of an order. Raises RowLeftOut."""
    _check(order_id, customer_id, units, needs_order=True)
    return OrderRow("placed", order_id, customer_id, at_ms, units, currency, order_id, updated_at_ms)


def cancelled(order_id: str, customer_id: str, at_ms: int, currency: str) -> OrderRow:
    """Return the row of a cancellation. Raises RowLeftOut.

    The event's id includes the instant: an order cancelled at two instants is two events, not one with two contents.
    """
    event_id = f"{order_id}@{iso(at_ms)}"
    _check(order_id, customer_id, 0, needs_order=True)
    if len(event_id) > LONGEST_ID:
        raise RowLeftOut(LeftOutReason.ID_LENGTH)
    return OrderRow("cancelled", order_id, customer_id, at_ms, 0, currency, event_id)


def refunded(document: str, customer_id: str, at_ms: int, units: int, currency: str, *, names_order: bool) -> OrderRow:
    """Return the row of a refund. `document`: the order that it names, or else the refund's own number (may be empty).

    An order may be refunded several times, so the event's id includes the instant and the amount. Raises RowLeftOut.
    """
    event_id = f"{document}@{iso(at_ms)}:{format_units(units)}"
    _check(document, customer_id, units, needs_order=False)
    if len(event_id) > LONGEST_ID:
        raise RowLeftOut(LeftOutReason.ID_LENGTH)
    order_id = document if names_order and document else None
    return OrderRow("refunded", order_id, customer_id, at_ms, units, currency, event_id)


def merged(customer_id: str, into: str, at_ms: int, currency: str) -> OrderRow:
    """Return the row of a merge: `customer_id` is the same person as `into`. Raises RowLeftOut."""
    _check("", customer_id, 0, needs_order=False)
    _check("", into, 0, needs_order=False)
    if customer_id == into:
        raise RowLeftOut(LeftOutReason.SAME_CUSTOMER)
    event_id = f"{customer_id}>{into}@{iso(at_ms)}"
    if len(event_id) > LONGEST_ID:  # of two ids that are long, but not too long
        event_id = sha256(event_id.encode()).hexdigest()
    return OrderRow("merged", None, customer_id, at_ms, 0, currency, event_id, merged_into=into)


def _check(order_id: str, customer_id: str, units: int, *, needs_order: bool) -> None:
    if not customer_id:
        raise RowLeftOut(LeftOutReason.NO_CUSTOMER)
    if needs_order and not order_id:
        raise RowLeftOut(LeftOutReason.NO_ORDER_ID)
    if len(customer_id) > LONGEST_ID or len(order_id) > LONGEST_ID:
        raise RowLeftOut(LeftOutReason.ID_LENGTH)
    if _UNDECODED in customer_id or _UNDECODED in order_id:
        raise RowLeftOut(LeftOutReason.NOT_UTF8)
    if units > LARGEST_AMOUNT:
        raise RowLeftOut(LeftOutReason.AMOUNT_OUT_OF_RANGE)


@lru_cache(maxsize=65_536)
def parse_at(text: str) -> int:
    """Return an instant, ms since 1970 UTC, from ISO 8601 or "12/1/2010 8:26" (month first).

    Without a zone it is UTC, without a time 00:00. Raises ValueError where it isn't an instant of 1970 to 9899.

    >>> parse_at("1970-01-02"), parse_at("1/2/1970 0:01"), parse_at("1970-01-02T01:00:00.0019+01:00")
    (86400000, 86460000, 86400001)
    """
    if found := _AMERICAN.fullmatch(text):
        month, day, year, hour, minute, second = (int(part or 0) for part in found.groups())
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    else:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
    return millis(at, "the time")


def read_at(text: str) -> int:
    """Return what `parse_at` returns. Raises RowLeftOut."""
    try:
        return parse_at(text)
    except ValueError:
        raise RowLeftOut(LeftOutReason.DATE) from None


def parse_signed(text: str) -> int:
    """Return decimal text with or without a sign as ten-thousandths, exactly. Raises AmountError.

    Zeros behind the fourth decimal are accepted; any other digit there is refused, since rounding would make sums
    inexact.

    >>> parse_signed("-12.5"), parse_signed("3.10000000"), parse_signed(".5")
    (-125000, 31000, 5000)
    """
    negative = text.startswith("-")
    whole, _, fraction = text.removeprefix("-" if negative else "+").partition(".")
    if len(fraction) > DECIMALS:
        fraction = fraction[:DECIMALS] + fraction[DECIMALS:].rstrip("0")
    units = parse_units(f"{whole or '0'}.{fraction}" if fraction else whole)
    return -units if negative else units


def read_amount(text: str) -> int:
    """Return what `parse_signed` returns. Raises RowLeftOut."""
    try:
        return parse_signed(text)
    except TooManyDecimalsError:
        raise RowLeftOut(LeftOutReason.TOO_MANY_DECIMALS) from None
    except AmountError:
        raise RowLeftOut(LeftOutReason.AMOUNT) from None


def to_event(row: OrderRow, backfill: str | None = None) -> CustomerEvent:
    """Return the event of a row for the topic of orders. `backfill`: the name of the backfill that it is part of."""
    at = instant(row.at_ms)
    if row.kind == "merged":
        into = row.merged_into or ""
        return CustomerMerged(id=row.event_id, from_=row.customer_id, into=into, occurred_at=at, backfill=backfill)
    if row.kind == "cancelled":
        return OrderCancelled(
            id=row.event_id,
            order_id=row.order_id or "",
            customer_id=row.customer_id,
            occurred_at=at,
            backfill=backfill,
        )
    amount = Amount(format_units(row.amount_units), row.currency)
    if row.kind == "refunded":
        return OrderRefunded(
            id=row.event_id,
            order_id=row.order_id,
            customer_id=row.customer_id,
            occurred_at=at,
            amount=amount,
            backfill=backfill,
        )
    return OrderPlaced(
        id=row.event_id,
        order_id=row.order_id or "",
        customer_id=row.customer_id,
        occurred_at=at,
        amount=amount,
        updated_at=None if row.updated_at_ms is None else instant(row.updated_at_ms),
        backfill=backfill,
    )
