"""Rule tables that can't be used: each message names line, rule and field, and what is accepted there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation.campaign_rules import RulesError, parse_rules
from tests.support.rules import ANY, rule_table, rules_text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: expected `rules:` and a list of rules below it"),
        ("- x", "line 1: expected `rules:`"),
        ("version: 3\nrules: []", "line 1, version: '3', expected 2: this program reads version 2, and version 1"),
        ("version: 2\nrules: []", "line 2, rules: [], expected at least one"),
        ("version: 2\nrules:\n", "line 2, rules: nothing stands there: write a value, or take the line out"),
        ("version: 2", "rules: missing, expected version, rules"),
        ("version: 2\nrule: []", "line 2, rule: unknown, expected one of version, time_zone, consent, quiet_hours"),
        ("version: 2\nrules:\n- a", "line 3, rule 1: 'a', expected a mapping with name, when, then, tags, group"),
        ("a: [", "line 1: not YAML"),
        ("rules: \x00", "not YAML: unacceptable character"),
        ("a: b\n---\nc: d", "line 2: not YAML"),
        ("[1, 2]", "line 1: expected `rules:` and a list of rules below it"),
        (
            "rules:\n\t- name: a",
            "line 2: not YAML: found character '\\t' that cannot start any token: indent with spaces",
        ),
        (
            "rules:\n  - name: a\n    to: x\n   delay: 7d",
            "'<block mapping start>': indent the fields of one rule alike",
        ),
        ("rules:\n- when: {to: *, cause: [first]}", 'put text with * or & in quotes, like "*"'),
        ("rules:\n- then: {action: Now: go}", "put text with a comma, colon or bracket in quotes"),
        ("rules:\n- action: Now: go", "put text with a colon in quotes, and indent the fields of one rule alike"),
        ("rules:\n- action: '20 %' off", "but found '<scalar>': put the whole text in quotes"),
        ("rules:\n- action: %20", "put text that begins with this character in quotes"),
        ("rules:\n- to: [Lost\n  cause: [first]", "close what [ opens"),
        ("rules:\n- name: 'a\n", "close the quotes of the text that begins there or above"),
        ("rules:\n- name: a\n  delay 7d\n  to: b", "write a colon and a space after the name of the field"),
        ("version: 2\nrules:\n- then: {action:X}", "then.action:X: nothing stands there: put a space after the colon"),
        ("? [a]\n: b", "line 1: the key ['a'] is not text"),
        ("[" * 100_000, "nested too deeply"),
        ("rules: &a [*a]", "line 1: an alias (*name) leads here: write the value out"),
        ("rules: !!python/object:os.system x", "line 1: YAML reads 'x' as python/object:os.system, expected text"),
        ("rules: !mine x", "line 1: YAML reads 'x' as !mine, expected text"),
        ("rules:\n- name: no", "line 2: YAML reads 'no' as bool, expected text: put it in quotes"),
        ("rules:\n- name: 2020-13-45x\n  group: 2020-10-10", "line 3: YAML reads '2020-10-10' as timestamp"),
        ("rules:\n- name: a\n  to: '*'\n  name: b", "line 4: the key 'name' stands there twice"),
    ],
)
def test_what_is_no_table_is_refused(content: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


CONDITIONS = "expected at least one of orders, purchase_days, monetary, days_since_first"
WRONG = [
    ("to: Lost", "when.to: 'Lost', expected \"*\" alone (any), or a list in brackets of at least one"),
    ("to: []", "when.to: [], expected"),
    ("to: ['*', Lost]", "when.to: ['*', 'Lost'], expected"),
    ("to: [Lost, null]", "when.to[1]: nothing stands there"),
    ("to: null", "when.to: nothing stands there"),
    ("to: ['*st']", "when.to[0]: '*st', expected * at the end alone, after the beginning of a name: At *"),
    ("to: [{b: c}]", "when.to[0]: {'b': 'c'}, expected text"),
    ("from: [Lost]", "when.to: missing, expected to"),
    (f"{ANY}, cause: [order, ordr]", "when.cause[1]: 'ordr', expected one of order, refund, cancellation, silence"),
    (f"{ANY}, cause: [erasure]", "when.cause[0]: 'erasure', expected one of order"),
    (f"{ANY}, cause: [[order]]", "when.cause[0]: ['order'], expected one of order"),
    (f"{ANY}, cause: order", "when.cause: 'order', expected"),
    (f"{ANY}, action: Call", "when.action: unknown, expected one of from, to, cause, life, outlook, rfm, first_time"),
    (f"{ANY}, first_time: yes", "when.first_time: 'yes', expected true or false"),
    (f"{ANY}, life: {{}}", f"when.life: {CONDITIONS}"),
    (f"{ANY}, life: {{orders: {{}}}}", "when.life.orders: expected at least one of at_least, at_most"),
    (f"{ANY}, life: 5+", "when.life: '5+', expected a mapping with orders, purchase_days, monetary"),
    (f"{ANY}, life: {{orders: five}}", "when.life.orders: 'five', expected a mapping with at_least, at_most"),
    (f"{ANY}, life: {{money: {{at_least: 5}}}}", "when.life.money: unknown, expected one of orders, purchase_days"),
    (f"{ANY}, life: {{orders: {{least: '5'}}}}", "when.life.orders.least: unknown, expected one of at_least, at_most"),
    (f"{ANY}, life: {{orders: {{at_least: five}}}}", "orders.at_least: 'five', expected a number like 5 or 49.90"),
    (f"{ANY}, life: {{orders: {{at_least: 1_000}}}}", "when.life.orders.at_least: '1_000', expected a number"),
    (f"{ANY}, life: {{orders: {{at_least: .inf}}}}", "when.life.orders.at_least: '.inf', expected a number"),
    (f"{ANY}, life: {{orders: {{at_least: [1]}}}}", "when.life.orders.at_least: ['1'], expected a number"),
    (f"{ANY}, life: {{orders: {{at_least: -1}}}}", "'-1', expected 0 or more: the figure is never negative"),
    (f"{ANY}, life: {{purchase_days: {{at_most: -1}}}}", "when.life.purchase_days.at_most: '-1', expected 0 or more"),
    (
        f"{ANY}, life: {{orders: {{at_least: 5, at_most: 4}}}}",
        "at_least is 5, expected it to be no more than at_most, 4",
    ),
    (f"{ANY}, rfm: {{}}", "when.rfm: expected at least one of recency_days, frequency, monetary"),
    (f"{ANY}, rfm: {{frequency: {{at_least: -1}}}}", "when.rfm.frequency.at_least: '-1', expected 0 or more"),
    (f"{ANY}, outlook: {{}}", "when.outlook: expected at least one of chance_90d, orders_90d, spend_90d"),
    (f"{ANY}, outlook: {{if_unknown: act}}", "when.outlook: expected at least one of chance_90d, orders_90d"),
    (f"{ANY}, outlook: {{chance: {{at_most: 1}}}}", "unknown, expected one of chance_90d, orders_90d, spend_90d"),
    (
        f"{ANY}, outlook: {{chance_90d: 0.2}}",
        "when.outlook.chance_90d: '0.2', expected a mapping with at_least, at_most",
    ),
    (
        f"{ANY}, outlook: {{chance_90d: {{at_most: 20 %}}}}",
        "when.outlook.chance_90d.at_most: '20 %', expected a number",
    ),
    (f"{ANY}, outlook: {{chance_90d: {{at_most: 1}}, if_unknown: yes}}", "if_unknown: 'yes', expected act or skip"),
    (f"{ANY}, outlook: {{chance_90d: {{at_most: 1}}, if_unknown: m}}", "if_unknown: 'm', expected act or skip"),
    (f"{ANY}, outlook: {{chance_90d: {{at_most: 20}}}}", "at_most: '20', expected 0 to 1 (write 0.2 for 20 %)"),
    (f"{ANY}, outlook: {{chance_90d: {{at_least: 2.5}}}}", "'2.5', expected 0 to 1 (write 0.025 for 2.5 %)"),
    (f"{ANY}, outlook: {{chance_90d: {{at_most: 101}}}}", "'101', expected 0 to 1 (write 0.2 for 20 %)"),
    (f"{ANY}, outlook: {{chance_90d: {{at_least: -0.1}}}}", "'-0.1', expected 0 to 1"),
    (f"{ANY}, outlook: low", "when.outlook: 'low', expected a mapping with chance_90d, orders_90d, spend_90d"),
    (f"{ANY} | action: Call", "action: unknown here, it belongs under `then`"),
    (f"{ANY} | cause: [order]", "cause: unknown here, it belongs under `when`"),
    (f"{ANY} | tag: [a]", "consent: did you mean tags?"),
    (f"{ANY} | tags: a", "tags: 'a', expected a list in brackets"),
    (f"{ANY} | tags: [1]", "YAML reads '1' as int, expected text: put it in quotes"),
    (f"{ANY} | group: ''", "group: '', expected at least one character"),
    (f"{ANY} | priority: high", "priority: 'high', expected a whole number from -1000 to 1000"),
    (f"{ANY} | priority: 1001", "priority: '1001', expected a whole number from -1000 to 1000"),
    (f"{ANY} | cooldown: 30", "cooldown: '30', expected a whole number and its unit: minutes 30m, hours 3h, days 7d"),
    (f"{ANY} | cooldown: 1.5d", "cooldown: '1.5d', expected a whole number and its unit"),
    (f"{ANY} | cooldown: 10000d", "cooldown: '10000d', expected 1m to 9999d"),
    (f"{ANY} | cooldown: ", "cooldown: nothing stands there: write a value, or take the line out"),
    (f"{ANY} | delay: 0d", "delay: '0d', expected a whole number and its unit"),
    (f"{ANY} | delay: 91d", "delay: '91d', expected 1m to 90d"),
    (f"{ANY} | delay: 1d, unless: reply", "unless: 'reply', expected order"),
    (f"{ANY} | if_still: maybe", "if_still: 'maybe', expected true or false"),
    (f"{ANY} | quiet_hours: night", "quiet_hours: 'night', expected a mapping with from, until"),
    (f"{ANY} | quiet_hours: {{from: '9:00'}}", "quiet_hours.until: missing, expected from, until"),
    (f"{ANY} | quiet_hours: {{from: 9, until: '24:00'}}", "quiet_hours.from: '9', expected a time of day from"),
    (f"{ANY} | quiet_hours: {{from: '9:00', until: '24:00'}}", "quiet_hours.until: '24:00', expected a time of day"),
    (
        f"{ANY} | time_zone: Europe/Berln",
        "time_zone: 'Europe/Berln', did you mean Europe/Berlin? expected the IANA name",
    ),
    (f"{ANY} | time_zone: ../UTC", "expected the IANA name of a time zone, like Europe/Berlin or UTC"),
    (f"{ANY} | goal: {{order_within: 91d}}", "goal.order_within: '91d', expected 1h to 90d"),
    (f"{ANY} | valid: {{from: 2026-02-30}}", "valid.from: '2026-02-30', expected a day of the calendar like"),
    (f"{ANY} | valid: {{from: 1. May}}", "valid.from: '1. May', expected a day like 2026-12-24"),
    (f"{ANY} | budget: {{per_day: 0}}", "budget.per_day: '0', expected a whole number from 1 to 100000000"),
    (f"{ANY} | budget: 500", "budget: '500', expected a mapping with per_day"),
    (f"{ANY} | holdout: 10", "holdout: '10', expected a share from 0.0001 to 0.5 with at most four decimals"),
    (f"{ANY} | holdout: 0.51", "holdout: '0.51', expected a share"),
    (f"{ANY} | holdout: 0", "holdout: '0', expected a share"),
    (f"{ANY} | consent: yes", "consent: 'yes', expected unless_denied or required"),
    (f"{ANY} | consent: maybe", "consent: 'maybe', expected unless_denied or required"),
    # The fields may be right one by one, and make no sense together.
    (f"{ANY} | unless: order", "unless: the rule never waits, so no order can come first: give it a `delay`"),
    (f"{ANY} | quiet_hours: {{from: '9:00', until: '09:00'}}", "quiet_hours: from and until are the same time"),
    (f"{ANY} | valid: {{from: 2026-12-24, until: 2026-11-01}}", "valid: until 2026-11-01 is before from 2026-12-24"),
    (f"{ANY} | valid: {{}}", "valid: expected from, until, or both"),
    (f"{ANY} | transactional: true, budget: {{per_day: 5}}", "budget: a transactional rule has no budget"),
    (f"{ANY} | transactional: true, holdout: 0.1", "holdout: a transactional rule has no holdout"),
]


@pytest.mark.parametrize(("rule", "message"), WRONG, ids=[rule for rule, _ in WRONG])
def test_a_wrong_field_is_named_with_its_line_and_rule(rule: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        rule_table(ANY, rule)
    found = str(caught.value)
    assert found.startswith("line 4")
    assert "YAML reads" in found or found.startswith("line 4, rule 2 ('b'), ")
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ("time_zone: Berlin", "line 2, time_zone: 'Berlin', did you mean Europe/Berlin? expected"),
        ("consent: always", "line 2, consent: 'always', expected unless_denied or required"),
        ("quiet_hours: none", "line 2, quiet_hours: 'none', expected a mapping with from, until"),
        ("quiet_hours: {from: '21:00', until: '21:00'}", "line 2, quiet_hours: from and until are the same time"),
        ("holdouts: {rotate: weekly}", "line 2, holdouts.rotate: 'weekly', expected never, month, quarter or year"),
        ("holdouts: {global: 0.6}", "line 2, holdouts.global: '0.6', expected a share from 0.0001 to 0.5"),
        ("holdouts: {tags: {x: 1}}", "line 2, holdouts.tags.x: '1', expected a share"),
        ("holdouts: {tags: [x]}", "line 2, holdouts.tags: ['x'], expected a mapping"),
        ("holdouts: {salt: 2026}", "line 2: YAML reads '2026' as int, expected text: put it in quotes"),
        ("caps: {at_most: 1}", "line 2, caps: {'at_most': '1'}, expected a list in brackets"),
        ("caps: [{at_most: 2}]", "line 2, caps[0]: expected either `within` (a window, like 7d) or `per: day`"),
        ("caps: [{at_most: 2, within: 7d, per: day}]", "line 2, caps[0]: expected either `within`"),
        ("caps: [{at_most: 2, within: 32d}]", "line 2, caps[0].within: '32d', expected 1h to 31d"),
        ("caps: [{at_most: 2, per: week}]", "line 2, caps[0].per: 'week', expected day"),
        ("caps: [{at_most: 101, per: day}]", "line 2, caps[0].at_most: '101', expected a whole number from 1 to 100"),
        ("caps: [{per: day}]", "line 2, caps[0].at_most: missing, expected at_most"),
        ("tags: [x]", "line 2, tags: unknown here, it belongs under `holdouts`"),
    ],
)
def test_what_is_wrong_for_all_rules_is_named_with_its_line(top: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        rule_table(ANY, top=top)
    assert str(caught.value).startswith(message)


def test_names_are_of_a_sensible_length_and_text() -> None:
    for name, message in (
        ("''", "name: '', expected at least one character"),
        ("n" * 65, "expected at most 64 characters"),
        ('"\\ud800"', "name: '\\ud800', expected text in Unicode"),
        ("5", "YAML reads '5' as int, expected text"),
    ):
        with pytest.raises(RulesError) as caught:
            parse_rules(rules_text(ANY).replace("name: a", f"name: {name}"))
        assert message in str(caught.value)
        str(caught.value).encode()


def test_every_finding_is_listed_by_line() -> None:
    wrong = rules_text("to: Lost | holdout: 7, cooldown: long", f"{ANY} | priority: x", top="consent: no way")
    with pytest.raises(RulesError) as caught:
        parse_rules(wrong)
    assert [finding.split(":")[0] for finding in caught.value.findings] == [
        "line 2, consent",
        "line 4, rule 1 ('a'), when.to",
        "line 4, rule 1 ('a'), cooldown",
        "line 4, rule 1 ('a'), holdout",
        "line 5, rule 2 ('b'), priority",
    ]


def test_of_very_many_findings_the_message_has_the_first_ones_and_their_number() -> None:
    with pytest.raises(RulesError, match=r"; and 980 more$") as caught:
        parse_rules("version: 2\nrules:\n" + "- {name: a, when: {to: '*'}}\n" * 1_000)
    assert len(caught.value.findings) == 1_000
    assert len(str(caught.value)) < 3_000


def test_the_number_of_rules_and_of_groups_is_bounded() -> None:
    many = "version: 2\nrules:\n" + "- {}\n" * 1_001
    with pytest.raises(RulesError, match=r"^1,001 rules, expected at most 1,000$"):
        parse_rules(many)
    groups = "".join(
        f"- {{name: r{n}, group: g{n}, when: {{to: '*'}}, then: {{action: a, channel: c}}}}\n" for n in range(33)
    )
    with pytest.raises(RulesError, match=r"line 35, rule 33 \('r32'\), group: 'g32' is one group too many"):
        parse_rules(f"version: 2\nrules:\n{groups}")


def test_names_are_unique() -> None:
    with pytest.raises(RulesError, match=r"line 5, rule 3 .'a'.*: rules 1 and 3 share the name 'a': give each its own"):
        parse_rules(rules_text(ANY, ANY, ANY).replace("name: c", "name: a"))


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(alphabet="rules:[]{}-&*!<'\"\n ?|>na,to#\\x0", max_size=60) | st.text(max_size=30))
def test_no_text_raises_anything_else(found: str) -> None:
    whole = (found, "rules:\n- " + found.replace("\n", "\n  "), f"rules:\n- {{name: a, to: {found}}}")
    for content in (
        *whole,
        f"version: 2\n{found}",
        rules_text(f"to: {found}"),
        rules_text(f"{ANY} | {found}"),
        rules_text(ANY, top=found),
    ):
        try:
            parse_rules(content)
        except RulesError as error:
            str(error).encode()
