"""Two ids become one: what each shard makes of it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from segmentation import aliases
from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.event_text import instant
from segmentation.events import (
    CONTROL_KEY,
    Amount,
    CustomerErased,
    CustomerJoined,
    CustomerMerged,
    EventForwarded,
    InputEvent,
    OrderPlaced,
    decode,
    encode,
)
from segmentation.output_events import Cause
from segmentation.partitioners import murmur2
from segmentation.rfm import Rules, unpack
from segmentation.scoring import ScoringStep
from segmentation.step import Turn, TurnContext
from tests.support.engine.memory_fleet import MemoryFleet
from tests.support.engine.memory_shard import Rec, a_model

RULES = Rules(1_000, 50, 1_000)
READER = Reader("USD", "wall", 10_000, 10_000, 1_000_000)


def a_fleet(*, model: bool = True, reader: Reader = READER) -> MemoryFleet:
    names = {i: f"s{i}" for i in range(1, 9)}
    compiled = CompiledModel.of(a_model(np.random.default_rng(1)), "g", names) if model else None
    fleet = MemoryFleet(ScoringStep(reader, RULES, partitioner=murmur2, partitions=8), 8, compiled)
    fleet.now = 500
    return fleet


def order(customer: str, number: int = 1, time: int = 400) -> OrderPlaced:
    amount = Amount("10.00", "USD")
    return OrderPlaced(
        id=f"e{number}", order_id=f"o{number}", customer_id=customer, occurred_at=instant(time), amount=amount
    )


def merge(source: str, target: str, time: int = 450) -> CustomerMerged:
    return CustomerMerged(id=f"{source}-{target}", from_=source, into=target, occurred_at=instant(time))


def send(fleet: MemoryFleet, *events: OrderPlaced | CustomerMerged | CustomerErased) -> None:
    """Send each, and let all shards read all that comes of it."""
    for event in events:
        fleet.send(event.customer_id.encode(), encode(event))
        while fleet.waiting():
            fleet.waiting()[0].turn(10)
        fleet.now += 1


def value_of(fleet: MemoryFleet, name: str) -> bytes:
    (value,) = fleet.of(name.encode()).store.load([name.encode()])
    assert value is not None
    return value


def test_the_one_is_last_heard_of_and_the_other_has_all() -> None:
    fleet = a_fleet()
    send(fleet, order("ann"), merge("ann", "bob"), order("ann", 2))
    assert fleet.step.is_gone(value_of(fleet, "ann"))
    assert unpack(value_of(fleet, "bob")).frequency == 2
    first, last, joined, *_ = fleet.moves()
    assert (first.customer_id, first.cause) == ("ann", Cause.FIRST)
    assert (last.customer_id, last.from_, last.to, last.cause) == ("ann", first.to, None, Cause.MERGED)
    assert (last.merged_into, last.causation_id, last.rfm) == ("bob", "ann-bob", None)
    assert (joined.customer_id, joined.from_, joined.cause) == ("bob", None, Cause.MERGE)
    assert (joined.causation_id, joined.before, joined.sequence) == ("ann-bob", None, 1)


def test_only_a_last_move_says_where_the_customer_went() -> None:
    fleet = a_fleet()
    send(fleet, order("ann"), merge("ann", "bob"))
    texts = [output.value for shard in fleet.shards for _, output in shard.outputs]
    assert sorted(b"merged_into" in text for text in texts) == [False, False, True]


def test_an_event_goes_on_as_it_came() -> None:
    fleet = a_fleet(model=False)
    send(fleet, merge("ann", "bob"), order("ann"))
    sent = [decode(record.value) for record in fleet.of(b"bob").log if record.key == CONTROL_KEY]
    assert isinstance(sent[0], CustomerJoined)
    assert sent[1] == EventForwarded(id="e1", customer_id="bob", event=order("ann"), arrived=501)


def test_an_erasure_of_one_id_erases_the_person() -> None:
    fleet = a_fleet()
    erased = CustomerErased(id="x", customer_id="ann", occurred_at=instant(460))
    send(fleet, order("ann"), order("bob", 2), merge("ann", "bob"), erased)
    assert fleet.step.is_gone(value_of(fleet, "bob"))
    assert fleet.moves()[-1].cause is Cause.ERASURE
    send(fleet, order("ann", 3, time=470))
    assert unpack(value_of(fleet, "bob")).frequency == 1


def test_what_was_erased_before_it_was_merged_erases_the_other_too() -> None:
    fleet = a_fleet()
    erased = CustomerErased(id="x", customer_id="ann", occurred_at=instant(460))
    send(fleet, order("bob"), order("bob", 2, time=470), erased, merge("ann", "bob"))
    assert unpack(value_of(fleet, "bob")).frequency == 1
    (move,) = [move for move in fleet.moves() if move.cause is Cause.ERASURE]
    assert move.customer_id == "bob"


def one_turn(step: ScoringStep, *events: tuple[bytes, InputEvent], clock: int = -1) -> Turn:
    records = [Rec(number, key, encode(event), 500) for number, (key, event) in enumerate(events)]
    context = TurnContext(clock, 500)
    plan = step.plan(records, 0, context)
    return step.decide(plan, [None] * len(plan.keys), [], False, context)


@pytest.mark.parametrize(
    ("partitions", "target", "reason"),
    [(2, "bob", "wrong_partition"), (1, "ann", "wrong_field"), (1, "\0control", "wrong_field")],
)
def test_a_merge_that_leads_nowhere_is_a_dead_letter(partitions: int, target: str, reason: str) -> None:
    turn = one_turn(ScoringStep(READER, RULES, partitions=partitions), (b"ann", merge("ann", target)))
    assert [(letter.reason, letter.field) for letter in turn.dead] == [(reason, "into")]
    assert not turn.states
    assert not turn.packages


def test_with_one_partition_no_partitioner_is_needed() -> None:
    turn = one_turn(ScoringStep(READER, RULES), (b"ann", merge("ann", "bob")))
    assert [package.partition for package in turn.packages] == [0]


def test_controls_of_merges_are_segstreams_own() -> None:
    package = CustomerJoined(id="p", customer_id="bob", giver="ann", merge="m", state=b"\7")
    step = ScoringStep(READER, RULES)
    assert [d.reason for d in one_turn(step, (b"bob", package)).dead] == ["control_not_allowed"]
    assert [(d.reason, d.field) for d in one_turn(step, (CONTROL_KEY, package)).dead] == [("wrong_field", "state")]


def test_in_event_time_what_is_handed_on_sets_the_clock_ahead_as_far_as_an_event_may() -> None:
    reader = Reader("USD", "event", 10_000, 100, 1_000_000)
    step = ScoringStep(reader, RULES)

    def clock_after(time: int) -> int:
        forwarded = EventForwarded(id="e1", customer_id="bob", event=order("ann", time=time), arrived=1)
        turn = one_turn(step, (CONTROL_KEY, forwarded), clock=300)
        assert list(turn.states) == [b"bob"]
        assert not turn.dead
        return turn.clock

    assert [clock_after(time) for time in (200, 350, 400, 401)] == [300, 350, 400, 300]


def test_a_large_state_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "MOST_ROWS", 3)
    fleet = a_fleet(model=False)
    send(fleet, *(order("ann", number, time=400 + number) for number in range(8)), merge("ann", "bob"))
    sizes = [
        len(unpack(event.state).entries)
        for record in fleet.of(b"bob").log
        if isinstance(event := decode(record.value), CustomerJoined)
    ]
    assert sizes == [3, 3, 2]
    assert unpack(value_of(fleet, "bob")).frequency == 8


def test_a_backfill_that_is_not_open_at_the_root_is_not_opened() -> None:
    fleet = a_fleet(model=False)
    send(fleet, merge("ann", "bob"))
    marked = OrderPlaced(
        id="e1", order_id="o1", customer_id="ann", occurred_at=datetime(1970, 1, 1, tzinfo=UTC),
        amount=Amount("1", "USD"), backfill="archive",
    )  # fmt: skip
    send(fleet, marked)
    assert unpack(value_of(fleet, "bob")).muted == 0


def test_three_ids_are_one_customer() -> None:
    fleet = a_fleet(model=False)
    orders = [order(name, number) for number, name in enumerate(("ann", "bob", "cid"))]
    send(fleet, *orders, merge("ann", "bob"), merge("ann", "cid", 451))
    assert [fleet.step.is_gone(value_of(fleet, name)) for name in ("ann", "bob", "cid")] == [True, True, False]
    assert unpack(value_of(fleet, "cid")).frequency == 3


@pytest.mark.parametrize("late", [False, True])
def test_of_two_contradicting_merges_the_later_date_decides(late: bool) -> None:
    fleet = a_fleet(model=False)
    merges = [merge("ann", "bob", 450), merge("bob", "ann", 451)]
    send(fleet, order("ann"), order("bob", 2), *(merges[::-1] if late else merges))
    assert fleet.step.is_gone(value_of(fleet, "bob"))
    assert unpack(value_of(fleet, "ann")).frequency == 2


# The rows about merges of the table in docs/reference/events.md, by the tests that hold them.
ROWS = {
    ("a merge", "at any time"): test_the_one_is_last_heard_of_and_the_other_has_all,
    ("a merge", "`from` was merged before, into another id"): test_three_ids_are_one_customer,
    ("a merge", "it contradicts another (A into B, B into A)"): test_of_two_contradicting_merges_the_later_date_decides,
    ("a merge", "`from` and `into` are the same"): test_a_merge_that_leads_nowhere_is_a_dead_letter,
    ("an erasure", "of any id of a merged customer"): test_an_erasure_of_one_id_erases_the_person,
}
