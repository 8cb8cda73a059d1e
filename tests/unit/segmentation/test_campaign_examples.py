"""The campaign step on moves alone, case by case: an action to the byte, the dead letters, the state's bytes."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.campaign_budget import BudgetBook
from segmentation.campaign_deciding import MOST_WATCHES
from segmentation.campaign_state import (
    MOST_ACTS,
    Act,
    CampaignFormatError,
    CampaignState,
    Decided,
    Facts,
    kept,
    name_key,
)
from segmentation.campaigns import CampaignStep, parse_rules
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import CONTROL_KEY, END_MS, Reason, encode
from segmentation.output_events import (
    CampaignAction,
    CampaignDecision,
    CampaignWithheld,
    Cause,
    LifeFigures,
    OutlookFigures,
    SegmentChanged,
    Withheld,
)
from segmentation.step import SideRecord, Step, Turn, TurnContext

AT = 1_772_547_600_000
AT_TEXT = "2026-03-03T14:20:00.000Z"
CONTEXT = TurnContext(clock=-1, now=0)


VIP = """
rules:
- {name: vip, to: [Champions], action: VIP offers and early access, channel: email}
"""
LIFE = LifeFigures(3, 2, "100.50", "33.50", iso(AT - 60 * DAY_MS), AT_TEXT, 30.0, 30.0)


class InputRecord(NamedTuple):
    key: bytes | None
    value: bytes | None
    offset: int = 0
    timestamp: int = 0


def a_change(**changes: Any) -> SegmentChanged:
    content: dict[str, Any] = {
        "id": "5d0a6f4e-0000-5000-8000-000000000001",
        "customer_id": "ann",
        "sequence": 1,
        "from_": "At Risk",
        "to": "Champions",
        "cause": Cause.ORDER,
        "occurred_at": AT_TEXT,
        "scored_at": AT_TEXT,
        "model_version": "0123456789abcdef",
        "rfm": None,
        "before": None,
        "distances": {},
        "next": None,
        "causation_id": "e-1",
    }
    return SegmentChanged(**content | changes)


def row(**changes: Any) -> InputRecord:
    change = a_change(**changes)
    return InputRecord(change.customer_id.encode(), encode(change))


def a_step(text: str = VIP, group: str = "shop") -> CampaignStep:
    return CampaignStep(parse_rules(text), group, event_time=True)


def run(
    step: Step, *rows: InputRecord, states: dict[bytes, bytes] | None = None, context: TurnContext = CONTEXT
) -> Turn:
    plan = step.plan(rows, 0, context)
    assert (plan.start, plan.taken) == (None, len(rows))
    return step.decide(plan, [(states or {}).get(key) for key in plan.keys], (), more=False, context=context)


def decisions(turn: Turn) -> list[CampaignDecision]:
    return [msgspec.json.decode(output.value, type=CampaignDecision) for output in turn.outputs]


def actions(turn: Turn) -> list[CampaignAction]:
    return [event for event in decisions(turn) if isinstance(event, CampaignAction)]


def state(
    sequence: int, segment: str | None = "Champions", since: int = 0, counter: int = 0, acts: Sequence[Act] = ()
) -> CampaignState:
    """Return the state after so many decisions."""
    led = bytes(8) if segment is None else name_key(segment)
    return CampaignState(sequence, led, since, decided=Decided(counter, since, tuple(acts)))


def act(campaign: str, at: int) -> Act:
    return Act(name_key(campaign), at)


def test_an_action() -> None:
    turn = run(a_step(), row())
    namespace = uuid5(uuid5(NAMESPACE_URL, "segstream:shop"), "campaign.action")
    action_id = str(uuid5(namespace, "5d0a6f4e-0000-5000-8000-000000000001:vip"))
    assert actions(turn) == [
        CampaignAction(
            id=action_id,
            customer_id="ann",
            campaign="vip",
            segment="Champions",
            action="VIP offers and early access",
            channel="email",
            reason="At Risk → Champions (order)",
            change_id="5d0a6f4e-0000-5000-8000-000000000001",
            occurred_at=AT_TEXT,
            decided_at=AT_TEXT,
            rules=a_step().table.digest,
        )
    ]
    output, after = turn.outputs[0], state(1, counter=1, acts=[act("vip", AT)]).pack()
    assert (output.key, output.latest, output.note) == (b"ann", None, after)
    assert dict(output.headers) == {
        "ce_id": action_id.encode(),
        "ce_source": b"/segstream/shop",
        "ce_specversion": b"1.0",
        "ce_type": b"campaign.action",
        "ce_subject": b"ann",
        "ce_time": AT_TEXT.encode(),
        "content-type": b"application/json",
    }
    assert turn.states == {b"ann": after}
    assert (turn.taken, turn.clock, turn.counts) == (1, AT, {"action": 1})
    assert (turn.earlier, turn.due, turn.idle, turn.dead) == ({}, {}, [], [])


def test_ids_differ_by_deployment_change_and_rule() -> None:
    other = VIP.replace("name: vip", "name: vip2")
    turns = [
        run(a_step(), row()),
        run(a_step(group="other"), row()),
        run(a_step(), row(id="another")),
        run(a_step(other), row()),
    ]
    ids = [actions(turn)[0].id for turn in turns]
    assert len(set(ids)) == len(ids)
    assert {UUID(text).version for text in ids} == {5}


def test_the_reason_of_the_rule_follows_the_general_reason() -> None:
    step = a_step("rules:\n- {name: a, to: '*', action: Offer, channel: email, reason: keep the best}")
    turn = run(step, row(from_=None, cause=Cause.FIRST))
    assert actions(turn)[0].reason == "no segment → Champions (first): keep the best"


def test_a_move_handled_already_does_nothing() -> None:
    states = {b"ann": state(4).pack()}
    turn = run(a_step(), row(sequence=4), row(sequence=3), states=states)
    assert not turn.outputs
    assert not turn.states
    assert turn.counts == {"repeat": 2}
    assert len(run(a_step(), row(sequence=5), states=states).outputs) == 1


def test_an_erasure_never_triggers() -> None:
    step = a_step("rules:\n- {name: a, to: '*', action: Offer, channel: email}")
    turn = run(step, row(to=None, cause=Cause.ERASURE))
    assert not turn.outputs
    assert turn.states == {b"ann": state(1, None, since=1).pack()}
    assert step.is_gone(turn.states[b"ann"])
    assert turn.counts == {"erased": 1}


def test_an_id_that_was_merged_is_gone_and_triggers_nothing() -> None:
    step = a_step("rules:\n- {name: a, to: '*', action: Offer, channel: email}")
    turn = run(step, row(to=None, cause=Cause.MERGED, merged_into="bob"))
    assert not turn.outputs
    assert turn.states == {b"ann": state(1, None, since=1).pack()}
    assert step.is_gone(turn.states[b"ann"])
    assert turn.counts == {"merged": 1}


@pytest.mark.parametrize(
    ("cause", "count"),
    [("", "no_rule"), ("cause: '*', ", "no_rule"), ("cause: [order], ", "no_rule"), ("cause: [merge], ", "action")],
)
def test_a_move_by_a_merge_triggers_only_a_rule_that_names_it(cause: str, count: str) -> None:
    step = a_step(f"rules:\n- {{name: a, to: '*', {cause}action: Offer, channel: email}}")
    turn = run(step, row(cause=Cause.MERGE))
    assert turn.counts == {count: 1}
    assert len(turn.outputs) == (count == "action")


def test_only_the_last_move_says_whether_a_customer_is_erased() -> None:
    before, erased, back = state(3), state(4, None, since=4), state(5)
    assert not a_step().is_gone(before.pack())
    assert a_step().is_gone(before.join(erased).pack())
    assert erased.join(back) == back.join(erased) == state(5, since=4)
    assert erased.erased
    assert not erased.join(back).erased


def test_a_move_without_a_rule_is_remembered() -> None:
    turn = run(a_step(), row(to="Segment 1"))
    assert not turn.outputs
    assert turn.states == {b"ann": state(1, "Segment 1").pack()}
    assert turn.counts == {"no_rule": 1}


def test_a_rule_looks_at_the_whole_life_of_the_move() -> None:
    text = """
