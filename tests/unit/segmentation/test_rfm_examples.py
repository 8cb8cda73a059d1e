"""A customer's state by example: the golden bytes, the table of situations, and a real shop's orders."""

from __future__ import annotations

import csv
import gzip
import random
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import pytest

from segmentation.entries import UNREVISED
from segmentation.life import NOTHING_FOLDED, Folded
from segmentation.links import NO_LINKS
from segmentation.money import format_units, parse_units
from segmentation.rfm import (
    EMPTY,
    NONE,
    CustomerState,
    Entry,
    Kind,
    Outcome,
    Rules,
    absorb,
    absorb_bytes,
    advance_bytes,
    append,
    entry,
    headers,
    is_erased,
    pack,
    read,
    rows,
    settle,
    unpack,
)
from segmentation.state_tail import add_tail, write_tail
from tests.support.paths import TEST_DATA

RULES = Rules(window=100, grace=15, cap=1_000)
W = RULES.window
# Written down from the layout, by hand.
GOLDEN = (
    "0200000000000000 0000000000000080 0100000001000000 48e8010000000000 "
    "0068e5cf8b010000 0068e5cf8b010000 0068e5cf8b010000 0094962793010000 0000000000000080 "
    "01000000 0100 48e8010000000000 0068e5cf8b010000 "  # the life: orders, days, money, first
    "00402b7f5e0c e2040000 8918241859bd bd9726c0e814"  # the row: key, amount in hundredths, order, event
)
GOLDEN_TAIL = (
    "24"  # folded, revisions
    "02 09 e807 80b89929 02 00 01"  # 2 orders, -0.0005, at 1000 and a day later; 2 days: the first is 0, a gap of 1
    "d10f"  # the revision is 1000 after the row's time: 2 x 1000 + 1
)


def placed(name: str, time: int, order: str, amount: int = 9) -> Entry:
    return entry(Kind.PLACED, name, time, order=order, amount=amount)


def refunded(name: str, time: int, order: str | None, amount: int) -> Entry:
    return entry(Kind.REFUNDED, name, time, order=order, amount=amount)


def cancelled(name: str, time: int, order: str) -> Entry:
    return entry(Kind.CANCELLED, name, time, order=order)


def erased(time: int) -> Entry:
    return entry(Kind.ERASED, "", time)


def absorbed(entries: list[Entry], t: int) -> CustomerState:
    value: bytes | None = None
    for e in entries:
        value, _ = absorb_bytes(value, e, t, RULES)
    return unpack(value or EMPTY)


def test_golden_bytes() -> None:
    e = entry(Kind.PLACED, "e1", 1_700_000_000_000, order="o1", amount=125_000)
    assert append(EMPTY, e, e.time, Rules()) == bytes.fromhex(GOLDEN)
    assert pack(absorb(CustomerState(), e, e.time, Rules())[0]) == bytes.fromhex(GOLDEN)
    assert absorb_bytes(None, e, e.time, Rules()) == (bytes.fromhex(GOLDEN), Outcome.NEW)


def test_golden_bytes_of_a_tail() -> None:
    e = entry(Kind.PLACED, "e1", 1_700_000_000_000, order="o1", amount=125_000, revision=1_700_000_001_000)
    folded = Folded(2, -5, 1_000, 86_401_000, (0, 1))
    assert write_tail([e], folded) == bytes.fromhex(GOLDEN_TAIL)
    assert add_tail([e._replace(revision=UNREVISED)], bytes.fromhex(GOLDEN_TAIL)) == ([e], folded, NO_LINKS)


def test_an_order_with_a_revision_takes_some_26_bytes() -> None:
    """A shop that sends `updated_at` with each order pays for how far it lies behind the order's date."""
    sizes = {}
    for name, late in (("at once", 0), ("minutes", 10 * 60_000), ("weeks", 20 * 86_400_000)):
        start = 1_700_000_000_000
        times = [start + 60_000 * i for i in range(1_000)]
        entries = [entry(Kind.PLACED, f"e{t}", t, order=f"o{t}", amount=100, revision=t + late) for t in times]
        value = pack(settle(CustomerState(), entries, times[-1], Rules()))
        sizes[name] = round((len(value) - len(EMPTY)) / len(entries), 1)
    assert sizes == {"at once": 23.0, "minutes": 25.0, "weeks": 27.0}


