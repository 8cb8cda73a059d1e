"""The checker: a good run passes, and each kind of violation is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from segmentation.events import OrderPlaced, encode
from segmentation.rfm import EMPTY, Rules
from stream.orders.rows import placed, to_event
from tests.recovery.rig.checker import GroupRun, ReadRow, ShardContent, differences, violations

RULES = Rules(365 * 86_400_000, 7 * 86_400_000, 100)
CLOCK = 1_000_000_000_000


def order(offset: int, customer: str) -> ReadRow:
    event = to_event(placed(f"O{offset}", customer, CLOCK + offset, 10_000, "USD"))
    assert isinstance(event, OrderPlaced)
    return ReadRow(0, offset, customer.encode(), encode(event), {})


def a_move(offset: int, customer: str, sequence: int, source: str | None, target: str | None) -> ReadRow:
    event = {
        "id": f"{customer}:{sequence}",
        "customer_id": customer,
        "sequence": sequence,
        "from": source,
        "to": target,
        "occurred_at": f"2001-09-09T01:46:40.{offset:03}Z",
        "scored_at": "now",
    }
    mark = f"{offset + 1}:{offset + 1}:{CLOCK + offset}:1:v".encode()
    return ReadRow(0, offset, customer.encode(), json.dumps(event).encode(), {"segstream_mark": mark})


def letter(offset: int) -> ReadRow:
    return ReadRow(0, 0, None, b"", {"__connect.errors.partition": b"0", "__connect.errors.offset": b"%d" % offset})


def head(offset: int, count: int) -> ReadRow:
    value = {"offset": offset, "count": count, "clock": CLOCK + offset, "activation": 1}
    return ReadRow(0, offset, b"head", json.dumps(value).encode(), {})


MOVES = [a_move(0, "a", 1, None, "x"), a_move(1, "b", 1, None, "x"), a_move(2, "a", 2, "x", "y")]
STATES = {b"a": EMPTY, b"b": EMPTY}
GOOD = GroupRun(
    orders=[order(0, "a"), order(1, "b"), order(2, "a"), ReadRow(0, 3, b"a", b"garbage", {})],
    moves=MOVES,
    latest=[MOVES[2], MOVES[1]],
    dead=[letter(3)],
    heads=[head(1, 1), head(2, 2), head(3, 3)],
    shards=[
        ShardContent(
            {"offset": 4, "count": 3, "cursor": None, "clock": CLOCK + 3},
            STATES,
            {b"a": 1.0},
            [b"a", b"b"],
            {},
        )
    ],
)
ACKNOWLEDGED = [(row.partition, row.value or b"") for row in GOOD.orders]
[ONE] = GOOD.shards


def test_nothing_is_wrong_with_a_good_run() -> None:
    assert violations(GOOD, ACKNOWLEDGED) == []
    assert differences(GOOD, GOOD, RULES) == []


WRONG: dict[str, Callable[[GroupRun], GroupRun]] = {
    "left the input": lambda r: replace(r, orders=r.orders[:2] + r.orders[3:], dead=[letter(3)]),
    "published twice": lambda r: replace(r, moves=[*r.moves, r.moves[2]]),
    "broken chains": lambda r: replace(r, moves=[*r.moves[:2], a_move(2, "a", 3, "x", "y")]),
    "number S": lambda r: replace(r, moves=r.moves[1:]),
    "went back": lambda r: replace(
        r, moves=[*r.moves[:2], replace(r.moves[2], headers={"segstream_mark": b"3:1:5:1:v"})]
    ),
    "before earlier ones": lambda r: replace(
        r,
        moves=[
            *r.moves[:2],
            replace(r.moves[2], value=(r.moves[2].value or b"").replace(b"2001", b"2000")),
        ],
    ),
    "latest record": lambda r: replace(r, latest=[MOVES[0], MOVES[1]]),
    "twice in the dead letters": lambda r: replace(r, dead=[letter(3), letter(3)]),
    "aren't in the dead letters": lambda r: replace(r, dead=[]),
    "dead letters of usable records": lambda r: replace(r, dead=[letter(3), letter(1)]),
    "heads that went back": lambda r: replace(r, heads=[head(3, 3), head(2, 3)]),
    "count other outputs": lambda r: replace(r, heads=r.heads[:2]),
    "isn't at the end": lambda r: replace(r, shards=[replace(ONE, head=ONE.head | {"offset": 1})]),
    "customers without a state": lambda r: replace(r, shards=[replace(ONE, states={b"a": EMPTY}, customers=[b"a"])]),
    "states of unknown customers": lambda r: replace(
        r, shards=[replace(ONE, states=STATES | {b"c": EMPTY}, customers=[b"a", b"b", b"c"])]
    ),
    "in the list of customers": lambda r: replace(r, shards=[replace(ONE, customers=[b"a"])]),
    "due times of unknown customers": lambda r: replace(r, shards=[replace(ONE, due={b"z": 1.0})]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_violation_is_seen(kind: str) -> None:
    found = violations(WRONG[kind](GOOD), ACKNOWLEDGED)
    assert any(kind in line for line in found), found


def test_runs_that_differ_are_distinguished() -> None:
    fewer = replace(GOOD, moves=GOOD.moves[:2])
    assert any("moves of shard 0 differ" in line for line in differences(fewer, GOOD, RULES))
    late = replace(GOOD, shards=[replace(ONE, head=ONE.head | {"clock": CLOCK})])
    assert any("clocks of shard 0" in line for line in differences(late, GOOD, RULES))
    other = replace(GOOD, shards=[replace(ONE, states={b"a": EMPTY})])
    assert any("states of shard 0" in line for line in differences(other, GOOD, RULES))
