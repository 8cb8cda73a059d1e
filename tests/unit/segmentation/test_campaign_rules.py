"""The rule table: its matches, what goes for all rules, and the messages on tables that can't be used."""

from datetime import date
from decimal import Decimal

from segmentation.campaign_rules import RuleTable, default_rules, parse_rules
from segmentation.entries import DAY_MS
from segmentation.life_conditions import KnownLife
from segmentation.outlook_conditions import KnownOutlook
from segmentation.output_events import Cause
from segmentation.rfm_conditions import KnownRfm
from tests.support.rules import ANY, first_match, rule_table


def matched(rules: RuleTable, source: str | None, target: str, cause: Cause = Cause.ORDER) -> str | None:
    return first_match(rules, source, target, cause)


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
    return first_match(DEFAULT, "Loyal", target, cause, life, seen, cooling=cooling)


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
    rules = rule_table("from: [Lost], to: [Champions]", "to: [Champions]", ANY)
    assert matched(rules, "Lost", "Champions") == "a"
    assert matched(rules, "Loyal", "Champions") == "b"
    assert matched(rules, "Loyal", "Lost") == "c"


def test_from_says_who_had_no_segment() -> None:
    rules = rule_table(f"from: [null], {ANY}", f"from: [null, Loyal], {ANY}")
    assert matched(rules, None, "Lost") == "a"
    assert matched(rules, "Loyal", "Lost") == "b"
    assert matched(rules, "Champions", "Lost") is None
    assert matched(rule_table(f"from: null, {ANY}"), None, "Lost") == "a"
    assert matched(rule_table(f"from: null, {ANY}"), "Loyal", "Lost") is None
    assert matched(rule_table(f"from: '*', {ANY}"), None, "Lost") == "a"


def test_a_star_at_the_end_stands_for_all_names_that_begin_so() -> None:
    rules = rule_table("from: ['At *'], to: ['Big *', Lost]")
    assert matched(rules, "At Risk", "Big Spenders") == matched(rules, "At Sea", "Lost") == "a"
    assert (
        matched(rules, "Athlete", "Lost") is matched(rules, "At Risk", "Bigger") is matched(rules, None, "Lost") is None
    )


def test_cause() -> None:
    rules = rule_table("to: [Lost], cause: [silence, window]", f"{ANY}, cause: [order]")
    found = {cause: matched(rules, "Loyal", "Lost", cause) for cause in Cause}
    assert found == dict.fromkeys(Cause) | {Cause.SILENCE: "a", Cause.WINDOW: "a", Cause.ORDER: "b"}


def test_groups_and_priorities_order_the_rules() -> None:
    rules = rule_table(
        f"{ANY}",
        f"{ANY} | priority: 5, group: calls",
        f"{ANY} | priority: 10",
        f"{ANY} | priority: -1",
        f"{ANY} | priority: 10",
        f"{ANY} | group: calls",
    )
    assert [[rule.name for rule in group] for group in rules.ordered] == [["c", "e", "a", "d"], ["b", "f"]]


FULL = """version: 2
time_zone: Europe/Berlin
consent: required
quiet_hours: {from: 21:00, until: "08:00"}
holdouts: {salt: "2026", rotate: quarter, global: 0.05, tags: {marketing: 0.1}}
caps:
  - {at_most: 2, within: 7d, tag: marketing}
  - {at_most: 1, per: day}
rules:
  - name: full
    when: {from: "*", to: [Lost], cause: [silence], rfm: {frequency: {at_least: 2}}, first_time: true}
    then: {action: Offer, channel: email, reason: why, variables: [rfm, before, next, keep, segment]}
    tags: [marketing, lost]
    group: main
    priority: 10
    cooldown: 52w
    delay: 36h
    unless: order
    if_still: false
    quiet_hours: {from: "12:30", until: "14:00"}
    time_zone: Europe/Paris
    goal: {order_within: 30d}
    valid: {from: 2026-11-01, until: 2026-12-24}
    budget: {per_day: 500}
    holdout: 0.125
    consent: unless_denied
  - name: plain
    when: {to: "*"}
    then: {action: Note, channel: log}
  - name: receipt
    when: {to: "*"}
    then: {action: Receipt, channel: email}
    tags: [marketing]
    quiet_hours: none
    transactional: true
"""