def test_an_erasure_takes_what_is_folded_of_refunds_alone() -> None:
    value: bytes | None = None
    for e in (refunded("r", 10, None, 5), refunded("s", 60, None, 5)):
        value, _ = absorb_bytes(value, e, e.time, RULES)
    value = advance_bytes(value or EMPTY, 3 * W, RULES)
    assert unpack(value).folded.money == -5
    value, _ = absorb_bytes(value, erased(3 * W), 3 * W, RULES)
    assert unpack(value).folded == NOTHING_FOLDED
    assert is_erased(value)


@pytest.mark.parametrize("revision", [UNREVISED, 7])
def test_a_content_that_comes_after_its_order_was_folded_counts_no_second_order(revision: int) -> None:
    value: bytes | None = None
    for e in (placed("a", 10, "1"), placed("b", 60, "2")):
        value, _ = absorb_bytes(value, e, e.time, RULES)
    value = advance_bytes(value or EMPTY, 3 * W, RULES)
    late = placed("c", 30, "1", 7)._replace(revision=revision)
    value, outcome = absorb_bytes(value, late, 3 * W, RULES)
    assert outcome is Outcome.LATE
    assert (unpack(value).folded.orders, unpack(value).life.orders) == (1, 2)


def test_thousands_of_revisions_that_leave_at_once_cost_no_square() -> None:
    """Each that leaves is compared with those of its own order alone. Comparing all took 6 s at 16,384."""
    year, n = 365 * 86_400_000, 8_000
    times = [1_700_000_000_000 + year * i // n for i in range(n)]
    entries = [entry(Kind.PLACED, f"e{t}", t, order=f"o{t}", amount=100, revision=t) for t in times]
    state = settle(CustomerState(), entries, times[-1], Rules())
    compared = 0

    class ComparedEntry(Entry):
        @property
        def precedence(self) -> tuple[Any, ...]:
            nonlocal compared
            compared += 1
            return super().precedence

    half = times[n // 2] + year + 8 * 86_400_000
    settle(state, [ComparedEntry(*e) for e in state.entries], half, Rules())
    assert compared < 10 * n


A = placed("a", 10, "1")
TABLE: list[tuple[list[Entry], int, tuple[int, int, int]]] = [  # entries, t, (last, frequency, monetary)
    ([A], 10, (10, 1, 9)),
    ([A], 9, (NONE, 0, 0)),
    ([A], 9 + W, (10, 1, 9)),
    ([A], 10 + W, (10, 0, 0)),
    ([cancelled("c", 12, "1"), A], 12, (NONE, 0, 0)),
    ([cancelled("c", 12, "1"), A], 11, (10, 1, 9)),
    ([cancelled("c", 12, "1"), cancelled("d", 13, "1"), A], 13, (NONE, 0, 0)),
    ([A, placed("b", 60, "2", 5), cancelled("c", 70, "2")], 115, (10, 0, 0)),
    ([A, refunded("r", 20, "1", 4)], 30, (10, 1, 5)),
    ([A, refunded("r", 20, "1", 4), cancelled("c", 30, "1")], 30, (NONE, 0, 0)),
    ([A, refunded("r", 20, "1", 14)], 30, (10, 1, -5)),
    ([A, refunded("r", 20, "1", 4), refunded("s", 21, "1", 3)], 30, (10, 1, 2)),
    ([A, refunded("r", 95, "1", 9)], 10 + W, (10, 0, 0)),
    ([refunded("r", 95, "1", 9)], 100, (NONE, 0, 0)),
    ([refunded("r", 20, None, 4)], 30, (NONE, 0, -4)),
    ([refunded("r", 20, None, 4)], 20 + W, (NONE, 0, 0)),
    ([A, placed("b", 50, "1", 7)], 60, (50, 1, 7)),
    ([A, placed("b", 50, "1", 7)], 49, (10, 1, 9)),
    ([A, placed("b", 10, "1", 7)], 49, (10, 1, 9)),
    ([A, cancelled("c", 20, "1"), placed("b", 50, "1", 7)], 60, (50, 1, 7)),
    ([A, cancelled("c", 20, "1"), placed("b", 30, "1", 7)], 60, (NONE, 0, 0)),
    ([A, erased(20), placed("b", 30, "2", 7)], 60, (30, 1, 7)),
    ([A, erased(50)], 20, (NONE, 0, 0)),
    # The borders: an order's life is [placed, placed + window), a grace before it is forgiven.
    ([A, cancelled("c", 9 + W, "1")], 9 + W, (NONE, 0, 0)),
    ([A, cancelled("c", 10 + W, "1")], 10 + W, (10, 0, 0)),
    ([placed("a", 30, "1"), cancelled("c", 15, "1")], 30, (NONE, 0, 0)),
    ([placed("a", 30, "1"), cancelled("c", 14, "1")], 30, (30, 1, 9)),
    ([placed("a", 30, "1"), refunded("r", 15, "1", 4)], 30, (30, 1, 5)),
    ([placed("a", 30, "1"), refunded("r", 14, "1", 4)], 30, (30, 1, 9)),
    ([A, placed("b", 9 + W, "1", 7), cancelled("c", 30 + W, "1")], 30 + W, (NONE, 0, 0)),
    ([A, placed("b", 10 + W, "1", 7), cancelled("c", 30 + W, "1")], 30 + W, (10, 0, 0)),
    ([A, placed("a", 40, "2", 7)], 50, (40, 1, 7)),
    ([A, placed("a", 9 + W, "2"), cancelled("c", 11 + W, "2")], 11 + W, (NONE, 0, 0)),
    ([A, placed("a", 10 + W, "2"), cancelled("c", 11 + W, "2")], 11 + W, (10, 0, 0)),
    ([refunded("r", 20, None, 4), refunded("r", 20, None, 6)], 30, (NONE, 0, -6)),
    # The shop uses the order's id as event id: one id under two kinds is two events.
    ([A, cancelled("a", 12, "1"), placed("b", 13, "2", 7)], 30, (13, 1, 7)),
]


@pytest.mark.parametrize(("entries", "t", "want"), TABLE, ids=range(len(TABLE)))
def test_situations(entries: list[Entry], t: int, want: tuple[int, int, int]) -> None:
    for order in (entries, entries[::-1]):
        s = absorbed([*order, *order], t)
        assert (s.last, s.frequency, s.monetary) == want


def test_what_is_kept() -> None:
    entries = [
        placed("a", 10, "1"),
        cancelled("b", 24, "9"),
        cancelled("k", 25, "9"),  # within a grace of the anchor: it can still reach a later order
        placed("c", 40, "2"),
        refunded("d", 41, "2", 1),
        placed("e", 50, "3"),
        cancelled("f", 52, "3"),
        refunded("g", 53, None, 1),
        placed("h", 70, "4"),
        cancelled("i", 71, "4"),
        placed("j", 160, "5"),
    ]
    value: bytes | None = None
    for e in entries:
        value, _ = absorb_bytes(value, e, e.time, RULES)
    state = unpack(advance_bytes(value or EMPTY, 171, RULES))
    assert state.cut == 71 - RULES.grace == 56
    kept = [(e.time, Kind(e.kind).name) for e in state.entries]
    assert kept == [
        (25, "CANCELLED"),
        (40, "ANCHOR"),
        (50, "PLACED"),
        (52, "CANCELLED"),
        (70, "PLACED"),
        (71, "CANCELLED"),
        (160, "PLACED"),
    ]
    assert (state.last, state.frequency, state.monetary) == (160, 1, 9)
    assert (state.first, state.next_change) == (10, 260)


def outcomes(arrivals: list[tuple[int, Entry]]) -> list[Outcome]:
    value: bytes | None = None
    outcomes = []
    for t, e in arrivals:
        value, outcome = absorb_bytes(value, e, t, RULES)
        outcomes.append(outcome)
    return outcomes


def test_outcomes() -> None:
    new, repeat, conflict = Outcome.NEW, Outcome.REPEAT, Outcome.CONFLICT
    other = placed("a", 20, "2", 7)
    for x, y in ((A, other), (other, A)):
        assert outcomes([(30, e) for e in (x, y, x, y, y)]) == [new, conflict, repeat, repeat, repeat]
    assert outcomes([(30, erased(20)), (30, A), (30, erased(20)), (30, erased(5)), (30, placed("b", 21, "2"))]) == [
        *[new, Outcome.ERASED, repeat, Outcome.ERASED, new]
    ]
    assert outcomes([(30, erased(20)), (30, placed("b", 20, "2"))]) == [new, Outcome.ERASED]
    # Once the cut has passed, an old order is late, and so is a repeat of what has been forgotten.
    later = [(10, A), (40, placed("b", 40, "2")), (300, placed("c", 300, "3"))]
    assert outcomes([*later, (300, A), (300, placed("d", 12, "4"))]) == [new, new, new, Outcome.LATE, Outcome.LATE]

    at_the_cut = [*later, (300, placed("d", 25, "4")), (300, placed("e", 26, "5"))]
    assert outcomes(at_the_cut)[-2:] == [Outcome.LATE, new]


@pytest.mark.parametrize("dead_ranks_higher", [True, False])
def test_an_anchor_among_orders_of_one_instant(dead_ranks_higher: bool) -> None:
    names = {placed("a", 40, "1"): "1", placed("b", 40, "2"): "2"}
    low, high = sorted(names)
    dead, anchor = (high, low) if dead_ranks_higher else (low, high)
    before = absorbed([low, high, cancelled("c", 41, names[dead]), placed("x", 60, "9")], 60)
    state = unpack(advance_bytes(pack(before), 160, RULES))
    assert state.cut == 45
    kept = [e for e in state.entries if e.time == 40]
    # The lower one can't rise again, since the anchor beats it; the higher one is kept with its cancellation.
    assert kept == [*([dead] if dead_ranks_higher else []), anchor._replace(key=40 << 3 | Kind.ANCHOR)]


def test_a_cap_is_over_when_the_window_has_passed_it() -> None:
    rules = RULES._replace(cap=2)
    value: bytes | None = None
    for time in (10, 20, 30):
        value, _ = absorb_bytes(value, placed(str(time), time, str(time)), time, rules)
    state = unpack(value or EMPTY)
    assert (state.capped, state.cut, state.frequency) == (True, 10, 2)
    state = unpack(advance_bytes(value or EMPTY, 200, rules))
    assert (state.capped, state.cut, state.frequency, state.last) == (False, 15, 0, 30)


def test_a_remnant_beyond_the_cap_goes_and_the_cut_stays() -> None:
    entries = [placed("a", 10, "1"), placed("b", 12, "2"), cancelled("c", 13, "2"), placed("d", 41, "3")]
    state = absorbed(entries, 41)
    for rules, kept in ((RULES, [10, 12, 13, 41]), (RULES._replace(cap=3), [41])):
        later = unpack(advance_bytes(pack(state), 141, rules))
        assert [e.time for e in later.entries] == kept
        assert (later.cut, later.capped, later.last) == (41 - rules.grace, False, 41)


def test_a_larger_window_begins_after_the_cut() -> None:
    state = absorbed([placed("a", 10, "1"), cancelled("c", 11, "2"), placed("b", 12, "2"), placed("d", 41, "3")], 150)
    assert (state.cut, state.frequency, len(state.entries)) == (26, 0, 4)
    # Without grace the cancellation no longer reaches its order; but that lies before the cut.
    for grace in (RULES.grace, 0):
        larger = settle(state, state.entries, 150, Rules(1_000, grace, RULES.cap))
        assert (larger.cut, larger.frequency, larger.monetary, larger.next_change) == (26, 1, 9, 1_041)


def test_a_repeat_is_a_whole_entry() -> None:
    first, second = Entry(80, 800, 5, 7), Entry(160, 3, 4, 9)
    value = pack(settle(CustomerState(), [first, second], 100, RULES))
    across = Entry(first.order, first.amount, first.event, second.key)  # its bytes lie across the two
    assert absorb_bytes(value, across, 100, RULES)[1] == Outcome.NEW


def test_the_fast_path_knows_where_the_window_and_the_cut_begin() -> None:
    assert append(EMPTY, A, 9 + W, RULES) is not None
    assert append(EMPTY, A, 10 + W, RULES) is None
    # More orders in one instant than the cap holds: all of that instant go, and only the cut remembers them.
    rules = RULES._replace(cap=2)
    value: bytes | None = None
    for i in range(3):
        value, _ = absorb_bytes(value, placed(str(i), 10, str(i)), 10, rules)
    assert value is not None
    assert unpack(value).entries == ()
    assert absorb_bytes(value, placed("3", 10, "3"), 10, rules) == (value, Outcome.LATE)


def test_nothing_changes_where_nothing_happened() -> None:
    value, _ = absorb_bytes(None, A, 10, RULES)
    assert absorb_bytes(value, A, 10 + W - 1, RULES)[0] is value
    assert advance_bytes(value, 10 + W - 1, RULES) is value
    assert advance_bytes(value, 10 + W, RULES) != value


def test_money_saturates() -> None:
    lot = 2**62
    state = absorbed([placed(str(i), 10 + i, str(i), lot) for i in range(3)], 20)
    assert (state.frequency, state.monetary) == (3, 2**63 - 1)
    assert unpack(pack(state)) == state
    assert absorbed([refunded(str(i), 10, None, lot) for i in range(3)], 20).monetary == -(2**63 - 1)


def test_no_customers_no_columns() -> None:
    assert headers([]).size == rows([]).size == rows([EMPTY]).size == 0


SHOP = TEST_DATA / "online_retail"
real = pytest.mark.skipif(not SHOP.exists(), reason=f"no real orders at {SHOP} (SEGSTREAM_TEST_DATA)")
YEARS = Rules(window=400 * 86_400_000)  # nothing leaves within the file's 13 months


class Sale(NamedTuple):
    customer: str
    entry: Entry


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def table(name: str) -> list[dict[str, str]]:
    with gzip.open(SHOP / name, "rt") as lines:
        return list(csv.DictReader(lines))


@cache
def sales() -> list[Sale]:
    """Read orders and cancelling invoices of known customers, by time. The latter name no order: they are refunds."""
    out = []
    for r in table("orders.csv.gz"):
        units = parse_units(r["amount"].removeprefix("-"))
        if r["customer_id"] and r["kind"] == "order" and units > 0 and not r["amount"].startswith("-"):
            out.append(Sale(r["customer_id"], placed(r["order_id"], ms(r["ordered_at"]), r["order_id"], units)))
        elif r["customer_id"] and r["kind"] == "cancellation":
            out.append(Sale(r["customer_id"], refunded(r["order_id"], ms(r["ordered_at"]), None, units)))
    return out


def states(arrivals: list[Sale]) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    clock = 0
    for customer, e in arrivals:
        clock = max(clock, e.time)
        values[customer] = absorb_bytes(values.get(customer), e, clock, YEARS)[0]
    return {customer: advance_bytes(value, ms("2011-12-10T00:00:00Z"), YEARS) for customer, value in values.items()}


@real
def test_a_real_shops_customers() -> None:
    values = states(sales())
    customers = table("rfm_customers.csv.gz")
    assert len(customers) == 4_338
    for r in customers:
        s = unpack(values[r["customer_id"]])
        gross = sum(e.amount for e in s.entries if e.kind == Kind.PLACED)
        days = (datetime(2011, 12, 10, tzinfo=UTC).date() - datetime.fromtimestamp(s.last / 1000, UTC).date()).days
        assert (days, s.frequency) == (int(r["recency_days"]), int(r["frequency"]))
        assert (gross, s.monetary) == (parse_units(r["monetary"]), signed(r["net"]))
        assert (s.first, s.last) == (ms(r["first_order_at"]), ms(r["last_order_at"]))


@real
def test_a_real_shops_orders_in_any_order_and_twice() -> None:
    shuffled = [*sales(), *sales()]
    random.Random(1).shuffle(shuffled)
    assert states(shuffled) == states(sales())


@real
def test_a_real_shops_monthly_totals() -> None:
    known = [unpack(value) for value in states(sales()).values()]
    with (SHOP / "rfm_asof_monthly.csv").open() as lines:
        months = list(csv.DictReader(lines))
    assert len(months) == 13
    for month in months:
        t = ms(f"{month['as_of']}T00:00:00+00:00") - 1
        readings = [(s, read(s.entries, t, s.cut, YEARS)) for s in known]
        bought = [(s, r) for s, r in readings if r.frequency]
        gross = sum(e.amount for s, _ in bought for e in s.entries if e.kind == Kind.PLACED and e.time <= t)
        net = sum(r.monetary for _, r in readings)  # of those too who have cancelling invoices only
        assert (len(bought), sum(r.frequency for _, r in bought)) == (int(month["customers"]), int(month["orders"]))
        assert (gross, net) == (signed(month["gross"]), signed(month["net_incl_cancellations"]))


def signed(text: str) -> int:
    units = parse_units(text.removeprefix("-"))
    units = -units if text.startswith("-") else units
    assert float(format_units(units)) == float(text)
    return units
