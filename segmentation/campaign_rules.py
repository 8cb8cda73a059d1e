"""The rules of campaigns, out of YAML: on which moves they act, how, when, and for whom not. Errors name the line."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cached_property
from hashlib import blake2b
from importlib.resources import files
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag, ValidationError

from segmentation.rule_fields import (
    BudgetCount,
    CapCount,
    Cooldown,
    Day,
    Delay,
    GoalSpan,
    MinuteOfDay,
    MoveAge,
    Name,
    Priority,
    Share,
    Switch,
    Tags,
    Text,
    Variables,
    Version,
    Window,
    ZoneName,
    listed,
)
from segmentation.rule_when import RulePart, When, among
from segmentation.rules_former import FORMER, former_path, is_former, translated
from segmentation.rules_sense import contradictions, doubts
from segmentation.rules_text import BRANCH, KEY, RulesError, RulesTree, TreePath, explain, nothing_there, read_tree

__all__ = [
    "Cap",
    "Consent",
    "Goal",
    "Holdouts",
    "QuietHours",
    "Rule",
    "RuleTable",
    "RulesError",
    "Then",
    "Validity",
    "default_rules",
    "parse_rules",
]

Consent = Literal["unless_denied", "required"]
# Where free text stands, quotes mend what YAML takes for a number, a day or a switch. Anywhere else they mend nothing:
# there the field itself says what it takes.
_TEXTS: Final = ("name", "action", "channel", "reason", "group", "salt", "tag", "time_zone")
_LISTS_OF_TEXTS: Final = ("from", "to", "tags")

MOST_RULES: Final = 1_000


class QuietHours(RulePart):
    """The hours of the day in which nobody gets a message: from one minute of the day until before another.

    `until` at or before `from` is on the next day.
    """

    from_minute: MinuteOfDay = Field(alias="from", description='beginning, like "21:00"')
    until_minute: MinuteOfDay = Field(alias="until", description='end, like "08:00"; may be on the next day')


class Cap(RulePart):
    """The most actions that a customer gets, of all rules or of those with a tag.

    Either `within` a window that ends now (ms), or `per` calendar day in the customer's zone.
    """

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["within"]}, {"required": ["per"]}]})

    at_most: CapCount = Field(description="actions")
    within: Window | None = Field(None, description="window that ends now, 1h to 31d")
    per: Literal["day"] | None = Field(None, description="calendar day in the customer's time zone")
    tag: Name | None = Field(None, description="only rules with this tag count, and are held to it")


class Holdouts(RulePart):
    """Shares of customers who get nothing, so that the others can be compared with them."""

    salt: Annotated[str, Field(max_length=64)] = Field("", description="another salt draws other customers")
    rotate: Literal["never", "month", "quarter", "year"] = Field(
        "never", description="calendar period after which other customers are drawn"
    )
    global_: Share | None = Field(None, alias="global", description="share held out of all campaigns")
    tags: dict[Name, Share] = Field(default_factory=dict, description="share held out of the campaigns with a tag")


class Then(RulePart):
    """The action, as texts for your services. `variables`: parts of the move that the action carries along."""

    action: Text = Field(description="what to do, as text for your services")
    channel: Name = Field(description="channel, as your services and the customers' consent name it")
    reason: Text | None = Field(None, description="text that follows the move in the action's reason")
    variables: Variables = Field((), description="parts of the move that the action carries")


class Goal(RulePart):
    """The success of a campaign: an order within some time (ms) after it acted."""

    order_within: GoalSpan = Field(description="time after the action, 1h to 90d")


class Validity(RulePart):
    """The days on which a rule acts, both inclusive, in the rule's zone."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    from_: Day | None = Field(None, alias="from", description="first day")
    until: Day | None = Field(None, description="last day")


class Budget(RulePart):
    """The most actions of a campaign."""

    per_day: BudgetCount = Field(description="actions a calendar day, in the rule's time zone")


def _hours_or_none(value: object) -> str:
    return f"{BRANCH}none" if value == "none" else f"{BRANCH}hours"


