"""The events that go out: moves between segments, and decisions of campaigns. `segmentation.events` writes them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from segmentation.event_text import Id, OutTime, SignedDecimalText


class Cause(StrEnum):
    """The cause of a move."""

    ORDER = "order"
    REFUND = "refund"
    CANCELLATION = "cancellation"
    SILENCE = "silence"  # no event for long enough
    WINDOW = "window"  # an order left the window
    MODEL = "model"
    SETTINGS = "settings"  # the deployment's settings changed: the window, the dwell, …
    FIRST = "first"
    BACKFILL = "backfill"  # the load of the customer's history is complete
    ERASURE = "erasure"
    MERGED = "merged"  # the id was merged into another
    MERGE = "merge"  # another id was merged into the customer's


class Rfm(Struct, frozen=True, gc=False):
    """The figures that a customer was scored on."""

    recency_days: float
    frequency: int
    monetary: SignedDecimalText  # net of refunds, so it can lie below zero


class LifeFigures(Struct, frozen=True, gc=False, omit_defaults=True):
    """The customer's whole life, beyond the window: orders that stand, and the UTC days with one of them."""

    orders: int
    purchase_days: int
    monetary: SignedDecimalText  # of all orders, net of refunds
    mean_order_value: SignedDecimalText
    first_order_at: OutTime
    last_order_at: OutTime
    mean_gap_days: float | None = None  # between purchase days; none before the second one
    typical_gap_days: float | None = None  # the median
    partial: Annotated[bool, Meta(description="orders were forgotten before they were counted")] = False


class OutlookFigures(Struct, frozen=True, gc=False):
    """The expectations of the next 90 days, if the customer goes on as before. Several orders of one day are one."""

    chance_90d: Annotated[float, Meta(ge=0, le=1, description="chance of an order in the next 90 days")]
    orders_90d: Annotated[float, Meta(description="expected orders in the next 90 days")]
    spend_90d: SignedDecimalText  # expected
    usual_gap_days: float  # expected days between two orders of the customer
    silence_in_gaps: Annotated[float, Meta(description="silence since the last order, in usual gaps")]


class NextMove(Struct, frozen=True, gc=False):
    """The customer's next move, if nothing happens until then."""

    segment: str
    at: OutTime


class SegmentChanged(
    Struct, frozen=True, kw_only=True, tag_field="type", tag="segment.changed", rename={"from_": "from"}
):
    """A customer has moved. `sequence` counts its moves from 1; each `from` is the `to` before. Segments go by name."""

    id: str
    customer_id: str
    sequence: int
    from_: str | None
    to: str | None
    cause: Cause
    occurred_at: OutTime  # when the customer moved
    scored_at: OutTime  # when the worker computed the move
    model_version: str | None
    rfm: Rfm | None
    before: Rfm | None
    distances: dict[str, float]
    next: NextMove | None
    causation_id: str | None
    life: LifeFigures | None = None  # None: no order stands, or written by a version before 2
    outlook: OutlookFigures | None = None  # None: the model has none, or no order stands
    merged_into: Id | UnsetType = UNSET  # of a move to nowhere because the id was merged


class KeptBy(Struct, frozen=True, gc=False):
    """The instant before which an order keeps the customer in the segment."""

    segment: str
    order_before: OutTime


class ActionVariables(Struct, frozen=True, gc=False, omit_defaults=True):
    """The figures of the move that a rule passes on; those that it doesn't name are left out."""

    rfm: Rfm | UnsetType | None = UNSET
    before: Rfm | UnsetType | None = UNSET
    next: NextMove | UnsetType | None = UNSET
    keep: KeptBy | UnsetType | None = UNSET  # None: no move is due, if nothing happens
    segment: str | UnsetType = UNSET


class CampaignEvent(Struct, frozen=True, gc=False, kw_only=True):
    """The fields that all decisions of a campaign about a customer have."""

    id: str
    customer_id: str
    campaign: str
    segment: str  # that the customer moved to
    action: str
    channel: str
    change_id: str  # of the move
    occurred_at: OutTime  # of the move
    decided_at: OutTime | None = None  # None: published by a version that didn't say it, as `rules`
    rules: Annotated[str, Meta(description="identifies the content of the rules that decided")] | None = None


class CampaignAction(CampaignEvent, frozen=True, gc=False, kw_only=True, tag_field="type", tag="campaign.action"):
    """Act now. The move and the rule behind it have no other action."""

    reason: str
    tags: tuple[str, ...] = ()
    variables: ActionVariables = ActionVariables()
    language: str | None = None  # of the customer's profile
    time_zone: str | None = None  # of the customer's profile, where there is a zone of that name


class Withheld(StrEnum):
    """The reason why an action isn't sent."""

    HELD_OUT = "held_out"  # the customer belongs to a control group
    TOO_OLD = "too_old"  # the move came to the dispatcher too late
    NO_CONSENT = "no_consent"
    COOLDOWN = "cooldown"
    FIRST_TIME = "first_time"  # the customer had the campaign before
    CAP = "cap"
    BUDGET = "budget"
    MOVED_ON = "moved_on"  # held back, and the customer isn't in the segment any more
    ORDERED = "ordered"  # held back, and the customer has ordered
    MERGED = "merged"  # held back, and the id was merged into another
    RULE_REMOVED = "rule_removed"  # held back, and the rules have no such campaign any more
    NOT_VALID = "not_valid"  # held back, and the campaign is over


class CampaignWithheld(CampaignEvent, frozen=True, gc=False, kw_only=True, tag_field="type", tag="campaign.withheld"):
    """A rule matched, and its action isn't sent: never act on this."""

    reason: Withheld
    detail: str


class CampaignScheduled(CampaignEvent, frozen=True, gc=False, kw_only=True, tag_field="type", tag="campaign.scheduled"):
    """An action is held back. A campaign.action or campaign.withheld of the same move and campaign follows."""

    until: OutTime
    why: Literal["delay", "quiet_hours"]


class CampaignConverted(CampaignEvent, frozen=True, gc=False, kw_only=True, tag_field="type", tag="campaign.converted"):
    """The customer has ordered in time after a campaign with a goal: had its action, or was held out of it."""

    action_id: str  # of the campaign.action, or of the campaign.withheld of the customer who was held out
    held_out: bool
    order_id: str
    amount: Money
    ordered_at: OutTime
    acted_at: OutTime


class CampaignBudget(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="campaign.budget"):
    """The part of the daily budgets that a shard has used: actions of a day, by campaign."""

    id: str
    shard: int
    used: dict[str, BudgetUsed]
    decided_at: OutTime


class BudgetUsed(Struct, frozen=True, gc=False):
    """The actions of a campaign on a day, in the rule's time zone."""

    day: Annotated[str, Meta(extra_json_schema={"format": "date"})]
    actions: int


class Money(Struct, frozen=True, gc=False):
    """An amount as the order had it."""

    value: str
    currency: str


CampaignDecision = CampaignAction | CampaignWithheld | CampaignScheduled | CampaignConverted
OutputEvent = SegmentChanged | CampaignDecision | CampaignBudget
