"""Records beside the moves that came by a former number of partitions: each counts in its customer's shard, once."""

from __future__ import annotations

import pytest

from segmentation.campaign_rules import parse_rules
from segmentation.campaign_state import CampaignState
from segmentation.campaigns import CampaignStep
from segmentation.event_text import instant
from segmentation.events import CONTROL_KEY, Amount, CustomerErased, CustomerMerged, OrderPlaced, encode
from segmentation.partitioners import murmur2
from segmentation.profiles import CustomerProfile
from segmentation.routing import Routing
from segmentation.step import ORDERS, PROFILES, SideRecord, Turn, TurnContext

AT = 1_772_547_600_000
RULES = """
version: 2
rules:
- name: hello
  when: {to: [Champions]}
  then: {action: Say hello, channel: email}
  goal: {order_within: 30d}
"""
STEP = CampaignStep(parse_rules(RULES), "shop", routing=Routing(murmur2, 3))
ANN = "ann"
HOME = murmur2(b"ann", 3)
AWAY = (HOME + 1) % 3
ERASED = CustomerErased(id="e", customer_id=ANN, occurred_at=instant(AT))
MERGED = CustomerMerged(id="m", from_=ANN, into="bob", occurred_at=instant(AT))
PROFILE = CustomerProfile(id="p", customer_id=ANN, occurred_at=instant(AT), consent={"email": "denied"})
ORDER = OrderPlaced(id="o", order_id="o", customer_id=ANN, occurred_at=instant(AT), amount=Amount("1.00", "EUR"))


def taken(partition: int, *side: SideRecord, former: int = 2) -> Turn:
    context = TurnContext(AT, AT + 1, side=side, former=former)
    plan = STEP.plan((), partition, context)
    return STEP.decide(plan, [None] * len(plan.keys), (), more=False, context=context)


@pytest.mark.parametrize(("source", "event"), [(ORDERS, ERASED), (ORDERS, MERGED), (PROFILES, PROFILE)])
def test_what_is_known_of_a_customer_goes_on_to_the_right_shard(
    source: str, event: CustomerErased | CustomerMerged | CustomerProfile
) -> None:
    record = SideRecord(source, 5, AT, ANN.encode(), encode(event))
    turn = taken(AWAY, record)
    assert turn.states == {}
    [package] = turn.side_packages
    assert package.partition == HOME
    there = taken(HOME, SideRecord(PROFILES, 9, AT + 7, CONTROL_KEY, package.value))
    here = taken(HOME, record)
    assert {key: value for key, value in there.states.items() if key == b"ann"} == here.states
    assert CampaignState.unpack(here.states[b"ann"]).facts != CampaignState().facts
    assert not there.side_dead


def test_an_order_goes_on_by_the_scoring_step_alone() -> None:
    turn = taken(AWAY, SideRecord(ORDERS, 5, AT, ANN.encode(), encode(ORDER)))
    assert (turn.states, turn.side_packages) == ({}, [])
