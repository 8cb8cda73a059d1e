"""Runs of cases, and their judgement by the recovery tests' checker."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from aiokafka import TopicPartition

from segmentation.step import ORDERS, PROFILES, Activation, TurnContext
from stream.engine.ledger import Ledger
from stream.storage.heads import NOTE_HEADER, decode_store_head
from tests.recovery.rig import campaign_checker, checker
from tests.recovery.rig.campaign_knowledge import MARGIN_MS
from tests.recovery.rig.campaign_table import ReadTable
from tests.recovery.rig.replacing import Replace
from tests.simulation.case import Case
from tests.simulation.choices import Decisions
from tests.simulation.fleet import RULES, SimulatedFleet, installed, model_of
from tests.simulation.one_id import differences_from_one_id
from tests.simulation.virtual_loop import StandStill
from tests.simulation.world import SimulatedWorld, Unsettled

Change = Callable[[Replace, SimulatedWorld], None]


@dataclass(frozen=True)
class RunOutcome:
    """The result of a run."""

    case: Case
    violations: list[str]
    trace: list[str]
    digest: str
    decisions: Decisions
    callbacks: int
    moves: int

    @property
    def kind(self) -> str:
        """The kind of the first violation, without its numbers and names; empty: there is none."""
        return re.sub(r"[\d{\[('\"].*", "", self.violations[0]).strip() if self.violations else ""

    def repeated(self) -> Case:
        """Return the case with its decisions written down."""
        return replace(self.case, given=self.decisions)


def run(case: Case, change: Change | None = None) -> RunOutcome:
    """Run a case and judge it. `change` takes something out of the engine or the broker."""
    gc.disable()  # a cycle that is found at some moment could end a generator then: no run would be like another
    world = SimulatedWorld(case)
    violations: list[str] = []
    try:
        stopped = _play(world, change)
        violations += stopped
        if not stopped:
            violations += _judge(world)
        return RunOutcome(
            case, violations, world.trace, world.digest(), world.choices.made(), world.loop.callbacks,
            len(world.broker.history(world.streams.output)),
        )  # fmt: skip
    finally:
        world.loop.dispose()
        gc.enable()


def _play(world: SimulatedWorld, change: Change | None) -> list[str]:
    """Play a run. Return why it couldn't come to rest."""
    undo: list[tuple[Any, str, Any]] = []

    def swap(where: Any, name: str, value: Any) -> None:
        undo.append((where, name, where.__dict__[name] if isinstance(where, type) else getattr(where, name)))
        setattr(where, name, value)

    with ExitStack() as stack:
        stack.enter_context(installed(world.loop, world.kafka, world.place, world.case.seed))
        if change:
            change(swap, world)
        try:
            world.loop.run_until_complete(world.play())
        except (Unsettled, StandStill) as error:
            return [f"not settled: {error}", *world.stopped]
        finally:
            for where, name, value in reversed(undo):
                setattr(where, name, value)
    return []


def _judge(world: SimulatedWorld) -> list[str]:
    found = read_run(world)
    wrong = world.stopped + world.broker.late_ends
    wrong += checker.violations(found, world.acknowledged, event_time=not world.case.wall)
    for dispatchers in world.fleets[1:]:
        wrong += campaign_checker.violations(
            read_campaigns(world, dispatchers), rules(), adopts=world.case.adopts, event_time=not world.case.wall
        )
    if world.case.wall or world.case.change:
        wrong += _in_other_segments(world)
    if world.case.one_id:
        wrong += differences_from_one_id(found, world.settings_after().rules)
    if not wrong and not world.case.wall:
        calm = SimulatedWorld(
            world.case.calm(),
            {TopicPartition(world.streams.input, p): world.broker.logs[TopicPartition(world.streams.input, p)].entries
             for p in range(world.case.partitions)},
        )  # fmt: skip
        try:
            if stuck := _play(calm, _sends_nothing_on):
                return [f"the undisturbed run: {line}" for line in stuck]
            undisturbed, own = read_run(calm), world.settings_after().rules
            if world.case.change:
                wrong += checker.other_states(found.shards, _published_as(found, undisturbed.shards, world), own)
            else:
                wrong += checker.differences(found, undisturbed, own, b"salt")
        finally:
            calm.loop.dispose()
    return wrong


