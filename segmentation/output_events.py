"""The events that go out: moves between segments, and campaign actions. `segmentation.events` writes them as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

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


class CampaignAction(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="campaign.action"):
    """The action of a campaign on a move. A `held_out` customer belongs to the control group: don't act."""

    id: str
    customer_id: str
    campaign: str
    segment: str
    action: str
    channel: str
    reason: str
    change_id: str
    held_out: bool
    occurred_at: OutTime


OutputEvent = SegmentChanged | CampaignAction
