"""Warnings of what is probably not meant so in a rule table."""

from datetime import date

import pytest

from segmentation.campaign_rules import RuleTable, parse_rules
from segmentation.rules_sense import _TRAINED, over, thin_budgets
from tests.support.rules import ANY, rule_table, rules_text
from trainer.rhythm.names import KIND_NAMES, STAGE_NAMES
from trainer.training.naming import MANY


def never(rules: RuleTable) -> list[str]:
    return [warning.split("'")[1] for warning in rules.warnings() if "never acts" in warning]


def test_rules_that_never_act_are_warned_of() -> None:
    rules = rule_table(
        "to: [Lost, Loyal], cause: [order, refund]",
        "to: [Lost], cause: [order]",
        "to: [Lost]",
        "from: [Lost], to: [Lost, Loyal], cause: [refund]",
    )
    assert never(rules) == ["b", "d"]
    assert rules.warnings()[0] == "line 4, rule 2 ('b'): never acts: 'a' before it matches all its moves; move it up"


@pytest.mark.parametrize(
    ("first", "second", "is_covered"),
    [
        (ANY, ANY, True),
        ("to: ['At *']", "to: [At Risk, 'At S*']", True),
        ("to: [At Risk]", "to: ['At *']", False),
        ("from: ['At *'], to: '*'", "from: [At Risk, null], to: '*'", False),
        (f"{ANY} | group: one", f"{ANY} | group: two", False),
        (f"{ANY} | priority: -1", ANY, False),
        # What suppresses the first one leaves the move to the second.
        (f"{ANY} | cooldown: 30d", ANY, False),
        (ANY, f"{ANY} | cooldown: 30d", True),
        (f"{ANY}, first_time: true", ANY, False),
        (f"{ANY} | budget: {{per_day: 500}}", ANY, False),
        (f"{ANY} | valid: {{until: 2026-12-24}}", ANY, False),
        (f"{ANY} | consent: required", ANY, False),
        (ANY, f"{ANY} | consent: required", True),
        # A customer who is held out, or whose action waits, belongs to the first.
        (f"{ANY} | holdout: 0.5", ANY, True),
        (f"{ANY} | delay: 2d", ANY, True),
        # Other conditions.
        (f"{ANY}, life: {{orders: {{at_least: 2}}}}", f"{ANY}, life: {{orders: {{at_least: 5}}}}", True),
        (f"{ANY}, life: {{orders: {{at_least: 2}}}}", f"{ANY}, life: {{orders: {{at_most: 5}}}}", False),
        (f"{ANY}, life: {{orders: {{at_least: 2}}}}", ANY, False),
        (f"{ANY}, rfm: {{frequency: {{at_least: 2}}}}", f"{ANY}, rfm: {{frequency: {{at_least: 5}}}}", True),
        (f"{ANY}, rfm: {{frequency: {{at_least: 2}}}}", ANY, False),
        (
            f"{ANY}, outlook: {{chance_90d: {{at_most: 0.5}}}}",
            f"{ANY}, outlook: {{chance_90d: {{at_most: 0.2}}}}",
            True,
        ),
        (
            f"{ANY}, outlook: {{chance_90d: {{at_most: 0.5}}}}",
            f"{ANY}, outlook: {{chance_90d: {{at_most: 0.2}}, if_unknown: act}}",
            False,
        ),
        # A rule without a cause doesn't act on merges.
        (ANY, f"{ANY}, cause: [merge, order]", False),
        (ANY, f"{ANY}, cause: [order]", True),
        (f"{ANY}, cause: [merge, order]", f"{ANY}, cause: [merge]", True),
    ],
)
def test_a_rule_never_acts_if_nothing_can_leave_it_a_move(first: str, second: str, *, is_covered: bool) -> None:
    assert ("b" in never(rule_table(first, second))) is is_covered


def test_a_rule_on_another_channel_or_under_other_caps_may_act() -> None:
    assert never(parse_rules(rules_text(ANY, ANY).replace("email", "phone", 1))) == []
    caps = "caps: [{at_most: 1, per: day, tag: a}]"
    assert never(rule_table(f"{ANY} | tags: [a]", ANY, top=caps)) == []
    assert never(rule_table(f"{ANY} | tags: [a]", f"{ANY} | tags: [a]", top=caps)) == ["b"]
    assert never(rule_table(f"{ANY} | tags: [a]", f"{ANY} | tags: [a], delay: 1d", top=caps)) == []
    assert never(rule_table(ANY, f"{ANY} | tags: [a]", top=caps)) == ["b"]


