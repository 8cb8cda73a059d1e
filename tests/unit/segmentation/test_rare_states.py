"""States that random streams hardly ever come to, by example."""

from __future__ import annotations

from segmentation.entries import Entry
from segmentation.links import Edge, Learned, addressees
from segmentation.rfm import CustomerState, Kind, Rules, absorb, advance, pack
from segmentation.union import united
from tests.support.oracles.batch import OracleEvent, batch_bytes

RULES = Rules(window=100, grace=15, cap=1_000)


def placed(name: str, time: int, order: str, amount: int, revision: int = -1) -> OracleEvent:
    return OracleEvent(Kind.PLACED, name, time, order, amount, revision)


def after(*events: OracleEvent, rules: Rules = RULES) -> CustomerState:
    """The state after events that come as they are dated."""
    state = CustomerState()
    for e in sorted(events, key=lambda e: e.time):
        state, _ = absorb(state, Entry(*e.row[:5]), e.time, rules)
    return state


def test_of_three_contents_of_an_order_the_first_is_kept_where_it_defeats_the_second() -> None:
    # The third is within a window of the second alone. That one gives way to the first, which must be known for it.
    contents = placed("e1", 100, "o", 10, 3), placed("e2", 160, "o", 20, 2), placed("e3", 220, "o", 30, 1)
    events = {*contents, placed("x", 161, "p", 40), placed("y", 326, "q", 50)}
    assert pack(advance(after(*events), 327, RULES)) == batch_bytes(events, 327, RULES)


def test_an_erasure_of_one_id_takes_a_part_of_what_the_other_has_folded_and_spares_its_own_orders() -> None:
    rules = RULES._replace(grace=0)
    mine = after(*(placed(f"m{at}", at, f"m{at}", 10) for at in (10, 30, 40, 300)), rules=rules)
    erased = OracleEvent(Kind.ERASED, "", 20)
    theirs = after(erased, *(placed(f"t{at}", at, f"t{at}", 100) for at in (30, 35, 37, 300)), rules=rules)
    assert (mine.folded.orders, theirs.folded.orders) == (3, 3)
    for one, other in ((mine, theirs), (theirs, mine)):
        both = united(one, other, 300, rules).folded
        # Of mine the last folded order alone is known; which of the others came after the erasure isn't known any more.
        assert (both.orders, both.money, both.first, both.whole) == (4, 310, 30, False)


def test_a_state_that_was_full_is_full_in_the_union_too() -> None:
    few = RULES._replace(cap=2)
    full = after(*(placed(f"e{at}", at, f"o{at}", 10) for at in (10, 20, 30)), rules=few)
    assert full.capped
    for one, other in ((full, CustomerState()), (CustomerState(), full)):
        assert united(one, other, 30, few).capped


def test_an_alias_sends_to_the_root_before() -> None:
    first, second = Edge(1, "a", "b"), Edge(2, "a", "c")
    assert addressees("a", Learned((first,), (first, second)), None, ()) == ["b", "c"]


def test_a_refund_that_left_nothing_but_a_cut_moves_the_cut_of_the_person() -> None:
    refund = OracleEvent(Kind.REFUNDED, "r", 8, "never", 10)
    (theirs, mine), rules = (after(e) for e in (refund, placed("e", 6, "o", 10))), RULES._replace(grace=0)
    theirs, mine = (advance(state, 150, rules) for state in (theirs, mine))
    assert not theirs.entries
    assert theirs.holds_anything
    assert pack(united(mine, theirs, 150, rules)) == batch_bytes({refund, placed("e", 6, "o", 10)}, 150, rules)
