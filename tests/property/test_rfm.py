"""The state's algebra against an oracle that keeps all events. EXAMPLES=20000 for a long run, GRACE=0 or 130 for other settings."""

from __future__ import annotations

import os
import random
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from segmentation.rfm import (
    EMPTY,
    NEVER,
    NONE,
    CustomerState,
    Entry,
    Kind,
    Outcome,
    Rules,
    StateFormatError,
    absorb,
    absorb_bytes,
    advance,
    advance_bytes,
    append,
    entry,
    heads,
    pack,
    read,
    rows,
    settle,
    unpack,
    with_announcement,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
SMALL = Rules(window=100, grace=int(os.environ.get("GRACE", "15")), cap=1_000)
END = 700
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


class Event(NamedTuple):
    kind: Kind
    id: str
    time: int
    order: str | None
    amount: int

    def entry(self) -> Entry:
        return made(self)


@cache
def made(e: Event) -> Entry:
    return entry(e.kind, e.id, e.time, order=e.order, amount=e.amount)


Figures = tuple[int, int, int]  # last, frequency, monetary


def figures(state: CustomerState) -> Figures:
    return state.last, state.frequency, state.monetary


# ---- The oracle: all events kept, each rule said once, nothing shared with the code but the hashes that break ties.


def oracle(events: Iterable[Event], t: int, rules: Rules) -> Figures:
    window, grace, _ = rules
    erased = max((e.time for e in events if e.kind == Kind.ERASED), default=NONE)
    seen = {e for e in events if e.kind != Kind.ERASED and erased < e.time <= t}

    def later(a: Event, b: Event) -> bool:
        return (a.time, *a.entry()[1:]) < (b.time, *b.entry()[1:])

    def void(e: Event) -> bool:
        return any(o.kind == e.kind and o.id == e.id and later(e, o) and o.time < e.time + window for o in seen)

    real = {e for e in seen if not void(e)}

    def stands(p: Event) -> bool:
        mine = {o for o in real if o.order == p.order}
        again = any(o.kind == Kind.PLACED and later(p, o) and o.time < p.time + window for o in mine)
        cancelled = any(o.kind == Kind.CANCELLED and p.time - grace <= o.time < p.time + window for o in mine)
        return not again and not cancelled

    orders = {p for p in real if p.kind == Kind.PLACED and stands(p)}
    inside = {p for p in orders if t - window < p.time}
    money = sum(p.amount for p in inside)
    for r in real:
        if r.kind == Kind.REFUNDED and r.order is None and t - window < r.time:
            money -= r.amount
        if r.kind == Kind.REFUNDED and any(p.order == r.order and r.time >= p.time - grace for p in inside):
            money -= r.amount
    return max((p.time for p in orders), default=NONE), len(inside), money


# ---- Streams: a set of events, and when each arrives (more than once, perhaps).

Raw = tuple[int, int, int, int, int]
KINDS = [Kind.PLACED] * 4 + [Kind.REFUNDED] * 2 + [Kind.CANCELLED] * 3 + [Kind.ERASED]
KINDS += [Kind.PLACED] * 5 + [Kind.CANCELLED] * 2 + [Kind.REFUNDED] * 3


def raws(text: bytes) -> list[Raw]:
    """Five bytes an event: much faster to generate than tuples of integers."""
    five = (text[i : i + 5] for i in range(0, len(text) - 4, 5))
    return [(b[0] % 20, b[1] % 15, (b[2] + (b[3] & 1) * 256) % 320, b[3] // 2 % 6, b[4] % 4) for b in five]


sizes = st.one_of(
    st.binary(min_size=5, max_size=30), st.binary(min_size=30, max_size=80), st.binary(min_size=50, max_size=90)
)
many_raw = sizes.map(raws)


def a_time(n: int) -> int:
    """Half of the times anywhere, half within a hair of a whole window and some graces, where the borders are."""
    if n < 160:
        return 2 * n
    windows, graces, hair = (n - 160) // 40, (n - 160) % 40 // 5 // 2, (n - 160) % 5
    return windows * SMALL.window + graces * SMALL.grace + max(hair - 2, 0)


def an_event(x: Raw) -> Event:
    kind, time, amount = KINDS[x[0]], a_time(x[2]), x[4]
    if kind == Kind.ERASED:
        return Event(kind, "", time, None, 0)
    single = f"{x[0]}.{x[2]}.{x[4]}"  # an id that is nobody else's
    order = None if kind == Kind.REFUNDED and x[3] == 5 else f"o{x[3]}" if x[3] < 3 else single
    return Event(kind, f"e{x[1]}" if x[1] < 8 else single, time, order, 0 if kind == Kind.CANCELLED else amount)


def takers(events: set[Event]) -> set[Event]:
    """The events that can take another's effect away: these must be on time for recency to be exact."""

    def takes(e: Event, o: Event) -> bool:
        return o != e and o.kind == e.kind and (o.id == e.id or (e.kind == Kind.PLACED and o.order == e.order))

    return {e for e in events if e.kind in (Kind.CANCELLED, Kind.ERASED) or any(takes(e, o) for o in events)}


Arrival = tuple[int, Event | None]  # clock, event (None: a visit by the clock alone)


def stream(events: set[Event], seed: int, *, punctual: bool) -> list[Arrival]:
    """Every event at least once, each at its clock. `punctual`: takers come first at most a grace late, repeats at any time. Early by at most 5."""
    rng = random.Random(seed)
    strict = takers(events) if punctual else set()
    out: list[Arrival] = []
    for e in sorted(events, key=str):
        late = rng.choice((0, 0, rng.randint(-5, SMALL.grace), rng.randint(-5, SMALL.grace if e in strict else 400)))
        again = [late + rng.choice((0, 1, rng.randint(0, 400))) for _ in range(rng.choice((0, 0, 1, 2)))]
        out += [(e.time + delay, e) for delay in (late, *again)]
    out += [(rng.randint(0, END), None) for _ in range(rng.randint(0, 4))]
    rng.shuffle(out)
    return sorted(out, key=lambda a: a[0])


def step(state: CustomerState, arrival: Arrival, rules: Rules = SMALL) -> CustomerState:
    t, e = arrival
    return advance(state, t, rules) if e is None else absorb(state, e.entry(), t, rules)[0]


def run(arrivals: Iterable[Arrival], rules: Rules = SMALL) -> CustomerState:
    state = CustomerState()
    for arrival in arrivals:
        state = step(state, arrival, rules)
    return state


sets = many_raw.map(lambda xs: {an_event(x) for x in xs})
seeds = st.integers(0, 2**32)


# ---- 1. The bytes are a function of the set (takers within the grace; everything else at any lateness; repeats for ever).


@many
@given(sets, seeds, seeds, st.integers(0, 400))
def test_bytes_are_a_function_of_the_set(events: set[Event], a: int, b: int, wait: int) -> None:
    first, second = stream(events, a, punctual=True), stream(events, b, punctual=True)
    end = max(first[-1][0], second[-1][0]) + wait
    one, two = pack(advance(run(first), end, SMALL)), pack(advance(run(second), end, SMALL))
    batch = pack(settle(CustomerState(), {e.entry() for e in events}, end, SMALL))
    assert one == two == batch
    assert pack(settle(unpack(batch), unpack(batch).entries, end, SMALL)) == batch
    event("anchor" if any(x.kind == Kind.ANCHOR for x in unpack(one).entries) else "no anchor")


# ---- 2, 3. At every step the figures are the oracle's; recency too, if punctual, else it lies never before the oracle's.


@many
@given(sets, seeds, st.booleans())
def test_figures_are_the_oracles_at_every_step(events: set[Event], seed: int, punctual: bool) -> None:
    state, seen = CustomerState(), set()
    for t, e in stream(events, seed, punctual=punctual):
        seen |= {e} if e else set()
        state = step(state, (t, e))
        last, *window = oracle(seen, t, SMALL)
        assert [state.frequency, state.monetary] == window
        assert state.last == last if punctual else state.last >= last
        assert len(state.entries) <= len(seen)


# ---- 4. Time alone: nothing changes before next_change, and visiting at other instants leaves no trace.


@many
@given(sets, seeds, st.lists(st.integers(0, END), max_size=8))
def test_time_alone(events: set[Event], seed: int, visits: list[int]) -> None:
    arrivals = stream(events, seed, punctual=True)
    state, t = run(arrivals), arrivals[-1][0]
    if state.next_change < NEVER:
        assert state.next_change > t
        assert settle(state, state.entries, state.next_change - 1, SMALL) == state
    straight = advance(state, END + 400, SMALL)
    for v in sorted(v for v in visits if v >= t):
        before = state
        state = advance(state, v, SMALL)
        assert state == settle(before, before.entries, v, SMALL)
        assert figures(state) == oracle(events, v, SMALL)
        assert advance_bytes(pack(before), v, SMALL) == pack(state)
    assert advance(state, END + 400, SMALL) == straight
    while state.next_change < NEVER:  # hop from change to change
        state = advance(state, state.next_change, SMALL)
    assert state == straight


@many
@given(sets, seeds, st.sampled_from([1_000, 4]))
def test_visits_leave_no_trace_even_beyond_the_grace(events: set[Event], seed: int, cap: int) -> None:
    rules = SMALL._replace(cap=cap)
    arrivals = stream(events, seed, punctual=False)
    end = arrivals[-1][0] + seed % 200
    bare = [a for a in arrivals if a[1]]
    everywhere = sorted([*bare, *((t, None) for t in range(0, end, 7))], key=lambda a: a[0])
    one, two, three = (pack(advance(run(way, rules), end, rules)) for way in (arrivals, bare, everywhere))
    assert one == two == three


@many
@given(sets, seeds, st.integers(0, 100), st.integers(0, 15), st.integers(0, END))
def test_smaller_settings_and_earlier_instants(
    events: set[Event], seed: int, less: int, less_grace: int, back: int
) -> None:
    arrivals = stream(events, seed, punctual=True)
    state, end = run(arrivals), arrivals[-1][0]
    earlier = end - back
    complete = state.cut == NONE or earlier >= state.cut + SMALL.window + SMALL.grace
    if complete and not any(e.kind == Kind.ERASED for e in events):
        reading = read(state.entries, earlier, state.cut, SMALL)
        last = reading.standing[0].time if reading.standing else NONE
        assert (last, reading.frequency, reading.monetary) == oracle(events, earlier, SMALL)
    # The window's figures alone: `last` may hang on the longer reach that an anchor was judged by.
    rules = Rules(SMALL.window - less, max(0, SMALL.grace - less_grace), SMALL.cap)
    assert figures(settle(state, state.entries, end, rules))[1:] == oracle(events, end, rules)[1:]


# ---- 5. The fast path, where it answers, answers with the slow path's bytes; so do the functions on bytes.


@many
@given(many_raw, seeds, st.booleans(), st.sampled_from([1_000, 3]))
@example([(0, 0, 0, 0, 0)] * 6, 0, True, 3)  # more orders in one instant than the cap holds
def test_fast_path_equals_slow_path(xs: list[Raw], seed: int, plain: bool, cap: int) -> None:
    rules = SMALL._replace(cap=cap)
    events = {an_event(x) for x in xs}
    if plain:  # mostly ordinary orders, so that the fast path is really taken
        orders = [Event(Kind.PLACED, f"e{i}", a_time(x[2]), f"o{i}", x[4]) for i, x in enumerate(xs)]
        events = {order if x[0] < 17 else an_event(x) for order, x in zip(orders, xs, strict=True)}
    value, fast = None, 0
    for t, e in stream(events, seed, punctual=False):
        state = unpack(value or EMPTY)
        if e is None:
            value = advance_bytes(value or EMPTY, t, rules)
            assert value == pack(advance(state, t, rules))
            continue
        after, outcome = absorb(state, e.entry(), t, rules)
        quick = append(value or EMPTY, e.entry(), t, rules)
        assert quick is None or (quick, Outcome.NEW) == (pack(after), outcome)
        fast += quick is not None
        value, told = absorb_bytes(value, e.entry(), t, rules)
        assert (value, told) == (pack(after), outcome)
    event(f"fast {min(fast, 4)}")


# ---- 6. The cap: whatever comes in whatever order, frequency and monetary are the oracle's over the events after the cut.


@many
@given(sets, seeds, st.integers(1, 6))
def test_cap(events: set[Event], seed: int, cap: int) -> None:
    rules = SMALL._replace(cap=cap)
    state, seen = CustomerState(), set()
    for t, e in stream(events, seed, punctual=False):
        seen |= {e} if e else set()
        state = step(state, (t, e), rules)
        assert len(state.entries) <= cap + 1
        counting = {x for x in seen if x.time > state.cut or x.kind == Kind.ERASED}
        assert figures(state)[1:] == oracle(counting, t, rules)[1:]


@many
@given(many_raw, seeds, seeds, st.integers(1, 6))
def test_cap_within_a_window_is_a_function_of_the_set(xs: list[Raw], a: int, b: int, cap: int) -> None:
    rules = Rules(1_000, 15, cap)
    events = [e for e in map(an_event, xs) if e.kind != Kind.ERASED]
    results = set()
    for seed in (a, b):
        rng = random.Random(seed)
        twice = events + rng.choices(events, k=3) if events else []
        rng.shuffle(twice)
        results.add(pack(run([(400, e) for e in twice], rules)))
    assert len(results) == 1
    state = unpack(results.pop())
    assert figures(state) == oracle({e for e in events if e.time > state.cut}, 400, rules)
    times = sorted(e.time for e in set(events))
    assert state.cut == (times[-cap - 1] if len(times) > cap else NONE)


# ---- 7. Bytes: round trip, columns, refusals.


@many
@given(sets, seeds, st.integers(0, 65535), st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1))
def test_round_trip(events: set[Event], seed: int, segment: int, sequence: int, moved_at: int) -> None:
    bare = pack(run(stream(events, seed, punctual=False)))
    value = with_announcement(bare, segment, sequence, moved_at)
    s = unpack(value)
    assert pack(s) == value
    assert (s.segment, s.sequence, s.moved_at) == (segment, sequence, moved_at)
    assert with_announcement(value, 0, 0, NONE) == bare
    assert len(value) == 72 + 32 * len(s.entries)
    head, row = heads([EMPTY, value, bare]), rows([EMPTY, value, bare])
    names = (
        "segment",
        "sequence",
        "moved_at",
        "frequency",
        "monetary",
        "last",
        "first",
        "newest",
        "next_change",
        "cut",
    )
    for name in names:
        assert head[name][1] == getattr(s, name)
    assert (head["n"].tolist(), head["flags"].tolist()) == (
        [0, len(s.entries), len(s.entries)],
        [0, s.capped, s.capped],
    )
    assert [Entry(*r) for r in row.tolist()] == [*s.entries, *s.entries]
    assert list(s.entries) == sorted(s.entries)


@many
@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    e = entry(Kind.PLACED, "e", 10, order="o")
    for value in (garbage, b"\x01\x00" + garbage, EMPTY[:20] + garbage, EMPTY + garbage):
        try:
            assert pack(unpack(value)) == value
        except StateFormatError as refusal:
            assert "Rebuild" in str(refusal)  # noqa: PT017 - most, not all, of these are refused
            for use in (
                lambda v: heads([EMPTY, v]),
                lambda v: absorb_bytes(v, e, 10, SMALL),
                lambda v: advance_bytes(v, NEVER, SMALL),
            ):
                with pytest.raises(StateFormatError):
                    use(value)
