"""Whether a rule table makes sense: what contradicts itself, and what is probably not meant so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from segmentation.durations import duration_text
from segmentation.rules_text import TreePath

if TYPE_CHECKING:
    from segmentation.campaign_rules import Cap, QuietHours, Rule, RuleTable

MOST_GROUPS: Final = 32  # so many actions may wait for a customer, and each decision's note has them all
_Findings = Iterator[tuple[TreePath, str]]
# The names that the trainer gives of itself. A model may have others, which are no slips: they resemble none of these.
_TRAINED: Final = (
    "Champions", "Loyal", "Big Spenders", "Steady", "Potential Loyalists", "New", "Promising", "Need Attention",
    "About to Sleep", "At Risk", "Cannot Lose", "Hibernating", "Lost",
)  # fmt: skip


def contradictions(table: RuleTable) -> _Findings:
    """Yield what can't be meant, with its path and the remedy."""
    names = [rule.name for rule in table.rules]
    for index, name in enumerate(names):
        if (first := names.index(name)) < index:
            yield (
                ("rules", index, "name"),
                f"rules {first + 1} and {index + 1} share the name {name!r}: give each its own",
            )
    groups = list(dict.fromkeys(rule.group for rule in table.rules))
    if len(groups) > MOST_GROUPS:
        index = next(i for i, rule in enumerate(table.rules) if rule.group == groups[MOST_GROUPS])
        yield (
            ("rules", index, "group"),
            f"{groups[MOST_GROUPS]!r} is one group too many, expected at most {MOST_GROUPS}: each may act on one move",
        )
    if table.quiet_hours:
        yield from _quiet(table.quiet_hours, ("quiet_hours",))
    for index, cap in enumerate(table.caps):
        if (cap.within is None) == (cap.per is None):
            yield ("caps", index), "expected either `within` (a window, like 7d) or `per: day`"
    for index, rule in enumerate(table.rules):
        for field, text in _of_rule(table, rule):
            yield ("rules", index, *field), text


def _quiet(hours: QuietHours, path: TreePath) -> _Findings:
    if hours.from_minute == hours.until_minute:
        yield path, "from and until are the same time, expected two: leave quiet_hours out if there are none"


def _of_rule(table: RuleTable, rule: Rule) -> _Findings:
    hours = table.quiet_hours_of(rule)
    if rule.quiet_hours is not None and hours is not None:
        yield from _quiet(hours, ("quiet_hours",))
    if rule.unless and not rule.delay and not hours:
        yield ("unless",), "the rule never waits, so no order can come first: give it a `delay`, or quiet hours"
    if rule.valid:
        if rule.valid.from_ is None and rule.valid.until is None:
            yield ("valid",), "expected from, until, or both"
        elif rule.valid.from_ and rule.valid.until and rule.valid.from_ > rule.valid.until:
            yield ("valid",), f"until {rule.valid.until} is before from {rule.valid.from_}: swap them"
    if rule.transactional:
        for name, value in (("budget", rule.budget), ("holdout", rule.holdout)):
            if value is not None:
                yield (name,), f"a transactional rule has no {name}: take one of the two out"


def doubts(table: RuleTable) -> _Findings:
    """Yield what is probably not meant so, with its path and the remedy."""
    yield from _segments(table)
    yield from _tags(table)
    yield from _caps(table)
    yield from _waiting(table)
    yield from _never(table)


def thin_budgets(table: RuleTable, partitions: int) -> _Findings:
    """Yield the budgets that aren't enough for each shard to have a part."""
    for index, rule in enumerate(table.rules):
        if rule.budget is not None and rule.budget.per_day < partitions:
            text = (
                f"{rule.budget.per_day} a day, shared by {partitions} partitions: customers of"
                f" {partitions - rule.budget.per_day} of them get none; give {partitions} or more"
            )
            yield ("rules", index, "budget", "per_day"), text


def over(table: RuleTable, today: date) -> _Findings:
    """Yield the rules whose last day is over."""
    for index, rule in enumerate(table.rules):
        last = rule.valid.until if rule.valid else None
        if last is not None and last < today:
            yield ("rules", index, "valid", "until"), f"over since {last}: take the rule out, or give it another day"


