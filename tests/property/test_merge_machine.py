"""The whole merge as a machine: for any stream, cut anyhow, every customer's bytes are those of the recomputation.

Hypothesis plays the producer, the engine and the crash: events of all kinds in any order and repetition, turns of any
size, time that goes on without events, new models, takeovers from any past. EXAMPLES=1000 for a long run.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from segmentation.money import format_units
from segmentation.rfm import Kind, Outcome, Rules, advance_bytes, announcement, unpack
from segmentation.scoring import ScoringStep
from tests.support.engine.memory_shard import (
    DAY,
    T0,
    MemoryShard,
    Rec,
    ShardPast,
    a_model,
    at,
    check_chains,
    published_moves,
)
from tests.support.oracles.batch import OracleEvent, batch_bytes, figures, related, takes
from tests.support.oracles.lives import without_life

WINDOW = 60 * DAY
GRACES = (7 * DAY, 7 * DAY, 0, 70 * DAY)  # also none, and one beyond the window
TOLERANCE = 2 * DAY
NAMES = {i: f"s{i}" for i in range(1, 9)}
KINDS = (*[Kind.PLACED] * 5, *[Kind.REFUNDED] * 2, *[Kind.CANCELLED] * 2)


class RecordMeaning(NamedTuple):
    """The meaning of a record: its customer and event. A control has none."""

    customer: str
    event: OracleEvent


class Raw(NamedTuple):
    """An event before its date is worked out."""

    kind: Kind
    customer: str
    order: int
    id: int
    amount: int
    base: int  # dated from the end of the stream (below 6) or from an earlier event of the customer
    windows: int
    graces: int
    hair: int  # ms


def raws_of(customer: str, kinds: tuple[Kind, ...]) -> st.SearchStrategy[Raw]:
    times = st.sampled_from((0, 0, 0, 0, 0, 1, -1, -2))
    return st.builds(
        Raw,
        st.sampled_from(kinds),
        st.just(customer),
        st.integers(0, 5),
        st.integers(0, 12),
        st.sampled_from((0, 1, 99_999, 500_000, 10**15)),
        st.integers(0, 9),
        times,
        times,
        st.integers(-1, 1),
    )


raws = st.one_of(raws_of("a", KINDS), raws_of("b", KINDS), raws_of("erased", (*KINDS, Kind.ERASED)))


class Merge(RuleBasedStateMachine):
    """One shard. `punctual`: events that take another's effect away come at most a grace late.

    Then the bytes are the recomputation's; else only the promises for any lateness are checked.
    """

    @initialize(
        time=st.sampled_from(("event", "wall")),
        grace=st.sampled_from(GRACES),
        punctual=st.sampled_from((True, True, True, False, False)),
        cap=st.sampled_from((1_000, 4, 4)),
    )
    def open(self, time: str, grace: int, punctual: bool, cap: int) -> None:
        self.event_time = time == "event"
        self.punctual = punctual
        self.state_rules = Rules(WINDOW, grace, 1_000 if punctual else cap)
        reader = Reader("USD", "event" if self.event_time else "wall", TOLERANCE, 100_000 * DAY, 1_000_000)
        self.shard = MemoryShard(ScoringStep(reader, self.state_rules), None)
        self.end = T0  # where the stream has come to: its latest date, or the time on the wall
        if not self.event_time:
            self.shard.now = T0
        self.log: list[Rec] = []
        self.meanings: list[RecordMeaning | None] = []
        self.late: set[RecordMeaning] = set()  # first came more than a grace late
        self.past: ShardPast | None = None
        self.rescored = False  # since that past

    @rule(batch=st.lists(raws, min_size=2, max_size=16))
    def send(self, batch: list[Raw]) -> None:
        for raw in batch:
            own = {meaning.event for meaning in self.meanings if meaning and meaning.customer == raw.customer}
            e = self.event_of(raw, own)
            meaning = RecordMeaning(raw.customer, e)
            if self.punctual and any(
                related(e, o) and o.rank > e.rank and RecordMeaning(raw.customer, o) in self.late for o in own
            ):
                continue  # what came very late may not replace this one
            if e not in own and e.time < self.end - self.state_rules.grace:
                self.late.add(meaning)
            self.append(raw.customer.encode(), encode(event_of(meaning)), meaning)
            if self.event_time:
                self.end = max(self.end, e.time)

    @rule(which=st.integers(0, 10**6), times=st.integers(1, 3))
    @precondition(lambda self: self.log)
    def repeat(self, which: int, times: int) -> None:
        i = which % len(self.log)
        for _ in range(times):
            self.append(self.log[i].key, self.log[i].value, self.meanings[i])

    @rule(days=st.sampled_from((0, 1, 7, 30, 53, 60, 67)), hair=st.integers(0, 1))
    def time_passes(self, days: int, hair: int) -> None:
        to = self.end + days * DAY + hair
        if self.event_time:
            self.append(CONTROL_KEY, encode(ClockAdvanced(id=f"t{len(self.log)}", to=at(to))), None)
        else:
            if any(s and s.event.time + self.state_rules.grace < to for s in self.meanings[self.shard.offset :]):
                self.keep_up(1_000, 1_000)  # who is on time as it is sent is so as it is merged
            self.shard.now = to
        self.end = to

    @rule(size=st.integers(0, 12), slice_=st.integers(1, 4))
    def turn(self, size: int, slice_: int) -> None:
        self.shard.turn(self.log, size, slice_)

    @rule(size=st.integers(1, 50), slice_=st.integers(1, 4))
    def keep_up(self, size: int, slice_: int) -> None:
        while self.shard.offset < len(self.log):
            self.shard.turn(self.log, size, slice_)

    @rule(seed=st.integers(0, 20), ids=st.sampled_from(((1, 2, 3), (2, 3, 7), (4, 5))), size=st.integers(1, 3))
    def new_model(self, seed: int, ids: tuple[int, ...], size: int) -> None:
        self.shard.model = CompiledModel.of(a_model(np.random.default_rng(seed), ids), "g", NAMES)
        self.shard.rescore(size)
        self.rescored = True

    @rule()
    def redis_is_saved(self) -> None:
        self.past, self.rescored = self.shard.past(), False

    @rule(size=st.integers(1, 20))
    @precondition(lambda self: self.past)
    def take_over(self, size: int) -> None:
        assert self.past
        self.shard.take_over(self.past, self.log, size)
        if self.rescored:
            self.shard.rescore(size, quiet=True)

    @invariant()
    def everyone_is_as_recomputed(self) -> None:
        merged = self.meanings[: self.shard.offset]
        assert set(self.shard.states) <= {s.customer.encode() for s in merged if s}
        for customer in {s.customer for s in merged if s}:
            events = {s.event for s in merged if s and s.customer == customer}
            clock = self.shard.clock
            value = advance_bytes(self.shard.states[customer.encode()], clock, self.state_rules)
            if self.punctual:
                batch = batch_bytes(events, clock, self.state_rules)
                # Whether a life counts an order that came more than a window late depends on when it came.
                assert without_life(value[:2] + batch[2:16] + value[16:]) == without_life(batch)
                continue
            state = unpack(value)
            last, *window = figures(events, clock, self.state_rules)
            if not state.capped:
                assert [state.frequency, state.monetary] == window
            if self.state_rules.cap == 1_000:
                assert state.last >= last
            counting = {e for e in events if e.time > state.cut or e.kind == Kind.ERASED}
            assert (state.frequency, state.monetary) == figures(counting, clock, self.state_rules)[1:]

    @invariant()
    def every_state_knows_its_last_move(self) -> None:
        moves = {o.key: i for i, o in enumerate(self.shard.outputs)}
        numbers = {key: announcement(value)[1] for key, value in self.shard.states.items()}
        assert {key for key, number in numbers.items() if number} == set(moves)
        for move in published_moves(self.shard):
            assert move.sequence <= numbers[move.customer_id.encode()]

    def teardown(self) -> None:
        if not hasattr(self, "shard"):
            return
        self.keep_up(1_000, 1_000)
        self.everyone_is_as_recomputed()
        check_chains(published_moves(self.shard), 0)
        counts = self.shard.counts
        assert sum(counts[o.value] for o in Outcome) == sum(meaning is not None for meaning in self.meanings)
        reported = {"conflicting_id": counts[Outcome.CONFLICT.value], "outdated_edit": counts[Outcome.OUTDATED.value]}
        assert self.shard.reasons == {reason: n for reason, n in reported.items() if n}

    def event_of(self, raw: Raw, own: set[OracleEvent]) -> OracleEvent:
        earlier = sorted({e.time for e in own})
        base = earlier[raw.base % len(earlier)] if raw.base >= 6 and earlier else self.end
        time = base + raw.windows * self.state_rules.window + raw.graces * self.state_rules.grace + raw.hair
        if not self.event_time:
            time = min(time, self.end + TOLERANCE)
        e = dated(raw, time)
        if self.punctual and takes(e, own) and e not in own:
            e = dated(raw, max(time, self.end - self.state_rules.grace))
        return e

    def append(self, key: bytes | None, value: bytes | None, meaning: RecordMeaning | None) -> None:
        timestamp = T0 + 10_000 * DAY if self.event_time else self.shard.now
        self.log.append(Rec(len(self.log), key, value, timestamp))
        self.meanings.append(meaning)


def dated(raw: Raw, time: int) -> OracleEvent:
    if raw.kind == Kind.ERASED:
        return OracleEvent(raw.kind, "", time)
    order = None if raw.kind == Kind.REFUNDED and raw.order == 5 else f"o{raw.order}"
    # Few ids are known ones: most events are new.
    name = f"e{raw.id}" if raw.id < 3 else f"{raw.order}.{raw.id}.{time}"
    return OracleEvent(raw.kind, name, time, order, 0 if raw.kind == Kind.CANCELLED else raw.amount)


def event_of(meaning: RecordMeaning) -> OrderPlaced | OrderRefunded | OrderCancelled | CustomerErased:
    customer, e = meaning
    amount = Amount(value=format_units(e.amount), currency="USD")
    if e.kind == Kind.PLACED:
        return OrderPlaced(id=e.id, order_id=e.order or "", customer_id=customer, occurred_at=at(e.time), amount=amount)
    if e.kind == Kind.REFUNDED:
        return OrderRefunded(id=e.id, order_id=e.order, customer_id=customer, occurred_at=at(e.time), amount=amount)
    if e.kind == Kind.CANCELLED:
        return OrderCancelled(id=e.id, order_id=e.order or "", customer_id=customer, occurred_at=at(e.time))
    return CustomerErased(id="erasure", customer_id=customer, occurred_at=at(e.time))


TestMerge = Merge.TestCase
TestMerge.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "100")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
