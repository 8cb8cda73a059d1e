"""Rules of campaigns for tests: tables in few words, and which rule matches a move."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from segmentation.campaign_rules import RuleTable, parse_rules
from segmentation.life_conditions import KnownLife
from segmentation.outlook_conditions import KnownOutlook
from segmentation.output_events import Cause
from segmentation.rfm_conditions import KnownRfm

ANY: Final = "to: '*'"  # the conditions of a rule for all moves
_THEN: Final = "then: {action: Offer, channel: email}"


def rules_text(*rules: str, top: str = "") -> str:
    """Return a table of rules a, b, …, one a line. Each: the conditions of `when`, and after a bar other fields.

    `top`: a line before the rules.
    """
    lines = ["version: 2", *([top] if top else []), "rules:"]
    for name, rule in zip("abcdefgh", rules, strict=False):
        when, _, more = rule.partition("|")
        lines.append(f"- {{name: {name}, when: {{{when.strip()}}}, {_THEN}, {more}}}")
    return "\n".join(lines)


def rule_table(*rules: str, top: str = "") -> RuleTable:
    """Return the table of `rules_text`."""
    return parse_rules(rules_text(*rules, top=top))


def first_match(
    table: RuleTable,
    source: str | None,
    target: str,
    cause: Cause,
    life: KnownLife | None = None,
    outlook: KnownOutlook | None = None,
    rfm: KnownRfm | None = None,
    *,
    cooling: Collection[str] = (),
) -> str | None:
    """Return the name of the first rule of the first group that matches. `cooling`: names of rules to leave out."""
    return next(
        (
            rule.name
            for rule in table.ordered[0]
            if rule.when.matches(source, target, cause, life, outlook, rfm) and rule.name not in cooling
        ),
        None,
    )
