"""The state's algebra against a batch recomputation from all events. EXAMPLES=20000 for a long run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from segmentation import life
from segmentation.life import Life
from segmentation.life_figures import life_at, life_of_state
from segmentation.rfm import (
    EMPTY,
    NEVER,
    NONE,
    CustomerState,
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
    headers,
    pack,
    read,
    rows,
    settle,
    unpack,
    with_announcement,
)
from segmentation.state_bytes import life_in
from segmentation.state_tail import write_tail
from tests.support.data.event_streams import (
    GRACES,
    SMALL,
    WINDOW,
    Arrival,
    Raw,
    Scene,
    a_scene,
    a_time,
    an_event,
    in_currencies,
    made,
    many_raw,
    mixed_scenes,
    rule_sets,
    seeds,
    stream,
)
from tests.support.oracles import batch
from tests.support.oracles.batch import OracleEvent, OracleFigures, batch_bytes
from tests.support.oracles.batch import figures as oracle
from tests.support.oracles.lives import without_life

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
END = 1_600  # behind everything that a stream brings
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(autouse=True)
def _days_on_a_small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a window of 100 ms hold several days."""
    for module in (life, batch):
        monkeypatch.setattr(module, "DAY_MS" if module is life else "DAY", 30)


def figures(state: CustomerState) -> OracleFigures:
    return OracleFigures(state.last, state.frequency, state.monetary)


def step(state: CustomerState, arrival: Arrival, rules: Rules) -> CustomerState:
    t, e = arrival
    return advance(state, t, rules) if e is None else absorb(state, made(e), t, rules)[0]


def run(arrivals: Iterable[Arrival], rules: Rules) -> CustomerState:
    state = CustomerState()
    for arrival in arrivals:
        state = step(state, arrival, rules)
    return state


# 1. The bytes are a function of the set (takers within the grace; everything else at any lateness; repeats for
# ever).


@many
@given(mixed_scenes, seeds, seeds, st.integers(0, 400))
def test_bytes_are_a_function_of_the_set(scene: Scene, a: int, b: int, wait: int) -> None:
    rules, events = scene
    first, second = stream(scene, a, punctual=True), stream(scene, b, punctual=True)
    end = max(first[-1][0], second[-1][0]) + wait
    one, two = pack(advance(run(first, rules), end, rules)), pack(advance(run(second, rules), end, rules))
    whole = pack(settle(CustomerState(), map(made, events), end, rules))
    assert whole == batch_bytes(events, end, rules)
    assert without_life(one) == without_life(two) == without_life(whole)
    assert pack(settle(unpack(whole), unpack(whole).entries, end, rules)) == whole
    event("anchor" if any(x.kind == Kind.ANCHOR for x in unpack(one).entries) else "no anchor")


@many
@given(mixed_scenes, seeds, seeds, st.integers(0, 400))
def test_the_whole_life_is_a_function_of_the_set(scene: Scene, a: int, b: int, wait: int) -> None:
    # No id has two contents: a void placement or cancellation would give life to an order that is long folded.
    rules, events = (
        scene.rules,
        {e._replace(id=f"{e.order} {e.time} {e.amount} {e.revision} {e.foreign}") for e in scene.events},
    )
    scene = Scene(rules, events)
    for seed in (a, b):
        state, seen = CustomerState(), set()
        for t, e in stream(scene, seed, punctual=True, prompt=True):
            seen |= {e} if e else set()
            state = step(state, (t, e), rules)
            assert tuple(state.life) == batch.life(seen, t, rules)
        end = t + wait
        state = advance(state, end, rules)
        assert pack(state) == batch_bytes(events, end, rules)
        assert life_at(pack(state), end, rules) == life_of_state(state, end, rules), "read without its entries"
    event("folded" if state.folded.orders else "nothing folded")


# 2, 3. At every step the figures are the oracle's; recency too, if punctual, else it lies never before the
# oracle's.


