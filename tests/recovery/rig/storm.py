"""Fault after fault, alone and mixed, while orders flow; at rest now and then, judged at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.recovery.rig.checker import GroupRun
from tests.recovery.rig.faults import FAULTS, Fault
from tests.recovery.rig.world import RecoveryWorld

REST_EVERY = 12  # faults between two rests
MIXED = 0.3  # of the blows
ROWS = 20  # sent at once
PACE_S = 0.15


@dataclass(slots=True)
class Report:
    """What a storm came to."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    rests_s: list[float] = field(default_factory=list)  # how long it took to catch up, at each rest
    records: int = 0
    moves: int = 0
    ended_alone: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rest = f"{max(self.rests_s):.0f} s" if self.rests_s else "-"
        kinds = ", ".join(f"{name} {count}" for name, count in self.faults.most_common())
        return (
            f"{self.faults.total()} faults survived, {self.records} orders, {self.moves} moves, 0 violations; "
            f"longest catching up {rest}; workers that ended by themselves: {len(self.ended_alone)}; SEED={self.seed}\n  {kinds}"
        )


async def storm(world: RecoveryWorld, seed: int, faults: int, minutes: float | None) -> Report:
    """So many faults, or so many minutes of them. Raises AssertionError with the story of what was done."""
    report = Report(seed)
    try:
        await prelude(world)
        enough = asyncio.Event()
        flow = asyncio.create_task(keep_feeding(world, enough))
        try:
            await blows(world, report, faults, minutes)
        finally:
            enough.set()
            await asyncio.to_thread(world.servers.heal)
            await flow
        await rest(world, report)
        run: GroupRun = await world.judge()
    except Exception as error:
        raise AssertionError(f"SEED={seed}: {error}\nthe story:\n" + "\n".join(world.story)) from error
    report.records, report.moves = world.feeder.records, len(run.moves)
    report.ended_alone = world.fleet.ended_alone
    return report


async def prelude(world: RecoveryWorld) -> None:
    """Two workers, the first orders, the first model; then a snapshot to go back to."""
    world.fleet.start(0)
    world.fleet.start(1)
    await world.feed(200)
    assert await world.feeder.activate()
    await world.feed(50)
    await world.settled()
    await asyncio.to_thread(world.servers.snapshot)


async def keep_feeding(world: RecoveryWorld, enough: asyncio.Event) -> None:
    while not enough.is_set():
        await world.feed(ROWS, size=ROWS, pace_s=PACE_S)


async def blows(world: RecoveryWorld, report: Report, faults: int, minutes: float | None) -> None:
    """The faults, drawn from the seed: which, how long and where doesn't depend on how fast the machine is."""
    began, number, rested = time.monotonic(), 0, 0
    while report.faults.total() < faults if minutes is None else time.monotonic() - began < minutes * 60:
        number += 1
        rng = random.Random(f"{report.seed}-{number}")
        chosen = draw(rng)
        world.tell(f"{number}: {' + '.join(f.name for f in chosen)}")
        await asyncio.gather(*(f.strike(world, random.Random(f"{report.seed}-{number}-{f.name}")) for f in chosen))
        report.faults.update(f.name for f in chosen)
        await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 2))))
        world.fleet.tend()
        if number % 3 == 0:
            await asyncio.to_thread(world.servers.snapshot)
        if report.faults.total() - rested >= REST_EVERY:
            rested = report.faults.total()
            await rest(world, report)


def draw(rng: random.Random) -> list[Fault]:
    """One fault, or two or three on different resources at the same time."""
    count = rng.choice((2, 2, 3)) if rng.random() < MIXED else 1
    chosen: dict[str, Fault] = {}
    while len(chosen) < count:
        one = rng.choices(FAULTS, [f.weight for f in FAULTS])[0]
        chosen.setdefault(one.resource, one)
    return list(chosen.values())


async def rest(world: RecoveryWorld, report: Report) -> None:
    """All that is broken is mended; what was sent up to now must be told soon, and no shard may have stopped."""
    await asyncio.to_thread(world.servers.heal)
    began = time.monotonic()
    await world.settled()
    report.rests_s.append(time.monotonic() - began)
    world.tell(f"at rest after {report.rests_s[-1]:.1f} s")
    if stopped := world.quarantined():
        raise AssertionError(f"stopped shards: {stopped}")