def test_every_field_is_read() -> None:
    rules = parse_rules(FULL)
    full = rules.rules[0]
    assert (rules.version, rules.time_zone, rules.consent) == (2, "Europe/Berlin", "required")
    assert (rules.holdouts.salt, rules.holdouts.rotate) == ("2026", "quarter")
    assert (rules.holdouts.global_, rules.holdouts.tags) == (Decimal("0.05"), {"marketing": Decimal("0.1")})
    week, daily = rules.caps
    assert (week.at_most, week.within, week.per, week.tag) == (2, 7 * DAY_MS, None, "marketing")
    assert (daily.at_most, daily.within, daily.per, daily.tag) == (1, None, "day", None)
    assert (full.when.first_time, full.when.from_, full.when.to) == (True, None, ("Lost",))
    assert (full.then.reason, full.then.variables) == ("why", ("rfm", "before", "next", "keep", "segment"))
    assert (full.tags, full.group, full.priority) == (("marketing", "lost"), "main", 10)
    assert (full.cooldown, full.delay) == (364 * DAY_MS, 3 * DAY_MS // 2)
    assert (full.unless, full.if_still, full.transactional) == ("order", False, False)
    assert full.goal is not None
    assert full.goal.order_within == 30 * DAY_MS
    assert full.valid is not None
    assert (full.valid.from_, full.valid.until) == (date(2026, 11, 1), date(2026, 12, 24))
    assert full.budget is not None
    assert (full.budget.per_day, full.holdout) == (500, Decimal("0.125"))
    hours = [rules.quiet_hours_of(rule) for rule in rules.rules]
    assert [each and (each.from_minute, each.until_minute) for each in hours] == [(750, 840), (1260, 480), None]
    assert [rules.zone_of(rule) for rule in rules.rules] == ["Europe/Paris", "Europe/Berlin", "Europe/Berlin"]
    assert [rules.consent_of(rule) for rule in rules.rules] == ["unless_denied", "required", "required"]
    assert [rules.caps_of(rule) for rule in rules.rules] == [(week, daily), (daily,), ()]


def test_what_a_rule_leaves_out_has_a_default() -> None:
    rules = rule_table(ANY)
    rule = rules.rules[0]
    assert (rules.time_zone, rules.consent, rules.quiet_hours, rules.caps) == ("UTC", "unless_denied", None, ())
    assert (rules.holdouts.salt, rules.holdouts.rotate, rules.holdouts.global_, rules.holdouts.tags) == (
        *("", "never", None),
        {},
    )
    assert (rule.group, rule.priority, rule.tags, rule.if_still, rule.transactional) == ("main", 0, (), True, False)
    absent = (rule.cooldown, rule.delay, rule.unless, rule.quiet_hours, rule.time_zone, rule.goal, rule.valid)
    assert {*absent, rule.budget, rule.holdout, rule.consent} == {None}


def test_the_table_s_quiet_hours_don_t_go_for_transactional_rules() -> None:
    rules = rule_table(f"{ANY} | transactional: true", ANY, top="quiet_hours: {from: '21:00', until: '8:00'}")
    assert [rules.quiet_hours_of(rule) is not None for rule in rules.rules] == [False, True]


def test_the_digest_is_that_of_the_content() -> None:
    rules = parse_rules(FULL)
    assert len(rules.digest) == 8
    assert parse_rules("# a comment\n" + FULL.replace("52w", "364d").replace("36h", "2160m")).digest == rules.digest
    changed = [
        ("Paris", "Rome"),
        ("0.125", "0.126"),
        ("52w", "51w"),
        ("12:30", "12:31"),
        ("why", "how"),
        ("first_time: true", "first_time: false"),
        ("2026-12-24", "2026-12-23"),
    ]
    found = {parse_rules(FULL.replace(*change)).digest for change in changed}
    assert len(found | {rules.digest}) == len(changed) + 1


def life(orders: int, monetary: str = "10.00", days: int = 30, *, more_ms: int = 0, partial: bool = False) -> KnownLife:
    return KnownLife(orders, orders, Decimal(monetary), days * DAY_MS + more_ms, partial)


def acts(conditions: str, *lives: KnownLife | None) -> list[bool]:
    rules = rule_table(f"{ANY}, life: {conditions}")
    return [first_match(rules, "Loyal", "Lost", Cause.SILENCE, each) is not None for each in lives]


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
    assert matched(rule_table(f"{ANY}, life: {{orders: {{at_least: 0}}}}", ANY), None, "Lost") == "b"


def test_a_partial_life_may_be_longer_than_it_is_known_to_be() -> None:
    assert acts("{orders: {at_least: 5}}", life(5, partial=True)) == [True]
    assert acts("{orders: {at_most: 5}}", life(1, partial=True)) == [False]


def test_conditions_on_the_window() -> None:
    rules = rule_table(
        f"{ANY}, rfm: {{recency_days: {{at_most: 30.5}}, frequency: {{at_least: 2}}, monetary: {{at_least: -1}}}}"
    )

    def meets(days: str, orders: str, money: str) -> bool:
        known = KnownRfm(Decimal(days), Decimal(orders), Decimal(money))
        return first_match(rules, None, "Lost", Cause.ORDER, rfm=known) is not None

    assert meets("30.5", "2", "-1.00")
    assert not meets("30.6", "2", "-1.00")
    assert not meets("30.5", "1", "-1.00")
    assert not meets("30.5", "2", "-1.01")
    assert first_match(rules, None, "Lost", Cause.ORDER) is None


def test_segments_that_a_model_doesn_t_have_are_named() -> None:
    rules = rule_table("from: [null, 'At *'], to: [Lost, Lots, 'Big *']", ANY)
    assert rules.unknown_segments(["At Risk", "Lost"]) == [
        "rule 'a': the model has no segment Lots or Big *; it has At Risk, Lost"
    ]