def _sends_nothing_on(replace_: Replace, world: SimulatedWorld) -> None:
    """Let no package be sent: those that the run sent are in the input already."""
    del world

    async def nothing(*_: object) -> list[object]:
        return []

    replace_(Ledger, "_send_onward", nothing)


def _published_as(
    run: checker.GroupRun, shards: list[checker.ShardContent], world: SimulatedWorld
) -> list[checker.ShardContent]:
    """Return the states of a run under the new settings from its start, with the last moves of the run that changed.

    Customers who never moved are left as they are in that run.
    """
    notes = {(row.partition, row.key): row.headers[NOTE_HEADER] for row in run.moves}
    patch = world.fleets[0].step.patch
    made = []
    for p, shard in enumerate(shards):
        states = {
            key: patch(value, notes[p, key]) if (p, key) in notes else run.shards[p].states.get(key, value)
            for key, value in shard.states.items()
        }
        made.append(replace(shard, states=states, tombstones=run.shards[p].tombstones))
    return made


def _in_other_segments(world: SimulatedWorld) -> list[str]:
    """Score every customer once more: at rest nobody may move."""
    found: list[bytes] = []
    workers = world.fleets[0]
    for p in range(world.case.partitions):
        shard = _shard(world, workers, p)
        head = decode_store_head(world.place.server.data[workers.keys(p).head.encode()])
        if not head.activation:
            continue
        context = TurnContext(
            head.clock, head.clock, Activation(head.activation, head.version), model_of(int(head.version[1:])),
            head.backfills,
        )  # fmt: skip
        rows = sorted(shard.states.items())
        turn = workers.step.rescore(rows, [False] * len(rows), context)
        found += [output.key for output in turn.outputs]
    return [f"customers in another segment than the model gives: {found}"] if found else []


def read_run(world: SimulatedWorld) -> checker.GroupRun:
    """Read a run, as the checker does from real servers."""
    workers = world.fleets[0]
    s = workers.streams
    return checker.GroupRun(
        orders=_rows(world, s.input),
        moves=_rows(world, s.output),
        latest=_rows(world, s.latest),
        dead=_rows(world, s.dead_letters),
        heads=_rows(world, s.heads),
        shards=[_shard(world, workers, p) for p in range(world.case.partitions)],
    )


def read_campaigns(world: SimulatedWorld, dispatchers: SimulatedFleet) -> campaign_checker.DecidedRun:
    """Read what the dispatchers of a run did."""
    s = dispatchers.streams
    return campaign_checker.DecidedRun(
        moves=_rows(world, s.input),
        decisions=_rows(world, s.output),
        dead=_rows(world, s.dead_letters),
        heads=_rows(world, s.heads),
        shards=[_shard(world, dispatchers, p) for p in range(world.case.partitions)],
        profiles=_rows(world, s.sides[PROFILES]),
        orders=_rows(world, s.sides[ORDERS]),
        rests=world.rests,
        # In wall time days pass at once.
        margin_ms=sys.maxsize if world.case.wall else MARGIN_MS,
        ends_are_right=not world.case.rates["low"],
        # Of ends that may be too low a takeover can't learn all that is there.
        fences=[] if world.case.rates["low"] else world.fences(dispatchers),
    )


@cache
def rules() -> ReadTable:
    """Return the dispatchers' rules."""
    return ReadTable(RULES.read_text("utf-8"))


def _rows(world: SimulatedWorld, topic: str | None) -> list[checker.ReadRow]:
    assert topic is not None
    return [
        checker.ReadRow(p, r.offset, r.key, r.value, dict(r.headers), r.timestamp)
        for p, r in world.broker.history(topic)
    ]


def _shard(world: SimulatedWorld, fleet: SimulatedFleet, partition: int) -> checker.ShardContent:
    keys, data = fleet.keys(partition), world.place.server.data
    return checker.ShardContent(
        json.loads(data.get(keys.head.encode(), b"{}")),
        checker.joined(data.get(keys.states.encode(), {}), data.get(keys.pieces.encode(), {})),
        dict(data.get(keys.due.encode(), {})),
        sorted(data.get(keys.customers.encode(), {})),
        dict(data.get(keys.tombstones.encode(), {})),
    )
