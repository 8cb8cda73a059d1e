from __future__ import annotations

from segmentation.entries import DAY_MS, Kind, Rules, entry
from segmentation.rfm import EMPTY, absorb_bytes, with_announcement
from stream.customers.figures import figures_at

RULES = Rules(window=10 * DAY_MS, grace=2 * DAY_MS)


def _state(*events: tuple[Kind, str, int, int], clock: int) -> bytes:
    value = EMPTY
    for kind, name, at, amount in events:
        value, _ = absorb_bytes(value, entry(kind, name, at, order=name, amount=amount), max(at, clock), RULES)
    return value


def test_figures_as_of_the_clock_later_and_earlier() -> None:
    value = _state((Kind.PLACED, "1", DAY_MS, 5), (Kind.PLACED, "2", 4 * DAY_MS, 7), clock=0)
    value = with_announcement(value, 3, 8, 4 * DAY_MS)
    assert figures_at(value, 5 * DAY_MS, RULES) == (1.0, 2, 12, 3, 8, False)
    assert figures_at(value, 4 * DAY_MS - 1, RULES) == ((3 * DAY_MS - 1) / DAY_MS, 1, 5, 3, 8, False)
    # The first order leaves the window at the instant at which it is as old as the window.
    assert figures_at(value, 11 * DAY_MS - 1, RULES) == ((7 * DAY_MS - 1) / DAY_MS, 2, 12, 3, 8, False)
    assert figures_at(value, 11 * DAY_MS, RULES) == (7.0, 1, 7, 3, 8, False)
    assert figures_at(value, 100 * DAY_MS, RULES) == (96.0, 0, 0, 3, 8, False)


def test_a_later_customer_and_an_erased_one_have_no_figures() -> None:
    value = _state((Kind.PLACED, "1", DAY_MS, 5), clock=0)
    assert figures_at(value, DAY_MS - 1, RULES) is None
    assert figures_at(value, DAY_MS, RULES) == (0.0, 1, 5, 0, 0, False)
    erased, _ = absorb_bytes(value, entry(Kind.ERASED, "", 2 * DAY_MS), 2 * DAY_MS, RULES)
    assert figures_at(erased, 3 * DAY_MS, RULES) is None


def test_a_customer_without_an_order_left_has_no_recency() -> None:
    value = _state((Kind.PLACED, "1", DAY_MS, 5), (Kind.CANCELLED, "1", 2 * DAY_MS, 0), clock=0)
    assert figures_at(value, 2 * DAY_MS, RULES) == (None, 0, 0, 0, 0, False)
    assert figures_at(value, 2 * DAY_MS - 1, RULES) == ((DAY_MS - 1) / DAY_MS, 1, 5, 0, 0, False)


def test_dropped_entries_make_figures_incomplete() -> None:
    # The cut follows the orders that left the window, a grace behind: it is at 18 days once day 20's order was dropped.
    orders = [(Kind.PLACED, str(day), day * DAY_MS, 1) for day in (1, 20, 31)]
    value = _state(*orders, clock=0)
    found = figures_at(value, 30 * DAY_MS, RULES)
    assert found is not None
    assert not found.incomplete
    found = figures_at(value, 30 * DAY_MS - 1, RULES)
    assert found is not None
    assert found.incomplete
