"""The campaign step against decisions by the book (tests/support/oracles/campaigns.py), for any rules and stories.

However the inputs are cut into turns, and wherever a shard is taken over, the decisions stay the same.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from segmentation.events import CONTROL_KEY
from segmentation.step import SideRecord
from tests.support.data.campaign_scripts import CUSTOMERS, DAY_MS, HOUR_MS, STARTS, Tick, stories, tables
from tests.support.engine.campaign_fleet import FleetInput, MoveRecord, check_finals
from tests.support.engine.campaign_world import ShopWorld, finals
from tests.support.oracles.campaigns import PlainCap, PlainOrder, PlainRule, PlainTable

EXAMPLES = int(os.environ.get("EXAMPLES", "20"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)

Starts = st.sampled_from(STARTS)
TwoTables = st.lists(tables(), min_size=2, max_size=2)
Sizes = st.lists(st.integers(1, 3), min_size=1, max_size=4)


def without_budgets(table: PlainTable) -> PlainTable:
    """Return the table without the one thing that customers share: which of them gets the last of a budget."""
    return replace(table, rules=tuple(replace(rule, budget=None) for rule in table.rules))


@many
@given(TwoTables, Starts, stories(tables=2))
def test_each_decision_is_the_one_by_the_book(rules: list[PlainTable], start: int, story: list[Tick]) -> None:
    """Under rules that are replaced at any time, too."""
    world = ShopWorld(rules, start)
    for tick in story:
        world.tick(tick)
        world.check()


@many
@given(TwoTables, Starts, stories(tables=2), st.booleans())
def test_in_event_time_as_well(rules: list[PlainTable], start: int, story: list[Tick], adopted: bool) -> None:
    world = ShopWorld(rules, start, event_time=True, adopted=adopted)
    for tick in story:
        world.tick(tick)
    world.check()


@many
@given(tables(), Starts, stories(), Sizes, st.sampled_from([1, 2, 10**6]))
def test_any_cut_of_an_instant_into_turns_decides_the_same(
    table: PlainTable, start: int, story: list[Tick], sizes: list[int], slice_: int
) -> None:
    """Of the customers who are due, too: with few of them a turn."""
    world = ShopWorld([table if slice_ > 2 else without_budgets(table)], start, sizes=sizes, slice_=slice_)
    for tick in story:
        world.tick(tick)
    world.check()
    world.check_due_times()


@many
@given(tables(), Starts, stories(), Sizes)
def test_any_cut_of_event_time_decides_the_same(
    table: PlainTable, start: int, story: list[Tick], sizes: list[int]
) -> None:
    world = ShopWorld([without_budgets(table)], start, sizes=sizes, event_time=True)
    for tick in story:
        world.tick(tick._replace(orders=()))
    world.check()


Setbacks = st.dictionaries(st.integers(0, 13), st.tuples(st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=4)


@many
@given(tables(), Starts, stories(late=False), Setbacks)
def test_a_takeover_at_any_turn_goes_on_as_if_nothing_had_happened(
    table: PlainTable, start: int, story: list[Tick], setbacks: dict[int, tuple[int, int]]
) -> None:
    """Redis is set back by some turns; Kafka has them all. At a tick: by how many, and the moves read at a time."""
    world = ShopWorld([table], start, repeats=True)
    for n, tick in enumerate(story):
        world.tick(tick)
        if n in setbacks:
            world.set_back(*setbacks[n])
    world.settle()
    world.check()
    world.check_due_times()


@many
@given(TwoTables, Starts, stories(tables=2), Setbacks)
def test_nothing_is_lost_and_nothing_decided_twice(
    rules: list[PlainTable], start: int, story: list[Tick], setbacks: dict[int, tuple[int, int]]
) -> None:
    """With other rules meanwhile, and orders that come before older moves.

    An order that is read again may come upon what was held back after it: then that is withheld, as it should be.
    """
    world = ShopWorld(rules, start, repeats=True)
    for n, tick in enumerate(story):
        world.tick(tick)
        if n in setbacks:
            world.set_back(*setbacks[n])
    world.settle()
    world.check_ends()
    erased = {move.customer for tick in story for move in tick.moves if move.cause == "erasure"}
    for shard, expected in zip(world.shards, world.expected, strict=True):
        decisions = shard.decisions()
        assert {decision.change for decision in decisions} == {decision.change for decision in expected}
        lost = {(each.change, each.campaign) for each in decisions if each.customer not in erased}
        assert lost == finals(decisions).keys() & lost
        assert not shard.waiting()


@many
@given(tables(), Starts, stories())
def test_a_rebuild_from_the_logs_goes_on_as_if_nothing_had_happened(
    table: PlainTable, start: int, story: list[Tick]
) -> None:
    story = [tick._replace(orders=(), moves=tuple(move._replace(at=0) for move in tick.moves)) for tick in story]
    world = ShopWorld([table], start)
    for n, tick in enumerate(story):
        world.tick(tick)
        if n == len(story) // 2:
            world.set_back(10**6, 2)
    world.settle()
    world.check()


@many
@given(tables(), Starts, stories(), st.lists(st.sampled_from(CUSTOMERS), min_size=2, max_size=6))
def test_merges_in_a_circle_come_to_rest(table: PlainTable, start: int, story: list[Tick], circle: list[str]) -> None:
    world = ShopWorld([table], start)
    pairs = list(zip(circle, [*circle[1:], circle[0]], strict=True))
    world.tick(Tick(0, False, orders=tuple(PlainOrder("merged", a, 0, into=b) for a, b in pairs if a != b)))
    for tick in story:
        world.tick(tick)
    for _ in range(2 * len(CUSTOMERS) + 2):
        world.tick(Tick(0, False))
    assert not any(shard.packages for shard in world.shards)


Texts = st.text(max_size=12) | st.sampled_from(["ann", "bob", "\0budget:0", "\0budget:1", "\0control"])
Values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | Texts | st.just([["ann", 1, True]])
BODIES: list[dict[str, object]] = [
    {"type": "customer.profile", "id": "p", "customer_id": "ann", "occurred_at": "2026-03-28T20:00:00Z"},
    {"type": "profile.forwarded", "id": "p", "customer_id": "ann", "profile": [[1, "UTC"], None, []],
     "acts": [["0011223344556677", 1, True]]},
    {"type": "order.placed", "id": "o", "order_id": "o", "customer_id": "ann", "occurred_at": "2026-03-28T20:00:00Z",
     "amount": {"value": "1.00", "currency": "EUR"}},
    {"type": "customer.erased", "id": "e", "customer_id": "ann", "occurred_at": "2026-03-28T20:00:00Z"},
    {"type": "customer.merged", "id": "m", "from": "ann", "into": "bob", "occurred_at": "2026-03-28T20:00:00Z"},
    {"type": "segment.changed", "id": "c", "customer_id": "ann", "sequence": 1, "from": None, "to": "Lost",
     "cause": "order", "occurred_at": "2026-03-28T20:00:00Z"},
]  # fmt: skip


@st.composite
def odd_values(draw: st.DrawFn) -> dict[str, object] | bytes | None:
    """A record's value: an event with a field that is missing, another one or of another kind; or anything."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.none() | st.binary(max_size=20))
    body: dict[str, object] = dict(draw(st.sampled_from(BODIES)))
    for name in draw(st.lists(st.sampled_from(["customer_id", *sorted(body)]), max_size=2)):
        body[name] = draw(Values)
    for name in draw(st.lists(st.sampled_from(sorted(body)), max_size=1)):
        del body[name]
    return body


