"""The events in and out, as JSON: bytes <-> event, the checks on the way in, and their JSON Schema.

In come orders, refunds, cancellations, erasures and merges of customers, and the controls that segstream itself sends;
out go moves between segments, and campaign actions. Unknown fields are ignored, so that producers can grow. Nothing
is guessed: a number where text is expected is refused, and so is the reverse.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from segmentation.entries import CANCELLED, DAY_MS, ERASED, PLACED, REFUNDED, UNREVISED, Entry, Foreign, hash_id, key_of
from segmentation.event_text import EPOCH, Id
from segmentation.money import UNITS, AmountError, TooManyDecimalsError, parse_units
from segmentation.output_events import OutputEvent

if TYPE_CHECKING:
    from segmentation.rates import Conversion

CONTROL_KEY: Final = b"\0control"  # the record key of controls, which no customer id can equal
LARGEST_AMOUNT: Final = 10**15  # ten-thousandths; the sum of a customer's orders must stay within 64 bits
FIRST_AT: Final = EPOCH  # the instants that an event may be dated: from here on, up to END_AT
END_AT: Final = datetime(9900, 1, 1, tzinfo=UTC)  # leaves a century for forecast moves
END_MS: Final = (END_AT - EPOCH).days * DAY_MS
_SHOWN: Final = 64  # characters of a refused value that a message repeats
_LONGEST_MESSAGE: Final = 1_000  # characters: many refused records mustn't fill the logs
_HASH_SPACE: Final = tuple(b"%d" % kind for kind in range(ERASED + 1))

Timestamp = Annotated[datetime, Meta(tz=True, description="ISO 8601 with zone")]
# The patterns are for readers of the schema; the checks are parse_units and the deployment's currency, which also say
# what is wrong.
DecimalText = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9]+(\.[0-9]{1,4})?$"})]
CurrencyCode = Annotated[str, Meta(description="ISO 4217", extra_json_schema={"pattern": "^[A-Z]{3}$"})]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Reason(StrEnum):
    """The reason why a record can't be used. A closed list: the labels of a metric, and a header of dead letters."""

    NOT_JSON = "not_json"
    INVALID_UTF8 = "invalid_utf8"
    NULL_VALUE = "null_value"
    UNKNOWN_TYPE = "unknown_type"
    MISSING_FIELD = "missing_field"
    WRONG_FIELD = "wrong_field"
    NO_TIME_ZONE = "no_time_zone"
    ID_LENGTH = "id_length"
    AMOUNT_INVALID = "amount_invalid"
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    TOO_MANY_DECIMALS = "too_many_decimals"
    UNKNOWN_CURRENCY = "unknown_currency"
    NO_RATE = "no_rate"  # a currency that is taken, but no rate of the event's day was there in time
    DATE_OUT_OF_RANGE = "date_out_of_range"
    DATED_AHEAD = "dated_ahead"
    CLOCK_JUMP = "clock_jump"
    KEY_NOT_CUSTOMER = "key_not_customer"
    WRONG_PARTITION = "wrong_partition"
    CONFLICTING_ID = "conflicting_id"
    OUTDATED_EDIT = "outdated_edit"
    TOO_LARGE = "too_large"
    CONTROL_NOT_ALLOWED = "control_not_allowed"
    TOO_MANY_BACKFILLS = "too_many_backfills"
    UNKNOWN_MODEL = "unknown_model"  # an activation of a model that was refused or never published
    STEP_FAILED = "step_failed"
    ADAPTER_FAILED = "adapter_failed"  # the mapping of a source record raised (stream/adapters/mapping.py)
    UNDELIVERED = "undelivered"  # an endpoint never took the event (stream/delivery/)


class RejectedEvent(ValueError):
    """A record that can't be used. It becomes a dead letter with this reason, and processing continues."""

    def __init__(self, reason: Reason, field: str | None, message: str) -> None:
        """Keep reason, field and message (cut if long). `field`: a path like "amount.value"; None: no single field."""
        message = message[:_LONGEST_MESSAGE]
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.message = message


class Amount(Struct, frozen=True, gc=False):
    """Money as decimal text, exact: it never was a float."""

    value: DecimalText
    currency: CurrencyCode


class OrderPlaced(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="order.placed"):
    """A customer has placed an order. It counts for one window, from its own time on.

    Of several contents of one order the one with the greatest `revision`, or the latest `updated_at`, counts.
    """

    id: Id
    order_id: Id
    customer_id: Id
    occurred_at: Timestamp
    amount: Amount
    updated_at: Timestamp | None = None
    revision: Count | None = None
    backfill: Id | None = None


class OrderRefunded(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="order.refunded"):
    """A refund. With an order's id it counts as long as that order; without one, for one window from its own time."""

    id: Id
    customer_id: Id
    occurred_at: Timestamp
    amount: Amount
    order_id: Id | None = None
    backfill: Id | None = None


