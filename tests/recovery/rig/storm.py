"""The storm: faults, alone and combined, while orders flow; a rest now and then, and a check at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.recovery.rig.checker import GroupRun
from tests.recovery.rig.dispatching import have_last_words, judge_campaigns, keep_sending_profiles, settled
from tests.recovery.rig.faults import Fault, faults_of
from tests.recovery.rig.world import RecoveryWorld

REST_EVERY = 12  # faults between two rests
COMBINED = 0.3  # share of strikes with several faults at once
ROWS = 20  # sent at once
INTERVAL_S = 0.15


@dataclass(slots=True)
class Report:
    """The result of a storm."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    rests_s: list[float] = field(default_factory=list)  # time to catch up, at each rest
    records: int = 0
    moves: int = 0
    decisions: int = 0  # of campaigns
    ended_alone: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rest = f"{max(self.rests_s):.0f} s" if self.rests_s else "-"
        kinds = ", ".join(f"{name} {count}" for name, count in self.faults.most_common())
        return (
            f"{self.faults.total()} faults survived, {self.records} orders, {self.moves} moves, "
            f"{self.decisions} decisions, 0 violations; "
            f"longest catching up {rest}; workers that ended by themselves: {len(self.ended_alone)}; "
            f"SEED={self.seed}\n  {kinds}"
        )


async def storm(world: RecoveryWorld, seed: int, faults: int, minutes: float | None) -> Report:
    """Run so many faults, or so many minutes of them. Raises AssertionError with the list of events."""
    report = Report(seed)
    try:
        await prelude(world)
        enough = asyncio.Event()
        flow = asyncio.gather(keep_feeding(world, enough), keep_sending_profiles(world, enough))
        try:
            await strikes(world, report, faults, minutes)
        finally:
            enough.set()
            await asyncio.to_thread(world.servers.heal)
            await flow
        await rest(world, report)
        if world.fleet.dispatchers:
            await have_last_words(world)
        run: GroupRun = await world.judge()
        if world.fleet.dispatchers:
            report.decisions = await judge_campaigns(world)
    except Exception as error:
        raise AssertionError(f"SEED={seed}: {error}\nevents:\n" + "\n".join(world.events)) from error
    report.records, report.moves = world.feeder.records, len(run.moves)
    report.ended_alone = world.fleet.ended_alone
    return report


async def prelude(world: RecoveryWorld) -> None:
    """Start two workers and the dispatchers, send orders, start the first model, take a snapshot to go back to."""
    world.fleet.start(0)
    world.fleet.start(1)
    for index in world.fleet.dispatchers:
        world.fleet.start(index)
    await world.feed(200)
    assert await world.feeder.activate()
    await world.feed(50)
    await world.settled()
    if world.fleet.dispatchers:
        await settled(world)
    await asyncio.to_thread(world.servers.snapshot)


async def keep_feeding(world: RecoveryWorld, enough: asyncio.Event) -> None:
    while not enough.is_set():
        await world.feed(ROWS, size=ROWS, pace_s=INTERVAL_S)


async def strikes(world: RecoveryWorld, report: Report, faults: int, minutes: float | None) -> None:
    """Strike with faults drawn from the seed: which, how long and where doesn't depend on the machine's speed."""
    began, number, rested = time.monotonic(), 0, 0
    while report.faults.total() < faults if minutes is None else time.monotonic() - began < minutes * 60:
        number += 1
        rng = random.Random(f"{report.seed}-{number}")
        chosen = draw(rng, faults_of(world))
        world.note(f"{number}: {' + '.join(f.name for f in chosen)}")
        await asyncio.gather(*(f.strike(world, random.Random(f"{report.seed}-{number}-{f.name}")) for f in chosen))
        report.faults.update(f.name for f in chosen)
        await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 2))))
        world.fleet.restart_ended()
        if number % 3 == 0:
            await asyncio.to_thread(world.servers.snapshot)
        if report.faults.total() - rested >= REST_EVERY:
            rested = report.faults.total()
            await rest(world, report)


def draw(rng: random.Random, among: list[Fault]) -> list[Fault]:
    """Draw one fault, or two or three on different resources at the same time."""
    count = rng.choice((2, 2, 3)) if rng.random() < COMBINED else 1
    chosen: dict[str, Fault] = {}
    while len(chosen) < count:
        one = rng.choices(among, [f.weight for f in among])[0]
        chosen.setdefault(one.resource, one)
    return list(chosen.values())


async def rest(world: RecoveryWorld, report: Report) -> None:
    """Heal everything. All records sent so far must soon be scored, and no shard may have stopped."""
    await asyncio.to_thread(world.servers.heal)
    began = time.monotonic()
    await world.settled()
    report.rests_s.append(time.monotonic() - began)
    world.note(f"at rest after {report.rests_s[-1]:.1f} s")
    if stopped := world.quarantined():
        raise AssertionError(f"stopped shards: {stopped}")
