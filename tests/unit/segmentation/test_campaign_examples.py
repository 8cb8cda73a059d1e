"""The campaign step, case by case: an action to the byte, the dead letters, the state's bytes."""

from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
import pytest

from segmentation.campaign_state import CampaignFormatError, CampaignState, campaign_key
from segmentation.campaigns import CampaignStep, parse_rules
from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import Reason, encode
from segmentation.output_events import CampaignAction, Cause, LifeFigures, OutlookFigures, SegmentChanged
from segmentation.step import Step, Turn, TurnContext

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
    return CampaignStep(parse_rules(text), group)


def run(
    step: Step, *rows: InputRecord, states: dict[bytes, bytes] | None = None, context: TurnContext = CONTEXT
) -> Turn:
    plan = step.plan(rows, 0, context)
    assert (plan.horizon, plan.start, plan.taken) == (None, None, len(rows))
    return step.decide(plan, [(states or {}).get(key) for key in plan.keys], (), more=False, context=context)


def actions(turn: Turn) -> list[CampaignAction]:
    return [msgspec.json.decode(output.value, type=CampaignAction) for output in turn.outputs]


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
            held_out=False,
            occurred_at=AT_TEXT,
        )
    ]
    output = turn.outputs[0]
    assert (output.key, output.latest, output.note) == (b"ann", None, CampaignState(1, AT).pack())
    assert dict(output.headers) == {
        "ce_id": action_id.encode(),
        "ce_source": b"/segstream/shop",
        "ce_specversion": b"1.0",
        "ce_type": b"campaign.action",
        "ce_subject": b"ann",
        "ce_time": AT_TEXT.encode(),
        "content-type": b"application/json",
    }
    assert turn.states == {b"ann": CampaignState(1, AT).pack()}
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
    states = {b"ann": CampaignState(4, AT).pack()}
    turn = run(a_step(), row(sequence=4), row(sequence=3), states=states)
    assert not turn.outputs
    assert not turn.states
    assert turn.counts == {"repeat": 2}
    assert len(run(a_step(), row(sequence=5), states=states).outputs) == 1


def test_an_erasure_never_triggers() -> None:
    step = a_step("rules:\n- {name: a, to: '*', action: Offer, channel: email}")
    turn = run(step, row(to=None, cause=Cause.ERASURE))
    assert not turn.outputs
    assert turn.states == {b"ann": CampaignState(1, since=1).pack()}
    assert step.is_gone(turn.states[b"ann"])
    assert turn.counts == {"erased": 1}


def test_an_id_that_was_merged_is_gone_and_triggers_nothing() -> None:
    step = a_step("rules:\n- {name: a, to: '*', action: Offer, channel: email}")
    turn = run(step, row(to=None, cause=Cause.MERGED, merged_into="bob"))
    assert not turn.outputs
    assert turn.states == {b"ann": CampaignState(1, since=1).pack()}
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
    erased, back = CampaignState(4, AT, 4), CampaignState(5)
    assert not a_step().is_gone(CampaignState(3, AT).pack())
    assert a_step().is_gone(CampaignState(3, AT).join(erased).pack())
    assert erased.join(back) == back.join(erased) == CampaignState(5, AT, 4)
    assert erased.erased
    assert not erased.join(back).erased


def test_a_move_without_a_rule_is_remembered() -> None:
    turn = run(a_step(), row(to="Segment 1"))
    assert not turn.outputs
    assert turn.states == {b"ann": CampaignState(1).pack()}
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
    assert run(step, *rows).counts == {"action": 5, "cooling": 1}
    assert states[b"ann"] == CampaignState(6, AT + 60 * DAY_MS, campaigns=_offered(60)).pack()
    assert actions(run(step, *rows)) == actions(run(step, *rows[:3])) + actions(run(step, *rows[3:], states=_after(3)))


def _offered(day: int) -> tuple[tuple[bytes, int], ...]:
    return ((campaign_key("offer"), AT + day * DAY_MS),)


def _after(sequence: int) -> dict[bytes, bytes]:
    return {b"ann": CampaignState(sequence, AT + 29 * DAY_MS, campaigns=_offered(0)).pack()}


def test_an_erasure_forgets_cooldowns() -> None:
    step = a_step(COOLING)
    erasure = row(sequence=2, to=None, cause=Cause.ERASURE, occurred_at=iso(AT + DAY_MS))
    back = row(sequence=3, from_=None, to="Loyal", occurred_at=iso(AT + 2 * DAY_MS))
    states = run(step, row(to="Loyal"), erasure).states
    assert states[b"ann"] == CampaignState(2, AT, since=2).pack()
    assert step.patch(states[b"ann"], run(step, row(to="Loyal")).outputs[0].note or b"") == states[b"ann"]
    turn = run(step, back, states=states)
    assert [action.campaign for action in actions(turn)] == ["offer"]
    assert turn.states[b"ann"] == CampaignState(3, AT + 2 * DAY_MS, 2, _offered(2)).pack()


def test_a_cooldown_knows_actions_since_it_was_set() -> None:
    states = {
        b"ann": CampaignState(1, AT).pack()
    }  # an action of some campaign, by a former version or without cooldown
    assert [action.campaign for action in actions(run(a_step(COOLING), row(sequence=2), states=states))] == ["offer"]
    # Whatever campaigns the table has now, the state keeps those it knows.
    turn = run(a_step(), row(sequence=4), states=_after(3))
    assert CampaignState.unpack(turn.states[b"ann"]).campaigns == _offered(0)


def test_a_new_model_s_moves_can_be_adopted() -> None:
    step = CampaignStep(a_step()._table, "g", adopted=True)
    turn = run(step, row(cause=Cause.MODEL))
    assert not turn.outputs
    assert turn.states == {b"ann": CampaignState(1).pack()}
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
        (broken(occurred_at="2026-03-03T14:20:00"), Reason.WRONG_FIELD, "occurred_at"),
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
    assert CampaignState(0x01020304).pack().hex() == "01000000040302010000000000000000"
    assert CampaignState(2**32 - 1, 0).pack().hex() == "01010000ffffffff0000000000000000"
    offered = CampaignState(3, 1_000, campaigns=((bytes(range(8)), 2_000),))
    assert offered.pack().hex() == "0201010003000000e803000000000000000000000001020304050607d007000000000000"
    for state in (
        CampaignState(),
        CampaignState(7),
        CampaignState(7, 0),
        CampaignState(7, AT),
        CampaignState(7, None, 7),
        CampaignState(7, None, 3),
        CampaignState(7, 9, 3, campaigns=((b"campaign", 9), (b"campaigo", -9))),
    ):
        assert CampaignState.unpack(state.pack()) == state
    assert CampaignState.unpack(None) == CampaignState()


@pytest.mark.parametrize(
    "value", [b"", bytes(16), b"\2" + bytes(15), b"\1\4" + bytes(14), b"\1" + bytes(16), b"\2" + bytes(31)]
)
def test_foreign_bytes_are_no_state(value: bytes) -> None:
    with pytest.raises(CampaignFormatError, match=r"isn't a campaign state of version 1"):
        CampaignState.unpack(value)


def test_a_rescore_does_nothing() -> None:
    turn = a_step().rescore([(b"ann", CampaignState(1).pack())], [False], TurnContext(AT, 0))
    assert turn == Turn(0, AT)