@many
@given(mixed_scenes, seeds, st.booleans())
def test_figures_are_the_oracles_at_every_step(scene: Scene, seed: int, punctual: bool) -> None:
    state, seen = CustomerState(), set()
    for t, e in stream(scene, seed, punctual=punctual):
        seen |= {e} if e else set()
        state = step(state, (t, e), scene.rules)
        last, *window = oracle(seen, t, scene.rules)
        assert [state.frequency, state.monetary] == window
        assert state.last == last if punctual else state.last >= last
        assert len(state.entries) <= len(seen)
        if punctual:
            assert without_life(pack(advance(state, t, scene.rules))) == without_life(batch_bytes(seen, t, scene.rules))


# 4. Time alone: nothing changes before next_change, and visiting at other instants leaves no trace.


@many
@given(mixed_scenes, seeds, st.lists(st.integers(0, 2_000), max_size=8))
def test_time_alone(scene: Scene, seed: int, visits: list[int]) -> None:
    rules, events = scene
    arrivals = stream(scene, seed, punctual=True)
    state, t = run(arrivals, rules), arrivals[-1][0]
    if state.next_change < NEVER:
        assert state.next_change > t
        assert settle(state, state.entries, state.next_change - 1, rules) == state
    straight = advance(state, END, rules)
    for v in sorted(t + v % (END - t) for v in visits):
        before = state
        state = advance(state, v, rules)
        assert state == settle(before, before.entries, v, rules)
        assert figures(state) == oracle(events, v, rules)
        assert advance_bytes(pack(before), v, rules) == pack(state)
    assert advance(state, END, rules) == straight
    while state.next_change < NEVER:  # hop from change to change
        state = advance(state, state.next_change, rules)
        if state.next_change < NEVER:
            assert without_life(pack(state)) == without_life(batch_bytes(events, state.next_change - 1, rules))
    assert state == straight


@many
@given(mixed_scenes, seeds, st.sampled_from([1_000, 4]))
def test_visits_leave_no_trace_even_beyond_the_grace(scene: Scene, seed: int, cap: int) -> None:
    rules = scene.rules._replace(cap=cap)
    arrivals = stream(scene, seed, punctual=False)
    end = arrivals[-1][0] + seed % 200
    bare = [a for a in arrivals if a[1]]
    everywhere = sorted([*bare, *((t, None) for t in range(0, end, 7))], key=lambda a: a[0])
    one, two, three = (pack(advance(run(way, rules), end, rules)) for way in (arrivals, bare, everywhere))
    assert one == two == three


@many
@given(mixed_scenes, seeds, st.integers(0, 100), st.integers(0, 15), st.integers(0, 700))
def test_smaller_settings_and_earlier_instants(scene: Scene, seed: int, less: int, less_grace: int, back: int) -> None:
    rules, events = scene
    arrivals = stream(scene, seed, punctual=True)
    state, end = run(arrivals, rules), arrivals[-1][0]
    earlier = end - back
    complete = state.cut == NONE or earlier >= state.cut + rules.window + rules.grace
    if complete and not any(e.kind == Kind.ERASED for e in events):
        reading = read(state.entries, earlier, state.cut, rules)
        last = reading.standing[0].time if reading.standing else NONE
        assert (last, reading.frequency, reading.monetary) == oracle(events, earlier, rules)
    # The window's figures alone: `last` may hang on the longer reach that an anchor was judged by.
    smaller = Rules(rules.window - less, max(0, rules.grace - less_grace), rules.cap)
    assert figures(settle(state, state.entries, end, smaller))[1:] == oracle(events, end, smaller)[1:]


# All of two events at the borders, which chance meets too seldom.

APART = sorted({k + hair for k in (0, 15, 130, WINDOW) for hair in (-1, 0, 1)} - {-1})
PAIR = (Kind.PLACED, Kind.REFUNDED, Kind.CANCELLED)


