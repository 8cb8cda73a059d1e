"""A state that is held open, against the same events merged one by one. EXAMPLES=20000 for a long run."""

from __future__ import annotations

import os
import random
from unittest.mock import patch

from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from segmentation.open_state import OpenState
from segmentation.rfm import EMPTY, Kind, Outcome, Rules, absorb_bytes, advance_bytes, with_announcement, with_mute
from segmentation.state_bytes import HEADER, is_silent
from stream.storage.pieces import Ends, PieceWrites, ends_of
from tests.support.data.event_streams import (
    SMALL,
    Raw,
    Scene,
    a_time,
    an_event,
    in_currencies,
    made,
    many_raw,
    raws,
    rule_sets,
    seeds,
    stream,
)
from tests.support.oracles.batch import OracleEvent

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
VISITED = (
    "006200000000080000016a0000000000080b0000006278dd0000001f020000000000000000000000000000000100804a29000000010000"
)
FORGOTTEN = (
    "00000000000000000001008e85000000ba49a01400e700031400000000000000000000000000"
    "0100000000000000000002000000000002000000010100000e110000016c06006100740000"
)
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@many
@given(rule_sets, many_raw, seeds, st.booleans(), st.sampled_from([1_000, 3, 8]), st.integers(0, 3), st.booleans())
@example(SMALL, [(0, 0, 0, 0, 0, 0)] * 6, 0, True, 3, 0, False)  # more orders in one instant than the cap holds
@example(
    SMALL,
    [*[(0, 0, 0, 0, 0, 0)] * 3, (0, 6, 242, 2, 0, 5), (0, 6, 256, 1, 0, 5), *[(0, 0, 0, 0, 0, 0)] * 5,
     (0, 0, 256, 0, 0, 0), (0, 0, 0, 0, 0, 0), (0, 0, 270, 2, 0, 0), (0, 1, 108, 0, 0, 0)],
    0, False, 1_000, 0, False,
)  # fmt: skip
@example(  # what the cut forgets had kept another entry from counting
    SMALL,
    raws(bytes.fromhex(FORGOTTEN)),
    0, False, 1_000, 0, False,
)  # fmt: skip
@example(  # a second content of the anchor's order, after the cut, more than a grace late: visits mustn't show
    SMALL._replace(grace=0),
    raws(bytes.fromhex(VISITED)),
    1, False, 1_000, 0, False,
)  # fmt: skip
def test_an_open_state_is_the_state_after_each_event(
    rules: Rules, xs: list[Raw], seed: int, plain: bool, cap: int, start: int, mixed: bool
) -> None:
    rules = rules._replace(cap=cap)
    events = {an_event(x, rules) for x in xs}
    if plain:  # mostly ordinary orders
        orders = [OracleEvent(Kind.PLACED, f"e{i}", a_time(x[2], rules), f"o{i}", x[4]) for i, x in enumerate(xs)]
        events = {order if x[0] < 17 else an_event(x, rules) for order, x in zip(orders, xs, strict=True)}
    if mixed:
        events = {in_currencies(e) for e in events}
    value = [None, EMPTY, with_announcement(EMPTY, 3, 7, 5), with_mute(EMPTY, 2)][start]
    held = OpenState(value, rules)
    settled = 0
    for t, e in stream(Scene(rules, events), seed, punctual=False):
        if e is None:
            continue
        prior = value
        found, outcome = absorb_bytes(value, made(e), t, rules)
        if outcome not in (Outcome.REPEAT, Outcome.ERASED):
            value = found
        assert held.absorb(made(e), t) is outcome
        changed = advance_bytes(value or EMPTY, t, rules) != advance_bytes(prior or EMPTY, t, rules)
        assert held.changed == changed
        if value is not None:
            now = advance_bytes(value, t, rules)
            assert held.value() == now
            assert held.header() == now[: HEADER.size]
            assert held.silent == is_silent(now)
            assert held.capped == bool(now[1] & 1)
        settled += changed
    event(f"changed {min(settled, 4)}")


class StoredPieces:
    """A Redis that holds one state in parts."""

    def __init__(self) -> None:
        self.ends: Ends | None = None
        self.pieces: dict[bytes, bytes] = {}

    def store(self, held: OpenState) -> None:
        parts = held.parts()
        if parts is None:
            self.ends, self.pieces = None, {}
            held.stored(in_parts=False)
            return
        writes = PieceWrites()
        writes.add(b"c", parts, self.ends)
        self.ends = writes.now[b"c"]
        self.pieces |= writes.put
        for name in writes.deleted:
            del self.pieces[name]
        assert ends_of(writes.states[b"c"]) == self.ends
        held.stored(in_parts=True)

    def value(self) -> bytes | None:
        if self.ends is None:
            return None
        assert sorted(self.pieces) == sorted(self.ends.fields(b"c")), "a piece too many"
        return self.ends.whole([self.pieces[name] for name in self.ends.fields(b"c")])


@many
@given(rule_sets, many_raw, seeds, st.booleans(), st.sampled_from([1_000, 3, 8]), st.integers(1, 5))
def test_what_is_stored_in_parts_is_the_state(
    rules: Rules, xs: list[Raw], seed: int, plain: bool, cap: int, rows: int
) -> None:
    rules = rules._replace(cap=cap)
    events = {an_event(x, rules) for x in xs}
    if plain:
        orders = [OracleEvent(Kind.PLACED, f"e{i}", a_time(x[2], rules), f"o{i}", x[4]) for i, x in enumerate(xs)]
        events = {order if x[0] < 17 else an_event(x, rules) for order, x in zip(orders, xs, strict=True)}
    held, redis, rng = OpenState(None, rules), StoredPieces(), random.Random(seed)
    with patch("segmentation.pieces.ROWS", rows):
        for t, e in stream(Scene(rules, events), seed, punctual=False):
            if e is None:
                continue
            held.absorb(made(e), t)
            if rng.random() < 0.6:
                redis.store(held)
                assert redis.value() in {None, held.value()}
                event("divided" if redis.ends else "whole")
