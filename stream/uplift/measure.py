"""The uplift of each campaign: what treated customers bought afterwards, against those held out."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec
import numpy as np

from segmentation.entries import DAY_MS, Rules
from segmentation.event_text import iso
from stream.uplift.contacts import CampaignSample, samples, share_shifts
from stream.uplift.interval import CONFIDENCE, difference, sums

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stream.uplift.contacts import Contacts, Enrolment
    from stream.uplift.interval import Floats, Sums
    from stream.uplift.purchases import PurchaseHistories

BEFORE_DAYS: Final = 90  # whose purchases explain part of those after
_DIGITS: Final = 4  # of money and orders per customer


class UpliftVerdict(StrEnum):
    """The verdict of the intervals on a campaign."""

    HARM = "harm"  # the upper bound of the spend or of the orders is below zero
    GAIN = "gain"  # a lower bound is above zero, and no upper bound below
    UNCLEAR = "unclear"  # zero is within the intervals
    TOO_FEW = "too_few"  # too few buyers yet, both for the spend and for the orders
    NO_CONTROL = "no_control"  # nobody was held out, or nobody treated


class UpliftRequest(NamedTuple):
    """The comparison that is wanted. Instants in ms.

    `since_ms`: contacts from then on count. `known_until_ms`: purchases are known up to then. `rules`: of the window.
    """

    since_ms: int
    known_until_ms: int
    days: int
    rules: Rules
    currency: str
    campaigns: Collection[str] = ()


class GroupFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One group. `buyers`: with money spent in the time after; `orders`, `spend`: per customer in that time."""

    customers: int
    buyers: int
    orders: float
    spend: float


class UpliftFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The difference per customer, treated less held out.

    `low`, `high`: None while there are too few buyers. `buyers`: in the smaller group, if both bought alike; `needed`:
    how many it takes. `explained`: the share of the variance that the purchases before explain.
    """

    difference: float
    low: float | None
    high: float | None
    buyers: int
    needed: int
    explained: float


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Customers who aren't compared, by reason.

    `open`: the time after isn't over. `contaminated`: another campaign reached them in the time before, or this one in
    the other group. `merged`, `erased`: since the time before began.
    """

    open: int = 0
    contaminated: int = 0
    merged: int = 0
    erased: int = 0


class CampaignUplift(msgspec.Struct, frozen=True, kw_only=True):
    """The uplift of one campaign. `spend`, `orders`: None without a control group.

    `total`: the difference in spend times the treated customers. `later`: those compared whom another campaign reached
    in the time after. `shifting`: the share held out changed, so that the groups are of different times.
    """

    campaign: str
    verdict: UpliftVerdict
    harms: tuple[Literal["spend", "orders"], ...]
    treated: GroupFigures
    held_out: GroupFigures
    spend: UpliftFigures | None
    orders: UpliftFigures | None
    total: float | None
    left_out: LeftOut
    later: int
    shifting: bool


class UpliftReport(msgspec.Struct, frozen=True, kw_only=True):
    """The uplift of all campaigns. `days`: the time after each contact, in which purchases count.

    `unusable`: events of compared customers that couldn't be used, by reason. `unreadable`: records that are no
    decisions.
    """

    since: str | None
    known_until: str
    days: int
    confidence: float
    currency: str
    campaigns: tuple[CampaignUplift, ...]
    unusable: dict[str, int]
    unreadable: int

    @property
    def harmful(self) -> list[CampaignUplift]:
        """The campaigns that harm."""
        return [found for found in self.campaigns if found.harms]


class _Columns(NamedTuple):
    """The purchases of a group's customers, [customers]: after, and before."""

    spend: Floats
    spend_before: Floats
    orders: Floats
    orders_before: Floats


def measure(request: UpliftRequest, contacts: Contacts, purchases: PurchaseHistories) -> UpliftReport:
    """Return the uplift of the campaigns, by name."""
    found = samples(contacts, request.since_ms, request.days * DAY_MS, request.campaigns)
    return UpliftReport(
        since=iso(request.since_ms) if request.since_ms > 0 else None,
        known_until=iso(request.known_until_ms),
        days=request.days,
        confidence=CONFIDENCE,
        currency=request.currency,
        campaigns=tuple(_uplift(request, sample, purchases) for sample in found),
        unusable=dict(purchases.unusable),
        unreadable=contacts.unreadable,
    )


