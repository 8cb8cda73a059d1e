"""Which records of the topic of actions an endpoint gets. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from stream.webhooks.endpoints import Endpoint

# Goes into a header, and into what is signed, where a full stop separates.
_SENDABLE_ID: Final = re.compile(r"[A-Za-z0-9_:-]{1,256}")


class ActionFacts(Struct, frozen=True, gc=False):
    """The part of an event that delivery reads. All of it is sent as it is."""

    type: str
    id: str
    customer_id: Annotated[str, Meta(max_length=256)] = ""  # as in the outcome, which must be read back
    campaign: str = ""
    channel: str = ""
    tags: tuple[str, ...] = ()


class NotSendable(ValueError):
    """A record of the topic of actions isn't an event that can be sent."""


_decoder: Final = msgspec.json.Decoder(ActionFacts)


def action_facts(value: bytes | None) -> ActionFacts:
    """Return what delivery needs to know of a record. Raises NotSendable."""
    try:
        facts = _decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotSendable(f"not an event of segstream: {error}") from None
    if not _SENDABLE_ID.fullmatch(facts.id):
        raise NotSendable(f"id is {facts.id[:64]!r}, expected letters, digits, _, : and -")
    return facts


def wants(endpoint: Endpoint, facts: ActionFacts) -> bool:
    """Return whether an endpoint gets an event: of its types, and of its campaigns, channels and tags if it names any.

    >>> from stream.webhooks.endpoints import SecretSource
    >>> crm = Endpoint(name="crm", url="https://crm.example", secrets=(SecretSource(env="S"),), tags=("marketing",))
    >>> wants(crm, ActionFacts("campaign.action", "1", tags=("vip", "marketing")))
    True
    >>> wants(crm, ActionFacts("campaign.withheld", "2", tags=("marketing",)))
    False
    """
    return (
        facts.type in endpoint.types
        and (endpoint.campaigns is None or facts.campaign in endpoint.campaigns)
        and (endpoint.channels is None or facts.channel in endpoint.channels)
        and (endpoint.tags is None or not set(endpoint.tags).isdisjoint(facts.tags))
    )
