"""Events of a mapping, checked as a worker would; the example; mappings that can't be set up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.shop_orders import adapters as shop
from segmentation.events import Amount, ClockAdvanced, CustomerMerged, Reason, RejectedEvent, decode
from segmentation.events import OrderPlaced as Placed
from stream.adapters.app import all_routes, reader_of
from stream.adapters.mapping import (
    EVENTS_A_RECORD,
    AdapterError,
    Adapters,
    OrderRecord,
    Route,
    SourceRecord,
    load_adapters,
    order_records,
    rekeyed,
)
from stream.settings import Settings

SETTINGS = Settings(currency="EUR")
NOW = 1_800_000_000_000
AT = datetime(2026, 3, 3, tzinfo=UTC)
ORDER = Placed(id="e", order_id="o", customer_id="c", occurred_at=AT, amount=Amount("1.00", "EUR"))
JSON = msgspec.json.encode(ORDER)


def record(value: bytes | None = b"x", *headers: tuple[str, bytes | None], topic: str = "t") -> SourceRecord:
    return SourceRecord(topic, 2, 7, NOW, b"k", value, headers)


def mapped(route: Any, of: SourceRecord | None = None, settings: Settings = SETTINGS) -> list[OrderRecord]:
    found = route if isinstance(route, Route) else Route(route)
    return order_records(of or record(), found, reader_of(settings), NOW)


def refused(route: Any, of: SourceRecord | None = None, settings: Settings = SETTINGS) -> RejectedEvent:
    with pytest.raises(RejectedEvent) as caught:
        mapped(route, of, settings)
    return caught.value


def several(_: SourceRecord) -> Iterator[Placed]:
    yield ORDER
    yield msgspec.structs.replace(ORDER, id="e2", customer_id="d")


@pytest.mark.parametrize("one", [ORDER, JSON, msgspec.json.decode(JSON)], ids=["struct", "bytes", "mapping"])
@pytest.mark.parametrize("listed", [False, True])
def test_one_event_in_any_form_is_keyed_by_its_customer(one: Any, listed: bool) -> None:
    (found,) = mapped(lambda _: [one] if listed else one)
    assert (found.key, decode(found.value)) == (b"c", ORDER)
    assert found.headers == [("segstream_source", b"t-2@7")]


@pytest.mark.parametrize("form", [lambda e: e, msgspec.json.encode], ids=["struct", "bytes"])
def test_a_merge_is_keyed_by_the_id_that_goes(form: Any) -> None:
    merge = CustomerMerged(id="m", from_="guest", into="c", occurred_at=AT)
    [made] = mapped(lambda _: form(merge))
    assert (made.key, decode(made.value)) == (b"guest", merge)
    assert refused(lambda _: form(msgspec.structs.replace(merge, into="guest"))).reason is Reason.WRONG_FIELD


def test_none_one_or_many() -> None:
    assert mapped(lambda _: None) == mapped(lambda _: []) == []
    assert [o.key for o in mapped(several)] == [b"c", b"d"]
    assert record().event_id() == "t:2:7"
    assert record().event_id(3) == "t:2:7#3"


def broken(_: SourceRecord) -> Iterator[Placed]:
    yield ORDER
    raise KeyError("price")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def unspeakable(_: SourceRecord) -> None:
    raise Unspeakable


def endless(_: SourceRecord) -> Iterator[Placed]:
    while True:
        yield ORDER


def deep(_: SourceRecord) -> list[Any]:
    found: list[Any] = []
    for _level in range(100_000):
        found = [found]
    return [{"type": found}]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (broken, "the mapping of t raised KeyError: 'price'"),
        (unspeakable, "Unspeakable"),
        (endless, f"more than {EVENTS_A_RECORD} events"),
        (deep, "RecursionError"),
        (lambda _: "text", "str returned, expected order events"),
        (lambda _: 7, "int returned"),
        (lambda _: [ORDER, None], "NoneType returned"),
    ],
)
def test_a_mapping_that_fails_has_its_own_reason(mapping: Any, message: str) -> None:
    why = refused(mapping)
    assert why.reason is Reason.ADAPTER_FAILED
    assert message in why.message


def test_a_mapping_may_refuse_a_record_with_a_reason() -> None:
    def choosy(_: SourceRecord) -> None:
        raise RejectedEvent(Reason.WRONG_FIELD, "price", "no price.")

    assert (refused(choosy).reason, refused(choosy).field) == (Reason.WRONG_FIELD, "price")


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"amount": Amount("1.00", "USD")}, Reason.UNKNOWN_CURRENCY, "amount.currency"),
        ({"amount": Amount("1.00001", "EUR")}, Reason.TOO_MANY_DECIMALS, "amount.value"),
        ({"amount": Amount(1.5, "EUR")}, Reason.WRONG_FIELD, "amount.value"),  # type: ignore[arg-type]  # as a user might
        ({"occurred_at": datetime(2026, 3, 3)}, Reason.NO_TIME_ZONE, "occurred_at"),  # noqa: DTZ001  # the fault itself
        ({"occurred_at": datetime(2100, 1, 1, tzinfo=UTC)}, Reason.DATED_AHEAD, "occurred_at"),
        ({"id": ""}, Reason.ID_LENGTH, "id"),
        ({"customer_id": "c" * 257}, Reason.ID_LENGTH, "customer_id"),
        ({"order_id": "\udc00"}, Reason.ADAPTER_FAILED, None),
        ({"customer_id": "\0control"}, Reason.KEY_NOT_CUSTOMER, "customer_id"),
    ],
)
def test_a_bad_event_is_refused_as_a_worker_would_and_takes_the_good_ones_along(
    changes: dict[str, Any], reason: Reason, field: str | None
) -> None:
    why = refused(lambda _: [ORDER, msgspec.structs.replace(ORDER, **changes)])
    assert (why.reason, why.field) == (reason, field)


def test_an_order_in_another_currency_that_the_workers_take_passes_whether_there_is_a_rate_or_not() -> None:
    dollars = msgspec.structs.replace(ORDER, amount=Amount("1.00", "USD"))
    assert refused(lambda _: dollars).reason is Reason.UNKNOWN_CURRENCY
    assert mapped(lambda _: dollars, settings=Settings(currency="EUR", other_currencies="GBP,USD"))


def test_a_control_is_refused() -> None:
    assert refused(lambda _: ClockAdvanced(id="1", to=AT)).reason is Reason.CONTROL_NOT_ALLOWED


def test_an_event_too_large_for_its_topic_with_key_and_headers_is_refused() -> None:
    small = Settings(currency="EUR", max_event_bytes=1_024)
    padded = JSON.ljust(1_024 - 200)
    route = Route(rekeyed, keep_headers=True)
    assert mapped(route, record(padded), small)
    assert refused(route, record(padded, ("trace", b"x" * 100)), small).reason is Reason.TOO_LARGE


def test_rekeyed_passes_the_event_and_its_headers_on_unchanged() -> None:
    grown = JSON[:-1] + b', "unknown": [1]}'
    (found,) = mapped(Route(rekeyed, keep_headers=True), record(grown, ("trace", b"1"), ("segstream_source", b"old")))
    assert (found.key, found.value) == (b"c", grown)
    assert found.headers == [("trace", b"1"), ("segstream_source", b"t-2@7")]
    assert refused(rekeyed, record(None)).reason is Reason.NULL_VALUE
    assert refused(rekeyed, record(b"{")).reason is Reason.NOT_JSON
    control = msgspec.json.encode(ClockAdvanced(id="1", to=AT))
    assert refused(rekeyed, record(control)).reason is Reason.CONTROL_NOT_ALLOWED


PAID = (
    b'{"number": 1001, "buyer": "c-42", "paid_at": 1772547600, "total_cents": 1905, "currency": "EUR", "state": "%s"%s}'
)


def test_the_example_maps_what_it_says() -> None:
    route = shop.routes["shop-orders"]
    (paid,) = mapped(route, record(PAID % (b"paid", b"")))
    assert decode(paid.value) == Placed(
        id="paid-1001",
        order_id="1001",
        customer_id="c-42",
        occurred_at=datetime(2026, 3, 3, 14, 20, tzinfo=UTC),
        amount=Amount("19.05", "EUR"),
    )
    (void,) = mapped(route, record(PAID % (b"void", b', "voided_at": 1772634000')))
    assert b'"order.cancelled"' in void.value
    assert mapped(route, record(PAID % (b"basket", b""))) == []
    for bad in (None, b"", b"{}"):
        assert refused(route, record(bad)).reason is Reason.ADAPTER_FAILED

    event = (("ce_id", b"1"), ("ce_source", b"/s"), ("ce_specversion", b"1.0"), ("ce_type", b"com.example.order.paid"))
    (placed,) = mapped(shop.routes["shop-events"], record(JSON, *event))
    assert decode(placed.value) == msgspec.structs.replace(ORDER, id="/s#1")


def test_wrong_set_ups_are_refused() -> None:
    own = Adapters()
    own.map("a")(lambda _: None)
    with pytest.raises(AdapterError, match="the topic a has two mappings"):
        own.map("a")(lambda _: None)

    async def later(_: SourceRecord) -> None: ...

    with pytest.raises(AdapterError, match="later of b is async"):
        own.map("b")(later)  # type: ignore[arg-type]  # the fault itself
    assert sorted(all_routes(SETTINGS, [own])) == ["a", "orders-unkeyed"]
    for loop in ("orders", "orders-dead-letters"):
        looped = Adapters()
        looped.map(loop)(lambda _: None)
        with pytest.raises(AdapterError, match=f"a mapping of {loop}"):
            all_routes(SETTINGS, [looped])
    with pytest.raises(AdapterError, match="two mappings"):
        all_routes(SETTINGS, [own, own])


def test_adapters_are_found_by_module_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_here.py").write_text(
        "from stream.adapters.mapping import Adapters\nmine = Adapters()\nother = 1\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert isinstance(load_adapters("adapter_here:mine"), Adapters)
    for name, message in {
        "adapter_here": "isn't MODULE:NAME",
        ":mine": "isn't MODULE:NAME",
        "adapter_here:theirs": "no attribute 'theirs'",
        "adapter_there:mine": "No module named 'adapter_there'",
        "adapter_here:other": "is int, expected",
    }.items():
        with pytest.raises(AdapterError, match=message):
            load_adapters(name)