@pytest.mark.parametrize("grace", sorted({*GRACES}))
@pytest.mark.parametrize("apart", APART)
def test_any_two_events_at_the_borders(grace: int, apart: int) -> None:
    rules = Rules(WINDOW, grace, 1_000)
    waits = sorted({a + k * WINDOW + b * grace for a in (0, 1) for k in (0, 1, 2) for b in (0, 1)})
    for kinds, one_order, one_id in product(product(PAIR, PAIR), (True, False), (True, False)):
        first = OracleEvent(kinds[0], "e", 0, "o", 0 if kinds[0] == Kind.CANCELLED else 2)
        second = OracleEvent(
            kinds[1], "e" if one_id else "f", apart, "o" if one_order else "p", 0 if kinds[1] == Kind.CANCELLED else 1
        )
        events = {first, second}
        state = run([(0, first), (apart, second)], rules)
        for t in (apart + wait for wait in waits):
            whole = batch_bytes(events, t, rules)
            assert pack(settle(CustomerState(), map(made, events), t, rules)) == whole
            assert without_life(pack(advance(state, t, rules))) == without_life(whole)
            turned = run([(t, second), (t, first)], rules)
            assert figures(turned)[1:] == oracle(events, t, rules)[1:]


# 5. The fast path, where it answers, answers with the slow path's bytes; so do the functions on bytes.


@many
@given(rule_sets, many_raw, seeds, st.booleans(), st.sampled_from([1_000, 3]), st.booleans())
@example(SMALL, [(0, 0, 0, 0, 0, 0)] * 6, 0, True, 3, False)  # more orders in one instant than the cap holds
def test_fast_path_equals_slow_path(rules: Rules, xs: list[Raw], seed: int, plain: bool, cap: int, mixed: bool) -> None:
    rules = rules._replace(cap=cap)
    events = {an_event(x, rules) for x in xs}
    if plain:  # mostly ordinary orders, so that the fast path is really taken
        orders = [OracleEvent(Kind.PLACED, f"e{i}", a_time(x[2], rules), f"o{i}", x[4]) for i, x in enumerate(xs)]
        events = {order if x[0] < 17 else an_event(x, rules) for order, x in zip(orders, xs, strict=True)}
    if mixed:
        events = {in_currencies(e) for e in events}
    value, fast = None, 0
    for t, e in stream(Scene(rules, events), seed, punctual=False):
        state = unpack(value or EMPTY)
        if e is None:
            value = advance_bytes(value or EMPTY, t, rules)
            assert value == pack(advance(state, t, rules))
            continue
        after, outcome = absorb(state, made(e), t, rules)
        quick = append(value or EMPTY, made(e), t, rules)
        assert quick is None or (quick, Outcome.NEW) == (pack(after), outcome)
        fast += quick is not None
        value, found = absorb_bytes(value, made(e), t, rules)
        assert (value, found) == (pack(after), outcome)
    event(f"fast {min(fast, 4)}")


# 6. The cap: whatever comes in whatever order, frequency and monetary are the oracle's over the events after the
# cut.


@many
@given(mixed_scenes, seeds, st.integers(1, 6))
def test_cap(scene: Scene, seed: int, cap: int) -> None:
    rules = scene.rules._replace(cap=cap)
    state, seen = CustomerState(), set()
    for t, e in stream(scene, seed, punctual=False):
        seen |= {e} if e else set()
        state = step(state, (t, e), rules)
        assert len(state.entries) <= cap + 1
        counting = {x for x in seen if x.time > state.cut or x.kind == Kind.ERASED}
        if any(x.revision >= 0 for x in seen):
            continue  # an earlier content may be the one that counts, and the cap may have dropped it
        assert figures(state)[1:] == oracle(counting, t, rules)[1:]
        if not state.capped:
            assert figures(state)[1:] == oracle(seen, t, rules)[1:]
    event("capped" if state.capped else "not capped")


@many
@given(many_raw, seeds, seeds, st.integers(1, 6))
def test_cap_within_a_window_is_a_function_of_the_set(xs: list[Raw], a: int, b: int, cap: int) -> None:
    rules = Rules(1_000, 15, cap)
    events = [e for x in xs if (e := an_event(x, SMALL)).kind != Kind.ERASED]
    results = set()
    for seed in (a, b):
        rng = random.Random(seed)
        twice = events + rng.choices(events, k=3) if events else []
        rng.shuffle(twice)
        results.add(without_life(pack(run([(400, e) for e in twice], rules))))
    assert len(results) == 1
    state = unpack(results.pop())
    assert figures(state) == oracle({e for e in events if e.time > state.cut}, 400, rules)
    times = sorted(e.time for e in set(events))
    assert (state.cut, state.capped) == ((times[-cap - 1], True) if len(times) > cap else (NONE, False))