def _uplift(request: UpliftRequest, sample: CampaignSample, purchases: PurchaseHistories) -> CampaignUplift:
    left_out: Counter[str] = Counter()
    compared: list[Enrolment] = []
    for enrolment in sample.enrolled:
        why = _why_left_out(request, enrolment, purchases)
        if why is None:
            compared.append(enrolment)
        else:
            left_out[why] += 1
    groups = [
        _columns(request, [e for e in compared if e.held_out is held_out], purchases) for held_out in (False, True)
    ]
    treated, held_out = groups
    spend = orders = None
    if all(len(group.spend) for group in groups):
        spend = _figures(*(sums(of.spend, of.spend_before) for of in groups))
        orders = _figures(*(sums(of.orders, of.orders_before) for of in groups))
    harms, verdict = verdict_of(spend, orders)
    return CampaignUplift(
        campaign=sample.campaign,
        verdict=verdict,
        harms=harms,
        treated=_group(treated),
        held_out=_group(held_out),
        spend=spend,
        orders=orders,
        total=None if spend is None else round(spend.difference * len(treated.spend), 2),
        left_out=LeftOut(contaminated=sample.contaminated, **left_out),
        later=sample.later,
        shifting=share_shifts(compared),
    )


def _why_left_out(request: UpliftRequest, enrolment: Enrolment, purchases: PurchaseHistories) -> str | None:
    """Return why a customer isn't compared, as a field of LeftOut; None: it is."""
    begin = enrolment.at - BEFORE_DAYS * DAY_MS
    customer = enrolment.customer
    if purchases.erased.get(customer, begin) > begin:
        return "erased"
    if purchases.merged.get(customer, begin) > begin:
        return "merged"
    return "open" if enrolment.at + request.days * DAY_MS > request.known_until_ms else None


def _columns(request: UpliftRequest, group: Sequence[Enrolment], purchases: PurchaseHistories) -> _Columns:
    rows = np.zeros((4, len(group)))
    for place, enrolment in enumerate(group):
        days_ms = request.days * DAY_MS
        after = purchases.until(enrolment.customer, enrolment.at + days_ms, days_ms, request.rules)
        before = purchases.until(enrolment.customer, enrolment.at, BEFORE_DAYS * DAY_MS, request.rules)
        rows[:, place] = after.spend, before.spend, after.orders, before.orders
    return _Columns(*rows)


def _figures(treated: Sums, held_out: Sums) -> UpliftFigures:
    found = difference(treated, held_out)
    value, low, high, buyers, needed, explained = (float(column[0]) for column in found)
    known = low == low  # noqa: PLR0124 - not NaN
    return UpliftFigures(
        difference=round(value, _DIGITS),
        low=round(low, _DIGITS) if known else None,
        high=round(high, _DIGITS) if known else None,
        buyers=int(buyers),
        needed=int(needed),
        explained=round(max(explained, 0.0), _DIGITS),
    )


def _group(columns: _Columns) -> GroupFigures:
    count = len(columns.spend)
    return GroupFigures(
        customers=count,
        buyers=int((columns.spend > 0).sum()),
        orders=round(float(columns.orders.mean()), _DIGITS) if count else 0.0,
        spend=round(float(columns.spend.mean()), _DIGITS) if count else 0.0,
    )


def verdict_of(
    spend: UpliftFigures | None, orders: UpliftFigures | None
) -> tuple[tuple[Literal["spend", "orders"], ...], UpliftVerdict]:
    """Return what a campaign harms, and the verdict. Each of the two alarms is false with half of 5 % at most."""
    if spend is None or orders is None:
        return (), UpliftVerdict.NO_CONTROL
    named: tuple[tuple[Literal["spend", "orders"], UpliftFigures], ...] = (("spend", spend), ("orders", orders))
    harms = tuple(name for name, figures in named if figures.high is not None and figures.high < 0)
    if harms:
        return harms, UpliftVerdict.HARM
    lows = [figures.low for _, figures in named if figures.low is not None]
    if not lows:
        return (), UpliftVerdict.TOO_FEW
    return (), UpliftVerdict.GAIN if max(lows) > 0 else UpliftVerdict.UNCLEAR
