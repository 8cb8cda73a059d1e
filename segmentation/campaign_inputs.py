"""The records that the campaign step reads: moves, and beside them profiles, orders, erasures and merges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from segmentation.campaign_budget import BUDGET_KEY
from segmentation.campaign_state import Act, Facts, Merged
from segmentation.event_text import Id
from segmentation.events import (
    CONTROL_KEY,
    END_AT,
    END_MS,
    FIRST_AT,
    Amount,
    CustomerErased,
    CustomerMerged,
    EventForwarded,
    InputEvent,
    OrderPlaced,
    Reason,
    RejectedEvent,
    Timestamp,
    decode,
    encode,
    millis,
    read_json,
)
from segmentation.life_conditions import KnownLife, MovedLife
from segmentation.outlook_conditions import KnownOutlook, MovedOutlook
from segmentation.output_events import Cause, NextMove, Rfm
from segmentation.profiles import CustomerProfile, Profile, decode_profile, profile_of
from segmentation.rfm_conditions import KnownRfm, MovedRfm
from segmentation.step import KafkaRecord, SideRecord

LAST_SEQUENCE: Final = 2**32 - 1
_SHOWN: Final = 64  # characters of a refused value that a message repeats


class ChangedEvent(msgspec.Struct, frozen=True, gc=False, rename={"from_": "from"}):
    """The fields of a segment.changed that a campaign needs. Others aren't read, so that the event can grow."""

    type: Literal["segment.changed"]  # a field, not msgspec's tag: a lone struct's tag may be missing
    id: Id
    customer_id: Id
    sequence: Annotated[int, Meta(ge=1, le=LAST_SEQUENCE)]
    from_: Id | None
    to: Id | None
    cause: Cause
    occurred_at: Timestamp
    life: MovedLife | None = None
    outlook: MovedOutlook | None = None
    rfm: MovedRfm | None = None
    before: Rfm | None = None
    next: NextMove | None = None
    merged_into: Id | UnsetType = UNSET


@dataclass(slots=True)
class ReadMove:
    """A move, and the figures of it that rules look at."""

    customer: bytes
    change: ChangedEvent
    at: int  # ms
    _life: KnownLife | None = None
    _outlook: KnownOutlook | None = None
    _rfm: KnownRfm | None = None

    @property
    def life(self) -> KnownLife | None:
        """The whole life as of the move."""
        if self._life is None and self.change.life is not None:
            self._life = KnownLife.of(self.change.life, self.at)
        return self._life

    @property
    def outlook(self) -> KnownOutlook | None:
        """The outlook in exact decimals, which take their time: few moves meet a rule that asks for them."""
        if self._outlook is None and self.change.outlook is not None:
            self._outlook = KnownOutlook.of(self.change.outlook)
        return self._outlook

    @property
    def rfm(self) -> KnownRfm | None:
        """The figures in the window, in exact decimals."""
        if self._rfm is None and self.change.rfm is not None:
            self._rfm = KnownRfm.of(self.change.rfm)
        return self._rfm


class LearnedFacts(NamedTuple):
    """Facts about a customer."""

    customer: bytes
    facts: Facts


class SeenOrder(NamedTuple):
    """An order of a customer, as far as goals and `unless` look at it. `at`: ms."""

    customer: bytes
    order_id: str
    at: int
    amount: Amount


SideEvent = LearnedFacts | SeenOrder

_MOVE: Final = msgspec.json.Decoder(ChangedEvent)


class _HandedAct(NamedTuple):
    campaign: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]  # hexadecimal
    at: Annotated[int, Meta(ge=0, lt=END_MS)]
    sent: bool


class ProfileForwarded(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="profile.forwarded"):
    """All that is known of an id that was merged, for the customer that it was merged into."""

    id: Id
    customer_id: Id
    profile: Profile
    acts: tuple[_HandedAct, ...] = ()


_HANDED_ON: Final = msgspec.json.Decoder(
    ProfileForwarded | CustomerProfile | CustomerErased | CustomerMerged | EventForwarded
)


def _customer(name: str) -> bytes:
    """Return a customer's key. Raises RejectedEvent for one under which budgets are stored."""
    key = name.encode()
    if key.startswith(BUDGET_KEY):
        message = f"customer_id is {name[:_SHOWN]!r}, expected one that doesn't begin so: budgets are kept under it."
        raise RejectedEvent(Reason.KEY_NOT_CUSTOMER, "customer_id", message)
    return key


