"""CloudEvents 1.0 in Kafka records, binary and structured, and what isn't one."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.events import CustomerMerged, Reason, RejectedEvent, decode
from stream.adapters.cloudevents import CloudEvent, order_event, read_cloud_event
from stream.adapters.mapping import SourceRecord

REQUIRED = {"id": "7", "source": "/shop", "specversion": "1.0", "type": "order.placed"}
DATA = {"order_id": "o-1", "amount": {"value": "1.00", "currency": "EUR"}}
WHOLE = CloudEvent(
    id="7",
    source="/shop",
    type="order.placed",
    subject="c-1",
    time="2026-03-03T00:00:00Z",
    datacontenttype="application/json",
    data=msgspec.json.encode(DATA),
    extensions={"traceparent": "00-1"},
)
OPTIONAL = {"subject": "c-1", "time": "2026-03-03T00:00:00Z", "traceparent": "00-1"}


def record(value: bytes | None, headers: dict[str, bytes | None]) -> SourceRecord:
    return SourceRecord("t", 0, 0, 0, None, value, tuple(headers.items()))


def binary(attributes: dict[str, str], value: bytes | None = b"{}", content_type: str | None = None) -> SourceRecord:
    headers: dict[str, bytes | None] = {f"ce_{name}": text.encode() for name, text in attributes.items()}
    return record(value, headers | ({} if content_type is None else {"content-type": content_type.encode()}))


def structured(event: Any, content_type: str = "application/cloudevents+json") -> SourceRecord:
    value = event if isinstance(event, bytes) else msgspec.json.encode(event)
    return record(value, {"content-type": content_type.encode()})


def test_both_modes_give_the_same_event() -> None:
    assert read_cloud_event(binary(REQUIRED | OPTIONAL, WHOLE.data, "application/json")) == WHOLE
    described = REQUIRED | OPTIONAL | {"datacontenttype": "application/json", "dataschema": None, "data": DATA}
    for content_type in ("application/cloudevents+json", "Application/CloudEvents+JSON; charset=utf-8"):
        assert read_cloud_event(structured(described, content_type)) == WHOLE
    encoded = {**described, "data_base64": base64.b64encode(WHOLE.data or b"").decode()}
    del encoded["data"]
    assert read_cloud_event(structured(encoded)) == WHOLE


def test_data_that_is_not_json_stays_bytes() -> None:
    assert read_cloud_event(structured(REQUIRED | {"datacontenttype": "text/csv", "data": "a,b"})).data == b"a,b"
    assert read_cloud_event(structured(REQUIRED | {"data": "a,b"})).data == b'"a,b"'
    assert read_cloud_event(structured(REQUIRED)).data is None
    assert read_cloud_event(binary(REQUIRED, b"\xff", "image/png")).data == b"\xff"


def test_a_merge_of_a_cloud_event() -> None:
    """Its subject is the id that goes."""
    merge = CloudEvent(id="7", source="/shop", type="customer.merged", subject="guest", time="2026-03-03T14:20:00Z")
    made = order_event(msgspec.structs.replace(merge, data=b'{"into": "c-1"}'))
    assert made == {
        "from": "guest",
        "into": "c-1",
        "occurred_at": "2026-03-03T14:20:00Z",
        "type": "customer.merged",
        "id": "/shop#7",
    }
    assert isinstance(decode(msgspec.json.encode(made)), CustomerMerged)
    named = order_event(msgspec.structs.replace(merge, data=b'{"from": "other", "into": "c-1"}'))
    assert named["from"] == "other"


def test_an_order_event_of_a_cloud_event() -> None:
    assert order_event(WHOLE) == {
        "customer_id": "c-1",
        "occurred_at": "2026-03-03T00:00:00Z",
        **DATA,
        "type": "order.placed",
        "id": "/shop#7",
    }
    own = msgspec.structs.replace(WHOLE, data=b'{"customer_id": "c-2", "occurred_at": "x", "id": "y"}', type="sold")
    made = order_event(own, types={"sold": "order.placed"})
    assert made == {"customer_id": "c-2", "occurred_at": "x", "type": "order.placed", "id": "/shop#7"}
    long = order_event(msgspec.structs.replace(WHOLE, source="s" * 300))["id"]
    assert len(long) == 64
    assert long != order_event(msgspec.structs.replace(WHOLE, source="s" * 301))["id"]


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in REQUIRED.items() if key != name}


@pytest.mark.parametrize(
    ("bad", "reason", "field"),
    [
        *((binary(without(n)), Reason.MISSING_FIELD, f"ce_{n}") for n in REQUIRED),
        *((structured(without(n)), Reason.MISSING_FIELD, n) for n in REQUIRED),
        (structured(REQUIRED | {"id": None}), Reason.MISSING_FIELD, "id"),
        (record(b"{}", {}), Reason.MISSING_FIELD, "ce_id"),
        (binary(REQUIRED | {"specversion": "0.3"}), Reason.WRONG_FIELD, "ce_specversion"),
        (binary(REQUIRED | {"source": ""}), Reason.WRONG_FIELD, "ce_source"),
        (binary(REQUIRED | {"Upper": "x"}), Reason.WRONG_FIELD, "ce_Upper"),
        (structured(REQUIRED | {"id": 7}), Reason.WRONG_FIELD, "id"),
        (structured(REQUIRED | {"time": 7}), Reason.WRONG_FIELD, "time"),
        (structured(REQUIRED | {"data": 1, "data_base64": "MQ=="}), Reason.WRONG_FIELD, "data_base64"),
        (structured(REQUIRED | {"data_base64": "?"}), Reason.WRONG_FIELD, "data_base64"),
        (structured(REQUIRED | {"data_base64": 1}), Reason.WRONG_FIELD, "data_base64"),
        (structured([REQUIRED]), Reason.WRONG_FIELD, None),
        (structured(b"{"), Reason.NOT_JSON, "value"),
        (structured(b'{"id": "\xff"}'), Reason.NOT_JSON, "value"),
        (structured(REQUIRED, "application/cloudevents-batch+json"), Reason.WRONG_FIELD, "content-type"),
        (structured(REQUIRED, "application/cloudevents+avro"), Reason.WRONG_FIELD, "content-type"),
        (record(b"{}", {"ce_id": b"\xff"}), Reason.INVALID_UTF8, "ce_id"),
        (record(None, {"content-type": b"application/cloudevents+json"}), Reason.NULL_VALUE, "value"),
    ],
)
def test_a_record_that_is_no_cloud_event_is_refused_by_its_field(
    bad: SourceRecord, reason: Reason, field: str | None
) -> None:
    with pytest.raises(RejectedEvent) as caught:
        read_cloud_event(bad)
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("bad", "reason", "field"),
    [
        (binary(REQUIRED, None), Reason.NULL_VALUE, "data"),
        (binary(REQUIRED, b"["), Reason.NOT_JSON, "data"),
        (binary(REQUIRED, b"[" * 100_000), Reason.NOT_JSON, "data"),
        (binary(REQUIRED, b"[]"), Reason.WRONG_FIELD, "data"),
        (binary(REQUIRED, b"{}", "text/plain"), Reason.WRONG_FIELD, "datacontenttype"),
        (binary(REQUIRED | {"type": "order.eaten"}), Reason.UNKNOWN_TYPE, "type"),
    ],
)
def test_an_event_that_is_no_order_is_refused(bad: SourceRecord, reason: Reason, field: str) -> None:
    with pytest.raises(RejectedEvent) as caught:
        order_event(read_cloud_event(bad), types={"order.placed": "order.placed"})
    assert (caught.value.reason, caught.value.field) == (reason, field)


text = st.text(max_size=5)
header = st.sampled_from(["ce_id", "ce_source", "ce_type", "ce_specversion", "ce_x", "content-type", "other"])
known = st.sampled_from([b"1.0", b"application/cloudevents+json", b"application/json", b"x"]) | st.binary(max_size=5)
json = st.recursive(st.none() | st.booleans() | st.floats() | text, lambda x: st.lists(x) | st.dictionaries(text, x))
named = st.dictionaries(st.sampled_from([*REQUIRED, "data", "data_base64", "time", "x"]), st.just("1.0") | json)
value = st.none() | st.binary(max_size=20) | named.map(msgspec.json.encode) | json.map(msgspec.json.encode)


@given(value, st.dictionaries(header, st.none() | known))
def test_any_record_becomes_an_event_or_is_refused(value: bytes | None, headers: dict[str, bytes | None]) -> None:
    try:
        event = order_event(read_cloud_event(record(value, headers)))
    except RejectedEvent as why:
        result = why.message
    else:
        result = event["id"]
    assert 0 < len(result) < 1_000
