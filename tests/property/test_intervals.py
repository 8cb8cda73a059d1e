"""Intervals against `rfm.read` at the edges of each: nothing changes within one, and something does between two."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from segmentation import intervals as module
from segmentation.intervals import Intervals, intervals_of, intervals_of_open, window_leaves_at
from segmentation.open_state import OpenState
from segmentation.rfm import EMPTY, NEVER, Kind, Rules, absorb_bytes, advance_bytes, entry, headers, read, unpack
from segmentation.step import NEVER_DUE

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
RULES = Rules(window=100, grace=15, cap=1_000)


class IntervalCase(NamedTuple):
    value: bytes
    as_of: int
    clock: int


def customer(text: bytes, back: int, rules: Rules) -> IntervalCase:
    """Make a state from four bytes an event, mostly plain orders, and an instant up to `back` around its clock."""
    value: bytes | None = None
    clock = 0
    for i in range(0, len(text) - 3, 4):
        what, when, which, amount = text[i : i + 4]
        kind = Kind.PLACED if what < 220 else (Kind.REFUNDED, Kind.CANCELLED)[what % 2] if what < 254 else Kind.ERASED
        time = clock - when + 128 if when > 200 else clock + when // 16  # some late, some dated ahead
        known = f"o{max(i // 4 - 1 - which % 4, 0)}"  # one of the last few orders
        order = (
            f"o{i // 4}"
            if kind == Kind.PLACED and what % 8
            else None
            if kind == Kind.REFUNDED and which % 3 == 0
            else known
        )
        units = 0 if kind == Kind.CANCELLED else amount % 5 * 10_000
        e = entry(kind, str(i if which % 8 else which), max(time, 0), order=order, amount=units)
        clock = max(clock, min(time, clock + 10) if which % 5 else time)
        value, _ = absorb_bytes(value, e, clock, rules)
    return IntervalCase(advance_bytes(value or EMPTY, clock, rules), max(clock + 20 - back, 0), clock)


customers = st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 45)), max_size=6)
caps = st.sampled_from([1_000, 1_000, 5])
limits = st.sampled_from([64, 64, 1, 2, 5])


def cut(group: list[IntervalCase], rules: Rules, limit: int) -> Intervals:
    return intervals_of([c.value for c in group], np.array([c.as_of for c in group], np.int64), rules, limit)


def figures(c: IntervalCase, t: int, rules: Rules) -> tuple[float, float]:
    state = unpack(c.value)
    reading = read(state.entries, t, state.cut, rules)
    return float(reading.frequency), reading.monetary / 10_000.0


def check(c: IntervalCase, p: Intervals, i: int, rules: Rules, limit: int) -> None:
    mine = slice(p.offset[i], p.offset[i + 1])
    start, until = p.start[mine].tolist(), int(p.until[i])
    shown = list(zip(p.frequency[mine].tolist(), p.monetary[mine].tolist(), strict=True))
    assert start[0] == c.as_of
    assert 1 <= len(start) <= limit
    last = until - 1 if until < NEVER_DUE else start[-1] + 3 * rules.window
    for k, (begin, end) in enumerate(zip(start, [*(s - 1 for s in start[1:]), last], strict=True)):
        assert begin <= end
        for t in {begin, min(begin + 1, end), (begin + end) // 2, end}:
            assert figures(c, t, rules) == shown[k]
        assert k == 0 or shown[k] != shown[k - 1]
    ahead = min(
        (e.time for e in unpack(c.value).entries if e.time > c.as_of and e.kind != Kind.ERASED), default=NEVER_DUE
    )
    if len(start) < limit:
        assert until == ahead
    elif until != ahead:
        assert until < ahead
        assert figures(c, until, rules) != shown[-1]


@many
@given(customers, caps, limits)
@example([(b"\0\0\0\1" * 20, 20)], 1_000, 5)
def test_intervals_are_what_read_says(texts: list[tuple[bytes, int]], cap: int, limit: int) -> None:
    rules = RULES._replace(cap=cap)
    group = [customer(text, back, rules) for text, back in texts]
    p = cut(group, rules, limit)
    assert p.offset[0] == 0
    assert p.offset[-1] == p.start.size == p.frequency.size == p.monetary.size
    for i, c in enumerate(group):
        check(c, p, i, rules, limit)
    held = intervals_of_open(
        [OpenState(c.value, rules) for c in group], np.array([c.as_of for c in group]), rules, limit
    )
    for name in ("offset", "start", "frequency", "monetary", "until"):
        assert getattr(held, name).tolist() == getattr(p, name).tolist()
    event("cut off" if (p.until < NEVER_DUE).any() else "open")


@many
@given(st.binary(max_size=80), st.integers(0, 45), limits)
def test_alone_as_in_company_and_in_columns_as_one_by_one(text: bytes, back: int, limit: int) -> None:
    c = customer(text, back, RULES)
    company = [customer(b"\0\x10\1\2" * 3, 20, RULES), c, customer(b"", 20, RULES)]
    alone, among = cut([c], RULES, limit), cut(company, RULES, limit)
    mine = slice(among.offset[1], among.offset[2])
    assert among.start[mine].tolist() == alone.start.tolist()
    assert among.frequency[mine].tolist() == alone.frequency.tolist()
    assert among.monetary[mine].tobytes() == alone.monetary.tobytes()
    assert among.until[1] == alone.until[0]
    course = module._general(unpack(c.value), c.as_of, RULES, limit)
    assert course.start == alone.start.tolist()
    assert course.frequency == alone.frequency.tolist()
    assert [m / 10_000.0 for m in course.monetary] == alone.monetary.tolist()
    assert course.until == alone.until[0]


def plain(times: list[int], amounts: list[int]) -> bytes:
    value = EMPTY
    for i, (time, amount) in enumerate(zip(times, amounts, strict=True)):
        value, _ = absorb_bytes(
            value, entry(Kind.PLACED, f"e{i}", time, order=f"o{i}", amount=amount), max(times), RULES
        )
    return value


def test_equal_instants_are_one_interval() -> None:
    p = intervals_of([plain([10, 10, 30], [10_000, 20_000, 1])], np.array([50]), RULES)
    assert p.start.tolist() == [50, 110, 130]
    assert p.frequency.tolist() == [3.0, 1.0, 0.0]
    assert p.monetary.tolist() == [3.0001, 0.0001, 0.0]
    assert p.until.tolist() == [NEVER_DUE]


def test_plain_customers_take_the_columns() -> None:
    values = [plain([10, 20, 30], [1, 2, 3]), EMPTY, plain([40], [5])]
    as_of = np.full(3, 50)
    flags, changes = module._plain(values, headers(values), as_of, RULES)
    assert flags.tolist() == [True, True, True]
    assert changes.start.tolist() == [110, 120, 130, 140]
    # Past its next change a header doesn't hold any more.
    flags, _ = module._plain(values, headers(values), np.full(3, 110), RULES)
    assert flags.tolist() == [False, True, True]


def test_sums_beyond_64_bits_over_all_customers() -> None:
    lot = 10**15 * 200
    values = [plain([10, 20, 30], [lot, lot, lot]) for _ in range(30)]
    p = intervals_of(values, np.full(30, 50), RULES)
    assert p.monetary.tolist() == [3 * lot / 1e4, 2 * lot / 1e4, lot / 1e4, 0.0] * 30


def test_an_order_dated_ahead_ends_what_can_be_foretold() -> None:
    value, _ = absorb_bytes(plain([10], [10_000]), entry(Kind.PLACED, "a", 110, order="a", amount=70_000), 20, RULES)
    p = intervals_of([value, value], np.array([20, 110]), RULES)
    assert (p.start.tolist(), p.frequency.tolist(), p.monetary.tolist()) == ([20, 110, 210], [1, 1, 0], [1.0, 7.0, 0.0])
    assert p.until.tolist() == [110, NEVER_DUE]


def test_a_customer_who_came_back_after_an_erasure_is_plain() -> None:
    value, _ = absorb_bytes(None, entry(Kind.ERASED, "", 10), 10, RULES)
    value, _ = absorb_bytes(value, entry(Kind.PLACED, "a", 20, order="a", amount=1), 20, RULES)
    assert module._plain([value], headers([value]), np.array([50]), RULES)[0].all()


def test_saturated_sums() -> None:
    p = intervals_of([plain([10, 20, 30], [2**62] * 3)], np.array([50]), RULES)
    assert p.monetary.tolist() == [(2**63 - 1) / 1e4, (2**63 - 1) / 1e4, 2**62 / 1e4, 0.0]


def test_nobody() -> None:
    p = intervals_of([], np.zeros(0, np.int64), RULES)
    assert (p.offset.tolist(), p.start.size, p.until.size) == ([0], 0, 0)


@many
@given(st.binary(max_size=80), st.integers(0, 300))
def test_what_leaves_the_window(text: bytes, at: int) -> None:
    c = customer(text, 20, RULES)
    state = unpack(c.value)
    leaving = {e.time + RULES.window for e in state.entries if e.time > state.cut}
    for t in {at, *(e.time + RULES.window + hair for e in state.entries for hair in (0, 1))}:
        assert window_leaves_at(c.value, t, RULES) == (t in leaving)
    ahead = any(e.time > c.clock for e in state.entries)
    assert ahead or state.next_change == NEVER or window_leaves_at(c.value, state.next_change, RULES)


def test_an_order_leaves_at_its_instant() -> None:
    value = plain([10, 20], [1, 2])
    assert [t for t in range(300) if window_leaves_at(value, t, RULES)] == [110, 120]
    assert not window_leaves_at(EMPTY, 110, RULES)
    # The anchor lies before the cut: it left long ago.
    anchored = advance_bytes(plain([10, 50], [1, 2]), 160, RULES)
    assert [t for t in range(300) if window_leaves_at(anchored, t, RULES)] == [150]


def test_a_refund_that_has_left_the_window_before_its_order_is_still_subtracted() -> None:
    value, _ = absorb_bytes(None, entry(Kind.PLACED, "p", 100, order="o", amount=50_000), 100, RULES)
    value, _ = absorb_bytes(value, entry(Kind.PLACED, "q", 105, order="x", amount=10_000), 105, RULES)
    value, _ = absorb_bytes(value, entry(Kind.REFUNDED, "r", 90, order="o", amount=20_000), 106, RULES)
    got = cut([IntervalCase(advance_bytes(value, 195, RULES), 195, 195)], RULES, 64)
    assert list(got.start) == [195, 200, 205]
    assert list(got.monetary) == [4.0, 1.0, 0.0]