OwnQuietHours = Annotated[
    Annotated[QuietHours, Tag(f"{BRANCH}hours")] | Annotated[Literal["none"], Tag(f"{BRANCH}none")],
    Discriminator(_hours_or_none),
]


class Rule(RulePart):
    """One rule, which is one campaign: its name is the campaign's, and part of the ids of its actions. Times in ms."""

    name: Name = Field(description="the campaign's name, part of its actions' ids; each its own")
    when: When = Field(description="the moves that set it off")
    then: Then = Field(description="the action")
    tags: Tags = Field((), description="tags, for caps and hold-outs")
    group: Name = Field("main", description="of one group one rule acts on a move")
    priority: Priority = Field(0, description="greater goes first; equal ones in the order of the file")
    cooldown: Cooldown | None = Field(None, description="the customer has it again only after so long")
    max_age: MoveAge | None = Field(None, description="instead of the table's")
    delay: Delay | None = Field(None, description="waits so long from the move on, 1m to 90d")
    unless: Literal["order"] | None = Field(None, description="not if an order comes between the move and the sending")
    if_still: Switch = Field(True, description="after waiting, only if the customer is still in the segment")
    quiet_hours: OwnQuietHours | None = Field(None, description="instead of the table's; or none")
    time_zone: ZoneName | None = Field(None, description="of customers whose own zone isn't known")
    goal: Goal | None = Field(None, description="what counts as a conversion")
    valid: Validity | None = Field(None, description="days on which it acts")
    budget: Budget | None = Field(None, description="most actions of all customers")
    holdout: Share | None = Field(None, description="share of customers held out of this campaign")
    transactional: Switch = Field(False, description="not held to caps, nor to the table's quiet hours and hold-outs")
    consent: Consent | None = Field(None, description="instead of the table's")


class RuleTable(RulePart):
    """The rules and what goes for all of them. Names are unique, because they are part of the ids of actions."""

    version: Version = Field(description="version of this format")
    time_zone: ZoneName = Field("UTC", description="of customers whose own zone isn't known")
    consent: Consent = Field("unless_denied", description="whether a customer must have granted the channel")
    quiet_hours: QuietHours | None = Field(None, description="hours in which nobody gets a message")
    max_age: MoveAge | None = Field(None, description="moves that come to the dispatcher later set nothing off")
    holdouts: Holdouts = Field(default_factory=Holdouts, description="customers who get nothing, to compare with")
    caps: Annotated[tuple[Cap, ...], Field(max_length=16), BeforeValidator(listed)] = Field(
        (), description="most actions a customer"
    )
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=MOST_RULES), BeforeValidator(listed)] = Field(
        description="the rules"
    )
    _tree: RulesTree | None = PrivateAttr(None)  # the file that it was read from

    @cached_property
    def ordered(self) -> tuple[tuple[Rule, ...], ...]:
        """The groups, in the order of the file, each with its rules by precedence."""
        groups: dict[str, list[Rule]] = {}
        for rule in self.rules:
            groups.setdefault(rule.group, []).append(rule)
        return tuple(tuple(sorted(rules, key=lambda rule: -rule.priority)) for rules in groups.values())

    @cached_property
    def digest(self) -> str:
        """8 hexadecimal digits of the content: the same however it is written."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return blake2b(content.encode(), digest_size=4).hexdigest()

    def quiet_hours_of(self, rule: Rule) -> QuietHours | None:
        """Return the hours in which a rule's action waits. The table's don't go for transactional rules."""
        if isinstance(rule.quiet_hours, QuietHours):
            return rule.quiet_hours
        return None if rule.quiet_hours == "none" or rule.transactional else self.quiet_hours

    def zone_of(self, rule: Rule) -> str:
        """Return the time zone of customers whose own isn't known."""
        return rule.time_zone or self.time_zone

    def consent_of(self, rule: Rule) -> Consent:
        """Return whether a customer must have granted the rule's channel, or only not have denied it."""
        return rule.consent or self.consent

    def max_age_of(self, rule: Rule) -> int | None:
        """Return how old (ms) a move may be for a rule to act on it; None: as old as may be."""
        return self.max_age if rule.max_age is None else rule.max_age

    def caps_of(self, rule: Rule) -> tuple[Cap, ...]:
        """Return the caps that a rule is held to: none for a transactional one."""
        return () if rule.transactional else tuple(cap for cap in self.caps if cap.tag is None or cap.tag in rule.tags)

    def warnings(self) -> list[str]:
        """Return a sentence on each thing that is probably not meant so, like a rule that never acts."""
        found = [self.placed(path, text) for path, text in doubts(self)]
        return [f"line 1: {FORMER}", *found] if self._tree is not None and is_former(self._tree) else found

    def unknown_segments(self, names: Collection[str]) -> list[str]:
        """Return a sentence on each rule that names segments which a model with these `names` doesn't have."""
        found = []
        for rule in self.rules:
            wanted = dict.fromkeys((*(rule.when.from_ or ()), *(rule.when.to or ())))
            missing = [one for one in wanted if one is not None and not any(among(name, (one,)) for name in names)]
            if missing:
                found.append(
                    f"rule {rule.name!r}: the model has no segment {' or '.join(missing)}; it has {', '.join(names)}"
                )
        return found

    def note_source(self, tree: RulesTree) -> None:
        """Keep the file that the table was read from, for the lines in sentences about it."""
        self._tree = tree

    def placed(self, path: TreePath, text: str) -> str:
        """Return a sentence on a part of the table after its rule, and its line where it was read from a file."""
        tree = self._tree or RulesTree({"rules": [{"name": rule.name} for rule in self.rules]}, {})
        return f"{tree.place(former_path(path) if is_former(tree) else path)}: {text}"


