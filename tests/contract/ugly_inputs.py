"""Ugly records, as shops have sent them or might: what each is refused for. Read by the decoder's contract and by the engine's test."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from segmentation.events import CONTROL_KEY, ClockAdvanced, Reason, encode, instant

CUSTOMER = "c1"
ORDER: dict[str, Any] = {
    "type": "order.placed",
    "id": "e1",
    "order_id": "o1",
    "customer_id": CUSTOMER,
    "occurred_at": "2026-03-03T14:20:00Z",
    "amount": {"value": "12.50", "currency": "USD"},
}


class Ugly(NamedTuple):
    """A record, and what it must be refused for."""

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
UGLY: tuple[Ugly, ...] = (
    Ugly("empty", Reason.NOT_JSON, None, b""),
    Ugly("blanks", Reason.NOT_JSON, None, b" \n\t"),
    Ugly("text", Reason.NOT_JSON, None, b"hello"),
    Ugly("torn", Reason.NOT_JSON, None, order()[:-9]),
    Ugly("two events", Reason.NOT_JSON, None, order() + order()),
    Ugly("a comma too many", Reason.NOT_JSON, None, order()[:-1] + b",}"),
    Ugly("single quotes", Reason.NOT_JSON, None, order().replace(b'"', b"'")),
    Ugly("a byte order mark", Reason.NOT_JSON, None, b"\xef\xbb\xbf" + order()),
    Ugly("UTF-16", Reason.NOT_JSON, None, order().decode().encode("utf-16")),
    Ugly("gzip", Reason.NOT_JSON, None, b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"),
    Ugly("Confluent's Avro framing", Reason.NOT_JSON, None, b"\x00\x00\x00\x00\x2a\x04e1"),
    Ugly("XML", Reason.NOT_JSON, None, b"<order id='e1'/>"),
    Ugly("NaN as a number", Reason.NOT_JSON, None, swapped(b'"12.50"', b"NaN")),
    Ugly("infinity as a number", Reason.NOT_JSON, None, swapped(b'"12.50"', b"-Infinity")),
    Ugly("a lone surrogate", Reason.NOT_JSON, None, swapped(b'"e1"', b'"\\ud800"')),
    Ugly("a raw line break in a text", Reason.NOT_JSON, None, swapped(b'"e1"', b'"e\n1"')),
    Ugly("nested too deeply", Reason.NOT_JSON, None, order()[:-1] + b', "x":' + DEEP + b"}"),
    Ugly("nothing but nesting", Reason.WRONG_FIELD, None, DEEP),
    Ugly("opened and never closed", Reason.NOT_JSON, None, b'{"x":' * 100_000),
    Ugly("Latin-1", Reason.INVALID_UTF8, None, swapped(b'"e1"', b'"\xe9"')),
    Ugly("an overlong encoding", Reason.INVALID_UTF8, None, swapped(b'"e1"', b'"\xc0\xaf"')),
    Ugly("an encoded surrogate", Reason.INVALID_UTF8, None, swapped(b'"e1"', b'"\xed\xa0\x80"')),
    Ugly("half a character", Reason.INVALID_UTF8, None, swapped(b'"o1"', b'"\xf0\x9f\x98"')),
    Ugly("no value", Reason.NULL_VALUE, None, None),
    Ugly("an unknown type", Reason.UNKNOWN_TYPE, "type", order(type="order.shipped")),
    Ugly("a type in capitals", Reason.UNKNOWN_TYPE, "type", order(type="ORDER.PLACED")),
    Ugly("one of our own outputs", Reason.UNKNOWN_TYPE, "type", order(type="segment.changed")),
    Ugly("a type of 300 kB", Reason.UNKNOWN_TYPE, "type", order(type=LONG)),
    Ugly("no type", Reason.MISSING_FIELD, "type", order(type=None)),
    Ugly("no id", Reason.MISSING_FIELD, "id", order(id=None)),
    Ugly("no order", Reason.MISSING_FIELD, "order_id", order(order_id=None)),
    Ugly("no customer", Reason.MISSING_FIELD, "customer_id", order(customer_id=None)),
    Ugly("no time", Reason.MISSING_FIELD, "occurred_at", order(occurred_at=None)),
    Ugly("no amount", Reason.MISSING_FIELD, "amount", order(amount=None)),
    Ugly("an amount without currency", Reason.MISSING_FIELD, "amount.currency", amount(currency=None)),
    Ugly("an amount without value", Reason.MISSING_FIELD, "amount.value", amount(value=None)),
    Ugly("null", Reason.WRONG_FIELD, None, b"null"),
    Ugly("a list of events", Reason.WRONG_FIELD, None, b"[" + order() + b"]"),
    Ugly("a number", Reason.WRONG_FIELD, None, b"42"),
    Ugly("JSON within JSON", Reason.WRONG_FIELD, None, json.dumps(order().decode()).encode()),
    Ugly("an id that is null", Reason.WRONG_FIELD, "id", swapped(b'"e1"', b"null")),
    Ugly("an id that is a number", Reason.WRONG_FIELD, "id", order(id=1)),
    Ugly("a customer that is a number", Reason.WRONG_FIELD, "customer_id", order(customer_id=4711)),
    Ugly("a customer that is an object", Reason.WRONG_FIELD, "customer_id", order(customer_id={"id": "c1"})),
    Ugly("a type that is a number", Reason.WRONG_FIELD, "type", order(type=1)),
    Ugly("an amount that is a text", Reason.WRONG_FIELD, "amount", order(amount="12.50")),
    Ugly("an amount that is a list", Reason.WRONG_FIELD, "amount", order(amount=["12.50", "USD"])),
    Ugly("a value that is a number", Reason.WRONG_FIELD, "amount.value", amount(12.5)),
    Ugly("a value that is a huge number", Reason.WRONG_FIELD, "amount.value", swapped(b'"12.50"', b"9" * 200)),
    Ugly("a value beyond floats", Reason.WRONG_FIELD, "amount.value", swapped(b'"12.50"', b"1e999")),
    Ugly("a value that is true", Reason.WRONG_FIELD, "amount.value", amount(True)),
    Ugly("a currency that is a number", Reason.WRONG_FIELD, "amount.currency", amount(currency=840)),
    Ugly("a time in seconds", Reason.WRONG_FIELD, "occurred_at", order(occurred_at=1_772_547_600)),
    Ugly("a time in words", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="yesterday")),
    Ugly("a day alone", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="2026-03-03")),
    Ugly("a day that there isn't", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="2026-02-30T10:00:00Z")),
    Ugly("an empty time", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="")),
    Ugly("the other order of a date", Reason.WRONG_FIELD, "occurred_at", order(occurred_at="03/03/2026 14:20")),
    Ugly("a time without zone", Reason.NO_TIME_ZONE, "occurred_at", order(occurred_at="2026-03-03T14:20:00")),
    Ugly("a time without zone or T", Reason.NO_TIME_ZONE, "occurred_at", order(occurred_at="2026-03-03 14:20:00.5")),
    Ugly("an empty id", Reason.ID_LENGTH, "id", order(id="")),
    Ugly("an empty customer", Reason.ID_LENGTH, "customer_id", order(customer_id="")),
    Ugly("an id of 257 characters", Reason.ID_LENGTH, "order_id", order(order_id="x" * 257)),
    Ugly("an id of 300 kB", Reason.ID_LENGTH, "id", order(id=LONG)),
    Ugly("NaN as a text", Reason.AMOUNT_INVALID, "amount.value", amount("NaN")),
    Ugly("infinity as a text", Reason.AMOUNT_INVALID, "amount.value", amount("Infinity")),
    Ugly("a minus", Reason.AMOUNT_INVALID, "amount.value", amount("-12.50")),
    Ugly("a plus", Reason.AMOUNT_INVALID, "amount.value", amount("+12.50")),
    Ugly("an exponent", Reason.AMOUNT_INVALID, "amount.value", amount("1e3")),
    Ugly("a decimal comma", Reason.AMOUNT_INVALID, "amount.value", amount("12,50")),
    Ugly("a thousands separator", Reason.AMOUNT_INVALID, "amount.value", amount("1,000.00")),
    Ugly("Python's separator", Reason.AMOUNT_INVALID, "amount.value", amount("1_000")),
    Ugly("a currency sign", Reason.AMOUNT_INVALID, "amount.value", amount("$12.50")),
    Ugly("Arabic digits", Reason.AMOUNT_INVALID, "amount.value", amount("١٢")),
    Ugly("an empty value", Reason.AMOUNT_INVALID, "amount.value", amount("")),
    Ugly("a point alone", Reason.AMOUNT_INVALID, "amount.value", amount(".")),
    Ugly("300,000 digits", Reason.AMOUNT_INVALID, "amount.value", amount("9" * 300_000)),
    Ugly("a hundred billion and a bit", Reason.AMOUNT_OUT_OF_RANGE, "amount.value", amount("100000000000.0001")),
    Ugly("60 digits", Reason.AMOUNT_OUT_OF_RANGE, "amount.value", amount("9" * 60)),
    Ugly("five decimals", Reason.TOO_MANY_DECIMALS, "amount.value", amount("12.50001")),
    Ugly("a float's text", Reason.TOO_MANY_DECIMALS, "amount.value", amount("0.30000000000000004")),
    Ugly("another currency", Reason.UNKNOWN_CURRENCY, "amount.currency", amount(currency="EUR")),
    Ugly("a currency in small letters", Reason.UNKNOWN_CURRENCY, "amount.currency", amount(currency="usd")),
    Ugly("a currency of 300 kB", Reason.UNKNOWN_CURRENCY, "amount.currency", amount(currency=LONG)),
    Ugly("before 1970", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="1969-12-31T23:59:59Z")),
    Ugly("a clock at zero", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="1970-01-01T00:00:00Z")),
    Ugly("DOS's first day", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="1980-01-01T00:00:00Z")),
    Ugly("year 1", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="0001-01-01T00:00:00+10:00")),
    Ugly("year 9999", Reason.DATE_OUT_OF_RANGE, "occurred_at", order(occurred_at="9999-12-31T23:59:59-10:00")),
    Ugly("next century", Reason.DATED_AHEAD, "occurred_at", order(occurred_at="2126-03-03T14:20:00Z")),
    Ugly("no key", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=None, decodes=True),
    Ugly("an empty key", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b"", decodes=True),
    Ugly("another customer's key", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b"c2", decodes=True),
    Ugly("a key in JSON", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b'"c1"', decodes=True),
    Ugly("a key that isn't text", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=b"\xff\x00", decodes=True),
    Ugly("a key of 300 kB", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=LONG.encode(), decodes=True),
    Ugly("an order as a control", Reason.KEY_NOT_CUSTOMER, "customer_id", order(), key=CONTROL_KEY, decodes=True),
    Ugly(
        "a control under a customer's key", Reason.CONTROL_NOT_ALLOWED, "type",
        encode(ClockAdvanced(id="1", to=instant(1_772_547_600_000))), decodes=True,
    ),
    Ugly("garbage as a control", Reason.NOT_JSON, None, b"garbage", key=CONTROL_KEY),
    Ugly("no control at all", Reason.NULL_VALUE, None, None, key=CONTROL_KEY),
)  # fmt: skip
