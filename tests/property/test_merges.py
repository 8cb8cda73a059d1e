"""Ids that become one, over eight shards: in the end each person's state is that of one who always had one id.

EXAMPLES=20000 for a long run.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from segmentation import life
from segmentation.decisions import CompiledModel
from segmentation.decoder import Reader
from segmentation.event_text import instant
from segmentation.events import (
    Amount,
    CustomerErased,
    CustomerMerged,
    EntryEvent,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    encode,
)
from segmentation.links import NO_LINKS
from segmentation.money import format_units
from segmentation.output_events import Cause
from segmentation.partitioners import murmur2
from segmentation.rates import Rates, currency_code
from segmentation.rfm import EMPTY, NONE, Kind, Rules, advance, announcement, pack, unpack
from segmentation.scoring import ScoringStep
from tests.support.engine.memory_fleet import FleetStore, MemoryFleet
from tests.support.engine.memory_shard import a_model, check_chains
from tests.support.oracles import batch
from tests.support.oracles.batch import OracleEvent, batch_bytes
from tests.support.oracles.persons import Merge, roots

EXAMPLES = int(os.environ.get("EXAMPLES", "150"))
WINDOW, PARTITIONS = 100, 8
IDS = "abcde"


@pytest.fixture(autouse=True)
def _days_on_a_small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (life, batch):
        monkeypatch.setattr(module, "DAY_MS" if module is life else "DAY", 30)


def as_event(e: OracleEvent, customer: str) -> EntryEvent:
    at, name = instant(e.time), e.id or "erasure"
    if e.kind == Kind.ERASED:
        return CustomerErased(id=name, customer_id=customer, occurred_at=at)
    if e.kind == Kind.CANCELLED:
        return OrderCancelled(id=name, customer_id=customer, order_id=e.order or "", occurred_at=at)
    paid, currency = (e.foreign[1], currency_code(e.foreign[0])) if e.foreign else (e.amount, "USD")
    amount = Amount(format_units(paid), currency)
    if e.kind == Kind.REFUNDED:
        return OrderRefunded(id=name, customer_id=customer, order_id=e.order, occurred_at=at, amount=amount)
    revision = e.revision if e.revision >= 0 else None
    return OrderPlaced(
        id=name, customer_id=customer, order_id=e.order or "", occurred_at=at, amount=amount, revision=revision
    )


class Story:
    """A random life of some ids, over shards that lag behind by at most `lag` ms.

    `early`: all merges come before anything is folded; then an order's events may come under any of its person's ids,
    and erasures at any time. Else each order's under one id, and erasures only once all merges have been read.
    """

    def __init__(self, seed: int, *, cap: int = 1_000, rates: Rates | None = None) -> None:
        rng = self.rng = random.Random(seed)
        self.rules = Rules(WINDOW, rng.choice((15, 15, 0, 130)), cap)
        self.lag = rng.choice((0, self.rules.grace // 3))
        self.early = rng.random() < 0.5
        self.rates, others = rates, frozenset(rate.currency for rate in rates or ())
        reader = Reader("USD", "wall", 10**6, 10**9, 1_000_000, other_currencies=others)
        step = ScoringStep(reader, self.rules, partitioner=murmur2, partitions=PARTITIONS)
        model = None
        if rng.random() < 0.4:
            names = {i: f"s{i}" for i in range(1, 9)}
            model = CompiledModel.of(a_model(np.random.default_rng(seed)), "g", names)
        self.fleet = MemoryFleet(step, PARTITIONS, model, rates)
        self.ids = IDS[: rng.randint(2, 5)]
        self.sent: dict[str, set[OracleEvent]] = defaultdict(set)
        self.merges: list[Merge] = []
        self.past: dict[int, FleetStore] = {}
        self.restores = rng.random() < 0.5

    def write(self) -> list[tuple[int, bytes, bytes]]:
        """The records, with the instants at which they are sent."""
        rng, out = self.rng, list[tuple[int, bytes, bytes]]()
        merging = WINDOW - self.lag - 1 if self.early else 380
        for number in range(rng.choice((0, 1, 1, 2, 3, 3, 5, 7))):
            source, target = rng.sample(self.ids, 2)
            at, comes = rng.choice((rng.randint(0, 400), number, 1)), rng.randint(0, merging)
            self.merges.append((at, source, target))
            event = CustomerMerged(id=f"m{number}", from_=source, into=target, occurred_at=instant(at))
            out += [(comes + again, source.encode(), encode(event)) for again in self._again(merging - comes)]
        merged_by = max([at for at, _, _ in out], default=0) + self.lag
        for number in range(rng.randint(0, 40)):
            e = self._event(number, merged_by)
            home = self.ids[number % len(self.ids)] if self.early else self.ids[hash_of(e) % len(self.ids)]
            self.sent[home].add(e)
            latest = max(min(self.rules.grace, WINDOW - 1) - self.lag, 0)
            comes = max(e.time + rng.randint(-3, latest), 0)
            out.append((comes, home.encode(), encode(as_event(e, home))))
            for at in [comes + again for again in self._again(400)[1:]]:
                # A repetition that is a window late mustn't overtake its customer's state on the way to the root.
                if self.early or at - e.time < WINDOW - self.lag or at > merged_by + len(IDS) * self.lag:
                    out.append((at, home.encode(), encode(as_event(e, home))))
        rng.shuffle(out)
        return sorted(out, key=lambda record: record[0])

    def _again(self, most: int) -> list[int]:
        return [0, *(self.rng.randint(0, max(most, 0)) for _ in range(self.rng.choice((0, 0, 1, 2))))]

    def _event(self, number: int, merged_by: int) -> OracleEvent:
        rng = self.rng
        kind = rng.choice([Kind.PLACED] * 6 + [Kind.REFUNDED] * 2 + [Kind.CANCELLED] * 2 + [Kind.ERASED])
        time = rng.choice((rng.randint(3, 400), rng.randint(0, 4) * WINDOW + rng.randint(3, 8)))
        if kind == Kind.ERASED:
            return OracleEvent(kind, "", max(time, 0 if self.early else merged_by + self.rules.grace))
        order = None if kind == Kind.REFUNDED and rng.random() < 0.3 else f"o{rng.randint(0, 12)}"
        amount = 0 if kind == Kind.CANCELLED else rng.randint(0, 5) * 50
        return OracleEvent(kind, f"e{number}", time, order, amount)

    def happen(self) -> None:
        """Send all, and let shards read in any order, torn, set back and made anew, until all is read."""
        rng, fleet = self.rng, self.fleet
        for at, key, value in self.write():
            while at > fleet.now:
                oldest = fleet.oldest()
                if oldest is not None and (fleet.now + 1 - oldest > self.lag or rng.random() < 0.3):
                    self._go_on()
                else:
                    fleet.now = at if oldest is None else min(at, oldest + self.lag, fleet.now + rng.randint(1, 9))
            fleet.send(key, value)
            if rng.random() < 0.3:
                self._go_on()
        while fleet.waiting():
            self._go_on()
        self.rest()

    def rest(self) -> None:
        """Let all that is due move, be it at the very clock of the last turn."""
        self.fleet.now += 1
        for shard in self.fleet.shards:
            shard.turn(0)

    def _go_on(self) -> None:
        rng, fleet = self.rng, self.fleet
        if not fleet.waiting():
            return
        shard = rng.choice(fleet.waiting())
        if rng.random() < 0.1:
            self.past[shard.partition] = shard.store.copy()
        if rng.random() < 0.1:
            empty = FleetStore(gone=dict(shard.topic) if self.restores else {})
            shard.store = shard.made_anew(self.past.get(shard.partition, empty), rng)
        shard.turn(rng.randint(1, 12), torn=rng if rng.random() < 0.1 else None)

    def plain(self, value: bytes | None, end: int) -> bytes:
        """A state without merges, moves and mute, at an instant."""
        state = advance(unpack(value or EMPTY), end, self.rules)
        return pack(replace(state, links=NO_LINKS, segment=0, sequence=0, moved_at=NONE))


def hash_of(e: OracleEvent) -> int:
    return sum((e.order or e.id).encode())


def check_persons(story: Story) -> None:
    """Each person's root has the bytes of one id, and the other ids have nothing."""
    fleet, end, root = story.fleet, story.fleet.now, roots(IDS, story.merges)
    for name in story.ids:
        (value,) = fleet.of(name.encode()).store.load([name.encode()])
        if root[name] != name:
            assert value is not None
            assert fleet.step.is_gone(value), "an alias holds something"
            assert not unpack(value).holds_anything
            continue
        events = {e for other in story.ids if root[other] == name for e in story.sent[other]}
        assert story.plain(value, end) == batch_bytes(events, end, story.rules), (name, root)


