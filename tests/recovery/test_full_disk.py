"""A disk that fills up under Valkey, or under Kafka: small file systems of the test's own, with a ballast that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.recovery.servers import Servers
from tests.recovery.world import World, eventually, settings_on, world

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(600)]

SIZES: Final = {"valkey-a": "48m", "kafka": "160m"}
ROOM: Final = 64 * 1024  # left over when the ballast lies: some turns, then nothing
SOON_S: Final = 120.0


class Disk:
    """A file system of a few megabytes."""

    def __init__(self, folder: Path, size: str) -> None:
        folder.mkdir(parents=True)
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here (it takes root): {error}")
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(ROOM)) == ROOM:
                pass
        with self._ballast.open("r+b") as file:
            file.truncate(self._ballast.stat().st_size - ROOM)

    def free(self) -> None:
        self._ballast.unlink()

    def close(self) -> None:
        # Lazily: a server that is still being stopped has files there.
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture(params=SIZES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "servers" / request.param, SIZES[request.param])
    try:
        yield made
    finally:
        made.close()


def troubles(shop: World) -> int:
    return len(shop.fleet.grep("taking over afresh"))


async def test_a_disk_that_fills_up(disk: Disk, tmp_path: Path, seed: int) -> None:
    """Nothing is lost, nothing is told twice; once there is room again, all comes to rest by itself (Kafka is started again)."""
    with Servers(tmp_path / "servers", 2) as servers:
        async with world(servers, tmp_path / "run", seed, settings_on(servers, partitions=2)) as shop:
            shop.fleet.start(0)
            await shop.feed(200)
            assert await shop.feeder.activate()
            await shop.feed(50)
            await shop.settled()
            before = troubles(shop)
            disk.fill()
            feeding = asyncio.create_task(shop.feed(2_000, pace_s=0.05))
            await eventually(lambda: troubles(shop) > before, SOON_S, "a worker in trouble")
            disk.free()
            await asyncio.to_thread(servers.heal)
            await feeding
            await shop.judge()
