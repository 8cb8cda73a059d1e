"""Rule tables of version 1, which had one mapping a rule and no `version`: they are read as version 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from segmentation.rules_text import RulesError, RulesTree, TreePath

FORMER: Final = "rules of version 1: they act as before; `segstream campaigns check FILE --convert` prints version 2"
_WHEN: Final = ("from", "to", "cause", "life", "outlook")
_THEN: Final = ("action", "channel", "reason")
_FIELDS: Final = ("name", *_WHEN, *_THEN, "cooldown_days")
_REQUIRED: Final = ("name", "to", "action", "channel")
_OPTIONAL: Final = ("life", "outlook", "reason")  # null stood for absent
_DAYS: Final = re.compile(r"[1-9][0-9]{0,3}")
_NEW: Final = {
    *("time_zone", "consent", "quiet_hours", "holdouts", "caps", "tags", "group", "priority", "cooldown", "delay"),
    *("unless", "if_still", "goal", "valid", "budget", "holdout", "transactional"),
}


def is_former(tree: RulesTree) -> bool:
    """Return whether a table is of version 1."""
    return bool(tree.content.get("version", "1") == "1")


def translated(tree: RulesTree) -> dict[str, Any]:
    """Return the content of a table as one of version 2. Raises RulesError."""
    rules = tree.content.get("rules")
    if isinstance(rules, list) and any(isinstance(rule, dict) and rule.keys() & {"when", "then"} for rule in rules):
        raise RulesError("line 1: `version: 2` is missing at the top: rules with `when` and `then` need it")
    findings = [
        f"{tree.place((key,))}: {_unknown(key, ('rules',))}" for key in tree.content if key not in ("version", "rules")
    ]
    findings += _findings(tree, rules) if isinstance(rules, list) else []
    if findings:
        raise RulesError(*findings)
    content = {key: value for key, value in tree.content.items() if key == "rules"}
    if isinstance(rules, list):
        content["rules"] = [_rule(rule) if isinstance(rule, dict) else rule for rule in rules]
    return {"version": "2", **content}


def former_path(path: TreePath) -> TreePath:
    """Return where in a table of version 1 a field of version 2 stands.

    >>> former_path(("rules", 0, "when", "life", "orders")), former_path(("rules", 0, "cooldown"))
    (('rules', 0, 'life', 'orders'), ('rules', 0, 'cooldown_days'))
    """
    if path[2:3] in (("when",), ("then",)):
        return (*path[:2], *path[3:])
    return (*path[:2], "cooldown_days") if path[2:] == ("cooldown",) else path


def _findings(tree: RulesTree, rules: list[Any]) -> Iterator[str]:
    for number, rule in enumerate(rules):
        at: TreePath = ("rules", number)
        if not isinstance(rule, dict):
            yield f"{tree.place(at)}: {str(rule)[:64]!r}, expected a rule with {', '.join(_FIELDS)}"
            continue
        for name in rule:
            if name not in _FIELDS:
                yield f"{tree.place((*at, name))}: {_unknown(name, _FIELDS)}"
        for name in _REQUIRED:
            if name not in rule:
                yield f"{tree.place((*at, name))}: missing, expected {', '.join(_REQUIRED)}"
        days = rule.get("cooldown_days", "1")
        if not isinstance(days, str) or not _DAYS.fullmatch(days):
            yield f"{tree.place((*at, 'cooldown_days'))}: {str(days)[:64]!r}, expected whole days from 1 to 9999"


def _unknown(name: str, fields: tuple[str, ...]) -> str:
    """Describe a field that version 1 hasn't."""
    if name in _NEW:
        return "a field of version 2, in a table of version 1: `segstream campaigns check --convert` writes it anew"
    return f"unknown, expected one of {', '.join(fields)}"


def _rule(former: dict[str, Any]) -> dict[str, Any]:
    rule = {key: value for key, value in former.items() if value is not None or key not in _OPTIONAL}
    found = {
        "name": rule["name"],
        "when": {key: rule[key] for key in _WHEN if key in rule},
        "then": {key: rule[key] for key in _THEN if key in rule},
    }
    return found | ({"cooldown": f"{rule['cooldown_days']}d"} if "cooldown_days" in rule else {})
