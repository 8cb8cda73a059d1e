"""Whole lives of all customers of CDNOW, Online Retail and a generated shop, against plain Python over their rows."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from segmentation.entries import DAY_MS
from segmentation.event_text import EPOCH
from segmentation.events import CustomerMerged, to_entry
from segmentation.life_figures import life_at, life_figures
from segmentation.rfm import EMPTY, Entry, Kind, Rules, absorb_bytes, advance_bytes, entry
from stream.customers.figures import figures_at
from stream.orders.files import cdnow_path, read_orders
from stream.orders.rows import parse_at, to_event
from stream.orders.sorting import in_time_order
from tests.support.oracles.lifetimes import Booking, Lifetime, cdnow_bookings, lifetimes, retail_bookings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from segmentation.output_events import LifeFigures


def merged(arrivals: Iterable[tuple[str, Entry]], rules: Rules) -> dict[str, bytes]:
    states: dict[str, bytes] = {}
    clock = 0
    for customer, e in arrivals:
        clock = max(clock, e.time)
        states[customer] = absorb_bytes(states.get(customer, EMPTY), e, clock, rules)[0]
    return states


def arrivals_of(path: Path, currency: str) -> list[tuple[str, Entry]]:
    with in_time_order(read_orders(path, currency=currency)) as rows:
        events = [to_event(row) for row in rows]
    return [(e.customer_id, to_entry(e, currency)) for e in events if not isinstance(e, CustomerMerged)]


def as_lifetime(life: LifeFigures) -> Lifetime:
    assert not life.partial
    money = Decimal(life.monetary), Decimal(life.mean_order_value)
    times = datetime.fromisoformat(life.first_order_at), datetime.fromisoformat(life.last_order_at)
    return Lifetime(life.orders, life.purchase_days, *money, *times, life.mean_gap_days, life.typical_gap_days)


def assert_equal(states: dict[str, bytes], at: int, rules: Rules, expected: dict[str, Lifetime]) -> None:
    """Compare what moves and what exports publish of every customer at an instant with the expected lives."""
    in_moves, in_exports = {}, {}
    for customer, value in states.items():
        if move := life_figures(life_at(advance_bytes(value, at, rules), at, rules)):
            in_moves[customer] = as_lifetime(move)
        figures = figures_at(value, at, rules)
        if figures and (row := life_figures(figures.life)):
            in_exports[customer] = as_lifetime(row)
    assert in_moves == expected
    assert in_exports == expected


@pytest.mark.parametrize("window_days", [pytest.param(30, marks=pytest.mark.slow), 365])
def test_the_lives_of_cdnows_customers(window_days: int) -> None:
    path = cdnow_path()
    rules = Rules(window_days * DAY_MS, 7 * DAY_MS)
    bookings = cdnow_bookings(path)
    expected = lifetimes(bookings)
    assert (len(bookings), len(expected)) == (69_659, 23_570)
    states = merged(arrivals_of(path, "USD"), rules)
    # At the end of the file, where the first months have left the window, and two years later, where all has.
    for at in ("1998-07-01", "2000-07-01"):
        assert_equal(states, parse_at(at), rules, expected)


@pytest.mark.parametrize("window_days", [30, 365])
def test_the_lives_of_online_retails_customers(test_data: Path, window_days: int) -> None:
    path = test_data / "online_retail" / "orders.csv.gz"
    rules = Rules(window_days * DAY_MS, 7 * DAY_MS)
    expected = lifetimes(retail_bookings(path))
    assert len(expected) == 4_339  # the 4,338 of the golden figures, and 13256, whose only order is of nothing
    states = merged(arrivals_of(path, "GBP"), rules)
    for at in ("2011-12-10", "2013-12-10"):
        assert_equal(states, parse_at(at), rules, expected)


def test_the_lives_of_generated_customers_over_two_years_and_as_long_after() -> None:
    """Orders with refunds and cancellations, some records late or twice, looked at every 50 days."""
    rng, rules, begin = random.Random(5), Rules(90 * DAY_MS, 7 * DAY_MS), parse_at("2024-01-01")
    records: list[tuple[int, str, Entry]] = []  # when it arrives, of whom
    for number in range(250):
        customer, at = f"c{number}", begin + rng.randrange(200 * DAY_MS)
        rest = rng.expovariate(1 / 40) * DAY_MS
        for purchase in range(rng.randrange(1, 25)):
            order, amount = f"{customer}-{purchase}", rng.randrange(1, 2_000_000)
            own = [entry(Kind.PLACED, order, at, order=order, amount=amount)]
            if rng.random() < 0.2:
                # Of a part or of all, at most a grace before the order, up to two months after it.
                when, back = at + rng.randrange(60 * DAY_MS), rng.choice([amount, amount // 3])
                own.append(entry(Kind.REFUNDED, f"r{order}", when, order=order, amount=back))
            if rng.random() < 0.1:
                own.append(entry(Kind.CANCELLED, order, at + rng.randrange(20 * DAY_MS), order=order))
            if rng.random() < 0.1:
                own.append(entry(Kind.REFUNDED, f"s{order}", at, amount=rng.randrange(1, 500_000)))
            for e in own:
                late = rng.randrange(6 * DAY_MS) if rng.random() < 0.3 else 0
                records += [(e.time + late, customer, e)] * (2 if rng.random() < 0.1 else 1)
            at += int(rng.expovariate(1 / (rest + 1)))
            if at > begin + 730 * DAY_MS:
                break
    records.sort(key=lambda record: record[0])
    states: dict[str, bytes] = {}
    seen: list[tuple[str, Entry]] = []
    looked = 0
    clock = begin
    for arrived, customer, e in [*records, *((begin + days * DAY_MS, "", records[0][2]) for days in (900, 1_460))]:
        while clock + 50 * DAY_MS < arrived:
            clock += 50 * DAY_MS
            assert_equal(states, clock, rules, lifetimes(_bookings(seen)))
            looked += 1
        if customer:
            seen.append((customer, e))
            states[customer] = absorb_bytes(states.get(customer, EMPTY), e, arrived, rules)[0]
    assert looked == 29
    # The older half of the orders had left the window long before the end.
    assert len(seen) > 2_000


def _bookings(seen: Iterable[tuple[str, Entry]]) -> list[Booking]:
    """Return the orders that aren't cancelled, and their refunds, of records that may be there twice."""
    known = list(dict.fromkeys(seen))
    cancelled = {e.order for _, e in known if e.kind == Kind.CANCELLED}
    standing = {e.order for _, e in known if e.kind == Kind.PLACED} - cancelled
    found = []
    for customer, e in known:
        if e.kind != Kind.CANCELLED and (e.order in standing or e.order == 0):
            amount = Decimal(e.amount if e.kind == Kind.PLACED else -e.amount) / 10_000
            found.append(Booking(customer, EPOCH + timedelta(milliseconds=e.time), amount, e.kind == Kind.PLACED))
    return found
