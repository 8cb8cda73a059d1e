"""The rules of campaigns, out of YAML: which moves they act on, and how. Errors name the line."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from importlib.resources import files
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from segmentation.bounds import Bounds
from segmentation.life_conditions import KnownLife, LifeConditions
from segmentation.outlook_conditions import KnownOutlook, OutlookConditions
from segmentation.output_events import Cause

# A move to no segment is an erasure, or a merge into another id: nobody is left there to write to.
TRIGGERS: Final = tuple(cause.value for cause in Cause if cause not in (Cause.ERASURE, Cause.MERGED))
_SHOWN: Final = 64  # characters of a refused value that a message repeats
_DAYS: Final = re.compile(r"[1-9][0-9]{0,3}")


class RulesError(ValueError):
    """A rule table that can't be used. The message names line, rule and field, and what is accepted there."""


def _choice(value: object) -> object:
    """Convert a YAML choice: "*" (any) becomes None, a list a tuple."""
    if value == "*":
        return None
    if isinstance(value, list) and value and "*" not in value:
        return tuple(value)
    raise ValueError('expected "*" alone (any), or a list in brackets of at least one')


def _origin(value: object) -> object:
    return _choice([None] if value is None else value)


def _trigger(value: object) -> Cause:
    if isinstance(value, str) and value in TRIGGERS:
        return Cause(value)
    raise ValueError(f"expected one of {', '.join(TRIGGERS)}")


