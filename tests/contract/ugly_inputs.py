"""Ugly records, as producers send them, and why each is refused; for the decoder's and the engine's tests."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from segmentation.event_text import instant
from segmentation.events import CONTROL_KEY, ClockAdvanced, Reason, encode

CUSTOMER = "c1"
ORDER: dict[str, Any] = {
    "type": "order.placed",
    "id": "e1",
    "order_id": "o1",
    "customer_id": CUSTOMER,
    "occurred_at": "2026-03-03T14:20:00Z",
    "amount": {"value": "12.50", "currency": "USD"},
}


class UglyRecord(NamedTuple):
    """A record, and the reason that it must be refused for."""

    name: str
    reason: Reason
    field: str | None
    value: bytes | None
    key: bytes | None = CUSTOMER.encode()
    decodes: bool = False  # the value alone is an event; something else about the record is wrong


def order(**changes: Any) -> bytes:
    """An order with other fields; None takes a field away."""
    return json.dumps({k: v for k, v in (ORDER | changes).items() if v is not None}).encode()


def amount(value: Any = "12.50", currency: Any = "USD") -> bytes:
    """An order of that amount."""
    return order(amount={k: v for k, v in (("value", value), ("currency", currency)) if v is not None})


def swapped(old: bytes, new: bytes) -> bytes:
    """An order with other bytes."""
    assert order().count(old) == 1
    return order().replace(old, new)


DEEP = b"[" * 50_000 + b"]" * 50_000
LONG = "x" * 300_000

# In the order of the reasons in segmentation/events.py.
UGLY: tuple[UglyRecord, ...] = (
    UglyRecord("empty", Reason.NOT_JSON, None, b""),
    UglyRecord("blanks", Reason.NOT_JSON, None, b" \n\t"),
    UglyRecord("text", Reason.NOT_JSON, None, b"hello"),
    UglyRecord("torn", Reason.NOT_JSON, None, order()[:-9]),
    UglyRecord("two events", Reason.NOT_JSON, None, order() + order()),
    UglyRecord("a comma too many", Reason.NOT_JSON, None, order()[:-1] + b",}"),
    UglyRecord("single quotes", Reason.NOT_JSON, None, order().replace(b'"', b"'")),
    UglyRecord("a byte order mark", Reason.NOT_JSON, None, b"\xef\xbb\xbf" + order()),
    UglyRecord("UTF-16", Reason.NOT_JSON, None, order().decode().encode("utf-16")),
    UglyRecord("gzip", Reason.NOT_JSON, None, b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"),
    UglyRecord("Confluent's Avro framing", Reason.NOT_JSON, None, b"\x00\x00\x00\x00\x2a\x04e1"),
    UglyRecord("XML", Reason.NOT_JSON, None, b"<order id='e1'/>"),
    UglyRecord("NaN as a number", Reason.NOT_JSON, None, swapped(b'"12.50"', b"NaN")),
    UglyRecord("infinity as a number", Reason.NOT_JSON, None, swapped(b'"12.50"', b"-Infinity")),
    UglyRecord("a lone surrogate", Reason.NOT_JSON, None, swapped(b'"e1"', b'"\\ud800"')),
    UglyRecord("a raw line break in a text", Reason.NOT_JSON, None, swapped(b'"e1"', b'"e\n1"')),
    UglyRecord("nested too deeply", Reason.NOT_JSON, None, order()[:-1] + b', "x":' + DEEP + b"}"),
    UglyRecord("nothing but nesting", Reason.WRONG_FIELD, None, DEEP),
    UglyRecord("opened and never closed", Reason.NOT_JSON, None, b'{"x":' * 100_000),
    UglyRecord("Latin-1", Reason.INVALID_UTF8, None, swapped(b'"e1"', b'"\xe9"')),
    UglyRecord("an overlong encoding", Reason.INVALID_UTF8, None, swapped(b'"e1"', b'"\xc0\xaf"')),
    UglyRecord("an encoded surrogate", Reason.INVALID_UTF8, None, swapped(b'"e1"', b'"\xed\xa0\x80"')),
    UglyRecord("half a character", Reason.INVALID_UTF8, None, swapped(b'"o1"', b'"\xf0\x9f\x98"')),
    UglyRecord("no value", Reason.NULL_VALUE, None, None),
    UglyRecord("an unknown type", Reason.UNKNOWN_TYPE, "type", order(type="order.shipped")),
    UglyRecord("a type in capitals", Reason.UNKNOWN_TYPE, "type", order(type="ORDER.PLACED")),
    UglyRecord("one of our own outputs", Reason.UNKNOWN_TYPE, "type", order(type="segment.changed")),
    UglyRecord("a type of 300 kB", Reason.UNKNOWN_TYPE, "type", order(type=LONG)),
    UglyRecord("no type", Reason.MISSING_FIELD, "type", order(type=None)),
    UglyRecord("no id", Reason.MISSING_FIELD, "id", order(id=None)),
    UglyRecord("no order", Reason.MISSING_FIELD, "order_id", order(order_id=None)),
    UglyRecord("no customer", Reason.MISSING_FIELD, "customer_id", order(customer_id=None)),
    UglyRecord("no time", Reason.MISSING_FIELD, "occurred_at", order(occurred_at=None)),
    UglyRecord("no amount", Reason.MISSING_FIELD, "amount", order(amount=None)),
    UglyRecord("an amount without currency", Reason.MISSING_FIELD, "amount.currency", amount(currency=None)),
    UglyRecord("an amount without value", Reason.MISSING_FIELD, "amount.value", amount(value=None)),
    UglyRecord("null", Reason.WRONG_FIELD, None, b"null"),
    UglyRecord("a list of events", Reason.WRONG_FIELD, None, b"[" + order() + b"]"),
    UglyRecord("a number", Reason.WRONG_FIELD, None, b"42"),
    UglyRecord("JSON within JSON", Reason.WRONG_FIELD, None, json.dumps(order().decode()).encode()),
    UglyRecord("an id that is null", Reason.WRONG_FIELD, "id", swapped(b'"e1"', b"null")),
    UglyRecord("an id that is a number", Reason.WRONG_FIELD, "id", order(id=1)),
    UglyRecord("a customer that is a number", Reason.WRONG_FIELD, "customer_id", order(customer_id=4711)),
    UglyRecord("a customer that is an object", Reason.WRONG_FIELD, "customer_id", order(customer_id={"id": "c1"})),
    UglyRecord("a type that is a number", Reason.WRONG_FIELD, "type", order(type=1)),
    UglyRecord("an amount that is a text", Reason.WRONG_FIELD, "amount", order(amount="12.50")),
    UglyRecord("an amount that is a list", Reason.WRONG_FIELD, "amount", order(amount=["12.50", "USD"])),
    UglyRecord("a value that is a number", Reason.WRONG_FIELD, "amount.value", amount(12.5)),
    UglyRecord("a value that is a huge number", Reason.WRONG_FIELD, "amount.value", swapped(b'"12.50"', b"9" * 200)),
    UglyRecord("a value beyond floats", Reason.WRONG_FIELD, "amount.value", swapped(b'"12.50"', b"1e999")),
    UglyRecord("a value that is true", Reason.WRONG_FIELD, "amount.value", amount(True)),
    UglyRecord("a currency that is a number", Reason.WRONG_FIELD, "amount.currency", amount(currency=840)),
    UglyRecord("a time in seconds", Reason.WRONG_FIELD, "occurred_at", order(occurred_at=1_772_547_600)),
    UglyRecord("a time in words", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="yesterday")),
    UglyRecord("a day alone", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="2026-03-03")),
    UglyRecord("a day that there isn't", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="2026-02-30T10:00:00Z")),
    UglyRecord("an empty time", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="")),
    UglyRecord("the other order of a date", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="03/03/2026 14:20")),
    UglyRecord("a time without zone", Reason.NO_TIME_ZONE, "occurred_at", order(occurred_at="2026-03-03T14:20:00")),
    UglyRecord(
        "a time without zone or T", Reason.NO_TIME_ZONE, "occurred_at", order(occurred_at="2026-03-03 14:20:00.5")
    ),
    UglyRecord("an empty id", Reason.ID_LENGTH, "id", order(id="")),
    UglyRecord("an empty customer", Reason.ID_LENGTH, "customer_id", order(customer_id="")),
    UglyRecord("an id of 257 characters", Reason.ID_LENGTH, "order_id", order(order_id="x" * 257)),
    UglyRecord("an id of 300 kB", Reason.ID_LENGTH, "id", order(id=LONG)),
    UglyRecord("NaN as a text", Reason.AMOUNT_INVALID, "amount.value", amount("NaN")),
    UglyRecord("infinity as a text", Reason.AMOUNT_INVALID, "amount.value", amount("Infinity")),
    UglyRecord("a minus", Reason.AMOUNT_INVALID, "amount.value", amount("-12.50")),
    UglyRecord("a plus", Reason.AMOUNT_INVALID, "amount.value", amount("+12.50")),
    UglyRecord("an exponent", Reason.AMOUNT_INVALID, "amount.value", amount("1e3")),
    UglyRecord("a decimal comma", Reason.AMOUNT_INVALID, "amount.value", amount("12,50")),
    UglyRecord("a thousands separator", Reason.AMOUNT_INVALID, "amount.value", amount("1,000.00")),
    UglyRecord("Python's separator", Reason.AMOUNT_INVALID, "amount.value", amount("1_000")),
    UglyRecord("a currency sign", Reason.AMOUNT_INVALID, "amount.value", amount("$12.50")),
    UglyRecord("Arabic digits", Reason.AMOUNT_INVALID, "amount.value", amount("١٢")),
    UglyRecord("an empty value", Reason.AMOUNT_INVALID, "amount.value", amount("")),
    UglyRecord("a point alone", Reason.AMOUNT_INVALID, "amount.value", amount(".")),
    UglyRecord("300,000 digits", Reason.AMOUNT_INVALID, "amount.value", amount("9" * 300_000)),
    UglyRecord("a hundred billion and a bit", Reason.AMOUNT_OUT_OF_RANGE, "amount.value", amount("100000000000.0001")),
    UglyRecord("60 digits", Reason.AMOUNT_OUT_OF_RANGE, "amount.value", amount("9" * 60)),
    UglyRecord("five decimals", Reason.TOO_MANY_DECIMALS, "amount.value", amount("12.50001")),
    UglyRecord("a float's text", Reason.TOO_MANY_DECIMALS, "amount.value", amount("0.30000000000000004")),
    UglyRecord("another currency", Reason.UNKNOWN_CURRENCY, "amount.currency", amount(currency="EUR")),
    UglyRecord("a currency in small letters", Reason.UNKNOWN_CURRENCY, "amount.currency", amount(currency="usd")),
    UglyRecord("a currency of 300 kB", Reason.UNKNOWN_CURRENCY, "amount.currency", amount(currency=LONG)),
    UglyRecord("before 1970", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="1969-12-31T23:59:59Z")),
    UglyRecord("a clock at zero", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="1970-01-01T00:00:00Z")),
    UglyRecord("DOS's first day", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="1980-01-01T00:00:00Z")),
    UglyRecord("year 1", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="0001-01-01T00:00:00+10:00")),
    UglyRecord("year 9999", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="9999-12-31T23:59:59-10:00")),
    UglyRecord("next century", Reason.DATED_AHEAD, "occurred_at", order(occurred_at="2126-03-03T14:20:00Z")),
    UglyRecord("no key", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=None, decodes=True),
    UglyRecord("an empty key", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b"", decodes=True),
    UglyRecord("another customer's key", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b"c2", decodes=True),
    UglyRecord("a key in JSON", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b'"c1"', decodes=True),
    UglyRecord("a key that isn't text", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b"\xff\x00", decodes=True),
    UglyRecord("a key of 300 kB", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=LONG.encode(), decodes=True),
    UglyRecord("an order as a control", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=CONTROL_KEY, decodes=True),
    UglyRecord(
        "a control under a customer's key", Reason.CONTROL_NOT_ALLOWED, "type",
        encode(ClockAdvanced(id="1", to=instant(1_772_547_600_000))), decodes=True,
    ),
    UglyRecord("garbage as a control", Reason.NOT_JSON, None, b"garbage", key=CONTROL_KEY),
    UglyRecord("no control at all", Reason.NULL_VALUE, None, None, key=CONTROL_KEY),
)  # fmt: skip