@many
@given(st.lists(st.integers(0, 300), min_size=1), st.integers(1, 6), st.integers(0, 400))
def test_the_cap_folds_what_it_drops(times: list[int], cap: int, wait: int) -> None:
    rules = SMALL._replace(cap=cap)
    events = [OracleEvent(Kind.PLACED, f"e{i}", time, f"o{i}", i) for i, time in enumerate(sorted(times))]
    state = CustomerState()
    for i, e in enumerate(events):
        if cap <= times.count(e.time):
            return  # of orders of one instant that the cap drops, none may come later
        state = step(state, (e.time, e), rules)
        assert tuple(state.life) == batch.life(events[: i + 1], e.time, rules)
    end = events[-1].time + wait
    assert tuple(advance(state, end, rules).life) == batch.life(events, end, rules)


# 7. Bytes: round trip, columns, refusals.


@many
@given(mixed_scenes, seeds, st.integers(0, 65535), st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1))
def test_round_trip(scene: Scene, seed: int, segment: int, sequence: int, moved_at: int) -> None:
    bare = pack(run(stream(scene, seed, punctual=False), scene.rules))
    value = with_announcement(bare, segment, sequence, moved_at)
    s = unpack(value)
    assert pack(s) == value
    assert (s.segment, s.sequence, s.moved_at) == (segment, sequence, moved_at)
    assert with_announcement(value, 0, 0, NONE) == bare
    assert len(value) == 94 + 22 * len(s.entries) + len(write_tail(s.entries, s.folded))
    head, row = headers([EMPTY, value, bare]), rows([EMPTY, value, bare])
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
        [0, *[s.capped + 128 * bool(write_tail(s.entries, s.folded))] * 2],
    )
    assert [Life(*head[1].tolist()[-4:]), life_in(value)] == [s.life, s.life]
    assert row.tolist() == [e[:4] for e in (*s.entries, *s.entries)]
    assert list(s.entries) == sorted(s.entries)


@many
@given(st.lists(st.tuples(many_raw, seeds), min_size=1, max_size=6), rule_sets, st.integers(0, 400))
def test_columns_are_the_figures_until_the_next_change(
    customers: list[tuple[list[Raw], int]], rules: Rules, wait: int
) -> None:
    group = [a_scene(rules, xs) for xs, _ in customers]
    streams = [stream(scene, seed, punctual=True) for scene, (_, seed) in zip(group, customers, strict=True)]
    t = max(arrivals[-1][0] for arrivals in streams)
    states = [advance(run(arrivals, rules), t, rules) for arrivals in streams]
    head, body = headers([pack(s) for s in states]), rows([pack(s) for s in states])
    until = min(int(head["next_change"].min()), t + wait + 1)
    for at in (t, until - 1):
        found = zip(head["last"].tolist(), head["frequency"].tolist(), head["monetary"].tolist(), strict=True)
        assert list(found) == [oracle(scene.events, at, rules) for scene in group]
    owner = np.repeat(np.arange(len(states)), head["n"])
    assert [body[owner == i].tolist() for i in range(len(states))] == [[e[:4] for e in s.entries] for s in states]


@many
@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    e = entry(Kind.PLACED, "e", 10, order="o")
    for value in (garbage, b"\x02\x00" + garbage, EMPTY[:20] + garbage, EMPTY + garbage):
        try:
            assert pack(unpack(value)) == value
        except StateFormatError as refusal:
            assert "Rebuild" in str(refusal)  # noqa: PT017 - most, not all, of these are refused
            for use in (
                lambda v: headers([EMPTY, v]),
                lambda v: absorb_bytes(v, e, 10, SMALL),
                lambda v: advance_bytes(v, NEVER, SMALL),
            ):
                with pytest.raises(StateFormatError):
                    use(value)