rules:
- name: regulars
  to: '*'
  life: {orders: {at_least: 3}, monetary: {at_least: 100.5}, days_since_first_order: {at_least: 60, at_most: 60}}
  action: Call
  channel: phone
- {name: others, to: '*', action: Offer, channel: email}
"""
    rows = [
        row(customer_id="regular", life=LIFE),
        row(customer_id="rare", life=msgspec.structs.replace(LIFE, orders=2)),
        row(customer_id="former version"),
    ]
    assert [action.campaign for action in actions(run(a_step(text), *rows))] == ["regulars", "others", "others"]


OUTLOOK = {
    "chance_90d": 0.15,
    "orders_90d": 0.2,
    "spend_90d": "9.80",
    "usual_gap_days": 8.1,
    "silence_in_gaps": 3.0,
    "later": "a figure of a later version",
}


def with_outlook(outlook: object, **changes: Any) -> InputRecord:
    return InputRecord(b"ann", broken(outlook=outlook, **changes))


def test_a_rule_looks_at_the_outlook_of_the_move() -> None:
    text = """
rules:
- name: gone
  to: '*'
  outlook: {chance_90d: {at_most: 0.15}, spend_90d: {at_least: 9.80}, silence_in_gaps: {at_least: 3}}
  action: Win-back
  channel: email
