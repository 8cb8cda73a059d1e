from __future__ import annotations

from segmentation.campaign_judging import RuleBook
from segmentation.campaign_rules import default_rules, parse_rules
from segmentation.event_text import iso
from stream.orders.rows import parse_at
from stream.uplift.control_groups import control_groups

RULES = """
version: 2
time_zone: Europe/Berlin
holdouts: {salt: "2026", rotate: quarter, global: 0.1, tags: {marketing: 0.3}}
rules:
  - {name: thanks, when: {to: [Loyal]}, then: {action: Thanks, channel: email}, tags: [marketing]}
  - {name: win-back, when: {to: [Lost]}, then: {action: Voucher, channel: email}, holdout: 0.5}
  - {name: receipt, when: {to: "*"}, then: {action: Receipt, channel: email}, tags: [marketing], transactional: true}
"""
NOW = parse_at("2026-05-03T10:00:00Z")


def test_they_are_those_that_the_campaign_step_decides() -> None:
    table = parse_rules(RULES)
    book, seen = RuleBook(table), set()
    for number in range(400):
        found = control_groups(table, f"c{number}", NOW)
        for rule, campaign in zip(table.rules, found.campaigns, strict=True):
            decided = book.held_out(rule, f"c{number}".encode(), NOW)
            assert campaign.held_out is (decided is not None)
            if decided is not None:
                assert f"({campaign.by})" in decided.detail
            seen.add((campaign.campaign, campaign.by))
    assert seen == {
        *(("thanks", by) for by in (None, "global", "tag:marketing")),
        *(("win-back", by) for by in (None, "global", "campaign:win-back")),
        ("receipt", None),
    }


def test_the_period_ends_where_the_rules_count_their_days() -> None:
    found = control_groups(parse_rules(RULES), "ada", NOW)
    assert (found.period, found.until) == ("2026-Q2", iso(parse_at("2026-06-30T22:00:00Z")))
    assert {group.group: group.share for group in found.groups} == {
        "global": 0.1,
        "tag:marketing": 0.3,
        "campaign:win-back": 0.5,
    }


def test_groups_that_are_never_drawn_anew_have_no_end() -> None:
    found = control_groups(parse_rules(default_rules()), "ada", NOW)
    assert found.until is None
    assert found.period is None