def check_moves(story: Story) -> None:
    """Chains have no gap; the last move of an alias leads to nowhere, and names an id of the same person."""
    moves, root = story.fleet.moves(), roots(IDS, story.merges)
    check_chains(moves, 1)
    for name, move in {move.customer_id: move for move in moves}.items():
        assert (move.to is None) >= (root[name] != name)
    for move in moves:
        assert (move.cause is Cause.MERGED) == (move.merged_into is not UNSET)
        assert move.merged_into is UNSET or root[move.merged_into] == root[move.customer_id]


def check_made_anew(story: Story, *, restored: bool) -> None:
    """A rebuild gives the same bytes, with tombstones from the compacted topic or without."""
    end = story.fleet.now
    for shard in story.fleet.shards:
        anew = shard.made_anew(FleetStore(gone=dict(shard.topic) if restored else {}), story.rng)
        for kept, made in ((shard.store.states, anew.states), (shard.store.gone, anew.gone)):
            assert kept.keys() == made.keys()
            for key, value in kept.items():
                assert at_clock(value, end, story.rules) == at_clock(made[key], end, story.rules)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_person_of_many_ids_has_the_state_of_one_id(seed: int, restored: bool) -> None:
    story = Story(seed)
    story.happen()
    check_persons(story)
    check_moves(story)
    check_made_anew(story, restored=restored)


def at_clock(value: bytes, end: int, rules: Rules) -> tuple[bytes, tuple[int, int, int]]:
    return pack(advance(unpack(value), end, rules)), announcement(value)