def default_rules() -> str:
    """Return the text of the built-in table, out of the package: the textbook recipe, one rule a segment."""
    return files("segmentation").joinpath("default_rules.yaml").read_text("utf-8")


def parse_rules(text: str) -> RuleTable:
    r"""Read a rule table from YAML. Raises RulesError.

    >>> parse_rules("version: 2\nrules:\n- {name: vip, when: {to: '*'}, then: {action: Offer}}")
    Traceback (most recent call last):
    segmentation.rules_text.RulesError: line 3, rule 1 ('vip'), then.channel: missing, expected action, channel
    """
    tree = read_rules_tree(text)
    former = is_former(tree)
    content = translated(tree) if former else tree.content
    if not former and (empty := nothing_there(tree, _may_be_null)):
        raise RulesError(*empty)
    if isinstance(rules := content.get("rules"), list) and len(rules) > MOST_RULES:  # before each is looked at
        raise RulesError(f"{len(rules):,} rules, expected at most {MOST_RULES:,}")
    try:
        table = RuleTable.model_validate(content)
    except ValidationError as error:
        shown = former_path if former else _as_it_is
        raise RulesError(*explain(error, tree, RuleTable, shown)) from None
    table.note_source(tree)
    if wrong := [table.placed(path, text) for path, text in contradictions(table)]:
        raise RulesError(*wrong)
    return table


def read_rules_tree(text: str) -> RulesTree:
    """Return the content of a rule table of any version, unchecked. Raises RulesError."""
    return read_tree(text, _untyped)


def _untyped(path: TreePath) -> bool:
    """Return whether a value that YAML takes for a number, a day or the like may stand at a path.

    >>> _untyped(("rules", 0, "budget")), _untyped(("rules", 0, "name")), _untyped(("rules", 0, "tags", 0))
    (True, False, False)
    """
    last, above = path[-1] if path else None, path[-2] if len(path) > 1 else None
    if last == KEY:
        return above == "tags"  # of holdouts
    return last not in _TEXTS and not (isinstance(last, int) and above in _LISTS_OF_TEXTS)


def _may_be_null(path: TreePath) -> bool:
    return "from" in path[-2:] and "when" in path


def _as_it_is(path: TreePath) -> TreePath:
    return path
