"""A disk that fills up under Valkey or Kafka: small file systems that shrink and grow."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.world import RecoveryWorld, eventually, settings_on, world

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(600)]

WHOLE: Final = (
    "1100m"  # a server doesn't start with less than a gigabyte of room; it is taken from memory as far as it is used
)
ROOM: Final = 64 * 1024  # what is left when it is full: some turns, then nothing
SOON_S: Final = 120.0


class Disk:
    """A file system of a given size."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        try:
            self._mount("-t", "tmpfs", "-o", f"size={WHOLE}", "tmpfs")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here (it takes root): {error}")

    def fill(self) -> None:
        """Leave hardly more room than is used."""
        self._mount("-o", f"remount,size={shutil.disk_usage(self.folder).used + ROOM}")

    def free(self) -> None:
        self._mount("-o", f"remount,size={WHOLE}")

    def close(self) -> None:
        # Lazily: a server that is still stopping has files there.
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def _mount(self, *how: str) -> None:
        subprocess.run(["mount", *how, str(self.folder)], check=True, capture_output=True)


@pytest.fixture(params=["valkey-a", "kafka"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "servers" / request.param)
    try:
        yield made
    finally:
        made.close()


def troubles(rig: RecoveryWorld) -> int:
    return len(rig.fleet.grep("taking over afresh"))


async def test_a_disk_that_fills_up(disk: Disk, tmp_path: Path, seed: int) -> None:
    """Nothing is lost or published twice. Once there is room again, all comes to rest (Kafka is started again)."""
    with RigServers(tmp_path / "servers", 2) as servers:
        async with world(servers, tmp_path / "run", seed, settings_on(servers, partitions=2)) as rig:
            rig.fleet.start(0)
            await rig.feed(200)
            assert await rig.feeder.activate()
            await rig.feed(50)
            await rig.settled()
            before = troubles(rig)
            disk.fill()
            feeding = asyncio.create_task(rig.feed(2_000, pace_s=0.05))
            await eventually(lambda: troubles(rig) > before, SOON_S, "a worker in trouble")
            disk.free()
            await asyncio.to_thread(servers.heal)
            await feeding
            await rig.judge()