def _segments(table: RuleTable) -> _Findings:
    """Yield the names that look like slips of the trainer's own: a rule for a segment that nobody has says nothing."""
    for index, rule in enumerate(table.rules):
        for field, names in (("from", rule.when.from_), ("to", rule.when.to)):
            for name in names or ():
                beginning = (name or "").removesuffix("*")
                if name is None or any(known.startswith(beginning) for known in _TRAINED):
                    continue
                like = {known.lower(): known for known in _TRAINED}
                if near := get_close_matches(name.lower(), like, 1, 0.66):
                    yield ("rules", index, "when", field), f"{name!r}: did you mean {like[near[0]]}?"


def _tags(table: RuleTable) -> _Findings:
    # Transactional rules are neither held to caps nor held out.
    known = {tag for rule in table.rules for tag in rule.tags if not rule.transactional}
    has = f"its tags are {', '.join(sorted(known))}" if known else "it has none"
    held = table.holdouts
    if held != type(held)() and held.global_ is None and not held.tags and not any(r.holdout for r in table.rules):
        yield ("holdouts",), "nobody is held out: give a share as `global`, under `tags`, or as a rule's `holdout`"
    for index, cap in enumerate(table.caps):
        if cap.tag is not None and cap.tag not in known:
            yield ("caps", index, "tag"), f"no rule of the table can be capped by the tag {cap.tag!r}: {has}"
    for tag in table.holdouts.tags:
        if tag not in known:
            yield ("holdouts", "tags", tag), f"no rule of the table can be held out by the tag {tag!r}: {has}"


def _caps(table: RuleTable) -> _Findings:
    """Yield the caps that never count, because another one lets fewer through in a longer time."""
    for index, cap in enumerate(table.caps):
        for other in table.caps:
            if other is not cap and other.tag in (None, cap.tag) and _is_tighter(other, cap):
                yield ("caps", index), f"never counts: {cap_text(other)} is stricter; take one of them out"
                break


def _is_tighter(one: Cap, other: Cap) -> bool:
    if one.within is None or other.within is None:
        return one.per is other.per is not None and one.at_most < other.at_most
    return one.at_most <= other.at_most and one.within >= other.within and one != other


def _never(table: RuleTable) -> _Findings:
    places = {rule.name: index for index, rule in enumerate(table.rules)}
    for group in table.ordered:
        for index, rule in enumerate(group):
            earlier = next((other for other in group[:index] if _takes_all(table, other, rule)), None)
            if earlier:
                text = f"never acts: {earlier.name!r} before it matches all its moves; move it up"
                yield ("rules", places[rule.name]), text


def _takes_all(table: RuleTable, rule: Rule, other: Rule) -> bool:
    """Return whether a rule takes every move of `other`, which comes after it in its group.

    A rule that is suppressed leaves the move to the next one. So it takes them all only where nothing can suppress it
    that wouldn't suppress the other one as well.
    """
    strict = table.consent_of(rule) == "required" and table.consent_of(other) != "required"
    waits = other.delay is not None or table.quiet_hours_of(other) is not None
    capped = table.caps_of(rule)
    return (
        rule.when.covers(other.when)
        and rule.cooldown is None
        and rule.budget is None
        and rule.valid is None
        and rule.then.channel == other.then.channel
        and not strict
        # One that waits is asked about caps later, when they may let it through.
        and (not capped or (not waits and set(capped) <= set(table.caps_of(other))))
    )


def _waiting(table: RuleTable) -> _Findings:
    """Yield the rules that say what goes for waiting, and never wait."""
    for index, rule in enumerate(table.rules):
        waits = rule.delay is not None or table.quiet_hours_of(rule) is not None
        if not rule.if_still and not waits:
            yield ("rules", index, "if_still"), "the rule never waits, so this says nothing: take the line out"
        if rule.when.first_time and rule.cooldown is not None:
            yield (
                ("rules", index, "cooldown"),
                "with `first_time` the campaign never comes again: take one of them out",
            )


def cap_text(cap: Cap) -> str:
    """Return a cap in words.

    >>> from segmentation.campaign_rules import Cap
    >>> cap_text(Cap.model_validate({"at_most": "2", "within": "7d", "tag": "marketing"}))
    'at most 2 within 7d of tag marketing'
    """
    span = "per day" if cap.within is None else f"within {duration_text(cap.within)}"
    return f"at most {cap.at_most} {span}{'' if cap.tag is None else f' of tag {cap.tag}'}"
