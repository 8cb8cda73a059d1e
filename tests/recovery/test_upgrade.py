"""A rolling upgrade from state format 1 on real servers: old and new workers side by side, killed at points."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from segmentation.rfm import advance_bytes
from segmentation.state_former import is_former
from tests.recovery.rig import checker
from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.world import RecoveryWorld, eventually, settings_on, world
from tests.support.oracles.lives import without_life
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from segmentation.entries import Rules

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(900)]

# The last version that wrote format 1. Its own code is the only honest old worker; a clone with history has it.
FORMER: Final = "0f17b96b435df239038e5e2eb456dad97444f10e"
REFUSAL: Final = "it has format 2, expected 1"  # of an old worker, in one line
SOON_S: Final = 180.0


@pytest.fixture(scope="session")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the old version's code."""
    archive = subprocess.run(["git", "archive", FORMER], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"this checkout has no history: commit {FORMER[:7]} is missing (git fetch --unshallow)")
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture
async def rig(servers: RigServers, tmp_path: Path, seed: int) -> AsyncIterator[RecoveryWorld]:
    async with world(servers, tmp_path, seed, settings_on(servers, partitions=4)) as made:
        yield made


def formats(rig: RecoveryWorld) -> list[int]:
    shards = checker.read_shards(rig.settings)
    return [int(shard.head["format"]) if shard.head else 0 for shard in shards]


def former_states(rig: RecoveryWorld) -> int:
    return sum(is_former(value) for shard in checker.read_shards(rig.settings) for value in shard.states.values())


async def test_old_and_new_workers_side_by_side_until_the_last_is_new(rig: RecoveryWorld, former: Path) -> None:
    rig.orders.merges = False
    old = [rig.fleet.start(index, root=former) for index in (0, 1)]
    await rig.feed(600)
    assert await rig.feeder.activate()
    await rig.feed(200)
    await rig.silence(500)  # most of what was bought has left the window
    await rig.feed(100)
    await rig.settled()
    assert formats(rig) == [1] * 4
    before = former_states(rig)
    assert before > 0
    rig.note(f"{before} states of format 1; one new worker joins two old ones ({[process.pid for process in old]})")

    new = rig.fleet.start(2, point="turn.before_redis", passing=3)
    await eventually(lambda: 2 in formats(rig), SOON_S, "a shard of the new format")
    await rig.feed(100, pace_s=0.1)
    await eventually(lambda: new.poll() is not None, SOON_S, "the kill of the new worker in a turn")
    rig.fleet.kill(2)
    await eventually(lambda: bool(rig.fleet.grep(REFUSAL)), SOON_S, "an old worker's refusal of a new shard")
    rig.fleet.start(2)
    await rig.feed(60, pace_s=0.1)
    rig.fleet.kill(0)
    rig.fleet.start(0, point="takeover.between_slices")
    await rig.feed(60, pace_s=0.1)
    # The last old worker is killed without a farewell: whatever it held is taken over from where it was.
    rig.fleet.kill(1)
    rig.fleet.start(1)
    await rig.feed(60, pace_s=0.1)
    await rig.settled()
    assert formats(rig) == [2] * 4

    rig.fleet.kill(2)  # in the middle of the rewriting, or behind it: it is taken up again
    rig.fleet.start(2)
    await rig.segstream("migrate", "--wait", str(SOON_S))
    assert former_states(rig) == 0
    await rig.silence(400)
    await rig.settled()
    run, rules = await checker.read_run(rig.settings), rig.settings.rules
    wrong = checker.violations(run, rig.feeder.acknowledged)
    wrong += [line for line in rig.quarantined() if REFUSAL not in line]
    calm = await rig.undisturbed()
    wrong += [f"moves of shard {p} differ" for p in range(4) if _plain(run)[p] != _plain(calm)[p]]
    wrong += checker.other_states(_without_lives(run, rules), _without_lives(calm, rules), rules)
    await rig.segstream("rebuild", "--yes")
    await rig.settled()
    again = await checker.read_run(rig.settings)
    wrong += checker.other_states(_without_lives(again, rules), _without_lives(run, rules), rules)
    assert [row.value for row in again.moves] == [row.value for row in run.moves]
    assert not wrong, "\n".join(wrong)
    assert not rig.fleet.ended_alone


def _plain(run: checker.GroupRun) -> list[list[dict[str, Any]]]:
    """Return the moves of each partition without lives and outlooks, which an old worker doesn't publish."""
    later = {"life", "outlook"}
    return [[{k: v for k, v in move.items() if k not in later} for move in moves] for moves in run.published()]


def _without_lives(run: checker.GroupRun, rules: Rules) -> list[checker.ShardContent]:
    """Leave out what format 1 had forgotten, which only a rebuild brings back."""

    def brought(shard: checker.ShardContent) -> dict[bytes, bytes]:
        clock = shard.head["clock"]
        return {key: without_life(advance_bytes(value, clock, rules)) for key, value in shard.states.items()}

    return [replace(shard, states=brought(shard)) for shard in run.shards]
