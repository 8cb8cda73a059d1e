from __future__ import annotations

from segmentation.entries import DAY_MS, Kind, Rules, entry
from segmentation.life import Gaps, Life
from segmentation.rfm import EMPTY, absorb_bytes, with_announcement
from stream.customers.figures import figures_at

RULES = Rules(window=10 * DAY_MS, grace=2 * DAY_MS)


def _state(*events: tuple[Kind, str, int, int], clock: int) -> bytes:
    value = EMPTY
    for kind, name, at, amount in events:
        value, _ = absorb_bytes(value, entry(kind, name, at, order=name, amount=amount), max(at, clock), RULES)
    return value


def _window(value: bytes, at_ms: int) -> tuple[float | None, int, int, int, int, bool]:
    found = figures_at(value, at_ms, RULES)
    assert found is not None
    return found[:-1]


def test_figures_as_of_the_clock_later_and_earlier() -> None:
    value = _state((Kind.PLACED, "1", DAY_MS, 5), (Kind.PLACED, "2", 4 * DAY_MS, 7), clock=0)
    value = with_announcement(value, 3, 8, 4 * DAY_MS)
    assert _window(value, 5 * DAY_MS) == (1.0, 2, 12, 3, 8, False)
    assert _window(value, 4 * DAY_MS - 1) == ((3 * DAY_MS - 1) / DAY_MS, 1, 5, 3, 8, False)
    # The first order leaves the window at the instant at which it is as old as the window.
    assert _window(value, 11 * DAY_MS - 1) == ((7 * DAY_MS - 1) / DAY_MS, 2, 12, 3, 8, False)
    assert _window(value, 11 * DAY_MS) == (7.0, 1, 7, 3, 8, False)
    assert _window(value, 100 * DAY_MS) == (96.0, 0, 0, 3, 8, False)


def test_a_later_customer_and_an_erased_one_have_no_figures() -> None:
    value = _state((Kind.PLACED, "1", DAY_MS, 5), clock=0)
    assert figures_at(value, DAY_MS - 1, RULES) is None
    assert _window(value, DAY_MS) == (0.0, 1, 5, 0, 0, False)
    erased, _ = absorb_bytes(value, entry(Kind.ERASED, "", 2 * DAY_MS), 2 * DAY_MS, RULES)
    assert figures_at(erased, 3 * DAY_MS, RULES) is None


def test_a_customer_without_an_order_left_has_no_recency() -> None:
    value = _state((Kind.PLACED, "1", DAY_MS, 5), (Kind.CANCELLED, "1", 2 * DAY_MS, 0), clock=0)
    assert _window(value, 2 * DAY_MS) == (None, 0, 0, 0, 0, False)
    assert _window(value, 2 * DAY_MS - 1) == ((DAY_MS - 1) / DAY_MS, 1, 5, 0, 0, False)


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


def test_the_whole_life_as_of_an_instant_goes_beyond_the_window() -> None:
    orders = [(Kind.PLACED, str(day), day * DAY_MS, 100 * day) for day in (1, 2, 5, 31)]
    value = _state(*orders, (Kind.REFUNDED, "31", 32 * DAY_MS, 1_000), clock=0)
    found = figures_at(value, 33 * DAY_MS, RULES)
    assert found is not None
    assert (found.frequency, found.monetary_units) == (1, 2_100)
    assert found.life == (Life(4, 4, 2_900, DAY_MS), 31 * DAY_MS, [1, 2, 5, 31], False)
    assert (found.life.mean_order, found.life.gaps) == (725, Gaps(10.0, 3.0))
    # A day before: without the refund. Two days before: without the order too, whatever has been folded since.
    assert [figures.life.life for at in (31, 30) if (figures := figures_at(value, at * DAY_MS, RULES))] == [
        Life(4, 4, 3_900, DAY_MS),
        Life(3, 3, 800, DAY_MS),
    ]


def test_a_life_begins_with_the_first_order_that_stands() -> None:
    orders = [(Kind.PLACED, str(day), day * DAY_MS, 100) for day in (1, 3)]
    value = _state(*orders, (Kind.CANCELLED, "1", 3 * DAY_MS, 0), clock=0)
    found = figures_at(value, 4 * DAY_MS, RULES)
    assert found is not None
    assert found.life == (Life(1, 1, 100, 3 * DAY_MS), 3 * DAY_MS, [3], False)
    assert found.life.gaps is None