def read_move(record: KafkaRecord) -> ReadMove:
    """Decode a move. Raises RejectedEvent."""
    change = read_json(_MOVE, record.value, "segment.changed")
    customer = _customer(change.customer_id)
    if record.key != customer:
        message = (
            f"the record's key is {record.key!r}, the customer {customer!r}: "
            "only segstream writes moves, keyed by customer."
        )
        raise RejectedEvent(Reason.KEY_NOT_CUSTOMER, "customer_id", message)
    at = millis(change.occurred_at)
    if change.life is not None and not FIRST_AT <= change.life.first_order_at < END_AT:
        millis(change.life.first_order_at, "life.first_order_at")  # raises
    return ReadMove(customer, change, at)


def read_profile(record: SideRecord, tolerance_ms: int) -> LearnedFacts:
    """Decode a record of the topic of profiles. Raises RejectedEvent."""
    if record.key == CONTROL_KEY:
        event = read_json(_HANDED_ON, record.value, "profile.forwarded", "customer.profile")
        if isinstance(event, ProfileForwarded):
            acts = tuple(Act(bytes.fromhex(act.campaign), act.at, act.sent) for act in event.acts)
            return LearnedFacts(_customer(event.customer_id), Facts(event.profile, handed_on=acts))
        if not isinstance(event, CustomerProfile):
            return _handed_on_from_orders(event, record.timestamp + tolerance_ms)
    else:
        event = decode_profile(record.value)
        if record.key != event.customer_id.encode():
            message = f"the record's key is {record.key!r}, expected the customer {event.customer_id!r}."
            raise RejectedEvent(Reason.KEY_NOT_CUSTOMER, "customer_id", message)
    return LearnedFacts(_customer(event.customer_id), Facts(profile_of(event, record.timestamp, tolerance_ms)))


def _handed_on_from_orders(event: CustomerErased | CustomerMerged | EventForwarded, latest: int) -> LearnedFacts:
    """Return what an event of the topic of orders says that came by the former number of partitions."""
    inner, customer = event.event if isinstance(event, EventForwarded) else event, _customer(event.customer_id)
    found = _side_event(inner, customer, latest, orders=False)
    return found if isinstance(found, LearnedFacts) else LearnedFacts(customer, Facts())


def forwarded(event_id: str, into: str, facts: Facts, acts: tuple[Act, ...]) -> bytes:
    """Return the record of what is known of a merged id, for the customer that it was merged into."""
    handed = tuple(_HandedAct(act.campaign.hex(), act.at, act.sent) for act in acts)
    return encode(ProfileForwarded(id=event_id, customer_id=into, profile=facts.profile, acts=handed))


def read_order_record(record: SideRecord, tolerance_ms: int, *, orders: bool) -> SideEvent | None:
    """Decode a record of the topic of orders; None: it means nothing to campaigns.

    `orders`: whether some rule looks at orders. What can't be read is none of this step's business: the scoring step
    reads the same record, and reports it.
    """
    try:
        event: InputEvent = decode(record.value)
        if isinstance(event, EventForwarded) and record.key == CONTROL_KEY:
            return _side_event(
                event.event, _customer(event.customer_id), record.timestamp + tolerance_ms, orders=orders
            )
        if (
            isinstance(event, OrderPlaced | CustomerErased | CustomerMerged)
            and record.key == event.customer_id.encode()
        ):
            return _side_event(event, _customer(event.customer_id), record.timestamp + tolerance_ms, orders=orders)
    except RejectedEvent:
        pass
    return None


def _side_event(event: object, customer: bytes, latest: int, *, orders: bool) -> SideEvent | None:
    """Return what an event says of a customer. Raises RejectedEvent. `latest`: none may be dated later (ms)."""
    if isinstance(event, OrderPlaced) and orders and (at := millis(event.occurred_at)) <= latest:
        return SeenOrder(customer, event.order_id, at, event.amount)
    if isinstance(event, CustomerErased) and (at := millis(event.occurred_at)) <= latest:
        return LearnedFacts(customer, Facts(erased_at=at))
    if isinstance(event, CustomerMerged) and event.into != event.from_ and (at := millis(event.occurred_at)) <= latest:
        return LearnedFacts(customer, Facts(merged=Merged(at, event.into)))
    return None
