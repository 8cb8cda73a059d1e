"""CloudEvents 1.0 in Kafka records, in both modes of the Kafka protocol binding, and order events made of them.

The rules are those of CloudEvents' core specification, JSON event format and Kafka protocol binding, all 1.0.2.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Struct

from segmentation.events import Reason, RejectedEvent
from stream.adapters.mapping import SourceRecord

_STRUCTURED: Final = "application/cloudevents"
_PREFIX: Final = "ce_"
_REQUIRED: Final = ("id", "source", "specversion", "type")
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]+")  # core specification: naming conventions
_LONGEST_ID: Final = 256  # of an input event (segmentation/events.py)


class CloudEvent(Struct, frozen=True, kw_only=True):
    """An event by its attributes. `time`: RFC 3339, unchecked; `data`: the bytes, None where there are none."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: bytes | None = None
    extensions: Mapping[str, Any] = MappingProxyType({})

    def fields(self) -> dict[str, Any]:
        """Read the data as a JSON object. Raises RejectedEvent."""
        if self.datacontenttype is not None and not _is_json(self.datacontenttype):
            message = f"datacontenttype is {self.datacontenttype!r}, expected JSON."
            raise RejectedEvent(Reason.WRONG_FIELD, "datacontenttype", message)
        found = _json(self.data, "data")
        if not isinstance(found, dict):
            raise RejectedEvent(Reason.WRONG_FIELD, "data", f"data is {type(found).__name__}, expected a JSON object.")
        return found


def read_cloud_event(record: SourceRecord) -> CloudEvent:
    """Read a record in structured or binary mode; its content-type decides. Raises RejectedEvent."""
    content_type = _header_text(record, "content-type")
    kind = _media_type(content_type)
    if not kind.startswith(_STRUCTURED):
        return _binary(record, content_type)
    if kind != f"{_STRUCTURED}+json":
        message = f"content-type is {content_type!r}, expected application/cloudevents+json: no other format, no batch."
        raise RejectedEvent(Reason.WRONG_FIELD, "content-type", message)
    return _structured(record)


def order_event(event: CloudEvent, *, types: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Make an order event of a CloudEvent whose data has the fields of one. Raises RejectedEvent.

    `types`: the event's type -> ours (order.placed, ...); without it the type is taken as it is. The id is made of
    source and id, which CloudEvents holds unique together. Where the data has none, `occurred_at` is the event's time
    and `customer_id` its subject; of a merge, `from` is.

    >>> made = CloudEvent(id="7", source="/shop", type="sold", subject="c-1", data=b'{"order_id": "o-1"}')
    >>> order_event(made, types={"sold": "order.placed"})
    {'customer_id': 'c-1', 'order_id': 'o-1', 'type': 'order.placed', 'id': '/shop#7'}
    """
    if types is not None and event.type not in types:
        message = f"the CloudEvent's type is {event.type!r}, expected one of {', '.join(types)}."
        raise RejectedEvent(Reason.UNKNOWN_TYPE, "type", message)
    kind = event.type if types is None else types[event.type]
    instead = {"from" if kind == "customer.merged" else "customer_id": event.subject, "occurred_at": event.time}
    named = f"{event.source}#{event.id}"
    if len(named) > _LONGEST_ID:
        named = sha256(named.encode()).hexdigest()
    return {
        **{name: value for name, value in instead.items() if value is not None},
        **event.fields(),
        "type": kind,
        "id": named,
    }


def _binary(record: SourceRecord, content_type: str | None) -> CloudEvent:
    attributes: dict[str, Any] = {}
    for name, _ in record.headers:
        if name.startswith(_PREFIX) and (text := _header_text(record, name)) is not None:
            attributes[name.removeprefix(_PREFIX)] = text
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return _event(attributes, record.value, _PREFIX)


def _structured(record: SourceRecord) -> CloudEvent:
    found = _json(record.value, "value")
    if not isinstance(found, dict):
        raise RejectedEvent(Reason.WRONG_FIELD, None, f"the value is {type(found).__name__}, expected a JSON object.")
    if "data" in found and "data_base64" in found:
        raise RejectedEvent(Reason.WRONG_FIELD, "data_base64", "data and data_base64 exclude each other.")
    # A null attribute is one that isn't there (JSON event format, 2.2).
    attributes = {name: value for name, value in found.items() if value is not None}
    encoded, given = attributes.pop("data_base64", None), attributes.pop("data", None)
    return _event(attributes, _data(encoded, given, attributes.get("datacontenttype")), "")


def _data(encoded: Any, given: Any, content_type: Any) -> bytes | None:
    """Return the data's bytes: JSON as JSON text, other text in UTF-8 (JSON event format, 3.1)."""
    if encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise RejectedEvent(Reason.WRONG_FIELD, "data_base64", "data_base64 isn't Base64 text.") from None
    if given is None:
        return None
    if isinstance(given, str) and isinstance(content_type, str) and not _is_json(content_type):
        return given.encode()
    return msgspec.json.encode(given)


def _event(attributes: dict[str, Any], data: bytes | None, prefix: str) -> CloudEvent:
    """Check the attributes and make the event. `prefix`: of their names in the record, for messages."""
    for name in _REQUIRED:
        if name not in attributes:
            message = f"{prefix}{name} is missing: not a CloudEvent 1.0 in binary or structured mode."
            raise RejectedEvent(Reason.MISSING_FIELD, f"{prefix}{name}", message)
    if (version := attributes.pop("specversion")) != "1.0":
        message = f"specversion is {version!r}, expected '1.0'."
        raise RejectedEvent(Reason.WRONG_FIELD, f"{prefix}specversion", message)
    known = {name: attributes.pop(name) for name in _KNOWN if name in attributes}
    for name, value in known.items():
        if not isinstance(value, str) or not value:
            message = f"{prefix}{name} is {value!r:.80}, expected text that isn't empty."
            raise RejectedEvent(Reason.WRONG_FIELD, f"{prefix}{name}", message)
    for name in attributes:
        if not _ATTRIBUTE.fullmatch(name):
            message = f"{prefix}{name:.80}: expected a name of a to z and 0 to 9."
            raise RejectedEvent(Reason.WRONG_FIELD, f"{prefix}{name:.80}", message)
    return CloudEvent(**known, data=data, extensions=MappingProxyType(attributes))


_KNOWN: Final = ("id", "source", "type", "subject", "time", "datacontenttype", "dataschema")


def _media_type(content_type: str | None) -> str:
    """Return a content type without its parameters, in lower case (RFC 9110, 8.3.1).

    >>> _media_type("Application/CloudEvents+JSON; charset=utf-8")
    'application/cloudevents+json'
    """
    return (content_type or "").partition(";")[0].strip().lower()


def _is_json(content_type: str) -> bool:
    kind = _media_type(content_type)
    return kind.endswith(("/json", "+json"))


def _json(value: bytes | None, field: str) -> Any:
    if value is None:
        raise RejectedEvent(Reason.NULL_VALUE, field, f"{field} is null: expected JSON.")
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedEvent(Reason.NOT_JSON, field, f"{field} isn't JSON: {error!s:.200}") from None


def _header_text(record: SourceRecord, name: str) -> str | None:
    raw = record.header(name)
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        raise RejectedEvent(Reason.INVALID_UTF8, name, f"the header {name} isn't UTF-8: {raw!r:.80}.") from None
