"""The checker of the campaigns step: a good run passes, and each kind of violation is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from segmentation.campaign_state import CampaignState, campaign_key
from tests.recovery.rig.campaign_checker import CampaignRun, RuleRow, violations
from tests.recovery.rig.checker import ReadRow, ShardContent

AT = 1_000_000_000_000
RULES: list[RuleRow] = [
    {
        "name": "silent",
        "to": ["Lost"],
        "cause": ["silence"],
        "action": "Win-back",
        "channel": "phone",
        "cooldown_days": 30,
    },
    {"name": "any", "from": [None], "to": "*", "action": "Welcome", "channel": "email"},
]


def a_move(offset: int, customer: str, sequence: int, source: str | None, target: str | None, cause: str) -> ReadRow:
    event = {
        "id": f"{customer}:{sequence}", "customer_id": customer, "sequence": sequence, "from": source, "to": target,
        "cause": cause, "occurred_at": f"2001-09-09T01:46:40.{offset:03}Z",
    }  # fmt: skip
    return ReadRow(0, offset, customer.encode(), json.dumps(event).encode(), {})


def an_action(offset: int, of: ReadRow, rule: RuleRow) -> ReadRow:
    change = json.loads(of.value or b"")
    event = {
        "id": f"{change['id']}:{rule['name']}", "change_id": change["id"], "customer_id": change["customer_id"],
        "campaign": rule["name"], "segment": change["to"], "action": rule["action"], "channel": rule["channel"],
        "occurred_at": change["occurred_at"],
    }  # fmt: skip
    mark = f"{offset + 1}:{of.offset + 1}:{AT + of.offset}:0:".encode()
    return ReadRow(0, offset, of.key, json.dumps(event).encode(), {"segstream_mark": mark})


def head(count: int) -> ReadRow:
    value = {"offset": 6, "count": count, "clock": AT, "activation": 0}
    return ReadRow(0, count, b"head", json.dumps(value).encode(), {})


MOVES = [
    a_move(0, "a", 1, None, "New", "order"),
    a_move(1, "b", 1, None, "Lost", "model"),
    a_move(2, "a", 2, "New", "Loyal", "order"),
    a_move(3, "a", 3, "Loyal", "Lost", "silence"),
    a_move(4, "b", 2, "Lost", None, "erasure"),
]
ACTIONS = [an_action(0, MOVES[0], RULES[1]), an_action(1, MOVES[1], RULES[1]), an_action(2, MOVES[3], RULES[0])]
STATE = CampaignState(3, AT + 3, campaigns=((campaign_key("silent"), AT + 3),)).pack()
GOOD = CampaignRun(
    MOVES,
    ACTIONS,
    [],
    [head(1), head(3)],
    [ShardContent({"offset": 5, "count": 3}, {b"a": STATE}, {}, [b"a"], {b"hash": b"", b"salt": b""})],
)
[ONE] = GOOD.shards


def test_nothing_is_wrong_with_a_good_run() -> None:
    assert violations(GOOD, RULES, adopts=False) == []


def test_a_rule_acts_again_only_after_its_cooldown() -> None:
    again = a_move(5, "a", 4, "Lost", "Lost", "silence")
    assert any("but the rules give 3" in line for line in violations(
        replace(GOOD, moves=[*MOVES, again], actions=[*ACTIONS, an_action(3, again, RULES[0])]), RULES, adopts=False
    ))  # fmt: skip


def test_moves_by_a_model_may_set_off_nothing() -> None:
    assert any("but the rules give 2" in line for line in violations(GOOD, RULES, adopts=True))


WRONG: dict[str, Callable[[CampaignRun], CampaignRun]] = {
    "actions published twice": lambda r: replace(r, actions=[*r.actions, r.actions[2]]),
    "but the rules give 3": lambda r: replace(r, actions=r.actions[:2]),
    "first at 0": lambda r: replace(r, actions=[r.actions[1], r.actions[0], r.actions[2]]),
    "number S": lambda r: replace(r, actions=r.actions[1:]),
    "count other outputs": lambda r: replace(r, heads=r.heads[:1]),
    "dead letters": lambda r: replace(r, dead=[MOVES[0]]),
    "isn't at the end": lambda r: replace(r, shards=[replace(ONE, head={"offset": 4, "count": 3})]),
    "found and right": lambda r: replace(r, shards=[replace(ONE, states={b"a": CampaignState(3, AT + 2).pack()})]),
    "states of shard 0": lambda r: replace(r, shards=[replace(ONE, states={b"a": CampaignState(3, AT + 3).pack()})]),
    "remains of 0 erased": lambda r: replace(r, shards=[replace(ONE, tombstones={})]),
    "0 customers": lambda r: replace(r, shards=[replace(ONE, customers=[])]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_violation_is_seen(kind: str) -> None:
    found = violations(WRONG[kind](GOOD), RULES, adopts=False)
    assert any(kind in line for line in found), found