class OrderCancelled(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="order.cancelled"):
    """An order was cancelled: neither it nor its refunds count any more."""

    id: Id
    order_id: Id
    customer_id: Id
    occurred_at: Timestamp
    backfill: Id | None = None


class CustomerErased(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="customer.erased"):
    """A customer asks for erasure: everything up to this time is deleted."""

    id: Id
    customer_id: Id
    occurred_at: Timestamp
    backfill: Id | None = None


class CustomerMerged(
    Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="customer.merged", rename={"from_": "from"}
):
    """Two ids are one person: all that is known of `from`, or comes under that key later, belongs to `into`."""

    id: Id
    from_: Id
    into: Id
    occurred_at: Timestamp
    backfill: Id | None = None

    @property
    def customer_id(self) -> str:
        """The customer whose key it goes under."""
        return self.from_


class ClockAdvanced(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="clock.advanced"):
    """Event time has reached this instant, even without orders."""

    id: Id
    to: Timestamp


class BackfillFinished(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="backfill.finished"):
    """All records of a backfill have been sent: moves of its customers are published again."""

    id: Id
    backfill: Id


class ModelActivated(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="model.activated"):
    """From here on this model scores. `activation` only grows; `version` identifies the model."""

    id: Id
    activation: Count
    version: Id


EntryEvent = OrderPlaced | OrderRefunded | OrderCancelled | CustomerErased
CustomerEvent = EntryEvent | CustomerMerged


class CustomerJoined(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="customer.joined"):
    """The state of an id that was merged, or only the merges that it knows of, for a customer of the same person.

    `merge` is the id of the merge that caused it.
    """

    id: Id
    customer_id: Id
    giver: Id
    merge: Id
    state: bytes


class EventForwarded(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="event.forwarded"):
    """An event of an id that was merged before, for the customer that it belongs to.

    `id` is the event's, and `arrived` the time (ms) at which it came.
    """

    id: Id
    customer_id: Id
    event: EntryEvent
    arrived: Count


HandedOn = CustomerJoined | EventForwarded
ShardControl = ClockAdvanced | BackfillFinished | ModelActivated
Control = ShardControl | HandedOn
InputEvent = CustomerEvent | Control