Keys = st.none() | st.sampled_from([b"ann", b"bob", CONTROL_KEY, b"\0budget:0", b"\0budget:1"]) | st.binary(max_size=6)


@settings(many, max_examples=4 * EXAMPLES)
@given(st.lists(st.tuples(st.sampled_from(["profiles", "orders", ""]), Keys, odd_values()), max_size=12))
@example([("profiles", b"\0budget:0", BODIES[0] | {"customer_id": "\0budget:0"})])
@example([("profiles", b"\0budget:1", BODIES[0] | {"customer_id": "\0budget:1"})])
@example([("orders", b"\0budget:0", BODIES[2] | {"customer_id": "\0budget:0"})])
@example([("", b"\0budget:0", BODIES[5] | {"customer_id": "\0budget:0"})])
@example([("profiles", CONTROL_KEY, BODIES[1] | {"acts": [["zz", 1, True]]})])
@example([("profiles", CONTROL_KEY, BODIES[1] | {"acts": [["0011223344556677", 2**70, True]]})])
@example([("profiles", CONTROL_KEY, BODIES[1] | {"profile": [None, None, [["email", [2**70, "denied"]]]]})])
def test_no_record_stops_a_shard(given_: list[tuple[str, bytes | None, dict[str, object] | bytes | None]]) -> None:
    rows = [(*row[:2], json.dumps(row[2]).encode() if isinstance(row[2], dict) else row[2]) for row in given_]
    rule = PlainRule("a", delay=HOUR_MS, unless_order=True, goal=DAY_MS, budget=1, quiet=(1260, 480))
    world = ShopWorld([PlainTable((rule,), caps=(PlainCap(1, None, None),))], STARTS[0])
    for shard in world.shards:
        side = tuple(
            SideRecord(source, n, STARTS[0], key, value) for n, (source, key, value) in enumerate(rows) if source
        )
        moves = tuple(MoveRecord(n, STARTS[0], key, value) for n, (source, key, value) in enumerate(rows) if not source)
        shard.turn(FleetInput(STARTS[0], moves, side))
        shard.turn(FleetInput(STARTS[0] + DAY_MS))
        check_finals(shard.log)
