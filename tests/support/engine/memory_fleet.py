"""Shards in memory that talk: each has a log, and sends packages to those of others. Wall time, without servers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from segmentation.decisions import CompiledModel
from segmentation.events import CONTROL_KEY, Reason
from segmentation.output_events import SegmentChanged
from segmentation.partitioners import murmur2
from segmentation.rates import Rates
from segmentation.scoring import ScoringStep
from segmentation.step import Activation, DueEntry, Output, Package, Turn, TurnContext
from tests.support.engine.memory_shard import Rec


@dataclass
class FleetStore:
    """The part of Redis that a shard has."""

    states: dict[bytes, bytes] = field(default_factory=dict)
    gone: dict[bytes, bytes] = field(default_factory=dict)  # under hashes there
    index: dict[bytes, int] = field(default_factory=dict)
    clock: int = -1
    offset: int = 0

    def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.states.get(key) or self.gone.get(key) for key in keys]

    def write(self, step: ScoringStep, states: dict[bytes, bytes]) -> None:
        for key, value in states.items():
            here, there = (self.gone, self.states) if step.is_gone(value) else (self.states, self.gone)
            here[key] = value
            there.pop(key, None)
            if here is self.gone:
                self.index.pop(key, None)

    def copy(self) -> FleetStore:
        return FleetStore(dict(self.states), dict(self.gone), dict(self.index), self.clock, self.offset)


class FleetShard:
    """One shard: its log, its store, its part of the compacted topic, and the outputs."""

    def __init__(self, fleet: MemoryFleet, partition: int) -> None:
        self.fleet, self.partition = fleet, partition
        self.log: list[Rec] = []
        self.store = FleetStore()
        self.topic: dict[bytes, bytes] = {}  # tombstones and remnants
        self.torn = False  # some turn was: then the states of a covering turn have moves already
        self.outputs: list[tuple[int, Output]] = []  # with the offset behind their turn

    def context(self) -> TurnContext:
        fleet = self.fleet
        return TurnContext(self.store.clock, fleet.now, Activation(1, "x"), fleet.model, rates=fleet.rates)

    def turn(self, size: int, *, torn: random.Random | None = None) -> None:
        """Take up to so many records. `torn`: only a part of what it publishes is seen, and a takeover covers it."""
        step, store = self.fleet.step, self.store
        records = self.log[store.offset : store.offset + size]
        plan = step.plan(records, self.partition, self.context())
        due = sorted((t, k) for k, t in store.index.items() if plan.horizon is not None and t < plan.horizon)
        fired = [DueEntry(t, k, store.states.get(k)) for t, k in due]
        turn = step.decide(plan, store.load(plan.keys), fired, False, self.context())
        assert turn.taken == len(records)
        assert {letter.reason for letter in turn.dead} <= {Reason.OUTDATED_EDIT.value}, turn.dead
        assert turn.packages == sorted(turn.packages, key=lambda p: p.position)
        if torn is not None:
            self._cover(records, turn, torn)
            return
        self._check_cover(records, turn)
        self._publish(turn.packages)
        self.outputs += [(store.offset + len(records), output) for output in turn.outputs]
        self._compact(turn)
        store.write(step, turn.states)
        for key, instant in turn.earlier.items():
            store.index[key] = min(instant, store.index.get(key, instant))
        store.index |= turn.due
        for key in turn.idle:
            store.index.pop(key, None)
        assert not set(store.index) & set(store.gone)
        store.clock, store.offset = turn.clock, store.offset + len(records)

    def _publish(self, packages: Sequence[Package]) -> None:
        for package in packages:
            self.fleet.append(package.partition, CONTROL_KEY, package.value)

    def _compact(self, turn: Turn) -> None:
        """Bring the compacted topic up to date."""
        step, before = self.fleet.step, self.store
        for key, value in turn.states.items():
            remnant = turn.remnants.get(key)
            if step.is_gone(value):
                if remnant is not None:
                    assert self.torn or remnant.before == self.topic[key]
                self.topic[key] = value
            elif remnant is not None:
                assert self.torn or remnant.before == self.topic.get(key)
                self.topic[key] = remnant.now
            elif key in before.gone:
                assert step.rank(value) is None
                self.topic.pop(key, None)
        assert set(turn.remnants) <= set(turn.states)

    def _patch(self, store: FleetStore, outputs: Sequence[Output]) -> None:
        """Write published moves into states."""
        step = self.fleet.step
        for output in outputs:
            store.write(step, {output.key: step.patch(store.load([output.key])[0], output.note)})

    def _absorbed(self, records: Sequence[Rec], store: FleetStore) -> tuple[Any, Turn]:
        until = max(self.fleet.now, self.store.clock)
        context = TurnContext(store.clock, until, Activation(1, "x"), rates=self.fleet.rates)
        plan = self.fleet.step.absorb(records, self.partition, context)
        return plan, self.fleet.step.merge(plan, store.load(plan.keys))

    def _check_cover(self, records: Sequence[Rec], turn: Turn) -> None:
        """Check that packages and remnants can be had from the records alone (a takeover's step 4b)."""
        patched = self.store.copy()
        self._patch(patched, turn.outputs)
        _, again = self._absorbed(records, patched)
        ids = [
            [(p.position, p.partition, msgspec.json.decode(p.value)["id"]) for p in t.packages] for t in (turn, again)
        ]
        assert ids[0] == ids[1]
        for key in turn.remnants.keys() & again.remnants.keys():  # others moved by time
            assert turn.remnants[key].now == again.remnants[key].now

    def _cover(self, records: Sequence[Rec], turn: Turn, rng: random.Random) -> None:
        """Let a part of the turn be seen, then take over: what it lacks is published, and its records are absorbed."""
        self.torn = True
        step, store = self.fleet.step, self.store
        end = store.offset + len(records)
        seen = rng.randint(0, len(turn.outputs))
        self.outputs += [(end, output) for output in turn.outputs[:seen]]
        self._publish(turn.packages[: rng.randint(0, len(turn.packages))])
        self._patch(store, turn.outputs[:seen])
        plan, covering = self._absorbed(records, store)
        self._publish(covering.packages)
        self._compact(covering)
        store.write(step, covering.states)
        store.index |= dict.fromkeys((k for k in covering.states if k in store.states), max(turn.clock, 0))
        store.clock, store.offset = max(turn.clock, plan.clock), end

    def made_anew(self, past: FleetStore, sizes: random.Random) -> FleetStore:
        """Return the store after a takeover from an earlier one: an empty one is a rebuild."""
        step, store, made = self.fleet.step, self.store, past.copy()
        # Published moves are written in first.
        self._patch(made, [output for end, output in self.outputs if end > past.offset])
        while made.offset < store.offset:
            end = min(made.offset + sizes.randint(1, 40), store.offset)
            plan, merged = self._absorbed(self.log[made.offset : end], made)
            made.write(step, merged.states)
            made.index |= {key: max(store.clock, 0) for key in merged.states if key in made.states}
            made.clock, made.offset = max(made.clock, plan.clock), end
        made.clock = max(made.clock, store.clock)
        return made


class MemoryFleet:
    """All shards of a deployment. `now`: the clock on every wall."""

    def __init__(
        self, step: ScoringStep, partitions: int, model: CompiledModel | None, rates: Rates | None = None
    ) -> None:
        self.step, self.model, self.rates, self.now = step, model, rates, 0
        self.shards = [FleetShard(self, number) for number in range(partitions)]

    def append(self, partition: int, key: bytes, value: bytes) -> None:
        log = self.shards[partition].log
        log.append(Rec(len(log), key, value, self.now))

    def send(self, key: bytes, value: bytes) -> None:
        self.append(murmur2(key, len(self.shards)), key, value)

    def of(self, key: bytes) -> FleetShard:
        return self.shards[murmur2(key, len(self.shards))]

    def waiting(self) -> list[FleetShard]:
        return [shard for shard in self.shards if shard.store.offset < len(shard.log)]

    def oldest(self) -> int | None:
        """When the oldest record that isn't read came."""
        return min((shard.log[shard.store.offset].timestamp for shard in self.waiting()), default=None)

    def moves(self) -> list[SegmentChanged]:
        return [msgspec.json.decode(o.value, type=SegmentChanged) for s in self.shards for _, o in s.outputs]


def _name(package: Package) -> tuple[int, int, str]:
    return package.position, package.partition, msgspec.json.decode(package.value)["id"]
