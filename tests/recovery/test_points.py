"""A worker dies at each named point of the turn and of the takeover; the next one recovers the shard."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from stream.settings import Settings
from tests.recovery.rig import checker
from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.worker import POINTS, TAKEOVER_POINTS, TURN_POINTS
from tests.recovery.rig.world import RecoveryWorld, eventually, settings_on, twin_of, world

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(600)]

DEATH_S = 120.0
# The turn in which a worker dies: there are moves before it and after it.
PASSING = 12
# They leave moves without a head.
TORN = {"turn.torn_early", "turn.torn"}
# Redis is rolled back by about this many turns.
LAG = 25


@dataclass(frozen=True)
class RecordedInput:
    """The input of all tests here, and an undisturbed run of it."""

    settings: Settings
    acknowledged: set[tuple[int, bytes]]
    calm: checker.GroupRun


@pytest.fixture(scope="module")
def log(servers: RigServers, tmp_path_factory: pytest.TempPathFactory, seed: int) -> RecordedInput:
    async def made() -> RecordedInput:
        settings, folder = settings_on(servers, partitions=1, session_timeout_ms=2_000), tmp_path_factory.mktemp("log")
        async with world(servers, folder, seed, settings, customers=150) as first:
            await first.feed(200)
            assert await first.feeder.activate()
            await first.feed(1_000, size=100)
            await first.silence(400)
            return RecordedInput(settings, first.feeder.acknowledged, await first.undisturbed(first=True))

    return asyncio.run(made())


@pytest.fixture
async def rig(servers: RigServers, log: RecordedInput, tmp_path: Path, seed: int) -> AsyncIterator[RecoveryWorld]:
    """Make a group that hasn't begun, on the recorded input."""
    async with world(servers, tmp_path, seed, twin_of(log.settings)) as made:
        made.feeder.acknowledged = log.acknowledged
        yield made


async def die(made: RecoveryWorld, point: str, *, passing: int = 1, page: int | None = None) -> None:
    """Let a worker die at the point."""
    process = made.fleet.start(0, point=point, passing=passing, page=page)
    code = await asyncio.to_thread(process.wait, DEATH_S)
    assert code == -signal.SIGKILL, made.fleet.last_line(0)
    made.fleet.kill(0)


def as_it_is(made: RecoveryWorld) -> dict[bytes, bytes]:
    """Return the group's shards in Redis, all as of one instant."""
    with made.servers.redis() as redis:
        names = cast("list[bytes]", redis.keys(f"{{{made.settings.group}:*"))
        with redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.dump(name)
            kept = zip(names, cast("list[bytes | None]", pipe.execute()), strict=True)
        return {name: value for name, value in kept if value is not None}


def put_back(made: RecoveryWorld, kept: dict[bytes, bytes]) -> None:
    with made.servers.redis() as redis:
        redis.delete(*as_it_is(made))
        for name, value in kept.items():
            cast("Any", redis).restore(name, 0, value)


def moves_published(made: RecoveryWorld) -> int:
    [shard] = checker.read_shards(made.settings)
    return int(shard.head.get("count", 0))


async def fall_behind(made: RecoveryWorld) -> None:
    """Roll Redis back by many turns with moves, as a restore does."""
    process = made.fleet.start(0, point="turn.after_commit", passing=PASSING + LAG)
    await eventually(lambda: moves_published(made) > 0, DEATH_S, "a first move")
    kept = as_it_is(made)
    assert await asyncio.to_thread(process.wait, DEATH_S) == -signal.SIGKILL, made.fleet.last_line(0)
    made.fleet.kill(0)
    before = moves_published(made)
    put_back(made, kept)
    assert before > moves_published(made) + 10


@pytest.mark.parametrize("point", TURN_POINTS)
async def test_a_worker_dies_within_a_turn(rig: RecoveryWorld, log: RecordedInput, point: str) -> None:
    # Points between sends count turns with moves only: the first of these comes soon after the model.
    early = {"turn.torn_letters": 1, **dict.fromkeys(("turn.between_sends", *TORN), 3)}
    await die(rig, point, passing=early.get(point, PASSING))
    rig.fleet.start(0)
    run = await rig.judge(log.calm, rebuild=False)
    assert len(run.moves) > 100
    torn = rig.fleet.grep("covering a torn transaction")
    assert bool(torn) == (point in TORN)


@pytest.mark.parametrize("point", TAKEOVER_POINTS)
async def test_a_worker_dies_within_a_takeover(rig: RecoveryWorld, log: RecordedInput, point: str) -> None:
    if point == "takeover.after_cover":
        await die(rig, "turn.torn_early", passing=3)
    else:
        await fall_behind(rig)
    await die(rig, point, passing=2 if point == "takeover.between_slices" else 1, page=7)
    rig.fleet.start(0)
    run = await rig.judge(log.calm, rebuild=point == TAKEOVER_POINTS[-1])
    assert len(run.moves) > 100


@pytest.mark.parametrize("point", sorted(TORN))
async def test_a_torn_transaction_is_covered_before_a_second_crash(
    rig: RecoveryWorld, log: RecordedInput, point: str
) -> None:
    """Otherwise Redis would have the moves, but no head would cover their orders."""
    await die(rig, point, passing=3)
    await die(rig, "takeover.at_its_end")
    rig.fleet.start(0)
    await rig.judge(log.calm, rebuild=False)


def test_every_point_has_its_test() -> None:
    assert set(TURN_POINTS) | set(TAKEOVER_POINTS) == set(POINTS)
