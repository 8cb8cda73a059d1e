"""The control groups that one customer belongs to, by the rules of campaigns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from segmentation.event_text import iso
from segmentation.events import millis
from segmentation.holdouts import GLOBAL, campaign_scope, is_held_out, period_end, period_of, tag_scope
from segmentation.quiet_hours import zone_named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from segmentation.campaign_rules import RuleTable


class ControlGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A control group: `global`, `tag:NAME` or `campaign:NAME`. `share`: of all customers, a part of 1."""

    group: str
    share: float
    held_out: bool


class CampaignFor(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign as it is for the customer. `by`: the group by which it is held out; None: it would be sent."""

    campaign: str
    held_out: bool
    by: str | None


class ControlGroups(msgspec.Struct, frozen=True, kw_only=True):
    """The control groups of a customer at an instant. `until`: when they are drawn anew; None: never.

    `period`: the one they are drawn for, None where they never are. `rules`: the digest that decisions carry.
    """

    customer_id: str
    at: str
    period: str | None
    until: str | None
    rules: str
    groups: tuple[ControlGroup, ...]
    campaigns: tuple[CampaignFor, ...]


def control_groups(table: RuleTable, customer_id: str, at_ms: int) -> ControlGroups:
    """Return the control groups of a customer, as the campaign step decides them."""
    zone = zone_named(table.time_zone)
    assert zone is not None  # rules are checked as they are read
    own = table.holdouts
    period = period_of(at_ms, own.rotate, zone)
    groups = {
        scope: ControlGroup(
            group=scope,
            share=float(share),
            held_out=is_held_out(customer_id.encode(), scope, share, own.salt, period),
        )
        for scope, share in _shares(table)
    }
    campaigns = []
    for rule in table.rules:
        scopes = () if rule.transactional else (GLOBAL, *map(tag_scope, rule.tags), campaign_scope(rule.name))
        by = next((scope for scope in scopes if scope in groups and groups[scope].held_out), None)
        campaigns.append(CampaignFor(campaign=rule.name, held_out=by is not None, by=by))
    end = period_end(at_ms, own.rotate, zone)
    return ControlGroups(
        customer_id=customer_id,
        at=iso(at_ms),
        period=period or None,
        until=None if end is None else iso(millis(end)),
        rules=table.digest,
        groups=tuple(groups.values()),
        campaigns=tuple(campaigns),
    )


def _shares(table: RuleTable) -> Iterator[tuple[str, Decimal]]:
    """Yield the groups that the rules hold out, each with its share."""
    if table.holdouts.global_ is not None:
        yield GLOBAL, table.holdouts.global_
    for tag, share in table.holdouts.tags.items():
        yield tag_scope(tag), share
    for rule in table.rules:
        if rule.holdout is not None:
            yield campaign_scope(rule.name), rule.holdout


def sentences(found: ControlGroups) -> Iterator[str]:
    """Yield the groups as lines for people."""
    until = "" if found.until is None else f" until {found.until} ({found.period})"
    yield f"{found.customer_id}{until}, by rules {found.rules}"
    inside, outside = (
        "; ".join(f"{group.group}, {group.share * 100:g} %" for group in found.groups if group.held_out is of)
        for of in (True, False)
    )
    held_out = ", ".join(f"{one.campaign} ({one.by})" for one in found.campaigns if one.held_out)
    gets = ", ".join(one.campaign for one in found.campaigns if not one.held_out)
    for label, text in (
        ("in the control group", inside),
        ("not in", outside),
        ("held out of", held_out),
        ("may get", gets),
    ):
        yield f"{label:<22}{text or 'none'}"
