"""The pages of events, dead-letter reasons and quarantine reasons keep up with the code."""

from __future__ import annotations

import re

import pytest

from segmentation.campaign_rules import Rule, default_rules, parse_rules
from segmentation.entries import DAY_MS
from segmentation.events import CustomerEvent, Reason, decode, json_schema
from segmentation.life_conditions import LifeConditions
from segmentation.outlook_conditions import OutlookConditions
from segmentation.output_events import CampaignAction, Cause, SegmentChanged
from tests.support.paths import ROOT

EVENTS = (ROOT / "docs" / "reference" / "events.md").read_text()
RULES_PAGE = (ROOT / "docs" / "how-to" / "write-rules.md").read_text()


def section(heading: str, page: str = EVENTS) -> str:
    """Everything under a heading, up to the next one of any depth."""
    found = re.search(rf"(?ms)^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page)
    assert found, heading
    return found[1]


def first_column(text: str) -> list[str]:
    return [name for row in re.findall(r"(?m)^\| (`[^|]*) \|", text) for name in re.findall(r"`(\w+)`", row)]


def test_every_reason_of_a_dead_letter_is_listed() -> None:
    page = (ROOT / "docs" / "reference" / "dead-letter-reasons.md").read_text()
    assert sorted(first_column(section("Dead-letter reasons", page))) == sorted(Reason)


@pytest.mark.parametrize(
    ("heading", "event"),
    [
        ("Output: `segment-changes`", SegmentChanged),
        ("Output: `campaign-actions`", CampaignAction),
    ],
)
def test_every_field_is_listed_in_its_order_on_the_wire(heading: str, event: type) -> None:
    fields = json_schema()["$defs"][event.__name__]["properties"]
    assert first_column(section(heading)) == list(fields)


def test_every_cause_is_listed() -> None:
    assert sorted(first_column(section("Causes"))) == sorted(Cause)


def test_the_examples_are_events() -> None:
    block = re.search(r"(?s)```json\n(.*?)```", EVENTS)
    assert block
    lines = [line.encode() for line in re.split(r"\n(?=\{)", block[1].strip())]
    types = [type(decode(line)) for line in lines]
    assert types == list(CustomerEvent.__args__)


def test_every_reason_of_a_quarantine_is_listed() -> None:
    source = "".join(path.read_text() for path in (ROOT / "stream").rglob("*.py"))
    raised = set(re.findall(r'ShardQuarantined\(\s*"(\w+)"', source))
    raised |= set(re.findall(r'_check_record\([^)]*"(\w+)"', source))
    raised |= set(re.findall(r'reason: ClassVar\[str\] = "(\w+)"', source))
    page = (ROOT / "docs" / "explanation" / "exactly-once.md").read_text()
    assert set(first_column(section("8 Quarantine", page))) == raised


def test_the_rules_on_the_page_are_rules() -> None:
    (text,) = re.findall(r"(?ms)^```yaml\n(.*?)^```$", EVENTS)
    assert [rule.name for rule in parse_rules(text).rules] == ["call-a-regular", "welcome"]


def test_the_page_on_rules_has_rules_and_names_each_field_and_condition() -> None:
    texts = re.findall(r"(?ms)^```yaml\n(.*?)^```$", RULES_PAGE)
    assert [rule.name for text in texts for rule in parse_rules(text).rules] == ["win-back", "reminder"]
    fields = {field.alias or name for name, field in Rule.model_fields.items()}
    fields |= set(LifeConditions.model_fields) | set(OutlookConditions.model_fields)
    assert [name for name in sorted(fields) if f"`{name}`" not in RULES_PAGE and f"`{name}: " not in RULES_PAGE] == []


def test_the_page_on_rules_has_the_built_in_ones() -> None:
    section = RULES_PAGE.split("## The built-in rules\n")[1]
    rows = re.findall(r"(?m)^\| `([\w-]+)` \| (.+) \| (.+) \| (.+) \|$", section)
    rules = parse_rules(default_rules()).rules
    assert [row[0] for row in rows] == [rule.name for rule in rules]
    for (_, when, action, again), rule in zip(rows, rules, strict=True):
        assert action == rule.then.action
        assert again == (f"{rule.cooldown // DAY_MS} days" if rule.cooldown else "any time")
        assert all(name in when for name in rule.when.to or ())
        assert all(cause.value in when for cause in rule.when.cause or ())
