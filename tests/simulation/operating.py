"""The operator of a run: does what quarantines ask for, and changes settings for good, by the commands' own code."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from stream.errors import SegstreamError
from stream.repair.rebuild import OtherSettings, Rebuilder
from stream.repair.reconfigure import Reconfigurer
from tests.simulation.fleet import step_of
from tests.simulation.virtual_loop import WORLD, Host

if TYPE_CHECKING:
    from tests.simulation.fleet import SimulatedFleet
    from tests.simulation.world import SimulatedWorld

LOOK_S: Final = 0.5
# When the settings change, and how long a run of the command lives: the last one to its end.
BEGINS_S: Final = (0.5, 1.0, 2.0, 3.0, 4.5)
LIVES_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 100.0)

ERRORS: Final = (KafkaError, RedisError, SegstreamError, TimeoutError, AssertionError)


class Operator:
    """Looks after the shards of a run."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._rng = random.Random(f"{world.case.seed}:operator")
        self._tasks: list[asyncio.Task[None]] = []
        self._rebuilds: set[tuple[SimulatedFleet, int]] = set()  # shards to be rebuilt when they stop
        self.is_done = True  # with the change of settings

    def note_stopped(self, fleet: SimulatedFleet, partition: int, reason: str, line: str) -> None:
        """Be told of a shard that is quarantined. Whatever is no consequence of the run's plot is a fault."""
        world = self._world
        world.note(line)
        if reason == "settings_changed" and world.case.change:
            return
        if reason != "redis_lost" or not world.troubles.has_lost:
            world.stopped.append(line)
        else:
            self._look_after(fleet, partition)

    def _look_after(self, fleet: SimulatedFleet, partition: int) -> None:
        if (fleet, partition) not in self._rebuilds:
            self._rebuilds.add((fleet, partition))
            self._begin(self._rebuild(fleet, partition))

    def _begin(self, work: asyncio._CoroutineLike[None]) -> None:
        self._tasks.append(self._world.loop.create_task(work, context=WORLD))

    def is_busy(self) -> bool:
        """Return whether a shard waits for its operator, or a change of settings isn't done."""
        return not self.is_done or any(self._is_quarantined(*shard) for shard in self._world.shards())

    def _is_quarantined(self, fleet: SimulatedFleet, partition: int) -> bool:
        found = self._world.place.server.command(b"HGET", fleet.status_key, b"%d" % partition)
        return b'"quarantined"' in (found or b"")

    def _retry(self, fleet: SimulatedFleet, partition: int) -> None:
        self._world.place.server.command(b"HDEL", fleet.status_key, b"%d" % partition)

    async def _rebuild(self, fleet: SimulatedFleet, partition: int) -> None:
        """Make the shard anew from Kafka whenever it stops, and let it try again.

        While the settings change, Kafka's head may be under those of before: then these are restored for the rebuild.
        """
        restored = False
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._is_quarantined(fleet, partition):
                continue
            settings = self._world.settings if restored else fleet.settings
            try:
                rebuilder = Rebuilder(settings, fleet.streams, step_of(settings, fleet.step.name))
                async for line in rebuilder.rebuild(partition):
                    self._world.note(line)
            except ERRORS as error:
                self._world.note(f"the rebuild failed: {error!r}")
                restored = isinstance(error, OtherSettings) and not restored
            else:
                self._retry(fleet, partition)

    def change_settings(self) -> None:
        """Change the settings of the workers some time after now, as docs/how-to/change-settings.md says."""
        self.is_done = False
        self._begin(self._change_settings())

    async def _change_settings(self) -> None:
        """Processes that start from now on have the new settings. The command is killed until it has done its work."""
        world, rng = self._world, self._rng
        fleet = world.fleets[0]
        await asyncio.sleep(rng.choice(BEGINS_S))
        world.note(f"the settings change: {world.case.change}")
        old = list(fleet.hosts)
        fleet.change_settings(world.settings_after())
        if rng.random() < 0.5:
            self._stop(old)
        lives = sorted(rng.sample(LIVES_S, rng.randrange(1, 4)))
        while True:
            await asyncio.sleep(LOOK_S)
            if await self._reconfigure(fleet, lives.pop(0) if len(lives) > 1 else LIVES_S[-1]):
                break
        world.note("the settings are changed")
        self._stop(old)
        self.is_done = True
        while True:
            await asyncio.sleep(LOOK_S)
            for p in range(world.case.partitions):
                if self._is_quarantined(fleet, p) and (fleet, p) not in self._rebuilds:
                    self._retry(fleet, p)

    def _stop(self, hosts: list[Host]) -> None:
        for host in hosts:
            if host.alive and (supervisor := self._world.fleets[0].supervisors.get(host)):
                supervisor.stop()

    async def _reconfigure(self, fleet: SimulatedFleet, lives_s: float) -> bool:
        """Run the command in a process of its own. Return whether it has come to its end."""
        host = Host("reconfigure")
        task = host.start(self._world.loop, self._command(fleet))
        await asyncio.wait([task], timeout=lives_s)
        if not task.done():
            self._world.note("the command is killed")
            host.alive = False
            return False
        return task.result()

    async def _command(self, fleet: SimulatedFleet) -> bool:
        reconfigurer = Reconfigurer(fleet.settings, fleet.streams, fleet.step)
        try:
            async for line in reconfigurer.change(await reconfigurer.look(), self._world.wall_ms()):
                self._world.note(line)
        except ERRORS as error:
            self._world.note(f"the command failed: {error!r}")
            if self._world.troubles.has_lost:
                # Workers under the new settings stop for these first; the command says that Redis is lost, too.
                for p in range(self._world.case.partitions):
                    if f"shard {p} can't be taken over (redis_lost)" in str(error):
                        self._look_after(fleet, p)
            return False
        finally:
            await reconfigurer.close()
        return True
