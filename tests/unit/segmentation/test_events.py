"""Events: what is taken, what is refused and why, and the bytes that go out."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import jsonschema  # type: ignore[import-untyped]  # comes with check-jsonschema; ships no types
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation import events
from segmentation.event_text import cloud_headers, iso, move_id
from segmentation.events import (
    BackfillFinished,
    ClockAdvanced,
    CustomerErased,
    ModelActivated,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    Reason,
    RejectedEvent,
    decode,
    encode,
    json_schema,
    millis,
    to_entry,
)
from segmentation.output_events import (
    ActionVariables,
    BudgetUsed,
    CampaignAction,
    CampaignBudget,
    CampaignConverted,
    CampaignDecision,
    CampaignScheduled,
    CampaignWithheld,
    Cause,
    KeptBy,
    Money,
    NextMove,
    Rfm,
    SegmentChanged,
    Withheld,
)
from segmentation.rfm import Kind, entry

AT = "2026-03-03T14:20:00.123Z"
AT_MS = 1_772_547_600_123
PLACED: dict[str, Any] = {
    "type": "order.placed",
    "id": "e1",
    "order_id": "o1",
    "customer_id": "c1",
    "occurred_at": AT,
    "amount": {"value": "12.5", "currency": "USD"},
}


def sample(**changes: Any) -> bytes:
    """An order.placed with other fields; None takes a field away."""
    return json.dumps({k: v for k, v in (PLACED | changes).items() if v is not None}).encode()


def refused(value: bytes | None) -> RejectedEvent:
    with pytest.raises(RejectedEvent) as caught:
        entry_of(value)
    assert str(caught.value) == caught.value.message
    assert caught.value.message.endswith(".") or caught.value.reason == Reason.NOT_JSON
    assert len(caught.value.message) < 1_000
    return caught.value


def entry_of(value: bytes | None) -> object:
    event = decode(value)
    if isinstance(event, OrderPlaced | OrderRefunded | OrderCancelled | CustomerErased):
        return to_entry(event, "USD")
    return event


def test_events_become_entries() -> None:
    assert entry_of(sample()) == entry(Kind.PLACED, "e1", AT_MS, order="o1", amount=125_000)
    assert entry_of(sample(type="order.refunded")) == entry(Kind.REFUNDED, "e1", AT_MS, order="o1", amount=125_000)
    assert entry_of(sample(type="order.refunded", order_id=None)) == entry(Kind.REFUNDED, "e1", AT_MS, amount=125_000)
    assert entry_of(sample(type="order.cancelled", amount=None)) == entry(Kind.CANCELLED, "e1", AT_MS, order="o1")
    assert entry_of(sample(type="customer.erased")) == entry(Kind.ERASED, "e1", AT_MS)
    assert entry_of(sample(amount={"value": "0", "currency": "USD"})) == entry(Kind.PLACED, "e1", AT_MS, order="o1")


def test_controls() -> None:
    at = datetime(2026, 3, 3, 14, 20, tzinfo=UTC)
    for control in (
        ClockAdvanced(id="1", to=at),
        BackfillFinished(id="1", backfill="b"),
        ModelActivated(id="1", activation=7, version="0123456789abcdef"),
    ):
        assert decode(encode(control)) == control


def test_unknown_fields_and_backfill() -> None:
    event = decode(sample(note={"any": [1, {"thing": None}]}, backfill="2026-spring"))
    assert isinstance(event, OrderPlaced)
    assert event.backfill == "2026-spring"


def amount(value: Any = "12.5", currency: Any = "USD", **more: Any) -> dict[str, Any]:
    return {k: v for k, v in {"value": value, "currency": currency, **more}.items() if v is not None}


@pytest.mark.parametrize(
    ("value", "reason", "field"),
    [
        (None, Reason.NULL_VALUE, None),
        (b"", Reason.NOT_JSON, None),
        (b"{", Reason.NOT_JSON, None),
        (b"\xff\xfe", Reason.NOT_JSON, None),
        (sample() + b"x", Reason.NOT_JSON, None),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.NOT_JSON, None),
        (sample()[:-1] + b', "x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.NOT_JSON, None),
        (b'{"type":' * 100_000, Reason.NOT_JSON, None),
        (sample()[:-1] + b', "x": NaN}', Reason.NOT_JSON, None),
        (sample().replace(b'"e1"', b'"\xff"'), Reason.INVALID_UTF8, None),
        (sample().replace(b'"e1"', b'"\xed\xa0\x80"'), Reason.INVALID_UTF8, None),
        (sample().replace(b'"e1"', b'"\\ud800"'), Reason.NOT_JSON, None),
        (b"null", Reason.WRONG_FIELD, None),
        (b"[]", Reason.WRONG_FIELD, None),
        (b"5", Reason.WRONG_FIELD, None),
        (b"{}", Reason.MISSING_FIELD, "type"),
        (sample(type="order.shipped"), Reason.UNKNOWN_TYPE, "type"),
        (sample(type="segment.changed"), Reason.UNKNOWN_TYPE, "type"),
        (sample(type=5), Reason.WRONG_FIELD, "type"),
        (sample(id=None), Reason.MISSING_FIELD, "id"),
        (sample(order_id=None), Reason.MISSING_FIELD, "order_id"),
        (sample(amount=amount(value=None)), Reason.MISSING_FIELD, "amount.value"),
        (sample().replace(b'"e1"', b"null"), Reason.WRONG_FIELD, "id"),
        (sample(id=5), Reason.WRONG_FIELD, "id"),
        (sample(customer_id=4711), Reason.WRONG_FIELD, "customer_id"),
        (sample(id=""), Reason.ID_LENGTH, "id"),
        (sample(customer_id="c" * 257), Reason.ID_LENGTH, "customer_id"),
        (sample(type="order.refunded", order_id=""), Reason.ID_LENGTH, "order_id"),
        (sample(amount="12.5"), Reason.WRONG_FIELD, "amount"),
        (sample(amount=amount(12.5)), Reason.WRONG_FIELD, "amount.value"),
        (sample(amount=amount(currency=840)), Reason.WRONG_FIELD, "amount.currency"),
        (sample(amount=amount("-1")), Reason.AMOUNT_INVALID, "amount.value"),
        (sample(amount=amount("NaN")), Reason.AMOUNT_INVALID, "amount.value"),
        (sample(amount=amount("1e3")), Reason.AMOUNT_INVALID, "amount.value"),
        (sample(amount=amount("")), Reason.AMOUNT_INVALID, "amount.value"),
        (sample(amount=amount("9" * 5_000)), Reason.AMOUNT_INVALID, "amount.value"),
        (sample(amount=amount("1.23456")), Reason.TOO_MANY_DECIMALS, "amount.value"),
        (sample(amount=amount("100000000000.0001")), Reason.AMOUNT_OUT_OF_RANGE, "amount.value"),
        (sample(amount=amount(currency="EUR")), Reason.UNKNOWN_CURRENCY, "amount.currency"),
        (sample(amount=amount(currency="usd")), Reason.UNKNOWN_CURRENCY, "amount.currency"),
        (sample(occurred_at="2026-03-03T14:20:00"), Reason.NO_TIME_ZONE, "occurred_at"),
        (sample(occurred_at="2026-03-03"), Reason.WRONG_FIELD, "occurred_at"),
        (sample(occurred_at="2026-13-03T14:20:00Z"), Reason.WRONG_FIELD, "occurred_at"),
        (sample(occurred_at=1_772_547_600), Reason.WRONG_FIELD, "occurred_at"),
        (sample(occurred_at="1969-12-31T23:59:59.999Z"), Reason.DATE_OUT_OF_RANGE, "occurred_at"),
        (sample(occurred_at="9900-01-01T00:00:00Z"), Reason.DATE_OUT_OF_RANGE, "occurred_at"),
        (sample(occurred_at="0001-01-01T00:00:00+10:00"), Reason.DATE_OUT_OF_RANGE, "occurred_at"),
        (sample(occurred_at="9999-12-31T23:59:59-10:00"), Reason.DATE_OUT_OF_RANGE, "occurred_at"),
        (b'{"type":"model.activated","id":"1","version":"v","activation":-1}', Reason.WRONG_FIELD, "activation"),
    ],
)  # fmt: skip
def test_refusals(value: bytes | None, reason: Reason, field: str | None) -> None:
    why = refused(value)
    assert (why.reason, why.field) == (reason, field)
    assert why.field is None or why.field in why.message


def test_borders_of_what_is_taken() -> None:
    assert entry_of(sample(occurred_at="1970-01-01T00:00:00Z")) == entry(
        Kind.PLACED, "e1", 0, order="o1", amount=125_000
    )
    assert entry_of(sample(occurred_at="9899-12-31T23:59:59.999999Z"))
    assert entry_of(sample(customer_id="c" * 256, id="é" * 256))
    assert entry_of(sample(amount=amount("100000000000.0000"))) == entry(
        Kind.PLACED, "e1", AT_MS, order="o1", amount=10**15
    )


def test_a_message_names_what_was_expected() -> None:
    assert "order.placed, order.refunded, order.cancelled, customer.erased, customer.merged, clock.advanced" in str(
        refused(sample(type="x"))
    )
    assert "'EUR', expected 'USD'" in str(refused(sample(amount=amount(currency="EUR"))))


@given(st.binary(max_size=60))
def test_garbage_is_refused_not_raised(value: bytes) -> None:
    for garbage in (value, sample().replace(b"o1", value), sample()[:-1] + value + b"}"):
        try:
            entry_of(garbage)
        except RejectedEvent as why:
            assert why.reason in Reason  # noqa: PT017 - that it is nothing else is the point


@given(st.datetimes(datetime(1970, 1, 2), datetime(9899, 12, 30)), st.integers(-1439, 1439))  # noqa: DTZ001 - the zone comes next
def test_times_both_ways(naive: datetime, minutes: int) -> None:
    at = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    ms = millis(at)
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    assert timedelta(0) <= since - timedelta(milliseconds=ms) < timedelta(milliseconds=1)
    assert datetime.fromisoformat(iso(ms)) == at - timedelta(microseconds=at.microsecond % 1000)
    assert len(iso(ms)) == len("2026-03-03T14:20:00.123Z")


def test_iso() -> None:
    assert iso(AT_MS) == AT
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(253_402_300_799_999) == "9999-12-31T23:59:59.999Z"
    for outside in (-1, 253_402_300_800_000, 2**63 - 1, -(2**63)):
        with pytest.raises(ValueError, match="1970 to 9999"):
            iso(outside)


def change() -> SegmentChanged:
    return SegmentChanged(
        id=move_id("shop", "c1", 2),
        customer_id="c1",
        sequence=2,
        from_="At Risk",
        to="Champions",
        cause=Cause.ORDER,
        occurred_at=AT,
        scored_at=AT,
        model_version="0123456789abcdef",
        rfm=Rfm(0.5, 3, "12.50"),
        before=None,
        distances={"At Risk": 1.5, "Champions": 0.25},
        next=NextMove("At Risk", AT),
        causation_id="e1",
    )


COMMON: dict[str, Any] = {
    "id": "a", "customer_id": "c1", "campaign": "win-back", "segment": "At Risk", "action": "discount",
    "channel": "email", "change_id": "m", "occurred_at": AT,
}  # fmt: skip
NOW: dict[str, Any] = COMMON | {"decided_at": AT, "rules": "5b1f0c9e"}
PASSED_ON = ActionVariables(rfm=Rfm(0.5, 3, "12.50"), keep=KeptBy("At Risk", AT), segment="At Risk")
DECISIONS: list[CampaignDecision | CampaignBudget] = [
    CampaignAction(**COMMON, reason="silence"),  # by a version that knew no more
    CampaignAction(**NOW, reason="silence", tags=("marketing",), variables=PASSED_ON, language="de", time_zone="UTC"),
    *(CampaignWithheld(**NOW, reason=reason, detail="a sentence") for reason in Withheld),
    CampaignScheduled(**NOW, until=AT, why="quiet_hours"),
    CampaignConverted(
        **NOW, action_id="b", held_out=True, order_id="o", amount=Money("5.00", "EUR"), ordered_at=AT, acted_at=AT
    ),
    CampaignBudget(id="d", shard=3, used={"win-back": BudgetUsed("2026-03-03", 17)}, decided_at=AT),
]


def test_moves_out() -> None:
    body = json.loads(encode(change()))
    assert list(body) == [
        "type", "id", "customer_id", "sequence", "from", "to", "cause", "occurred_at", "scored_at", "model_version",
        "rfm", "before", "distances", "next", "causation_id", "life", "outlook",
    ]  # fmt: skip
    assert (body["type"], body["from"], body["cause"], body["before"]) == ("segment.changed", "At Risk", "order", None)
    assert body["rfm"] == {"recency_days": 0.5, "frequency": 3, "monetary": "12.50"}
    assert msgspec.json.decode(encode(change()), type=SegmentChanged) == change()


@pytest.mark.parametrize("event", DECISIONS, ids=lambda event: str(event.__struct_config__.tag))
def test_decisions_out(event: CampaignDecision | CampaignBudget) -> None:
    assert msgspec.json.decode(encode(event), type=CampaignDecision | CampaignBudget) == event


def test_an_action_of_a_version_before_is_read() -> None:
    before = b'{"type":"campaign.action","id":"a","customer_id":"c1","campaign":"win-back","segment":"At Risk",'
    before += b'"action":"discount","channel":"email","reason":"silence","change_id":"m","held_out":false,'
    before += b'"occurred_at":"%s"}' % AT.encode()
    assert msgspec.json.decode(before, type=CampaignDecision) == DECISIONS[0]


def test_ids_of_moves_are_a_function_of_the_move() -> None:
    namespace = uuid5(NAMESPACE_URL, "segstream:shop")
    assert move_id("shop", "c1", 2) == str(uuid5(namespace, "c1:2"))
    assert len({move_id(g, c, n) for g in ("a", "b") for c in ("c", "c:1") for n in (1, 11)}) == 8


def test_cloud_headers() -> None:
    headers = cloud_headers("segment.changed", "id", "/segstream/shop", "Zoë", AT)
    assert dict(headers) == {
        "ce_id": b"id", "ce_source": b"/segstream/shop", "ce_specversion": b"1.0", "ce_type": b"segment.changed",
        "ce_subject": "Zoë".encode(), "ce_time": AT.encode(), "content-type": b"application/json",
    }  # fmt: skip


def test_the_schema_holds_of_events() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert len(schema["anyOf"]) == 16
    clock, model = (
        ClockAdvanced(id="1", to=datetime(2026, 3, 3, tzinfo=UTC)),
        ModelActivated(id="1", activation=1, version="v"),
    )
    for event in (encode(change()), encode(clock), encode(model), *(encode(decision) for decision in DECISIONS)):
        validator.validate(json.loads(event))
    for value in (sample(), sample(type="order.refunded", order_id=None), sample(more=1)):
        validator.validate(json.loads(value))
    for value in (
        sample(id=""), sample(id=None), sample(type="x"), sample(amount=amount("-1")), sample(amount=amount(1)),
        sample(occurred_at=5),
    ):  # fmt: skip
        assert not validator.is_valid(json.loads(value))


def test_reasons_are_snake_case() -> None:
    assert all(reason.value == reason.name.lower() for reason in Reason)
    assert events.CONTROL_KEY == b"\0control"
