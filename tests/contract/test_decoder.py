"""The decoder's contract: any bytes give an event, or a RejectedEvent with a reason, a field and a short message."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segmentation.decoder import Reader
from segmentation.event_text import instant
from segmentation.events import InputEvent, Reason, RejectedEvent, decode
from tests.contract.ugly_inputs import ORDER, UGLY, UglyRecord, order

NOW_MS: Final = 1_772_600_000_000
READER: Final = Reader("USD", "wall", 300_000, 90 * 86_400_000, 1 << 20, earliest_ms=631_152_000_000)
EXAMPLES: Final = int(os.environ.get("EXAMPLES", "300"))
LONGEST_MESSAGE: Final = 1_000


@dataclass
class ReceivedRecord:
    """A record as the reader gets it."""

    key: bytes | None
    value: bytes | None
    offset: int = 0
    timestamp: int = NOW_MS


def reading(value: bytes | None, key: bytes | None = b"c1") -> tuple[str, str | None, str] | None:
    """Why the record is refused; None: it isn't. Nothing else may happen."""
    batch = READER.read([ReceivedRecord(key, value)], NOW_MS)
    assert len(batch.clocks) == len(batch.events) == 1
    if not batch.dead:
        return None
    (dead,) = batch.dead
    assert batch.events == [None]
    assert not batch.own
    assert dead.reason in set(Reason)
    assert 0 < len(dead.message) <= LONGEST_MESSAGE
    return dead.reason, dead.field, dead.message


@pytest.mark.parametrize("case", UGLY, ids=[case.name for case in UGLY])
def test_ugly_inputs_are_refused_for_their_own_reason(case: UglyRecord) -> None:
    refusal = reading(case.value, case.key)
    assert refusal
    assert refusal[:2] == (case.reason, case.field)


def test_every_reason_of_a_single_record_has_an_ugly_input() -> None:
    # Those that the record alone doesn't decide: its shard's clock, states and backfills, a model, rates, the size, the
    # step, an adapter.
    elsewhere = {
        Reason.CLOCK_JUMP,
        Reason.WRONG_PARTITION,
        Reason.CONFLICTING_ID,
        Reason.OUTDATED_EDIT,
        Reason.TOO_LARGE,
        Reason.TOO_MANY_BACKFILLS,
        Reason.UNKNOWN_MODEL,
        Reason.NO_RATE,
        Reason.STEP_FAILED,
        Reason.ADAPTER_FAILED,
        Reason.UNDELIVERED,
    }
    assert {case.reason for case in UGLY} == set(Reason) - elsewhere


@pytest.mark.parametrize(
    "value",
    [
        order(),
        order(amount={"value": "0", "currency": "USD"}),
        order(amount={"value": "100000000000", "currency": "USD"}),
        order(occurred_at="1990-01-01T00:00:00Z"),
        order(occurred_at="2026-03-03T15:20:00.123456789+01:00"),
        order(id="é" * 256, order_id="\U0001f600"),
        order(note={"deep": [[[[]]]], "huge": 1e300}, type="order.cancelled"),
        order().replace(b'"e1"', b'"e1", "id": "e2"'),
        b" \n" + order() + b"\r\n\t",
    ],
)
def test_unusual_inputs_are_taken(value: bytes) -> None:
    assert reading(value) is None


def test_a_record_over_the_limit_is_not_decoded() -> None:
    refusal = reading(order(note="x" * (1 << 20)))
    assert refusal
    assert refusal[0] == Reason.TOO_LARGE


JSON_VALUES: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["12.50", "USD", "order.placed", "2026-03-03T14:20:00Z", "c1", "9" * 400, "1e400", "\0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def changed_orders(draw: st.DrawFn) -> bytes:
    """An order of which fields were replaced, taken away or added, at any depth."""
    event: dict[str, Any] = json.loads(json.dumps(ORDER))
    event["type"] = draw(
        st.sampled_from(["order.placed", "order.refunded", "order.cancelled", "customer.erased", "clock.advanced"])
        | st.text(max_size=20)
    )
    for name in draw(st.lists(st.sampled_from([*ORDER, "to", "version", "backfill", "activation"]), max_size=3)):
        event[name] = draw(JSON_VALUES)
    if isinstance(event.get("amount"), dict):
        for name in draw(st.lists(st.sampled_from(["value", "currency", "x"]), max_size=2)):
            event["amount"][name] = draw(JSON_VALUES)
    for name in draw(st.lists(st.sampled_from(sorted(event)), max_size=2, unique=True)):
        del event[name]
    return json.dumps(event, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@st.composite
def torn_orders(draw: st.DrawFn) -> bytes:
    """The bytes of an order, some of them cut out, doubled, or replaced by any others."""
    body = order()
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(body)))
        end = draw(st.integers(begin, min(len(body), begin + 20)))
        body = body[:begin] + draw(st.binary(max_size=12) | st.just(body[begin:end] * 2)) + body[end:]
    return body


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.binary(max_size=200) | torn_orders() | changed_orders(), st.sampled_from([b"c1", None, b"\0control", b"\xff"])
)
@example(b"", None)
def test_any_bytes_are_an_event_or_refused(value: bytes, key: bytes | None) -> None:
    reading(value, key)
    try:
        event = decode(value)
    except RejectedEvent as why:
        assert len(why.message) <= LONGEST_MESSAGE  # noqa: PT017 - that it is nothing else is the point
    else:
        assert isinstance(event, InputEvent)


@settings(max_examples=max(EXAMPLES // 10, 10), deadline=None)
@given(st.sampled_from([b"[", b'{"x":', b'{"type":', b'[{"amount":']), st.integers(1, 60_000), st.booleans())
def test_nesting_of_any_depth_is_refused(opening: bytes, depth: int, inside: bool) -> None:
    value = order()[:-1] + b', "x":' + opening * depth + b"}" if inside else opening * depth
    refusal = reading(value)
    assert refusal
    assert refusal[0] in {Reason.NOT_JSON, Reason.WRONG_FIELD}


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=2_000), st.sampled_from(["type", "id", "customer_id", "occurred_at", "amount"]))
def test_a_message_repeats_little_of_the_input(noise: bytes, field: str) -> None:
    text = noise.hex() * 40
    refusal = reading(order(**{field: text or "x"}))
    if refusal:
        assert len(refusal[2]) <= LONGEST_MESSAGE
        assert len(text) < 300 or text not in refusal[2]


def test_dates_are_measured_against_the_record() -> None:
    ahead = instant(NOW_MS + 300_000).isoformat()
    assert reading(order(occurred_at=ahead)) is None
    refusal = reading(order(occurred_at=instant(NOW_MS + 300_001).isoformat()))
    assert refusal
    assert refusal[0] == Reason.DATED_AHEAD
