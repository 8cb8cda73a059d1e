"""The events on the topic of deliveries: what became of each attempt to send an action to an endpoint. Pure."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Meta, Struct

from segmentation.event_text import Id, OutTime

_encoder: Final = msgspec.json.Encoder()


class ActionRecord(Struct, frozen=True, gc=False):
    """The record that was sent: on `campaign-actions`, or on its redeliveries."""

    topic: str
    partition: int
    offset: int


class _DeliveryOutcome(Struct, frozen=True, kw_only=True, tag_field="type"):
    id: str
    action_id: str
    customer_id: Id
    campaign: str
    channel: str
    endpoint: str
    attempt: Annotated[int, Meta(ge=0, description="how many attempts there have been")]
    status: Annotated[int | None, Meta(description="the status of the answer; null: there was none")]
    detail: Annotated[str, Meta(description="what happened, in one sentence")]
    at: OutTime
    next_attempt_at: OutTime | None
    record: ActionRecord


class DeliverySucceeded(_DeliveryOutcome, frozen=True, tag="campaign.delivered"):
    """An endpoint has taken an action: it answered with 2xx. The last outcome of this record at this endpoint."""


class DeliveryRetrying(_DeliveryOutcome, frozen=True, tag="campaign.retrying"):
    """An attempt has failed, and there will be another one.

    `next_attempt_at` null: once the endpoint, which is disabled now, is enabled again.
    """


class DeliveryGivenUp(_DeliveryOutcome, frozen=True, tag="campaign.undelivered"):
    """An action is given up at an endpoint, and is a dead letter. The last outcome of this record at this endpoint."""


DeliveryEvent = DeliverySucceeded | DeliveryRetrying | DeliveryGivenUp
_decoder: Final[msgspec.json.Decoder[DeliveryEvent]] = msgspec.json.Decoder(DeliveryEvent)


def outcome_id(endpoint: str, record: ActionRecord, attempt: int, kind: type[DeliveryEvent]) -> str:
    """Return the id of an outcome, the same wherever it is computed."""
    name = f"segstream:{endpoint}:{record.topic}:{record.partition}:{record.offset}:{attempt}:{kind.__name__}"
    return str(uuid5(NAMESPACE_URL, name))


def encode_outcome(event: DeliveryEvent) -> bytes:
    """Return an outcome as JSON."""
    return _encoder.encode(event)


def decode_outcome(value: bytes | None) -> DeliveryEvent | None:
    """Return an outcome; None for anything else that somebody may have written there."""
    try:
        return _decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
