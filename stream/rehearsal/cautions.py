"""Why a rehearsal may say less than it seems to: rules that can't act, a model that has seen the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentation.campaign_rules import default_rules, parse_rules
from segmentation.event_text import iso
from stream.rehearsal.sentences import day

if TYPE_CHECKING:
    from segmentation.campaign_rules import RuleTable
    from segmentation.model import SegmentModel


def cautions(rules_text: str, model: SegmentModel, since_ms: int) -> list[str]:
    """Return a sentence, without its full stop, on each thing that the reader of a rehearsal should know first.

    The built-in rules may name segments that the model doesn't have: they are for all recipes.
    """
    table, found = parse_rules(rules_text), list[str]()
    as_of_ms = round(model.training.as_of.timestamp() * 1000)
    if as_of_ms > since_ms:
        start = iso(since_ms)
        found.append(
            f"the model has seen the time that it is tried on: it was trained as of {day(iso(as_of_ms))}, and the"
            f" rehearsal begins on {day(start)}; train one with `segtrainer run --as-of {start[:10]}`"
        )
    found += _without_profiles(table)
    if rules_text != default_rules():
        found += table.unknown_segments([segment.name for segment in model.segments])
    return found + table.warnings()


def _without_profiles(table: RuleTable) -> list[str]:
    """Return what a file of orders can't tell: who has granted what, and how much others have used of a budget."""
    consent = [rule.name for rule in table.rules if table.consent_of(rule) == "required"]
    budget = [rule.name for rule in table.rules if rule.budget is not None]
    found = []
    if consent:
        found.append(
            f"no order says who has granted a channel, so rules that need consent don't act: {_names(consent)}"
        )
    if budget:
        found.append(f"budgets don't count here, so there may be too many actions of: {_names(budget)}")
    return found


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
