"""Customers' profiles: time zone, consent and language. Each field's last content by date wins, whenever it comes."""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from segmentation.event_text import Id
from segmentation.events import END_MS, Reason, RejectedEvent, Timestamp, millis, read_json
from segmentation.quiet_hours import zone_named

MAX_CHANNELS: Final = 64  # of one event
MOST_CHANNELS: Final = 512  # of one customer: a shop that makes up channels mustn't make a state too large for Kafka
_LONGEST_NAME: Final = 64  # characters of a channel, as in rules

Consent = Literal["granted", "denied"]
Channel = Annotated[str, Meta(min_length=1, max_length=_LONGEST_NAME)]
ZoneName = Annotated[str, Meta(min_length=1, max_length=64, description="IANA name, for example Europe/Berlin")]
Language = Annotated[str, Meta(min_length=1, max_length=35, description="BCP 47, for example de-AT")]


class CustomerProfile(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="customer.profile"):
    """A customer's time zone, consent and language, as of a date. A field that is left out stays as it was.

    A channel without consent is neither granted nor denied.
    """

    id: Id
    customer_id: Id
    occurred_at: Timestamp
    time_zone: ZoneName | None = None
    consent: Annotated[dict[Channel, Consent], Meta(max_length=MAX_CHANNELS)] | None = None
    language: Language | None = None


class DatedText(NamedTuple):
    """A text, and since when (ms) it holds."""

    at: Annotated[int, Meta(ge=0, lt=END_MS)]
    text: Annotated[str, Meta(max_length=64)]


class Profile(NamedTuple):
    """All that is known of a customer beside the orders. `consent`: of each channel, sorted."""

    time_zone: DatedText | None = None
    language: DatedText | None = None
    consent: tuple[tuple[str, DatedText], ...] = ()

    def join(self, other: Profile) -> Profile:
        """Take the later of both, field by field: associative, commutative, idempotent.

        >>> berlin, denied = DatedText(1, "Europe/Berlin"), ("email", DatedText(2, "denied"))
        >>> Profile(berlin).join(Profile(consent=(denied,))) == Profile(berlin, None, (denied,))
        True
        """
        if not any(self):
            return other
        consent = dict(self.consent)
        for channel, found in other.consent:
            consent[channel] = max(found, consent.get(channel, found), key=_by_date_then_denial)
        return Profile(
            _later(self.time_zone, other.time_zone),
            _later(self.language, other.language),
            tuple(sorted(consent.items())) if len(consent) <= MOST_CHANNELS else _latest(consent),
        )

    def since(self, erased_at: int) -> Profile:
        """Return the fields that are dated after an erasure."""
        return Profile(
            _after(self.time_zone, erased_at),
            _after(self.language, erased_at),
            tuple(row for row in self.consent if row[1].at > erased_at),
        )

    def zone(self, otherwise: str) -> tuple[ZoneInfo, bool]:
        """Return (the customer's time zone, or else the one named; whether the customer's name is that of none)."""
        known = None if self.time_zone is None else zone_named(self.time_zone.text)
        fallback = zone_named(otherwise)
        assert fallback is not None  # rules are checked as they are read
        return known or fallback, known is None and self.time_zone is not None

    def consent_for(self, channel: str) -> str | None:
        """Return what the customer said of a channel, granted or denied; None: nothing.

        Where so many channels are known that others were forgotten, what isn't known may have been denied.
        """
        unknown = "denied" if len(self.consent) >= MOST_CHANNELS else None
        return next((found.text for name, found in self.consent if name == channel), unknown)


def _latest(consent: dict[str, DatedText]) -> tuple[tuple[str, DatedText], ...]:
    """Return as many channels as are kept: in any order the same, for the dates of a channel only grow."""
    rows = sorted(consent.items(), key=lambda row: (row[1].at, row[0]))
    return tuple(sorted(rows[-MOST_CHANNELS:]))


def _after(found: DatedText | None, erased_at: int) -> DatedText | None:
    return found if found is not None and found.at > erased_at else None


def _by_date_then_denial(said: DatedText) -> tuple[int, bool]:
    return said.at, said.text == "denied"


def _later(one: DatedText | None, other: DatedText | None) -> DatedText | None:
    if one is None or other is None:
        return one or other
    return max(one, other)


class _Forwarded(Struct, frozen=True, gc=False, tag_field="type", tag="profile.forwarded"):
    """segstream's own event, under another key. Beside it, msgspec doesn't let the type of a profile be missing."""


_DECODER: Final = msgspec.json.Decoder(CustomerProfile | _Forwarded)


def decode_profile(value: bytes | None) -> CustomerProfile:
    """Read a record's value. Raises RejectedEvent."""
    try:
        event: CustomerProfile | _Forwarded = read_json(_DECODER, value, "customer.profile")
    except RejectedEvent as why:
        if why.field is not None and why.field.startswith("consent["):
            message = f"{why.message} Expected each channel to be granted or denied."
            raise RejectedEvent(why.reason, "consent", message) from None
        raise
    if isinstance(event, _Forwarded):
        raise RejectedEvent(Reason.UNKNOWN_TYPE, "type", "type: only segstream sends it, expected customer.profile.")
    return event


def profile_of(event: CustomerProfile, timestamp: int, tolerance_ms: int) -> Profile:
    """Return what an event says, dated. Raises RejectedEvent.

    `timestamp`: of its record; an event that is dated later by more than `tolerance_ms` would win for too long.
    """
    at = millis(event.occurred_at)
    if at > timestamp + tolerance_ms:
        message = f"occurred_at is {event.occurred_at.isoformat()}, later than the record's own time: check the clock."
        raise RejectedEvent(Reason.DATED_AHEAD, "occurred_at", message)
    return Profile(
        None if event.time_zone is None else DatedText(at, event.time_zone),
        None if event.language is None else DatedText(at, event.language),
        tuple(sorted((channel, DatedText(at, said)) for channel, said in (event.consent or {}).items())),
    )