- {name: heavy, to: '*', outlook: {spend_90d: {at_least: 50}, if_unknown: act}, action: Call, channel: phone}
- {name: others, to: '*', action: Offer, channel: email}
"""
    outlooks: list[object] = [
        OUTLOOK,
        OUTLOOK | {"silence_in_gaps": 2.99},
        OUTLOOK | {"chance_90d": 0.1501},
        OUTLOOK | {"spend_90d": None},
        None,
        "missing",
    ]
    rows = [with_outlook(outlook, sequence=number) for number, outlook in enumerate(outlooks, start=1)]
    campaigns = [action.campaign for action in actions(run(a_step(text), *rows))]
    assert campaigns == ["gone", "others", "others", "heavy", "heavy", "heavy"]


def test_an_outlook_is_read_as_a_move_publishes_it() -> None:
    text = "rules:\n- {name: a, to: '*', outlook: {spend_90d: {at_least: 9.8}}, action: Call, channel: phone}"
    published = OutlookFigures(0.15, 0.2, "9.80", 8.1, 3.0)
    assert run(a_step(text), row(outlook=published)).counts == {"action": 1}
    assert run(a_step(text), row(outlook=None)).counts == {"no_rule": 1}


COOLING = """
rules:
- {name: offer, to: '*', action: 20 % off, channel: email, cooldown_days: 30}
- {name: note, to: [Lost], action: A note, channel: email}
"""


def test_a_campaign_comes_again_only_after_its_cooldown() -> None:
    days = [0, 29, 29, 30, 31, 60]
    targets = ["Lost", "Lost", "Loyal", "Lost", "Lost", "Loyal"]
    rows = [
        row(sequence=number, to=target, occurred_at=iso(AT + day * DAY_MS))
        for number, (day, target) in enumerate(zip(days, targets, strict=True), start=1)
    ]
    step, states = a_step(COOLING), dict[bytes, bytes]()
    found = []
    for one in rows:
        turn = run(step, one, states=states)
        states |= turn.states
        found.append([action.campaign for action in actions(turn)])
    assert found == [["offer"], ["note"], [], ["offer"], ["note"], ["offer"]]
    assert run(step, *rows).counts == {"action": 5, "cooldown": 3}
    assert CampaignState.unpack(states[b"ann"]).acts[-1] == act("offer", AT + 60 * DAY_MS)
    halves = run(step, *rows[3:], states=run(step, *rows[:3]).states)
    assert decisions(run(step, *rows)) == decisions(run(step, *rows[:3])) + decisions(halves)


def test_a_rule_in_cooldown_says_so_and_leaves_the_move_to_the_next_one() -> None:
    turn = run(a_step(COOLING), row(to="Lost"), row(sequence=2, to="Lost", occurred_at=iso(AT + DAY_MS)))
    first, withheld, note = decisions(turn)
    assert isinstance(first, CampaignAction)
    assert isinstance(withheld, CampaignWithheld)
    assert isinstance(note, CampaignAction)
    assert (withheld.campaign, withheld.reason, note.campaign) == ("offer", Withheld.COOLDOWN, "note")
    assert withheld.detail == f"acted at {iso(AT)}, again from {iso(AT + 30 * DAY_MS)} on"


def test_a_later_move_takes_the_place_of_what_waits_for_a_segment_that_was_left() -> None:
    text = """
