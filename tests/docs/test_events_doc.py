"""The pages of events, dead-letter reasons and quarantine reasons keep up with the code."""

from __future__ import annotations

import re

import msgspec
import pytest

from segmentation.campaign_rules import Cap, Holdouts, Rule, RuleTable, Then, default_rules, parse_rules
from segmentation.entries import DAY_MS
from segmentation.events import CustomerEvent, Reason, decode, json_schema
from segmentation.life_conditions import LifeConditions
from segmentation.outlook_conditions import OutlookConditions
from segmentation.output_events import (
    CampaignBudget,
    CampaignDecision,
    CampaignEvent,
    Cause,
    OutputEvent,
    SegmentChanged,
    Withheld,
)
from segmentation.profiles import CustomerProfile, decode_profile
from segmentation.quiet_hours import zone_named
from segmentation.rfm_conditions import RfmConditions
from segmentation.rule_when import When
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


def table_under(head: str, text: str) -> str:
    """The table whose first column has this head."""
    found = re.search(rf"(?m)^\| {head} \|.*\n((?:^\|.*\n)+)", text)
    assert found, head
    return found[1]


def examples(text: str) -> list[bytes]:
    block = re.search(r"(?s)```json\n(.*?)```", text)
    assert block
    return [line.encode() for line in re.split(r"\n(?=\{)", block[1].strip())]


def test_every_reason_of_a_dead_letter_is_listed() -> None:
    page = (ROOT / "docs" / "reference" / "dead-letter-reasons.md").read_text()
    assert sorted(first_column(section("Dead-letter reasons", page))) == sorted(Reason)


@pytest.mark.parametrize(
    ("heading", "event"),
    [
        ("Input: `customer-profiles`", CustomerProfile),
        ("Output: `segment-changes`", SegmentChanged),
        ("campaign.budget", CampaignBudget),
    ],
)
def test_every_field_is_listed_in_its_order_on_the_wire(heading: str, event: type) -> None:
    fields = json_schema([event])["$defs"][event.__name__]["properties"]
    assert first_column(table_under("field", section(heading))) == list(fields)


@pytest.mark.parametrize("event", CampaignDecision.__args__, ids=lambda event: str(event.__struct_config__.tag))
def test_every_field_of_a_decision_is_listed_in_its_order_on_the_wire(event: type[CampaignEvent]) -> None:
    common = first_column(table_under("field", section("Output: `campaign-actions`")))
    own = first_column(table_under("field", section(str(event.__struct_config__.tag))))
    assert common + own == list(json_schema([event])["$defs"][event.__name__]["properties"])


def test_every_type_of_a_decision_is_listed() -> None:
    types = re.findall(r"(?m)^\| `([\w.]+)` \|", table_under("type", section("Output: `campaign-actions`")))
    assert types == [event.__struct_config__.tag for event in OutputEvent.__args__ if event is not SegmentChanged]


def test_every_reason_why_an_action_is_withheld_is_listed() -> None:
    assert first_column(section("Reasons")) == list(Withheld)


def test_the_examples_of_profiles_and_decisions_are_events() -> None:
    profiles = [decode_profile(line) for line in examples(section("Input: `customer-profiles`"))]
    assert [len(profile.consent or {}) for profile in profiles] == [2, 1]
    assert profiles[0].time_zone
    assert zone_named(profiles[0].time_zone)
    decisions = [
        msgspec.json.decode(line, type=CampaignDecision, strict=True)
        for line in examples(section("Output: `campaign-actions`"))
    ]
    assert [decision.__struct_config__.tag for decision in decisions] == ["campaign.action", "campaign.withheld"]


def test_every_cause_is_listed() -> None:
    assert sorted(first_column(section("Causes"))) == sorted(Cause)


def test_the_examples_are_events() -> None:
    assert [type(decode(line)) for line in examples(EVENTS)] == list(CustomerEvent.__args__)


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
    assert [rule.name for text in texts for rule in parse_rules(text).rules] == [
        "win-back",
        "reminder",
        "points",
        "second-order",
        "vip",
    ]
    parts = (RuleTable, Rule, When, Then, Holdouts, Cap, LifeConditions, OutlookConditions, RfmConditions)
    fields = {field.alias or name for part in parts for name, field in part.model_fields.items()}
    assert [name for name in sorted(fields) if f"`{name}`" not in RULES_PAGE and f"`{name}: " not in RULES_PAGE] == []


def test_the_table_of_the_page_on_uplift_can_be_copied() -> None:
    page = (ROOT / "docs" / "how-to" / "measure-uplift.md").read_text()
    (text,) = re.findall(r"(?ms)^```yaml\n(.*?)^```$", page)
    assert parse_rules(text).warnings() == []


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
