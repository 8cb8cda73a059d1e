"""The checks between a rule that matches and its action: whether it may be sent to this customer, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.campaign_budget import BudgetBook
from segmentation.campaign_state import Act, CampaignState, name_key
from segmentation.durations import duration_text
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.holdouts import GLOBAL, campaign_scope, is_held_out, period_of, tag_scope
from segmentation.output_events import Cause, Withheld
from segmentation.quiet_hours import DailyHours, local_day, quiet_until, zone_named

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from segmentation.campaign_inputs import ChangedEvent
    from segmentation.campaign_rules import Cap, Rule, RuleTable


_Kind = tuple[str | None, str, Cause]  # of a move: from, to, cause
_KINDS: Final = 10_000  # remembered at most: more than the moves between all segments


class Suppressed(NamedTuple):
    """The action isn't sent. `detail`: a sentence on it."""

    reason: Withheld
    detail: str


class Postponed(NamedTuple):
    """The action isn't sent before an instant (ms)."""

    until: int


class RuleBook:
    """A rule table, with what its checks look up."""

    def __init__(self, table: RuleTable) -> None:
        """`table` has at least one rule."""
        self.table = table
        self.groups = table.ordered
        self.digest = table.digest
        self.rules = {rule.name: rule for rule in table.rules}
        self.budgets = frozenset(rule.name for rule in table.rules if rule.budget)
        self.orders = any(rule.goal or rule.unless for rule in table.rules)
        by_priority = sorted(table.rules, key=lambda rule: -rule.priority)
        self._ranks = {rule.name: rank for rank, rule in enumerate(by_priority)}
        self._kinds: dict[_Kind, tuple[tuple[Rule, ...], ...]] = {}
        self._by_key = {name_key(rule.name): rule for rule in table.rules}
        zone = zone_named(table.time_zone)
        assert zone is not None  # rules are checked as they are read
        self.zone = zone

    def rank(self, campaign: str) -> int:
        """Return the place of a campaign among all by priority; one without a rule comes first: it ends anyway."""
        return self._ranks.get(campaign, -1)

    def groups_for(self, change: ChangedEvent) -> tuple[tuple[Rule, ...], ...]:
        """Return the groups' rules that a move meets, going by its segments and cause alone."""
        assert change.to is not None
        kind = (change.from_, change.to, change.cause)
        found = self._kinds.get(kind)
        if found is None:
            groups = (tuple(rule for rule in group if rule.when.meets(*kind)) for group in self.groups)
            found = tuple(group for group in groups if group)
            if len(self._kinds) < _KINDS:
                self._kinds[kind] = found
        return found

    def is_valid(self, rule: Rule, at: int) -> bool:
        """Return whether a rule's days include an instant (ms)."""
        if rule.valid is None:
            return True
        zone = zone_named(self.table.zone_of(rule))
        assert zone is not None  # as above
        day, begin, end = local_day(at, zone), rule.valid.from_, rule.valid.until
        return (begin is None or begin <= day) and (end is None or day <= end)

    def too_old(self, rule: Rule, moved_at: int, at: int) -> Suppressed | None:
        """Return whether a move (ms) has come too late to act on it at an instant (ms)."""
        most = self.table.max_age_of(rule)
        if most is None or at <= moved_at + most:
            return None
        return Suppressed(Withheld.TOO_OLD, f"moved at {iso(moved_at)}, more than {duration_text(most)} ago")

    def had_lately(self, rule: Rule, state: CampaignState, at: int) -> Suppressed | None:
        """Return why the customer had the campaign too lately to have it at an instant (ms)."""
        key = name_key(rule.name)
        last = max((act.at for act in state.acts if act.campaign == key), default=None)
        pending = state.decided.pending_of(rule.name)
        if rule.when.first_time and (last is not None or pending):
            when = "has it coming" if last is None else f"had it at {iso(last)}"
            return Suppressed(Withheld.FIRST_TIME, f"the customer {when}, and it acts once only")
        if pending:
            return Suppressed(
                Withheld.COOLDOWN, f"the campaign is held back for the customer until {iso(pending.until)}"
            )
        if last is not None and rule.cooldown is not None and at < last + rule.cooldown:
            return Suppressed(Withheld.COOLDOWN, f"acted at {iso(last)}, again from {iso(last + rule.cooldown)} on")
        return None

    def refused(self, rule: Rule, state: CampaignState, channel: str) -> Suppressed | None:
        """Return why the customer's consent keeps an action from a channel."""
        said = state.facts.profile.consent_for(channel)
        if said == "denied":
            return Suppressed(Withheld.NO_CONSENT, f"consent for {channel} is denied")
        if said is None and self.table.consent_of(rule) == "required":
            return Suppressed(Withheld.NO_CONSENT, f"consent for {channel} isn't granted, and the rule requires it")
        return None

    def quiet(self, rule: Rule, state: CampaignState, at: int) -> tuple[Postponed | None, bool]:
        """Return (until when quiet hours hold an action back, whether the customer's time zone is none)."""
        hours = self.table.quiet_hours_of(rule)
        if hours is None:
            return None, False
        zone, unknown = state.facts.profile.zone(self.table.zone_of(rule))
        until = quiet_until(at, DailyHours(hours.from_minute, hours.until_minute), zone)
        return (None if until is None else Postponed(until)), unknown

    def capped(self, rule: Rule, state: CampaignState, at: int) -> Suppressed | None:
        """Return the cap that keeps a rule from acting."""
        if not (caps := self.table.caps_of(rule)):
            return None
        acts = [act for act in state.acts if act.sent]
        zone, _ = state.facts.profile.zone(self.table.zone_of(rule))
        for cap in caps:
            counted = sum(1 for act in acts if self._counts(cap, act, at, zone))
            if counted >= cap.at_most:
                tag = "" if cap.tag is None else f" with tag {cap.tag}"
                return Suppressed(Withheld.CAP, f"{counted} actions{tag} {_span(cap)}, at most {cap.at_most} allowed")
        return None

    def over_budget(self, rule: Rule, budget: BudgetBook, at: int) -> Suppressed | None:
        """Return whether a rule's budget of the day is used up."""
        if rule.budget is None or rule.transactional:
            return None
        part = budget.part_of(rule.budget.per_day)
        if budget.used(rule.name, self._day(rule, at)) < part:
            return None
        return Suppressed(
            Withheld.BUDGET, f"{rule.budget.per_day} a day, of which this shard's part of {part} is used up"
        )

    def held_out(self, rule: Rule, customer: bytes, at: int) -> Suppressed | None:
        """Return which hold-out a customer belongs to."""
        if rule.transactional:
            return None
        found = self.table.holdouts
        period = period_of(at, found.rotate, self.zone)
        scopes = [(GLOBAL, found.global_), *((tag_scope(tag), found.tags.get(tag)) for tag in rule.tags)]
        for scope, share in (*scopes, (campaign_scope(rule.name), rule.holdout)):
            if share is not None and is_held_out(customer, scope, share, found.salt, period):
                within = f" in {period}" if period else ""
                return Suppressed(Withheld.HELD_OUT, f"in the control group ({scope}){within}")
        return None

    def spend(self, rule: Rule, budget: BudgetBook, at: int) -> None:
        """Count an action against a rule's budget of the day."""
        if rule.budget is not None and not rule.transactional:
            budget.spend(rule.name, self._day(rule, at))

    def _day(self, rule: Rule, at: int) -> str:
        zone = zone_named(self.table.zone_of(rule))
        assert zone is not None  # as above
        return local_day(at, zone).isoformat()

    def _counts(self, cap: Cap, act: Act, at: int, zone: ZoneInfo) -> bool:
        rule = self._by_key.get(act.campaign)
        if cap.tag is not None and (rule is None or cap.tag not in rule.tags):
            return False
        if rule is not None and rule.transactional:
            return False
        if cap.within is not None:
            return act.at > at - cap.within
        return local_day(act.at, zone) == local_day(at, zone)


def _span(cap: Cap) -> str:
    """Return the time of a cap in words.

    >>> from segmentation.campaign_rules import Cap
    >>> [_span(Cap.model_validate({"at_most": "1", "within": within})) for within in ("1h", "2h", "1d", "36h")]
    ['within 1 hour', 'within 2 hours', 'within 1 day', 'within 1.5 days']
    """
    if cap.within is None:
        return "on this day"
    count, unit = (cap.within / DAY_MS, "day") if cap.within >= DAY_MS else (cap.within / 3_600_000, "hour")
    return f"within {count:g} {unit}{'' if count == 1 else 's'}"