version: 2
rules:
- {name: care, when: {to: [At Risk, Lost]}, then: {action: Call, channel: phone}, delay: 2d}
"""
    first = row(to="At Risk")
    later = row(sequence=2, id="later", from_="At Risk", to="Lost", occurred_at=iso(AT + DAY_MS))
    again = row(sequence=3, id="again", from_="Lost", to="Lost", occurred_at=iso(AT + DAY_MS))
    turn = run(a_step(text), first, later, again)
    kinds = [
        (str(event.__struct_config__.tag), event.change_id[:5], getattr(event, "reason", ""))
        for event in decisions(turn)
    ]
    assert kinds == [
        ("campaign.scheduled", "5d0a6", ""),
        ("campaign.withheld", "5d0a6", "moved_on"),
        ("campaign.scheduled", "later", ""),
        ("campaign.withheld", "again", "cooldown"),
    ]
    assert CampaignState.unpack(turn.states[b"ann"]).due == AT + 3 * DAY_MS


def test_a_move_that_comes_too_late_sets_nothing_off() -> None:
    text = """
version: 2
max_age: 3d
rules:
- {name: news, when: {to: '*'}, then: {action: News, channel: email}, priority: 1, max_age: 1d}
- {name: care, when: {to: '*'}, then: {action: Call, channel: phone}, delay: 30d}
"""
    step = CampaignStep(parse_rules(text), "shop")  # in wall time
    found = [
        [
            (type(event).__name__, event.campaign, getattr(event, "reason", ""))
            for event in decisions(run(step, row(), context=now))
        ]
        for now in (TurnContext(-1, AT + days * DAY_MS) for days in (1, 3, 4))
    ]
    news_late = ("CampaignWithheld", "news", "too_old")
    assert found[0] == [("CampaignAction", "news", "At Risk → Champions (order)")]
    assert found[1] == [news_late, ("CampaignScheduled", "care", "")]
    assert found[2] == [news_late, ("CampaignWithheld", "care", "too_old")]


def test_an_erasure_forgets_cooldowns() -> None:
    step = a_step(COOLING)
    erasure = row(sequence=2, to=None, cause=Cause.ERASURE, occurred_at=iso(AT + DAY_MS))
    back = row(sequence=3, from_=None, to="Loyal", occurred_at=iso(AT + 2 * DAY_MS))
    states = run(step, row(to="Loyal"), erasure).states
    assert states[b"ann"] == state(2, None, since=2, counter=1).pack()
    assert step.patch(states[b"ann"], run(step, row(to="Loyal")).outputs[0].note or b"") == states[b"ann"]
    turn = run(step, back, states=states)
    assert [action.campaign for action in actions(turn)] == ["offer"]
    after = state(3, "Loyal", since=2, counter=2, acts=[act("offer", AT + 2 * DAY_MS)])
    assert turn.states[b"ann"] == after.pack()


# A state of version 2: the fourth move was the last one; the campaign "offer" acted on the move at AT.
FORMER = bytes.fromhex("02010100040000000000000000000000") + bytes(4) + name_key("offer") + AT.to_bytes(8, "little")


def test_states_of_former_versions_are_read() -> None:
    plain, erased = bytes.fromhex("01010000070000000900000000000000"), bytes.fromhex("01020000070000000000000000000000")
    assert CampaignState.unpack(plain) == state(7, None, counter=7)
    assert CampaignState.unpack(erased) == state(7, None, since=7, counter=7)
    assert CampaignState.unpack(FORMER) == state(4, None, counter=4, acts=[act("offer", AT)])


def test_cooldowns_of_a_former_version_go_on() -> None:
    late = row(sequence=5, to="Lost", occurred_at=iso(AT + 29 * DAY_MS))
    turn = run(a_step(COOLING), late, states={b"ann": FORMER})
    assert [action.campaign for action in actions(turn)] == ["note"]
    # Redis was set back behind the last action of the former version, whose note is in the log.
    earlier = bytes.fromhex("01000000030000000000000000000000")
    patched = a_step(COOLING).patch(earlier, FORMER)
    assert CampaignState.unpack(patched) == CampaignState.unpack(FORMER)
    assert CampaignState.unpack(a_step(COOLING).patch(patched, turn.outputs[-1].note)).sequence == 5


def test_a_state_keeps_the_campaigns_that_the_table_has_no_more() -> None:
    turn = run(a_step(), row(sequence=5), states={b"ann": FORMER})
    assert CampaignState.unpack(turn.states[b"ann"]).acts == (act("offer", AT), act("vip", AT))


def test_a_new_model_s_moves_can_be_adopted() -> None:
    step = CampaignStep(a_step().table, "g", adopted=True, event_time=True)
    turn = run(step, row(cause=Cause.MODEL))
    assert not turn.outputs
    assert turn.states == {b"ann": state(1).pack()}
    assert turn.counts == {"adopted": 1}
    assert run(step, row()).outputs
    assert run(a_step(), row(cause=Cause.MODEL)).outputs


def test_the_clock_never_goes_back() -> None:
    assert run(a_step(), row(), context=TurnContext(AT + 5, 0)).clock == AT + 5
    assert run(a_step(), row(occurred_at="2026-03-03T15:20:00+01:00")).clock == AT
    assert run(a_step()).clock == -1


def broken(**changes: Any) -> bytes:
    content = msgspec.json.decode(encode(a_change())) | changes
    return msgspec.json.encode({key: value for key, value in content.items() if value != "missing"})


@pytest.mark.parametrize(
    ("value", "reason", "field"),
    [
        (None, Reason.NULL_VALUE, None),
        (b"", Reason.NOT_JSON, None),
        (b"{", Reason.NOT_JSON, None),
        (b'{"type": "segment.changed", "more": ' + b"[" * 100_000, Reason.NOT_JSON, None),
        (b'{"type": "segment.changed", "id": "\xff"}', Reason.INVALID_UTF8, None),
        (broken(customer_id="ann").replace(b'"ann"', rb'"\ud800"'), Reason.NOT_JSON, None),
        (b"[]", Reason.WRONG_FIELD, None),
        (broken(type="order.placed"), Reason.UNKNOWN_TYPE, "type"),
        (broken(type=3), Reason.WRONG_FIELD, "type"),
        (broken(type="missing"), Reason.MISSING_FIELD, "type"),
        (broken(to="missing"), Reason.MISSING_FIELD, "to"),
        (broken(**{"from": "missing"}), Reason.MISSING_FIELD, "from"),
        (broken(id=""), Reason.ID_LENGTH, "id"),
        (broken(customer_id=""), Reason.ID_LENGTH, "customer_id"),
        (broken(sequence=0), Reason.WRONG_FIELD, "sequence"),
        (broken(sequence=2**32), Reason.WRONG_FIELD, "sequence"),
        (broken(cause="whim"), Reason.WRONG_FIELD, "cause"),
        (broken(occurred_at="yesterday"), Reason.WRONG_FIELD, "occurred_at"),
        (broken(occurred_at="2026-03-03T14:20:00"), Reason.NO_TIME_ZONE, "occurred_at"),
        (broken(occurred_at="1969-12-31T23:59:59Z"), Reason.DATE_OUT_OF_RANGE, "occurred_at"),
        (broken(customer_id="bob"), Reason.KEY_NOT_CUSTOMER, "customer_id"),
        (broken(outlook=3), Reason.WRONG_FIELD, "outlook"),
        (broken(outlook={"chance_90d": 1.1}), Reason.WRONG_FIELD, "outlook.chance_90d"),
        (broken(outlook={"spend_90d": "NaN"}), Reason.WRONG_FIELD, "outlook.spend_90d"),
        (broken(life=3), Reason.WRONG_FIELD, "life"),
        (broken(life={}), Reason.MISSING_FIELD, "life.orders"),
        (broken(life=msgspec.structs.asdict(LIFE) | {"orders": -1}), Reason.WRONG_FIELD, "life.orders"),
        (broken(life=msgspec.structs.asdict(LIFE) | {"monetary": "NaN"}), Reason.WRONG_FIELD, "life.monetary"),
        (
            broken(life=msgspec.structs.asdict(LIFE) | {"first_order_at": "1969-01-01T00:00:00Z"}),
            *(Reason.DATE_OUT_OF_RANGE, "life.first_order_at"),
        ),
    ],
)
def test_garbage_goes_to_the_dead_letters(value: bytes | None, reason: Reason, field: str | None) -> None:
    turn = run(a_step(), row(), InputRecord(b"ann", value), row(sequence=2))
    assert [(dead_letter.position, dead_letter.reason, dead_letter.field) for dead_letter in turn.dead] == [
        (1, reason.value, field)
    ]
    assert turn.dead[0].message
    assert (turn.taken, len(turn.outputs)) == (3, 2)


def test_a_record_without_a_key_is_nobodys() -> None:
    turn = run(a_step(), InputRecord(None, encode(a_change())))
    assert [dead_letter.reason for dead_letter in turn.dead] == ["key_not_customer"]


def test_unknown_fields_are_ignored() -> None:
    assert len(run(a_step(), InputRecord(b"ann", broken(mood="good", distances="later a text"))).outputs) == 1


def test_a_state_has_its_bytes() -> None:
    assert state(0x01020304, None).pack().hex() == "0300000004030201" + "00" * 12
    assert state(2**32 - 1, "Lost").pack().hex() == f"03000000ffffffff00000000{name_key('Lost').hex()}"
    assert state(7, None, since=7).pack().hex() == "03020000" + "07000000" * 2 + "00" * 8
    for one in (
        CampaignState(),
        state(7),
        state(7, None, since=7),
        state(7, since=3, counter=9, acts=[act("campaign", 9), act("campaign", -9)]),
    ):
        assert CampaignState.unpack(one.pack()) == one
    assert CampaignState.unpack(None) == CampaignState()


@pytest.mark.parametrize(
    "value",
    [b"", bytes(16), b"\2" + bytes(15), b"\1\4" + bytes(14), b"\1" + bytes(16), b"\2" + bytes(31), b"\3" + bytes(20)],
)
def test_foreign_bytes_are_no_state(value: bytes) -> None:
    with pytest.raises(CampaignFormatError, match=r"isn't a campaign state of version 1"):
        CampaignState.unpack(value)


def test_a_rescore_does_nothing() -> None:
    turn = a_step().rescore([(b"ann", state(1).pack())], [False], TurnContext(AT, 0))
    assert turn == Turn(0, AT)


def test_an_action_without_a_delay_does_not_wait_for_a_move_that_is_dated_ahead() -> None:
    step, yesterday = CampaignStep(parse_rules(VIP), "shop"), TurnContext(AT - DAY_MS, AT - DAY_MS)
    [action] = actions(run(step, row(), context=yesterday))
    assert action.decided_at == iso(AT - DAY_MS)


def test_what_is_sent_on_an_earlier_day_counts_towards_the_last_one() -> None:
    book = BudgetBook(None, 0, 1)
    for day in ("2026-03-03", "2026-03-04", "2026-03-03"):
        book.spend("vip", day)
    assert [book.used("vip", day) for day in ("2026-03-03", "2026-03-04", "2026-03-05")] == [2, 2, 0]


def test_a_turn_goes_by_the_rules_that_it_was_planned_with() -> None:
    step = a_step()
    plan = step.plan([row()], 0, CONTEXT)
    step.table = parse_rules(VIP.replace("name: vip", "name: other"))
    turn = step.decide(plan, [None] * len(plan.keys), (), more=False, context=CONTEXT)
    assert [action.campaign for action in actions(turn)] == ["vip"]
    assert [action.campaign for action in actions(run(step, row()))] == ["other"]


def test_budgets_of_campaigns_that_are_over_do_not_pile_up() -> None:
    value = None
    for month in range(1, 13):
        book = BudgetBook(value, 0, 1)
        book.spend(f"offer-{month}", f"2026-{month:02}-15")
        after = book.after(["offer-3"])
        assert after is not None
        value = after.pack()
    assert list(BudgetBook(value, 0, 1).before.used) == ["offer-11", "offer-12", "offer-3"]  # that has a budget still


CAPPED = """
version: 2
caps: [{at_most: 2, within: 1d}]
rules: [{name: vip, when: {to: [Champions]}, then: {action: VIP, channel: email}}]
"""


def test_a_cap_counts_every_action_of_the_same_millisecond() -> None:
    rows = [row(sequence=number, id=f"m{number}") for number in (1, 2, 3)]
    turn = run(CampaignStep(parse_rules(CAPPED), "shop"), *rows, context=TurnContext(AT, AT))
    assert [type(event) for event in decisions(turn)] == [CampaignAction, CampaignAction, CampaignWithheld]


def test_acts_that_are_handed_on_twice_count_once() -> None:
    two, three = (Facts(handed_on=(act("vip", AT),) * number) for number in (2, 3))
    assert two.join(three) == three.join(two) == three.join(three) == three
    later = Facts(handed_on=(act("call", AT + 40 * DAY_MS),))
    assert three.join(later).handed_on == (act("vip", AT), *later.handed_on) == three.join(later).join(two).handed_on


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.booleans(), st.integers(1, 60)), max_size=12))
def test_of_many_acts_as_many_stay_as_a_cap_can_count(drawn: list[tuple[str, int, bool, int]]) -> None:
    acts = [Act(name_key(name), at, sent) for name, at, sent, count in drawn for _ in range(count)]
    left = kept(acts)
    for name, sent in product("ab", (True, False)):
        for since in range(5):
            before, after = (
                sum(act.campaign == name_key(name) and act.sent is sent and act.at >= since for act in each)
                for each in (acts, left)
            )
            assert after == min(before, MOST_ACTS)
    one, other = (Facts(handed_on=kept(half)) for half in (acts[::2], acts[1::2]))
    assert one.join(other) == other.join(one) == one.join(other).join(one)


def test_a_customer_who_moves_all_the_time_keeps_a_small_state() -> None:
    goal = CAPPED.replace("caps: [{at_most: 2, within: 1d}]", "").replace("}}]", "}, goal: {order_within: 90d}}]")
    rows = [row(sequence=number, id=f"m{number}") for number in range(1, 301)]
    turn = run(CampaignStep(parse_rules(goal), "shop"), *rows, context=TurnContext(AT, AT))
    decided = CampaignState.unpack(turn.states[b"ann"]).decided
    assert (len(decided.acts), len(decided.watches)) == (MOST_ACTS, MOST_WATCHES)
    assert decided.watches[-1].candidate.change_id == "m300"
    assert max(len(output.note) for output in turn.outputs) < 50_000


def test_acts_from_before_a_wait_that_ends_late_are_remembered() -> None:
    acts = (act("vip", AT), act("vip", AT + DAY_MS), act("vip", AT + 60 * DAY_MS))
    assert kept(acts, AT + 2 * DAY_MS) == acts
    assert kept(acts) == acts[2:]


@pytest.mark.parametrize(("at", "refused"), [(END_MS - 1, False), (END_MS, True), (2**53 - 1, True)])
def test_no_act_is_handed_on_from_a_time_after_which_a_cooldown_has_no_date(at: int, *, refused: bool) -> None:
    event: dict[str, Any] = {"type": "profile.forwarded", "id": "p", "customer_id": "ann", "profile": [None, None, []]}
    value = msgspec.json.encode(event | {"acts": [[name_key("vip").hex(), at, True]]})
    handed = SideRecord("profiles", 0, AT, CONTROL_KEY, value)
    rules = parse_rules(CAPPED.replace("}}]", "}, cooldown: 9999d}]"))
    turn = run(CampaignStep(rules, "shop"), row(), context=TurnContext(AT, AT, side=(handed,)))
    assert [type(event) for event in decisions(turn)] == [CampaignAction if refused else CampaignWithheld]
    assert len(turn.side_dead) == refused
