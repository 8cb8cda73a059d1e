"""Tables of version 1: they are read as version 2, and written in it; the messages name their own fields."""

import re
from pathlib import Path

import pytest

from segmentation.campaign_rules import RulesError, RuleTable, default_rules, parse_rules
from segmentation.entries import DAY_MS
from segmentation.output_events import Cause
from segmentation.rules_former import FORMER
from segmentation.rules_writer import converted
from tests.support.paths import EVERY_MOVE, ROOT
from tests.support.rules import first_match

REST = "action: Offer, channel: email"


def table(*rules: str) -> RuleTable:
    return parse_rules("rules:\n" + "".join(f"- {{{rule}, {REST}}}\n" for rule in rules))


def test_a_table_is_read_as_version_2() -> None:
    former = table(
        "name: a, from: [null], to: [Lost], cause: [silence], life: {orders: {at_least: 2}}, reason: r,\n"
        "  cooldown_days: 7",
        "name: b, to: '*', life: null, outlook: null, reason: null",
    )
    anew = parse_rules(
        "version: 2\nrules:\n"
        "- name: a\n"
        "  when: {from: [null], to: [Lost], cause: [silence], life: {orders: {at_least: 2}}}\n"
        "  then: {action: Offer, channel: email, reason: r}\n"
        "  cooldown: 7d\n"
        "- {name: b, when: {to: '*'}, then: {action: Offer, channel: email}}\n"
    )
    assert former.rules == anew.rules
    assert former.digest == anew.digest
    assert former.rules[0].cooldown == 7 * DAY_MS
    assert first_match(former, "Loyal", "Lost", Cause.ORDER) == "b"
    assert parse_rules(f"version: 1\nrules:\n- {{name: b, to: '*', {REST}}}\n").rules == anew.rules[1:]


def test_the_longest_cooldown_of_before_is_read_and_converted() -> None:
    text = f"rules:\n- {{name: a, to: '*', cooldown_days: 9999, {REST}}}"
    assert parse_rules(text).rules[0].cooldown == 9999 * DAY_MS
    assert parse_rules(anew(text)).digest == parse_rules(text).digest


def test_its_version_is_warned_of_and_the_lines_of_its_own_fields() -> None:
    found = table("name: a, to: '*'", "name: b,\n  to: [Lost]").warnings()
    assert found == [
        f"line 1: {FORMER}",
        "line 3, rule 2 ('b'): never acts: 'a' before it matches all its moves; move it up",
    ]
    assert FORMER not in " ".join(parse_rules(default_rules()).warnings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "line 1, rules: [], expected at least one"),
        ("rules:\n", "line 1, rules: None, expected a list"),
        ("\nrule: []", "line 2, rule: unknown, expected one of rules"),
        ("{}", "rules: missing, expected version, rules"),
        (
            "rules:\n- a",
            "line 2, rule 1: 'a', expected a rule with name, from, to, cause, life, outlook, action, channel",
        ),
        (
            "rules:\n- {name: a, when: {to: '*'}}",
            "line 1: `version: 2` is missing at the top: rules with `when` and `then` need it",
        ),
        ("caps: []\nrules: []", "line 1, caps: a field of version 2, in a table of version 1: `segstream campaigns"),
    ],
)
def test_what_is_no_table_is_refused(text: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("name: a", "to: missing, expected name, to, action, channel"),
        ("name: a, to: Lost", "to: 'Lost', expected \"*\" alone (any), or a list in brackets of at least one"),
        ("name: a, to: [Lost, null]", "to[1]: None, expected text"),
        ("name: a, to: '*', cause: [order, ordr]", "cause[1]: 'ordr', expected one of order"),
        ("name: a, to: '*', life: {money: {at_least: 1}}", "life.money: unknown, expected one of orders"),
        ("name: '', to: '*'", "name: '', expected at least one character"),
        ("name: a, to: '*', cooldown: 7d", "cooldown: a field of version 2, in a table of version 1"),
        ("name: a, to: '*', colour: red", "colour: unknown, expected one of name, from, to, cause, life, outlook"),
        ("name: a, to: '*', cooldown_days: 0", "cooldown_days: '0', expected whole days from 1 to 9999"),
        ("name: a, to: '*', cooldown_days: 1.5", "cooldown_days: '1.5', expected whole days"),
        ("name: a, to: '*', cooldown_days: null", "cooldown_days: 'None', expected whole days"),
    ],
)
def test_a_wrong_field_is_named_as_the_file_has_it(rule: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        table("name: fine, to: '*'", rule)
    assert str(caught.value).startswith("line 3, rule 2 (")
    assert message in str(caught.value)


def anew(text: str) -> str:
    found = converted(text)
    assert found is not None
    return found.text


TEXT = """# For the shop.

rules:
  # People who left.
  - name: "no"
    from: [null, Loyal]
    to: [Lost, "yes"]
    life:
      orders: {at_least: 2}
      # an inner one
      monetary: {at_most: "5.50", at_least: -3}
    action: 'Win-back: with 20 % off'
    channel: email
    reason: "très bon # x"
    cooldown_days: 365

  - {name: b, to: "*", cause: [silence, order], action: x, channel: y}
"""
ANEW = """# For the shop.
version: 2
rules:
  # People who left.
  - name: 'no'
    when:
      from: [null, Loyal]
      to: [Lost, 'yes']
      life:
        orders: {at_least: 2}
        monetary: {at_most: 5.50, at_least: -3}
    then: {action: 'Win-back: with 20 % off', channel: email, reason: 'très bon # x'}
    cooldown: 365d

  - name: b
    when:
      to: '*'
      cause: [silence, order]
    then: {action: x, channel: y}
"""


def test_a_table_is_written_in_version_2() -> None:
    found = converted(TEXT)
    assert found is not None
    assert (found.text, found.lost) == (ANEW, 1)
    assert converted(ANEW) is None
    with pytest.raises(RulesError, match="line 2, rule 1"):
        converted("rules:\n- {name: a}")


FORMER_TABLES = [EVERY_MOVE, ROOT / "bench" / "studies" / "former_rules.yaml"]


@pytest.mark.parametrize("file", FORMER_TABLES, ids=[file.name for file in FORMER_TABLES])
def test_a_table_in_version_2_has_the_same_rules(file: Path) -> None:
    text = file.read_text("utf-8")
    assert parse_rules(anew(text)).digest == parse_rules(text).digest
    assert re.findall("(?m)^#.*", anew(text)) == re.findall("(?m)^#.*", text)
