"""Map a shop's own order records to order events. Run it: `segstream adapters --app examples.shop_orders:adapters`.

The shop writes to the topic `shop-orders`, keyed by order number:

    {"number": 1001, "buyer": "c-42", "paid_at": 1772547600, "total_cents": 1990, "currency": "EUR", "state": "paid"}
    {"number": 1001, "buyer": "c-42", "paid_at": 1772547600, "voided_at": 1772634000, "state": "void", ...}

Records in any other state (a basket, a quote) aren't orders yet. Deliveries as CloudEvents come on `shop-events`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from segmentation.events import Amount, OrderCancelled, OrderPlaced
from stream.adapters.cloudevents import order_event, read_cloud_event
from stream.adapters.mapping import Adapters, SourceRecord


class ShopOrder(msgspec.Struct):
    """One record of `shop-orders`. Times in seconds since 1970, money in cents."""

    number: int
    buyer: str
    paid_at: int
    total_cents: int
    currency: str
    state: str
    voided_at: int | None = None


adapters = Adapters()


@adapters.map("shop-orders")
def from_shop(record: SourceRecord) -> OrderPlaced | OrderCancelled | None:
    """Return the event of an order that is paid or void, else None. A record that raises here becomes a dead letter."""
    order = msgspec.json.decode(record.value or b"", type=ShopOrder)
    number = str(order.number)
    if order.state == "paid":
        return OrderPlaced(
            id=f"paid-{number}",  # from the shop's number: an order sent twice counts once
            order_id=number,
            customer_id=order.buyer,
            occurred_at=datetime.fromtimestamp(order.paid_at, UTC),
            amount=Amount(f"{order.total_cents // 100}.{order.total_cents % 100:02}", order.currency),
        )
    if order.state == "void" and order.voided_at is not None:
        at = datetime.fromtimestamp(order.voided_at, UTC)
        return OrderCancelled(id=f"void-{number}", order_id=number, customer_id=order.buyer, occurred_at=at)
    return None


@adapters.map("shop-events")
def from_cloud_events(record: SourceRecord) -> dict[str, Any]:
    """Return the event of a CloudEvent, in either mode, whose data has the fields of an order event."""
    return order_event(read_cloud_event(record), types={"com.example.order.paid": "order.placed"})