@pytest.mark.parametrize(
    ("rule", "top", "message"),
    [
        (
            ANY,
            "holdouts: {rotate: year}",
            "line 2, holdouts: nobody is held out: give a share as `global`, under `tags`",
        ),
        (
            f"{ANY} | tags: [x], transactional: true",
            "caps: [{at_most: 1, per: day, tag: x}]",
            "line 2, caps[0].tag: no rule of the table can be capped by the tag 'x': it has none",
        ),
        (
            ANY,
            "caps: [{at_most: 1, per: day, tag: x}]",
            "line 2, caps[0].tag: no rule of the table can be capped by the tag 'x': it has none",
        ),
        (
            f"{ANY} | tags: [y]",
            "holdouts: {tags: {x: 0.1}}",
            "line 2, holdouts.tags.x: no rule of the table can be held out by the tag 'x': its tags are y",
        ),
        (
            ANY,
            "caps: [{at_most: 3, within: 1d}, {at_most: 2, within: 7d}]",
            "line 2, caps[0]: never counts: at most 2 within 7d is stricter; take one of them out",
        ),
        (f"{ANY} | if_still: false", "", "line 3, rule 1 ('a'), if_still: the rule never waits, so this says nothing"),
        (
            f"{ANY}, first_time: true | cooldown: 7d",
            "",
            "line 3, rule 1 ('a'), cooldown: with `first_time` the campaign",
        ),
    ],
)
def test_what_is_probably_not_meant_so_is_warned_of(rule: str, top: str, message: str) -> None:
    (warning,) = rule_table(rule, top=top).warnings()
    assert warning.startswith(message)


def test_caps_of_different_kinds_all_count() -> None:
    caps = ("at_most: 1, within: 1d", "at_most: 2, within: 7d", "at_most: 1, per: day", "at_most: 1, per: day, tag: x")
    top = f"caps: [{', '.join(f'{{{cap}}}' for cap in caps)}]"
    found = rule_table(f"{ANY} | tags: [x]", top=top).warnings()
    assert found == []


def test_what_a_deployment_and_the_day_make_of_a_table() -> None:
    rules = rule_table(
        f"{ANY} | budget: {{per_day: 5}}",
        f"{ANY} | budget: {{per_day: 12}}, valid: {{from: 2026-11-01, until: 2026-12-24}}",
    )
    (found,) = thin_budgets(rules, 12)
    assert rules.placed(*found) == (
        "line 3, rule 1 ('a'), budget.per_day: 5 a day, shared by 12 partitions: customers of 7 of them get none; "
        "give 12 or more"
    )
    assert list(over(rules, date(2026, 12, 24))) == []
    assert [rules.placed(path, found) for path, found in over(rules, date(2026, 12, 25))] == [
        "line 4, rule 2 ('b'), valid.until: over since 2026-12-24: take the rule out, or give it another day"
    ]


def test_a_table_that_no_file_has_is_warned_of_without_lines() -> None:
    read = rule_table(f"{ANY} | if_still: false")
    built = RuleTable.model_construct(**{name: getattr(read, name) for name in RuleTable.model_fields})
    assert built.warnings()[0].startswith("rule 1 ('a'), if_still: the rule never waits")


def test_slips_in_the_names_of_segments_are_warned_of() -> None:
    rules = rule_table("from: [null, Loyl], to: [Lost, Lsot, lost, 'at *', Nwe, 'At *', Cannot *, Gold]")
    assert rules.warnings() == [
        "line 3, rule 1 ('a'), when.from: 'Loyl': did you mean Loyal?",
        "line 3, rule 1 ('a'), when.to: 'Lsot': did you mean Lost?",
        "line 3, rule 1 ('a'), when.to: 'lost': did you mean Lost?",
        "line 3, rule 1 ('a'), when.to: 'Nwe': did you mean New?",
    ]


def test_the_names_that_the_trainer_gives_are_no_slips() -> None:
    given = {name for name, _ in (*STAGE_NAMES.values(), *KIND_NAMES.values())} | {one.name for one in MANY}
    assert set(_TRAINED) == given