def _days(value: object) -> int:
    if isinstance(value, str) and _DAYS.fullmatch(value):
        return int(value)
    raise ValueError("expected whole days from 1 to 9999")


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Name = Annotated[str, Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Trigger = Annotated[Cause, BeforeValidator(_trigger)]
Days = Annotated[int, BeforeValidator(_days)]


class _RulePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rule(_RulePart):
    """One rule: which moves it acts on, and how.

    A choice of None is any, but for the cause `merge`, which must be named: two ids have become one, and the customer
    may have had the campaign under the other. None in `from_` is a customer without a segment.
    Its name is the campaign's. Its `reason` follows the move in the reason of the action. A customer whom it acted on
    has it again only `cooldown_days` later; until then it matches none of the customer's moves.
    """

    name: Name
    from_: Annotated[tuple[Name | None, ...] | None, BeforeValidator(_origin)] = Field(None, alias="from")
    to: Annotated[tuple[Name, ...] | None, BeforeValidator(_choice)]
    cause: Annotated[tuple[Trigger, ...] | None, BeforeValidator(_choice)] = None
    life: LifeConditions | None = None
    outlook: OutlookConditions | None = None
    action: Text
    channel: Name
    reason: Text | None = None
    cooldown_days: Days | None = None

    def matches(
        self,
        source: str | None,
        target: str,
        cause: Cause,
        life: KnownLife | None = None,
        outlook: KnownOutlook | None = None,
    ) -> bool:
        """Return whether the rule acts on a move from `source` (None: no segment yet) to `target`, but for cooldowns.

        `life`, `outlook`: the customer's at the move; None: the move has none.
        """
        return (
            (self.to is None or target in self.to)
            and (self.from_ is None or source in self.from_)
            and (cause is not Cause.MERGE if self.cause is None else cause in self.cause)
            and (self.life is None or self.life.accept(life))
            and (self.outlook is None or self.outlook.accept(outlook))
        )

    def covers(self, other: Rule) -> bool:
        """Return whether the rule matches every move that `other` matches."""
        if self.cooldown_days is not None:
            return False
        if self.cause is None and other.cause is not None and Cause.MERGE in other.cause:
            return False
        pairs = ((self.from_, other.from_), (self.to, other.to), (self.cause, other.cause))
        return (
            all(mine is None or (its is not None and set(its) <= set(mine)) for mine, its in pairs)
            and (self.life is None or (other.life is not None and self.life.covers(other.life)))
            and (self.outlook is None or (other.outlook is not None and self.outlook.covers(other.outlook)))
        )


class RuleTable(_RulePart):
    """The rules, in the order of precedence. Names are unique, because they are part of the ids of actions."""

    rules: Annotated[tuple[Rule, ...], BeforeValidator(_listed), Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [rule.name for rule in self.rules]
        for index, name in enumerate(names):
            if (first := names.index(name)) < index:
                raise ValueError(f"rules {first + 1} and {index + 1} share the name {name!r}: give each its own")
        return self

    def match(
        self,
        source: str | None,
        target: str,
        cause: Cause,
        life: KnownLife | None = None,
        outlook: KnownOutlook | None = None,
        *,
        cooling: Collection[str] = (),
    ) -> Rule | None:
        """Return the first rule that matches a move; None where none does. `cooling`: the names of those in cooldown.

        >>> rule = parse_rules(default_rules()).match("At Risk", "Champions", Cause.ORDER)
        >>> rule.action if rule else None
        'Early access and thanks'
        """
        return next(
            (
                rule
                for rule in self.rules
                if rule.matches(source, target, cause, life, outlook) and rule.name not in cooling
            ),
            None,
        )

    def warnings(self) -> list[str]:
        """Return a sentence on each rule that never acts, because an earlier one matches all its moves."""
        found = []
        for index, rule in enumerate(self.rules):
            earlier = next((other for other in self.rules[:index] if other.covers(rule)), None)
            if earlier:
                found.append(
                    f"rule {rule.name!r} never acts: {earlier.name!r} before it matches all its moves; move it up"
                )
        return found

    def unknown_segments(self, names: Collection[str]) -> list[str]:
        """Return a sentence on each rule that names segments which a model with these `names` doesn't have."""
        found = []
        for rule in self.rules:
            wanted = (*(rule.from_ or ()), *(rule.to or ()))
            missing = dict.fromkeys(name for name in wanted if name is not None and name not in names)
            if missing:
                found.append(
                    f"rule {rule.name!r}: the model has no segment {' or '.join(missing)}; it has {', '.join(names)}"
                )
        return found


def default_rules() -> str:
    """Return the text of the built-in table, out of the package: the textbook recipe, one rule a segment."""
    return files("segmentation").joinpath("default_rules.yaml").read_text("utf-8")


def parse_rules(text: str) -> RuleTable:
    r"""Read a rule table from YAML. Raises RulesError.

    >>> parse_rules("rules:\n- {name: vip, to: '*', action: Offer}")
    Traceback (most recent call last):
    segmentation.campaign_rules.RulesError: line 2, rule 1 ('vip'), channel: missing, expected name, to, action, channel
    """
    lines: dict[_Path, int] = {}
    try:
        content = _plain(yaml.compose(text, Loader=yaml.SafeLoader), (), lines, set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise RulesError(f"line {mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RulesError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RulesError("nested too deeply to be a rule table") from None
    if not isinstance(content, dict):
        raise RulesError("line 1: expected `rules:` and a list of rules below it")
    try:
        return RuleTable.model_validate(content)
    except ValidationError as error:
        raise RulesError(_explain(error, content, lines)) from None


_Path = tuple[str | int, ...]
_TAG: Final = "tag:yaml.org,2002:"
_NULL: Final = f"{_TAG}null"
_NUMBERS: Final = {f"{_TAG}int", f"{_TAG}float"}
_NUMBER_FIELDS: Final = (*Bounds.model_fields, "cooldown_days")
_TAGS: Final = {f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map", _NULL}


def _plain(node: Any, path: _Path, lines: dict[_Path, int], seen: set[int]) -> Any:
    """Turn a YAML node into text, None, lists and dicts, and note the line of each path.

    YAML's own reading would let the last of two equal keys win, and take `no` for false. Everything here is text,
    the numbers of bounds and days too: so they are exact.
    """
    if node is None:
        return None
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in seen:
        raise RulesError(f"line {line}: an alias (*name) leads here: write the value out")
    seen.add(id(node))
    if node.tag not in _TAGS and not (node.tag in _NUMBERS and path[-1:] and path[-1] in _NUMBER_FIELDS):
        shown = repr(node.value[:_SHOWN]) if isinstance(node, yaml.ScalarNode) else "this"
        raise RulesError(
            f"line {line}: YAML reads {shown} as {node.tag.removeprefix(_TAG)}, expected text: put it in quotes"
        )
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, seen) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Any] = {}
        for key_node, value in node.value:
            key = _plain(key_node, (*path, "?"), lines, seen)
            at = key_node.start_mark.line + 1
            if not isinstance(key, str) or key in content:
                raise RulesError(
                    f"line {at}: the key {key!r} {'stands there twice' if isinstance(key, str) else 'is not text'}"
                )
            lines[*path, key] = at
            content[key] = _plain(value, (*path, key), lines, seen)
        return content
    return None if node.tag == _NULL else node.value


def _explain(error: ValidationError, content: dict[str, Any], lines: dict[_Path, int]) -> str:
    """Join pydantic's findings to one line: where each is, the value found, and the values accepted."""
    findings = []
    for finding in error.errors(include_url=False):
        loc: _Path = finding["loc"]
        line = next((lines[loc[:end]] for end in range(len(loc), 0, -1) if loc[:end] in lines), 1)
        where = ", ".join([f"line {line}", *_location(loc, content)]) + ": " if loc else ""
        findings.append(where + _wrong(finding, loc))
    return "; ".join(findings)


def _location(loc: _Path, content: dict[str, Any]) -> Iterable[str]:
    """Yield the rule and the field that a path leads to.

    >>> list(_location(("rules", 1, "cause", 0), {"rules": [{}, {"name": "vip"}]}))
    ["rule 2 ('vip')", 'cause[0]']
    """
    if len(loc) > 1 and isinstance(loc[1], int):
        rule = content["rules"][loc[1]]
        name = rule.get("name") if isinstance(rule, dict) else None
        yield f"rule {loc[1] + 1} ({name!r})" if isinstance(name, str) else f"rule {loc[1] + 1}"
        loc = loc[2:]
    if loc:
        yield "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _wrong(finding: Any, loc: _Path) -> str:
    """Describe the value found and the values accepted, in our words instead of pydantic's. `loc`: where it is."""
    whole = finding["type"] == "model_type"  # of the table, a rule, its conditions: not of one of their fields
    depth = len(loc) if whole else len(loc) - 1
    conditions = OutlookConditions if loc[2:3] == ("outlook",) else LifeConditions
    model = (RuleTable, RuleTable, Rule, conditions, Bounds)[min(max(depth, 0), 4)]
    fields = {f.alias or name: f.is_required() for name, f in model.model_fields.items()}
    if finding["type"] == "missing":
        return f"missing, expected {', '.join(name for name, required in fields.items() if required)}"
    if finding["type"] == "extra_forbidden":
        return f"unknown, expected one of {', '.join(fields)}"
    got = repr(finding["input"])[:_SHOWN]
    accepted = {
        "model_type": f"{'a rule' if model is Rule else 'a mapping'} with {', '.join(fields)}",
        "too_short": "at least one rule",
        "tuple_type": "a list of rules",
        "string_too_short": "at least one character",
        "string_too_long": f"at most {finding.get('ctx', {}).get('max_length')} characters",
        "string_type": "text",
        "string_unicode": "text in Unicode",
        "literal_error": "act or skip",
    }
    if finding["type"] in accepted:
        return f"{got}, expected {accepted[finding['type']]}"
    message: str = finding["msg"].removeprefix("Value error, ")
    # Of a whole table the message names what counts; its dump would hide it.
    return message if isinstance(finding["input"], dict) else f"{got}, {message}"
