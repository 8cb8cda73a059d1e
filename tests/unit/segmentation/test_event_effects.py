"""docs/reference/events.md, "Effects of each event": each row of the table and each sentence, by the real step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import permutations
from typing import NamedTuple, TypeVar

import numpy as np
import pytest

from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.events import (
    CONTROL_KEY,
    Amount,
    ClockAdvanced,
    CustomerErased,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    encode,
)
from segmentation.moves import figures as published
from segmentation.rfm import Rules, advance_bytes
from segmentation.scoring import ScoringStep
from tests.support.engine.memory_shard import DAY, T0, MemoryShard, Rec, a_model, at, published_moves
from tests.support.paths import ROOT
from tests.unit.segmentation import test_merged_ids

PAGE = (ROOT / "docs" / "reference" / "events.md").read_text()
W, G = 365, 7  # days
Event = OrderPlaced | OrderRefunded | OrderCancelled | CustomerErased
Test = TypeVar("Test", bound=Callable[..., None])
HELD: list[tuple[str, str]] = []


def holds(send: str, when: str) -> Callable[[Test], Test]:
    """Mark a test as the one of a row of the table."""

    def mark(test: Test) -> Test:
        HELD.append((send, when))
        return test

    return mark


def placed(
    order: str, day: float, amount: str = "10", event: str | None = None, *, updated: float | None = None
) -> OrderPlaced:
    return OrderPlaced(
        updated_at=None if updated is None else date(updated),
        id=event or f"e-{order}",
        order_id=order,
        customer_id="c",
        occurred_at=date(day),
        amount=Amount(value=amount, currency="EUR"),
    )


def refunded(order: str | None, day: float, amount: str, event: str = "r") -> OrderRefunded:
    return OrderRefunded(
        id=event,
        order_id=order,
        customer_id="c",
        occurred_at=date(day),
        amount=Amount(value=amount, currency="EUR"),
    )


def cancelled(order: str, day: float, event: str = "c") -> OrderCancelled:
    return OrderCancelled(id=event, order_id=order, customer_id="c", occurred_at=date(day))


def erased(day: float) -> CustomerErased:
    return CustomerErased(id=f"erased-{day}", customer_id="c", occurred_at=date(day))


def date(day: float) -> datetime:
    return at(T0 + round(day * DAY))


MS = 1 / DAY  # in days
NO_ORDER = 36_525.0  # days of recency where no order stands any more


class ShownFigures(NamedTuple):
    recency_days: float | None  # None: never an order that stood
    frequency: int
    monetary: str


class CustomerHistory:
    """One customer's events, sent on days of the shard's clock."""

    def __init__(self, *, model: bool = False, cap: int = 1_000) -> None:
        self.rules = Rules(W * DAY, G * DAY, cap)
        reader = Reader("EUR", "event", 300_000, 100_000 * DAY, 1_000_000)
        compiled = CompiledModel.of(a_model(np.random.default_rng(1), (1, 2)), "g", {}) if model else None
        self.shard = MemoryShard(ScoringStep(reader, self.rules), compiled)
        self.log: list[Rec] = []

    def send(self, *events: Event, day: float | None = None) -> CustomerHistory:
        """Send events, then let the clock come to `day`."""
        for e in events:
            self._send(e.customer_id.encode(), encode(e))
        if day is not None:
            self._send(CONTROL_KEY, encode(ClockAdvanced(id="t", to=date(day))))
        return self

    def _send(self, key: bytes, value: bytes) -> None:
        self.log.append(Rec(len(self.log), key, value))
        while self.shard.offset < len(self.log):
            self.shard.turn(self.log, 10, 10)

    def figures(self) -> ShownFigures:
        """As they are published at the clock."""
        clock = self.shard.clock
        value = self.shard.states.get(b"c")
        rfm = published(None if value is None else advance_bytes(value, clock, self.rules), clock)
        return ShownFigures(rfm.recency_days, rfm.frequency, rfm.monetary) if rfm else ShownFigures(None, 0, "0.00")


def after(events: Sequence[Event], day: float) -> ShownFigures:
    """The figures at `day`: the same in any order of arrival, and with everything sent twice."""
    results = {
        CustomerHistory().send(*arrival, *again, day=day).figures()
        for arrival in permutations(events)
        for again in ((), arrival, arrival[::-1])
    }
    assert len(results) == 1, results
    return results.pop()


@holds("an order", "it is new")
def test_a_new_order_counts_from_its_own_date_for_one_window() -> None:
    assert after([placed("1", 0)], 0) == (0, 1, "10.00")
    assert after([placed("1", 0)], W - MS) == (W - MS, 1, "10.00")
    assert after([placed("1", 0)], W) == (W, 0, "0.00")


@holds("an order", "its amount is zero")
def test_an_order_of_zero_counts_for_recency_and_frequency() -> None:
    assert after([placed("1", 0, "10"), placed("2", 5, "0")], 6) == (1, 2, "10.00")


@holds("an order", "it is dated ahead, within the tolerance")
def test_an_order_dated_ahead_counts_from_its_date_on() -> None:
    step = ScoringStep(Reader("EUR", "wall", 300_000, 0, 1_000_000), Rules(W * DAY, G * DAY, 1_000))
    shard = MemoryShard(step, None, now=T0)
    shard.turn([Rec(0, b"c", encode(placed("1", 200_000 / DAY)), T0)], 10, 10)
    for now, frequency in ((T0, 0), (T0 + 199_999, 0), (T0 + 200_000, 1)):
        rfm = published(advance_bytes(shard.states[b"c"], now, Rules(W * DAY, G * DAY, 1_000)), now)
        assert rfm
        assert rfm.frequency == frequency


@holds("an order", "its cancellation came first")
def test_an_order_whose_cancellation_came_first_does_not_count() -> None:
    assert after([cancelled("1", 5), placed("1", 0), placed("2", 1)], 10) == (9, 1, "10.00")
    assert after([cancelled("1", -G), placed("1", 0), placed("2", 1)], 10) == (9, 1, "10.00")


@holds("an order", "the order id is known, with another event id")
def test_of_two_versions_of_an_order_the_later_dated_counts_once() -> None:
    first, second = placed("1", 0, "10", "e1"), placed("1", 3, "25", "e2")
    assert after([first, second], 5) == (2, 1, "25.00")
    assert after([first, placed("1", W - MS, "25", "e2")], W) == (MS, 1, "25.00")
    assert after([first, placed("1", 0, "4", "e2")], 5) == (5, 1, "10.00")


@holds("an order", "the order id is known, both have `updated_at` (or both `revision`)")
def test_of_two_contents_of_an_order_the_latest_update_counts_with_its_own_date() -> None:
    for one, two in (("e1", "e2"), ("e", "e")):  # a shop may send the edit under the event's own id
        first, lower = placed("1", 0, "10", one, updated=0), placed("1", 0, "4", two, updated=20)
        assert after([first, lower], 30) == (30, 1, "4.00")
        assert after([first, lower, refunded("1", 2, "3")], 30) == (30, 1, "1.00")
        assert after([first, lower, cancelled("1", 5)], 30) == (NO_ORDER, 0, "0.00")
        # An edit dated later doesn't move an order whose newest content is dated earlier.
        assert after([placed("1", 6, "10", one, updated=6), placed("1", 0, "4", two, updated=7)], 30) == (30, 1, "4.00")
        assert after([first, placed("1", 3, "4", two, updated=20)], 30) == (27, 1, "4.00")
        for sent in ([first, lower], [lower, first]):
            customer = CustomerHistory().send(*sent, *sent)
            assert not customer.shard.reasons
            assert customer.shard.counts["repeat"] == 2
    same = [placed("1", 0, "10", "e", updated=5), placed("1", 0, "4", "e", updated=5)]
    assert CustomerHistory().send(*same).shard.reasons == {"conflicting_id": 1}


def test_every_order_of_a_shop_may_have_an_update() -> None:
    """As shops export: all orders have `updated_at`; some are edited, refunded, cancelled; one customer is lapsed."""
    events: list[Event] = [
        placed("1", 0, "10", "1", updated=0),
        placed("1", 0, "8", "1", updated=300),
        placed("2", 10, "20", "2", updated=11),
        refunded("2", 12, "5"),
        cancelled("1", 301),
    ]
    assert after(events, 302) == (292, 1, "15.00")
    assert after(events[:3], 302) == (292, 2, "28.00")


@holds("an order", "the order id is known, one of the two has `updated_at` or `revision`")
def test_a_content_with_an_update_counts_before_one_without() -> None:
    for one, two in (("e1", "e2"), ("e", "e")):
        assert after([placed("1", 3, "10", one), placed("1", 0, "4", two, updated=1)], 30) == (30, 1, "4.00")
    # A whole history sent once more, now with `updated_at`, and then without it again, is no conflict.
    bare, updated = placed("1", 0, "10", "e"), placed("1", 0, "10", "e", updated=1)
    customer = CustomerHistory().send(bare, updated, bare)
    assert not customer.shard.reasons
    assert customer.figures().monetary == "10.00"
    customer = CustomerHistory().send(updated, bare)
    assert not customer.shard.reasons


@holds("an order", "the order id is known, neither has them, and this one is dated earlier or has the lesser amount")
def test_an_edit_that_does_not_count_is_reported_once() -> None:
    first, lower = placed("1", 0, "10", "e1"), placed("1", 0, "4", "e2")
    customer = CustomerHistory().send(first, lower, lower, first)
    assert customer.figures() == (0, 1, "10.00")
    assert customer.shard.reasons == {"outdated_edit": 1}
    assert customer.shard.counts == {"new": 1, "outdated": 1, "repeat": 2}
    # Sent back from the dead letters it is a repeat, also when all that is left of the order is folded.
    customer.send(day=W + 100).send(placed("2", W + 100), day=2 * W + 120).send(lower)
    assert customer.figures() == (W + 20, 0, "0.00")
    assert customer.shard.reasons == {"outdated_edit": 1}
    assert CustomerHistory().send(placed("1", 3, "4", "e2"), first).shard.reasons == {"outdated_edit": 1}
    # A content that counts isn't reported, nor is the same content under another event id.
    assert not CustomerHistory().send(lower, first, placed("1", 0, "10", "e3")).shard.reasons
    assert after([first, lower], 5) == (5, 1, "10.00")


@holds("an order", "the order id is known, a window or more apart")
def test_an_order_id_used_again_a_window_later_is_an_order_of_its_own() -> None:
    events: list[Event] = [placed("1", 0, "10", "e1"), placed("1", W, "25", "e2")]
    assert after(events, W) == (0, 1, "25.00")
    # The cancellation of the second brings back the first, which no second version has replaced.
    assert after([*events, cancelled("1", W + 1)], W + 1) == (W + 1, 0, "0.00")


@holds("an order", "its order id was cancelled more than a grace before its date")
def test_an_order_id_cancelled_more_than_a_grace_before_lives_again() -> None:
    assert after([cancelled("1", 0), placed("1", G)], 20) == (NO_ORDER, 0, "0.00")
    assert after([cancelled("1", 0), placed("1", G + MS)], 20) == (20 - G - MS, 1, "10.00")
    assert after([placed("1", 0, "4", "e1"), cancelled("1", 1), placed("1", 9, "6", "e2")], 20) == (11, 1, "6.00")


@holds("an order", "it is older than the window")
def test_an_order_older_than_the_window_moves_recency_only() -> None:
    customer = CustomerHistory().send(placed("1", 0), placed("2", 500), day=1_000)
    assert customer.figures() == (500, 0, "0.00")
    customer.send(placed("3", 510))
    assert customer.figures() == (490, 0, "0.00")
    customer.send(placed("4", 200))
    assert customer.figures() == (490, 0, "0.00")
    assert CustomerHistory().send(day=1_000).send(placed("1", 0)).figures() == (1_000, 0, "0.00")


@holds("a cancellation", "the order is in the window")
def test_a_cancelled_order_is_out_of_all_three_figures() -> None:
    events: list[Event] = [placed("1", 0, "10"), placed("2", 5, "25"), refunded("2", 6, "3")]
    assert after(events, 10) == (5, 2, "32.00")
    assert after([*events, cancelled("2", 8)], 10) == (10, 1, "10.00")


@holds("a cancellation", "the order before has left the window")
def test_recency_goes_back_to_an_order_that_has_left_the_window() -> None:
    customer = CustomerHistory().send(placed("1", 0), placed("2", 300), day=500)
    assert customer.figures() == (200, 1, "10.00")
    assert customer.send(cancelled("2", 500)).figures() == (500, 0, "0.00")


@holds("a cancellation", "it takes the only order")
def test_without_an_order_that_stands_recency_is_a_hundred_years() -> None:
    assert after([placed("1", 0), cancelled("1", 3)], 10) == (NO_ORDER, 0, "0.00")


@holds("a cancellation", "its order hasn't come yet")
def test_a_cancellation_waits_for_its_order() -> None:
    customer = CustomerHistory().send(placed("2", 0), cancelled("1", 6), day=8)
    assert customer.figures() == (8, 1, "10.00")
    assert customer.send(placed("1", 5)).figures() == (8, 1, "10.00")


@holds("a cancellation", "it is dated a window or more after the order")
def test_an_order_that_has_left_the_window_is_final() -> None:
    assert after([placed("1", 0), cancelled("1", W - MS)], W + 9) == (NO_ORDER, 0, "0.00")
    assert after([placed("1", 0), cancelled("1", W)], W + 9) == (W + 9, 0, "0.00")


@holds("a cancellation", "it is more than a grace late, and its order has been folded away already")
def test_a_cancellation_of_a_folded_order_does_nothing_and_is_late() -> None:
    customer = CustomerHistory().send(placed("1", 0), placed("2", 100), day=500)
    assert customer.send(cancelled("1", 90)).figures() == (400, 0, "0.00")
    assert customer.shard.counts["late"] == 1
    assert not customer.shard.reasons
    customer = CustomerHistory().send(placed("1", 0), placed("2", G), cancelled("2", G), day=500)
    assert customer.send(cancelled("1", -MS, "c1")).figures() == (500, 0, "0.00")
    assert customer.shard.counts["late"] == 1


@holds("a cancellation", "it comes again, or there is no such order")
def test_a_second_cancellation_or_one_of_no_order_does_nothing_further() -> None:
    events: list[Event] = [placed("1", 0), placed("2", 2), cancelled("2", 3, "c1")]
    assert after(events, 10) == after([*events, cancelled("2", 5, "c2")], 10) == (10, 1, "10.00")
    assert after([*events, cancelled("9", 5, "c2")], 10) == (10, 1, "10.00")


@holds("a refund", "its order stands in the window")
def test_a_refund_is_subtracted_in_full_and_several_add_up() -> None:
    assert after([placed("1", 0, "10"), refunded("1", 3, "4")], 5) == (5, 1, "6.00")
    assert after([placed("1", 0, "10"), refunded("1", 3, "4", "r1"), refunded("1", 4, "5.5", "r2")], 5) == (
        5,
        1,
        "0.50",
    )
    assert after([placed("1", 0, "10"), refunded("1", 3, "12")], 5) == (5, 1, "-2.00")


@holds("a refund", "it is of the whole amount")
def test_a_full_refund_is_no_cancellation() -> None:
    events: list[Event] = [placed("1", 0, "10"), placed("2", 5, "25")]
    assert after([*events, refunded("2", 6, "25")], 10) == (5, 2, "10.00")
    assert after([*events, cancelled("2", 6)], 10) == (10, 1, "10.00")


@holds("a refund", "its order is cancelled, before or after")
def test_a_refund_of_a_cancelled_order_does_nothing() -> None:
    events: list[Event] = [placed("1", 0, "10"), placed("2", 1, "25")]
    assert after([*events, cancelled("2", 5), refunded("2", 3, "25")], 10) == (10, 1, "10.00")
    assert after([*events, cancelled("2", 5), refunded("2", 7, "25")], 10) == (10, 1, "10.00")


@holds("a refund", "its order is unknown, or out of the window")
def test_a_refund_waits_for_its_order_and_is_over_with_it() -> None:
    customer = CustomerHistory().send(placed("2", 0, "10"), refunded("1", 6, "4"), day=8)
    assert customer.figures() == (8, 1, "10.00")
    assert customer.send(placed("1", 5, "25")).figures() == (3, 2, "31.00")
    assert after([placed("1", 0, "10"), placed("2", 50, "25"), refunded("1", W - 1, "4")], W) == (W - 50, 1, "25.00")


@holds("a refund", "it names no order")
def test_a_refund_that_names_no_order_is_subtracted_for_a_window() -> None:
    events: list[Event] = [placed("1", 0, "10"), refunded(None, 100, "4")]
    assert after(events, 101) == (101, 1, "6.00")
    assert after(events, W) == (W, 0, "-4.00")
    assert after(events, W + 100 - MS) == (W + 100 - MS, 0, "-4.00")
    assert after(events, W + 100) == (W + 100, 0, "0.00")


@holds("a refund", "it is dated more than a grace before its order")
def test_a_refund_dated_more_than_a_grace_before_its_order_does_nothing() -> None:
    assert after([placed("1", G, "10"), refunded("1", 0, "4")], 9) == (2, 1, "6.00")
    assert after([placed("1", G, "10"), refunded("1", -MS, "4")], 9) == (2, 1, "10.00")
    changed: list[Event] = [placed("1", 0, "10", "e1"), refunded("1", 1, "4"), placed("1", 1 + G + MS, "25", "e2")]
    assert after(changed, 9) == (9 - 1 - G - MS, 1, "25.00")


@holds("anything", "it is exactly as before")
def test_a_repeat_does_nothing_however_old() -> None:
    events: list[Event] = [placed("1", 0), placed("2", 1), cancelled("2", 2), refunded("1", 3, "4"), placed("3", 20)]
    customer = CustomerHistory(model=True).send(*events, day=1_000)
    before = customer.figures(), customer.shard.states[b"c"], len(customer.shard.outputs)
    customer.send(*events, *events[::-1])
    assert before == (customer.figures(), customer.shard.states[b"c"], len(customer.shard.outputs))
    assert not customer.shard.reasons
    assert customer.shard.counts["new"] == len(events)


@holds("anything", "the type and id are known, the content is other")
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_contents_of_an_id_the_later_dated_counts_and_the_newcomer_is_reported_once(turned: bool) -> None:
    one, two = placed("1", 0, "10", "e"), placed("2", 3, "25", "e")
    assert after([one, two], 5) == (2, 1, "25.00")
    assert after([one, placed("1", 0, "11", "e")], 5) == (5, 1, "11.00")
    assert after([placed("1", 0), refunded("1", 1, "4"), refunded("1", 2, "5")], 5) == (5, 1, "5.00")
    assert after([placed("1", 0), placed("2", 0, "3"), cancelled("1", 1), cancelled("2", 2)], 5) == (5, 1, "10.00")
    for apart, recency in ((W - MS, NO_ORDER), (W, W + 1)):
        assert after([one, placed("2", apart, "25", "e"), cancelled("2", apart)], W + 1) == (recency, 0, "0.00")
    arrival = [two, one] if turned else [one, two]
    customer = CustomerHistory().send(*arrival, *arrival, *arrival)
    assert customer.shard.counts == {"new": 1, "conflict": 1, "repeat": 4}
    assert customer.shard.reasons == {"conflicting_id": 1}


@holds("anything", "the id is known of another type")
def test_one_id_under_two_types_is_two_events() -> None:
    events: list[Event] = [
        placed("1", 0, "10", "x"),
        refunded("1", 1, "4", "x"),
        placed("2", 2, "3", "y"),
        cancelled("2", 3, "x"),
    ]
    assert after(events, 5) == (5, 1, "6.00")
    assert not CustomerHistory().send(*events).shard.reasons


@holds("an erasure", "at any time")
def test_an_erasure_forgets_everything_up_to_its_date() -> None:
    assert after([placed("1", 0), placed("2", 5, "25"), erased(3)], 10) == (5, 1, "25.00")
    assert after([placed("1", 0), erased(0)], 10) == (NO_ORDER, 0, "0.00")
    customer = CustomerHistory(model=True).send(placed("1", 0), day=5)
    customer.send(erased(4))
    assert [(m.sequence, m.to is None, m.cause.value) for m in published_moves(customer.shard)][-1] == (
        len(customer.shard.outputs),
        True,
        "erasure",
    )
    assert customer.shard.outputs[-1].latest is None
    # A second one, later dated, is no conflict with the first.
    customer.send(erased(6))
    assert not customer.shard.reasons
    # No move was published, so none has to be taken back.
    assert not CustomerHistory(model=True).send(erased(4)).shard.outputs


@holds("anything else", "it is dated up to the customer's erasure")
def test_what_is_dated_up_to_the_erasure_does_not_come_back() -> None:
    customer = CustomerHistory(model=True).send(placed("1", 0), erased(4))
    outputs = len(customer.shard.outputs)
    customer.send(placed("1", 0), placed("2", 4), refunded("1", 3, "4"), cancelled("1", 2), erased(1))
    assert customer.shard.counts["erased"] == 5
    assert customer.figures() == (NO_ORDER, 0, "0.00")
    assert len(customer.shard.outputs) == outputs


@holds("an order", "it is the first dated after the erasure")
def test_the_first_order_after_an_erasure_is_a_new_customers() -> None:
    customer = CustomerHistory(model=True).send(placed("1", 0), erased(4))
    before = len(customer.shard.outputs)
    customer.send(placed("2", 4 + MS))
    move = published_moves(customer.shard)[before]
    assert (move.sequence, move.from_, move.cause.value) == (before + 1, None, "first")
    assert customer.figures() == (0, 1, "10.00")


def test_money_may_be_below_zero_and_is_published_so() -> None:
    customer = CustomerHistory(model=True).send(placed("1", 0, "10"), refunded("1", 1, "15"))
    assert customer.figures().monetary == "-5.00"
    customer = CustomerHistory(model=True).send(refunded(None, 0, "5"), placed("1", 1, "0"))
    assert [m.rfm.monetary for m in published_moves(customer.shard) if m.rfm] == ["-5.00"]


def test_a_refund_leaves_with_its_order() -> None:
    events: list[Event] = [placed("1", 0, "10"), refunded("1", 200, "15"), placed("2", 100, "25")]
    assert after(events, W - MS).monetary == "20.00"
    assert after(events, W).monetary == after(events, W + 99).monetary == "25.00"


def test_recency_after_a_late_cancellation_may_name_a_cancelled_order_never_one_too_old() -> None:
    orders, other, late = (
        [placed("1", 0), placed("2", 50), placed("3", 58)],
        cancelled("3", 58, "c3"),
        cancelled("2", 51),
    )
    assert CustomerHistory().send(*orders, other, late, day=500).figures() == (500, 0, "0.00")
    assert CustomerHistory().send(*orders, other, day=500).send(late).figures() == (450, 0, "0.00")
    assert CustomerHistory().send(*orders, day=500).send(late).figures() == (442, 0, "0.00")


def test_above_the_cap_the_newest_count_and_it_is_counted_once() -> None:
    customer = CustomerHistory(cap=3).send(*(placed(str(i), i, str(10**i)) for i in range(3)))
    assert customer.shard.counts["capped"] == 0
    customer.send(placed("3", 3, "1000"), placed("4", 4, "10000"))
    assert customer.figures() == (0, 3, "11100.00")
    assert customer.shard.counts == {"new": 5, "capped": 1}


def test_every_row_of_the_table_is_held() -> None:
    section = PAGE.split("### Effects of each event\n")[1].split("\n### ")[0]
    rows = re.findall(r"(?m)^\| (.*?) \| (.*?) \| .* \|$", section)[1:]
    assert rows
    assert sorted([*HELD, *test_merged_ids.ROWS]) == sorted(rows)