_DECODER: Final[msgspec.json.Decoder[InputEvent]] = msgspec.json.Decoder(InputEvent)
_ENCODER: Final = msgspec.json.Encoder()
_AT_PATH: Final = re.compile(r"(?s)(.*) - at `(?:key` in `)?\$\.?(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN: Final = re.compile(r"(?s)Invalid (?:enum )?value (.*)")
_INPUT_TYPES: Final = tuple(str(kind.__struct_config__.tag) for kind in InputEvent.__args__)
T = TypeVar("T")


def decode(value: bytes | None) -> InputEvent:
    """Read a record's value. Raises RejectedEvent.

    Checks the shape, not what an amount, a currency or a date may be: that is `to_entry` and `millis`.
    """
    return read_json(_DECODER, value, *_INPUT_TYPES)


def read_json(decoder: msgspec.json.Decoder[T], value: bytes | None, *types: str) -> T:
    """Read a record's value by a decoder of events of these types. Raises RejectedEvent."""
    if value is None:
        expected = "an event" if len(types) > 1 else types[0]
        raise RejectedEvent(Reason.NULL_VALUE, None, f"the record has no value: expected {expected} in JSON.")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        raise _translated(str(error), types) from None
    except msgspec.DecodeError as error:
        raise RejectedEvent(Reason.NOT_JSON, None, f"not JSON: {error}. Value: {value[:_SHOWN]!r}") from None
    except UnicodeDecodeError as error:
        message = f"text that isn't UTF-8: {error.reason}, bytes {error.object[:_SHOWN]!r}. Send JSON in UTF-8."
        raise RejectedEvent(Reason.INVALID_UTF8, None, message) from None
    except RecursionError:
        raise RejectedEvent(Reason.NOT_JSON, None, "nested too deeply to be an event.") from None


def _translated(message: str, types: Sequence[str]) -> RejectedEvent:
    """Turn msgspec's message into reason, field and text; tests/unit/segmentation/test_events.py holds its wording."""
    found = _AT_PATH.fullmatch(message)
    what, path = found.groups() if found else (message, "")
    if missing := _MISSING.fullmatch(what):
        name = f"{path}.{missing[1]}" if path else missing[1]
        return RejectedEvent(Reason.MISSING_FIELD, name, f"{name} is missing.")
    if path == "type" and (unknown := _UNKNOWN.fullmatch(what)):
        shown = unknown[1][: _SHOWN + 2]  # between quotes
        one_of = "one of " if len(types) > 1 else ""
        message = f"type: {shown} isn't known, expected {one_of}{', '.join(types)}."
        return RejectedEvent(Reason.UNKNOWN_TYPE, path, message)
    if what == "Expected `datetime` with a timezone component":
        message = f"{path} has no zone: write 2026-03-03T14:20:00Z or 2026-03-03T15:20:00+01:00."
        return RejectedEvent(Reason.NO_TIME_ZONE, path, message)
    reason = Reason.ID_LENGTH if what.startswith("Expected `str` of length") else Reason.WRONG_FIELD
    return RejectedEvent(reason, path or None, f"{path or 'the event'}: {what}.")


def millis(at: datetime, name: str = "occurred_at") -> int:
    """Return milliseconds since 1970 UTC, fractions floored. `at` has a zone.

    Raises RejectedEvent for field `name` outside 1970-01-01 to 9899-12-31. The decoder has rounded what is finer than a
    microsecond.

    >>> millis(datetime(1970, 1, 2, 0, 0, 1, 999_999, tzinfo=UTC))
    86401999
    """
    since = at - EPOCH
    ms = since.days * DAY_MS + since.seconds * 1000 + since.microseconds // 1000
    if 0 <= ms < END_MS:
        return ms
    message = f"{name} is {at.isoformat()}, expected 1970-01-01 to 9899-12-31."
    raise RejectedEvent(Reason.DATE_OUT_OF_RANGE, name, message)


def to_entry(event: EntryEvent, currency: str, conversion: Conversion | None = None, arrived: int = 0) -> Entry:
    """Turn an event of a customer into an entry of the customer's state. Raises RejectedEvent.

    `currency`: the one of this deployment. `conversion`: from others; None: it takes no other. `arrived`: the
    timestamp (ms) of the event's record, which decides on the rates that it may use.
    """
    time = millis(event.occurred_at)
    if isinstance(event, OrderPlaced):
        units, foreign = _money(event.amount, time, currency, conversion, arrived)
        return Entry(
            key_of(time, PLACED),
            hash_id(b"o", event.order_id),
            units,
            hash_id(_HASH_SPACE[PLACED], event.id),
            UNREVISED if event.updated_at is None and event.revision is None else _revision(event),
            foreign,
        )
    if isinstance(event, OrderRefunded):
        units, foreign = _money(event.amount, time, currency, conversion, arrived)
        order = 0 if event.order_id is None else hash_id(b"o", event.order_id)
        return Entry(key_of(time, REFUNDED), order, units, hash_id(_HASH_SPACE[REFUNDED], event.id), UNREVISED, foreign)
    if isinstance(event, OrderCancelled):
        order = hash_id(b"o", event.order_id)
        return Entry(key_of(time, CANCELLED), order, 0, hash_id(_HASH_SPACE[CANCELLED], event.id))
    # An erasure is its time alone: repetitions are one entry, whatever their ids.
    return Entry(key_of(time, ERASED), 0, 0, 0)


def _revision(event: OrderPlaced) -> int:
    """Return which content of its order an event brings. Raises RejectedEvent."""
    if event.updated_at is None:
        return UNREVISED if event.revision is None else event.revision
    if event.revision is not None:
        message = "the event has both revision and updated_at, expected one of them: all events of a shop use the same."
        raise RejectedEvent(Reason.WRONG_FIELD, "revision", message)
    return millis(event.updated_at, "updated_at")


def _money(
    amount: Amount, time: int, currency: str, conversion: Conversion | None, arrived: int
) -> tuple[int, Foreign | tuple[()]]:
    """Return (the amount in the deployment's currency, what was paid where that was in another)."""
    if amount.currency == currency:
        return _units(amount), ()
    if conversion is not None and amount.currency in conversion.others:
        return conversion.foreign(_units(amount), amount.currency, time, arrived)
    others = "".join(f" or {code!r}" for code in sorted(conversion.others)) if conversion else ""
    message = f"amount.currency is {amount.currency[:_SHOWN]!r}, expected {currency!r}{others}: convert it first."
    raise RejectedEvent(Reason.UNKNOWN_CURRENCY, "amount.currency", message)


def _units(amount: Amount) -> int:
    try:
        units = parse_units(amount.value)
    except AmountError as error:
        reason = Reason.TOO_MANY_DECIMALS if isinstance(error, TooManyDecimalsError) else Reason.AMOUNT_INVALID
        raise RejectedEvent(reason, "amount.value", f"amount.value: {error}.") from None
    if units > LARGEST_AMOUNT:
        message = f"amount.value is {amount.value}, expected at most {LARGEST_AMOUNT // UNITS}."
        raise RejectedEvent(Reason.AMOUNT_OUT_OF_RANGE, "amount.value", message)
    return units


def encode(event: Struct) -> bytes:
    """Write an event as JSON: fields in the order of their definition, so that equal events have equal bytes."""
    return _ENCODER.encode(event)


def json_schema(
    types: Collection[type] = (*InputEvent.__args__, *OutputEvent.__args__), title: str = "segstream events"
) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of these events, by default of all: one `anyOf` over `$defs`."""
    references, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "anyOf": list(references),
        "$defs": components,
    }
