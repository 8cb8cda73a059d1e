"""The rule table: its matches, and the messages on tables that can't be used."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation.campaigns import RulesError, RuleTable, default_rules, parse_rules
from segmentation.entries import DAY_MS
from segmentation.life_conditions import KnownLife
from segmentation.outlook_conditions import KnownOutlook
from segmentation.output_events import Cause

REST = "action: Offer, channel: email"


def table(*rules: str) -> RuleTable:
    return parse_rules("rules:\n" + "".join(f"- {{{rule}, {REST}}}\n" for rule in rules))


def matched(rules: RuleTable, source: str | None, target: str, cause: Cause = Cause.ORDER) -> str | None:
    rule = rules.match(source, target, cause)
    return rule.name if rule else None


NAMES = (
    *("Champions", "Loyal", "Big Spenders", "Steady", "Potential Loyalists", "New", "Promising", "Need Attention"),
    *("About to Sleep", "Cannot Lose", "At Risk", "Hibernating", "Lost"),
)
FIRST_ORDER = KnownLife(1, 1, Decimal("9.80"), 0, False)
REGULAR = KnownLife(16, 14, Decimal("980.00"), 400 * DAY_MS, False)


def outlook(gaps: str, chance: str = "0.1") -> KnownOutlook:
    return KnownOutlook(Decimal(chance), Decimal("0.2"), Decimal("9.80"), Decimal("8.1"), Decimal(gaps))


def by_default(
    target: str,
    cause: Cause,
    seen: KnownOutlook | None,
    life: KnownLife | None = REGULAR,
    cooling: tuple[str, ...] = (),
) -> str | None:
    rule = DEFAULT.match("Loyal", target, cause, life, seen, cooling=cooling)
    return rule.name if rule else None


DEFAULT = parse_rules(default_rules())
OUTLOOKS = (None, outlook("0"), outlook("1"), outlook("1.5", "0.9"), outlook("2", "0.9"), outlook("2"), outlook("9"))


def test_only_orders_and_silence_set_off_a_default_rule() -> None:
    assert DEFAULT.warnings() == []
    for target in (*NAMES, "24 orders a year of 31"):
        for cause in set(Cause) - {Cause.ORDER, Cause.SILENCE, Cause.FIRST}:
            assert {by_default(target, cause, seen, life) for seen in OUTLOOKS for life in (None, REGULAR)} == {None}
        # A first model gives everybody a first segment, and writes to nobody.
        assert by_default(target, Cause.FIRST, None) is None
        assert by_default(target, Cause.FIRST, None, FIRST_ORDER) == "welcome"
        assert by_default(target, Cause.FIRST, None, FIRST_ORDER._replace(ms_since_first_order=2 * DAY_MS)) is None


def test_nobody_on_their_rhythm_gets_a_discount_by_default() -> None:
    for rule in DEFAULT.rules:
        assert ("%" in rule.then.action) == (rule.name == "win-back")
        assert not any(word in rule.then.action.lower() for word in ("voucher", "discount", "limited"))
        assert rule.cooldown is not None or rule.name == "welcome"
    found = {seen: by_default("Lost", Cause.SILENCE, seen) for seen in OUTLOOKS}
    assert [seen for seen, name in found.items() if name == "win-back"] == [outlook("2"), outlook("9")]
    # Without an outlook, or within a year of the discount, there is none; on the own rhythm there is nothing at all.
    assert found[None] == found[outlook("2", "0.9")] == "last-chance"
    assert by_default("Lost", Cause.SILENCE, outlook("9"), cooling=("win-back",)) == "last-chance"
    assert found[outlook("1")] is found[outlook("1.5", "0.9")] is None
    assert by_default("Lost", Cause.ORDER, outlook("9")) is None
    assert by_default("Lost", Cause.SILENCE, outlook("9"), FIRST_ORDER) == "last-chance"


def test_silence_is_answered_by_default_in_the_customer_s_own_gaps() -> None:
    least = {
        target: [seen for seen in OUTLOOKS if by_default(target, Cause.SILENCE, seen)]
        for target in ("At Risk", "Cannot Lose", "Need Attention", "About to Sleep", "Hibernating")
    }
    assert least["At Risk"] == least["Cannot Lose"] == least["About to Sleep"] == [None, *OUTLOOKS[3:]]
    assert least["Need Attention"] == least["Hibernating"] == [None, *OUTLOOKS[4:]]
    assert by_default("Cannot Lose", Cause.SILENCE, outlook("2")) == "personal-call"
    assert by_default("Champions", Cause.SILENCE, outlook("2")) is None


def test_orders_are_answered_by_default() -> None:
    seen = outlook("0", "0.9")
    found = {target: by_default(target, Cause.ORDER, seen) for target in NAMES}
    assert {target: name for target, name in found.items() if name} == {
        "Champions": "vip",
        "Loyal": "loyalty",
        "Big Spenders": "premium",
    }
    second = FIRST_ORDER._replace(orders=2, purchase_days=2)
    for target in ("Potential Loyalists", "Promising"):
        assert by_default(target, Cause.ORDER, seen, second) == "onboarding"
        assert by_default(target, Cause.ORDER, seen, REGULAR) is None


def test_first_match_wins() -> None:
    rules = table("name: a, from: [Lost], to: [Champions]", "name: b, to: [Champions]", "name: c, to: '*'")
    assert matched(rules, "Lost", "Champions") == "a"
    assert matched(rules, "Loyal", "Champions") == "b"
    assert matched(rules, "Loyal", "Lost") == "c"


def test_from_says_who_had_no_segment() -> None:
    rules = table("name: new, from: [null], to: '*'", "name: mixed, from: [null, Loyal], to: '*'")
    assert matched(rules, None, "Lost") == "new"
    assert matched(rules, "Loyal", "Lost") == "mixed"
    assert matched(rules, "Champions", "Lost") is None
    assert matched(table("name: new, from: null, to: '*'"), None, "Lost") == "new"
    assert matched(table("name: new, from: null, to: '*'"), "Loyal", "Lost") is None
    assert matched(table("name: any, from: '*', to: '*'"), None, "Lost") == "any"


def test_cause() -> None:
    rules = table("name: lapse, to: [Lost], cause: [silence, window]", "name: back, to: '*', cause: [order]")
    found = {cause: matched(rules, "Loyal", "Lost", cause) for cause in Cause}
    assert found == dict.fromkeys(Cause) | {Cause.SILENCE: "lapse", Cause.WINDOW: "lapse", Cause.ORDER: "back"}


def test_rules_that_never_act_are_refused() -> None:
    rules = table(
        "name: a, to: [Lost, Loyal], cause: [order, refund]",
        "name: b, to: [Lost], cause: [order]",
        "name: c, to: [Lost]",
        "name: d, from: [Lost], to: [Lost, Loyal], cause: [refund]",
    )
    never = [warning.split("'")[1] for warning in rules.warnings()]
    assert never == ["b", "d"]
    assert rules.warnings()[0] == "line 3, rule 2 ('b'): never acts: 'a' before it matches all its moves; move it up"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected `rules:` and a list of rules below it"),
        ("- x", "line 1: expected `rules:`"),
        ("rules: []", "line 1, rules: [], expected at least one"),
        ("rules:\n", "line 1, rules: None, expected a list"),
        ("\nrule: []", "line 2, rule: unknown, expected one of rules"),
        (
            "rules:\n- a",
            "line 2, rule 1: 'a', expected a rule with name, from, to, cause, life, outlook, action, channel, reason",
        ),
        ("a: [", "line 1: not YAML"),
        ("rules: \x00", "not YAML: unacceptable character"),
        ("a: b\n---\nc: d", "line 2: not YAML"),
        ("? [a]\n: b", "line 1: the key ['a'] is not text"),
        ("[" * 100_000, "nested too deeply"),
        ("rules: &a [*a]", "line 1: an alias (*name) leads here: write the value out"),
        ("rules: !!python/object:os.system x", "line 1: YAML reads 'x' as python/object:os.system, expected text"),
        ("rules:\n- name: no", "line 2: YAML reads 'no' as bool, expected text: put it in quotes"),
        ("rules:\n- name: 2020-13-45x\n  to: 2020-10-10", "line 3: YAML reads '2020-10-10' as timestamp"),
        ("rules:\n- name: a\n  to: '*'\n  name: b", "line 4: the key 'name' stands there twice"),
    ],
)
def test_what_is_no_table_is_refused(text: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("name: a", "to: missing, expected name, to, action, channel"),
        ("name: a, to: Lost", "to: 'Lost', expected \"*\" alone (any), or a list in brackets of at least one"),
        ("name: a, to: null", "to: None, expected"),
        ("name: a, to: []", "to: [], expected"),
        ("name: a, to: ['*', Lost]", "to: ['*', 'Lost'], expected"),
        ("name: a, to: [Lost, null]", "to[1]: None, expected text"),
        ("name: a, to: [{b: c}]", "to[0]: {'b': 'c'}, expected text"),
        (
            "name: a, to: '*', cause: [order, ordr]",
            "cause[1]: 'ordr', expected one of order, refund, cancellation, silence, window, model, settings, first",
        ),
        ("name: a, to: '*', cause: [erasure]", "cause[0]: 'erasure', expected one of order"),
        ("name: a, to: '*', cause: [[order]]", "cause[0]: ['order'], expected one of order"),
        ("name: a, to: '*', cause: order", "cause: 'order', expected"),
        ("name: '', to: '*'", "name: '', expected at least one character"),
        (f"name: {'n' * 65}, to: '*'", "expected at most 64 characters"),
        ('name: "\\ud800", to: "*"', "name: '\\ud800', expected text in Unicode"),
        (
            "name: a, to: '*', cooldown: long",
            "cooldown: a field of version 2, in a table of version 1: `segstream campaigns check --convert` writes",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_line_and_rule(rule: str, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        table("name: fine, to: '*'", rule)
    text = str(caught.value)
    assert text.startswith("line 3, rule 2 (")
    assert message in text
    text.encode()


def test_every_finding_is_listed() -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(
            "rules:\n- {name: a, action: Offer, channel: email,\n  to: Lost}\n"
            "- name: b\n  channel: email\n  to: []\n  action: Offer"
        )
    assert [part.split(":")[0] for part in caught.value.findings] == [
        "line 3, rule 1 ('a'), to",
        "line 6, rule 2 ('b'), to",
    ]


def test_names_are_unique() -> None:
    with pytest.raises(RulesError, match="rules 1 and 3 share the name 'a': give each its own"):
        table("name: a, to: [Lost]", "name: b, to: '*'", "name: a, to: '*'")


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(alphabet="rules:[]{}-&*!<'\"\n ?|>na,to#\\x0", max_size=60) | st.text(max_size=30))
def test_no_text_raises_anything_else(text: str) -> None:
    for content in (text, "rules:\n- " + text.replace("\n", "\n  "), f"rules:\n- {{name: a, to: {text}}}"):
        try:
            parse_rules(content)
        except RulesError as error:
            str(error).encode()


def life(orders: int, monetary: str = "10.00", days: int = 30, *, more_ms: int = 0, partial: bool = False) -> KnownLife:
    return KnownLife(orders, orders, Decimal(monetary), days * DAY_MS + more_ms, partial)


def acts(conditions: str, *lives: KnownLife | None) -> list[bool]:
    rules = table(f"name: a, to: '*', life: {conditions}")
    return [rules.match("Loyal", "Lost", Cause.SILENCE, each) is not None for each in lives]


def test_conditions_on_the_whole_life() -> None:
    assert acts("{orders: {at_least: 5}}", life(4), life(5), life(6)) == [False, True, True]
    assert acts("{orders: {at_least: 2, at_most: 3}}", life(1), life(2), life(3), life(4)) == [False, True, True, False]
    assert acts("{purchase_days: {at_most: 1}}", life(1), life(2)) == [True, False]
    # Amounts are exact, with or without quotes.
    for bound in ("0.3", "'0.30'"):
        assert acts(f"{{monetary: {{at_most: {bound}}}}}", life(1, "0.30"), life(1, "0.3001")) == [True, False]
    assert acts("{monetary: {at_least: -5}}", life(1, "-5.00"), life(1, "-5.01")) == [True, False]
    year = "{days_since_first_order: {at_least: 365}}"
    assert acts(year, life(1, days=365), life(1, days=365, more_ms=-1)) == [True, False]
    both = "{orders: {at_least: 5}, monetary: {at_least: 100}}"
    assert acts(both, life(5), life(4, "100.00"), life(5, "100.00")) == [False, False, True]


def test_a_move_without_a_life_meets_no_condition() -> None:
    assert acts("{orders: {at_least: 0}}", None) == [False]
    assert matched(table("name: a, to: '*', life: {orders: {at_least: 0}}", "name: b, to: '*'"), None, "Lost") == "b"


def test_a_partial_life_may_be_longer_than_it_is_known_to_be() -> None:
    assert acts("{orders: {at_least: 5}}", life(5, partial=True)) == [True]
    assert acts("{orders: {at_most: 5}}", life(1, partial=True)) == [False]


def test_a_rule_for_merges_is_not_covered_by_one_for_any_other_cause() -> None:
    every, merges = "name: every, to: '*'", "name: merges, to: '*', cause: [merge, order]"
    assert table(every, merges).warnings() == []
    assert len(table(merges, merges.replace("merges,", "again,")).warnings()) == 1
    assert len(table(every, merges.replace("merge, ", "")).warnings()) == 1
    assert matched(table(every, merges), "Loyal", "Lost", Cause.MERGE) == "merges"


def test_conditions_that_an_earlier_rule_covers_are_warned_of() -> None:
    wide, narrow = "name: wide, to: '*', life: {orders: {at_least: 2}}", "to: '*', life: {orders: {at_least: 5}"
    assert len(table(wide, f"name: narrow, {narrow}}}").warnings()) == 1
    assert len(table(wide, f"name: narrow, {narrow}, monetary: {{at_most: 9}}}}").warnings()) == 1
    assert table(f"name: narrow, {narrow}}}", wide).warnings() == []
    assert table(wide, "name: others, to: '*', life: {orders: {at_most: 5}}").warnings() == []
    assert table(wide, "name: any, to: '*'").warnings() == []


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (
            "{}",
            "line 2, rule 1 ('a'), life: expected at least one of orders, purchase_days, monetary, days_since_first",
        ),
        ("{orders: {}}", "life.orders: expected at least one of at_least, at_most"),
        ("5+", "life: '5+', expected a mapping with orders, purchase_days, monetary, days_since_first_order"),
        ("{orders: five}", "life.orders: 'five', expected a mapping with at_least, at_most"),
        ("{money: {at_least: 5}}", "life.money: unknown, expected one of orders, purchase_days, monetary, days_since"),
        ("{orders: {least: '5'}}", "life.orders.least: unknown, expected one of at_least, at_most"),
        ("{orders: {at_least: five}}", "life.orders.at_least: 'five', expected a number like 5 or 49.90"),
        ("{orders: {at_least: 1_000}}", "life.orders.at_least: '1_000', expected a number"),
        ("{orders: {at_least: .inf}}", "life.orders.at_least: '.inf', expected a number"),
        ("{orders: {at_least: [1]}}", "YAML reads '1' as int"),
        (
            "{orders: {at_least: -1}}",
            "line 2, rule 1 ('a'), life.orders.at_least: '-1', expected 0 or more: the figure is never negative",
        ),
        ("{purchase_days: {at_most: -1}}", "life.purchase_days.at_most: '-1', expected 0 or more"),
        (
            "{days_since_first_order: {at_most: -0.5}}",
            "life.days_since_first_order.at_most: '-0.5', expected 0 or more",
        ),
        (
            "{orders: {at_least: 5, at_most: 4}}",
            "life.orders: at_least is 5, expected it to be no more than at_most, 4",
        ),
    ],
)
def test_conditions_that_cant_be_used_are_named(conditions: str, message: str) -> None:
    with pytest.raises(RulesError) as error:
        table(f"name: a, to: '*', life: {conditions}")
    assert message in str(error.value)


def test_conditions_on_the_outlook_that_an_earlier_rule_covers_are_warned_of() -> None:
    wide = "name: wide, to: '*', outlook: {chance_90d: {at_most: 0.5}"
    narrow = "name: narrow, to: '*', outlook: {chance_90d: {at_most: 0.2}, orders_90d: {at_most: 1}"
    assert len(table(f"{wide}}}", f"{narrow}}}").warnings()) == 1
    assert table(f"{narrow}}}", f"{wide}}}").warnings() == []
    assert table(f"{wide}}}", f"{narrow}, if_unknown: act}}").warnings() == []
    assert len(table(f"{wide}, if_unknown: act}}", f"{narrow}, if_unknown: act}}").warnings()) == 1
    assert table(f"{wide}}}", "name: any, to: '*'").warnings() == []


def test_a_rule_with_a_cooldown_covers_nothing() -> None:
    assert table("name: a, to: '*', cooldown_days: 30", "name: b, to: '*'").warnings() == []
    assert len(table("name: a, to: '*'", "name: b, to: '*', cooldown_days: 30").warnings()) == 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("outlook: {}", "outlook: expected at least one of chance_90d, orders_90d, spend_90d, usual_gap_days"),
        ("outlook: {if_unknown: act}", "outlook: expected at least one of chance_90d, orders_90d, spend_90d"),
        ("outlook: {chance: {at_most: 1}}", "outlook.chance: unknown, expected one of chance_90d, orders_90d"),
        ("outlook: {chance_90d: 0.2}", "YAML reads '0.2' as float, expected text"),
        ("outlook: {chance_90d: low}", "outlook.chance_90d: 'low', expected a mapping with at_least, at_most"),
        ("outlook: {chance_90d: {at_most: 20 %}}", "outlook.chance_90d.at_most: '20 %', expected a number like 5"),
        ("outlook: {chance_90d: {at_most: 1}, if_unknown: yes}", "YAML reads 'yes' as bool"),
        ("outlook: {chance_90d: {at_most: 1}, if_unknown: maybe}", "outlook.if_unknown: 'maybe', expected act or skip"),
        (
            "outlook: {chance_90d: {at_most: 20}}",
            "line 2, rule 1 ('a'), outlook.chance_90d.at_most: '20', expected 0 to 1 (write 0.2 for 20 %)",
        ),
        ("outlook: {chance_90d: {at_least: 2.5}}", "'2.5', expected 0 to 1 (write 0.025 for 2.5 %)"),
        ("outlook: {chance_90d: {at_most: 100}}", "'100', expected 0 to 1 (write 1 for 100 %)"),
        ("outlook: {chance_90d: {at_most: 101}}", "'101', expected 0 to 1 (write 0.2 for 20 %)"),
        ("outlook: {chance_90d: {at_least: -0.1}}", "'-0.1', expected 0 to 1"),
        ("outlook: {orders_90d: {at_most: -1}}", "outlook.orders_90d.at_most: '-1', expected 0 or more"),
        ("outlook: {spend_90d: {at_least: -1}}", "outlook.spend_90d.at_least: '-1', expected 0 or more"),
        ("outlook: {usual_gap_days: {at_most: -1}}", "outlook.usual_gap_days.at_most: '-1', expected 0 or more"),
        ("outlook: {silence_in_gaps: {at_most: -1}}", "outlook.silence_in_gaps.at_most: '-1', expected 0 or more"),
        ("outlook: low", "outlook: 'low', expected a mapping with chance_90d, orders_90d, spend_90d, usual_gap_days"),
        ("cooldown_days: 0", "cooldown_days: '0', expected whole days from 1 to 9999"),
        ("cooldown_days: 1.5", "cooldown_days: '1.5', expected whole days"),
        ("cooldown_days: a week", "cooldown_days: 'a week', expected whole days"),
    ],
)
def test_outlooks_and_cooldowns_that_cant_be_used_are_named(rule: str, message: str) -> None:
    with pytest.raises(RulesError) as error:
        table(f"name: a, to: '*', {rule}")
    assert message in str(error.value)


def test_numbers_are_read_in_bounds_alone() -> None:
    with pytest.raises(RulesError, match="YAML reads '5' as int, expected text"):
        table("name: 5, to: '*'")
