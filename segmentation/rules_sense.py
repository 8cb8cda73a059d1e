"""Whether a rule table makes sense: what contradicts itself, and what is probably not meant so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from segmentation.durations import duration_text
from segmentation.rules_text import TreePath

if TYPE_CHECKING:
    from segmentation.campaign_rules import Cap, QuietHours, Rule, RuleTable

_Findings = Iterator[tuple[TreePath, str]]


def contradictions(table: RuleTable) -> _Findings:
    """Yield what can't be meant, with its path and the remedy."""
    names = [rule.name for rule in table.rules]
    for index, name in enumerate(names):
        if (first := names.index(name)) < index:
            yield (
                ("rules", index, "name"),
                f"rules {first + 1} and {index + 1} share the name {name!r}: give each its own",
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
    yield from _tags(table)
    yield from _never(table)


def _tags(table: RuleTable) -> _Findings:
    known = {tag for rule in table.rules for tag in rule.tags}
    has = f"the rules have {', '.join(sorted(known))}" if known else "no rule has tags"
    for index, cap in enumerate(table.caps):
        if cap.tag is not None and cap.tag not in known:
            yield ("caps", index, "tag"), f"no rule has the tag {cap.tag!r}, so nothing is capped: {has}"
    for tag in table.holdouts.tags:
        if tag not in known:
            yield ("holdouts", "tags", tag), f"no rule has the tag {tag!r}, so nobody is held out by it: {has}"


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
    return (
        rule.when.covers(other.when)
        and rule.cooldown is None
        and rule.budget is None
        and rule.valid is None
        and rule.then.channel == other.then.channel
        and not strict
        and set(table.caps_of(rule)) <= set(table.caps_of(other))
    )


def cap_text(cap: Cap) -> str:
    """Return a cap in words.

    >>> from segmentation.campaign_rules import Cap
    >>> cap_text(Cap.model_validate({"at_most": "2", "within": "7d", "tag": "marketing"}))
    'at most 2 within 7d of tag marketing'
    """
    span = "per day" if cap.within is None else f"within {duration_text(cap.within)}"
    return f"at most {cap.at_most} {span}{'' if cap.tag is None else f' of tag {cap.tag}'}"
