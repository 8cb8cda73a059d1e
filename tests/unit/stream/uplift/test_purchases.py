from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from segmentation.entries import DAY_MS, Rules
from segmentation.events import (
    CONTROL_KEY,
    Amount,
    ClockAdvanced,
    CustomerErased,
    CustomerMerged,
    EventForwarded,
    InputEvent,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    encode,
    millis,
)
from segmentation.rates import Conversion, KnownRate, NewRate, Rates
from stream.orders.rows import merged, placed
from stream.uplift.purchases import Purchased, PurchaseHistories

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


class KeptRecord(NamedTuple):
    """A record of the topic of orders."""

    key: bytes | None
    value: bytes | None
    timestamp: int = 0


def at(day: float) -> datetime:
    return BEGIN + timedelta(days=day)


def ms(day: float) -> int:
    return millis(at(day))


def order(name: str, day: float, amount: str = "10.00", customer: str = "ada", currency: str = "EUR") -> OrderPlaced:
    return OrderPlaced(
        id=f"e-{name}", order_id=name, customer_id=customer, occurred_at=at(day), amount=Amount(amount, currency)
    )


def purchases(*events: InputEvent, wanted: tuple[str, ...] = ("ada", "bob"), **named: Conversion) -> PurchaseHistories:
    found = PurchaseHistories(frozenset(wanted), "EUR", **named)
    for event in events:
        key = event.customer_id.encode() if isinstance(event, OrderPlaced | CustomerMerged) else CONTROL_KEY
        if isinstance(event, OrderRefunded | OrderCancelled | CustomerErased):
            key = event.customer_id.encode()
        found.take_record(KeptRecord(key, encode(event), ms(60)))
    return found


def between(found: PurchaseHistories, start: float, end: float, customer: str = "ada") -> Purchased:
    return found.until(customer, ms(end), round((end - start) * DAY_MS), Rules())


def test_orders_of_the_time_count_with_its_end() -> None:
    found = purchases(order("1", 1), order("2", 5), order("3", 8), order("4", 8.001), order("2", 5))
    assert between(found, 1, 8) == Purchased(2, 20.0)
    assert between(found, 0, 1) == Purchased(1, 10.0)
    assert between(found, 9, 20) == Purchased(0, 0.0)
    assert between(found, 0, 9, "bob") == Purchased(0, 0.0)


def test_the_figures_are_as_they_were_known_at_the_end() -> None:
    """Else a customer whose time is over would go on changing, and only where somebody still looks."""
    refund = OrderRefunded(id="r", customer_id="ada", occurred_at=at(9), amount=Amount("4.00", "EUR"), order_id="1")
    cancel = OrderCancelled(id="c", customer_id="ada", occurred_at=at(9), order_id="2")
    found = purchases(order("1", 1), order("2", 2), refund, cancel)
    assert between(found, 0, 8) == Purchased(2, 20.0)
    assert between(found, 0, 10) == Purchased(1, 6.0)


def test_a_refund_of_an_order_before_takes_nothing_off() -> None:
    refund = OrderRefunded(id="r", customer_id="ada", occurred_at=at(9), amount=Amount("4.00", "EUR"), order_id="1")
    assert between(purchases(order("1", 1), refund), 5, 10) == Purchased(0, 0.0)


def test_other_currencies_are_converted() -> None:
    rates = Rates("EUR").plus([NewRate("USD", ms(1) // DAY_MS, KnownRate(500_000_000_000, 0))])
    found = purchases(order("1", 1, currency="USD"), conversion=Conversion({"USD"}, rates))
    assert between(found, 0, 2) == Purchased(1, 5.0)
    found = purchases(order("1", 1, currency="USD"), order("2", 2, currency="USD", customer="eve"))
    assert found.unusable == {"unknown_currency": 1}


def test_merges_and_erasures_of_wanted_customers_are_noted() -> None:
    def merge(source: str, into: str, day: float) -> CustomerMerged:
        return CustomerMerged(id=f"{source}{into}{day}", from_=source, into=into, occurred_at=at(day))

    erased = CustomerErased(id="x", customer_id="bob", occurred_at=at(4))
    found = purchases(merge("zoe", "ada", 7), merge("zoe", "ada", 3), merge("zoe", "yan", 4), erased)
    assert found.merged == {"ada": ms(7)}
    assert found.erased == {"bob": ms(4)}


def test_what_a_merged_id_hands_on_counts_once() -> None:
    inner = order("1", 1, customer="old")
    handed = [EventForwarded(id=f"f{n}", customer_id="ada", event=inner, arrived=ms(1)) for n in (1, 2)]
    assert between(purchases(*handed), 0, 2) == Purchased(1, 10.0)


def test_records_that_are_not_of_the_customer_are_ignored() -> None:
    found = purchases(ClockAdvanced(id="t", to=at(50)))
    found.take_record(KeptRecord(b"ada", None))
    found.take_record(KeptRecord(None, encode(order("1", 1))))
    found.take_record(KeptRecord(b"\xff", encode(order("1", 1))))
    found.take_record(KeptRecord(b"bob", encode(order("1", 1))))  # ada's order under bob's key
    found.take_record(KeptRecord(b"ada", b"{"))
    assert between(found, 0, 9) == between(found, 0, 9, "bob") == Purchased(0, 0.0)
    assert found.unusable == {"not_json": 1}
    assert found.latest_ms == ms(50)


def test_rows_of_a_file_count_as_events_do() -> None:
    found = PurchaseHistories({"ada"}, "EUR")
    for row in (
        placed("1", "ada", ms(1), 100_000, "EUR"),
        placed("2", "ada", ms(2), 100_000, "USD"),
        placed("3", "eve", ms(9), 100_000, "EUR"),
        merged("eve", "ada", ms(3), "EUR"),
    ):
        found.take_row(row)
    assert between(found, 0, 9) == Purchased(1, 10.0)
    assert found.unusable == {"unknown_currency": 1}
    assert found.merged == {"ada": ms(3)}
    assert found.latest_ms == ms(9)


@pytest.mark.parametrize("window_days", [30, 365])
def test_a_short_window_leaves_no_order_out(window_days: int) -> None:
    found = purchases(*(order(str(n), n) for n in range(90)))
    rules = Rules(window=window_days * DAY_MS)
    assert found.until("ada", ms(89), 90 * DAY_MS, rules) == Purchased(90, 900.0)
