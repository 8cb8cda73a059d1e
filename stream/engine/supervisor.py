"""The supervisor of a worker's shards: one task for each partition that the consumer group assigns to this worker.

The membership consumer never reads: its partitions are paused, and it polls to stay a member. Each shard has its own
consumer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import aiokafka.errors

from stream.engine.shard import Shard
from stream.errors import WorkerFailed
from stream.kafka.membership import GroupMembership

log = logging.getLogger(__name__)

DRAIN_S: Final = 20.0  # longest last turn of a shard
REPORT_S: Final = 1.0  # between two commits of the group's offsets
WATCH_S: Final = 5.0  # between two looks at the number of the input's partitions: one small request


class Supervisor:
    """Runs one shard task for each partition that the group assigns to this worker."""

    def __init__(self, membership: GroupMembership, make_shard: Callable[[int], Shard], partitions: int) -> None:
        """`make_shard` builds the shard of a partition. `partitions`: how many the input must have."""
        self._membership = membership
        self._make_shard = make_shard
        self._expected = partitions
        self._running: dict[int, tuple[Shard, asyncio.Task[None]]] = {}
        self._leaving: dict[asyncio.Task[None], int] = {}  # stopping, in their last turn
        self._stopping = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None

    @property
    def owned(self) -> int:
        """The number of shards that run here."""
        return len(self._running)

    @property
    def partitions(self) -> list[int]:
        """The partitions of the shards that run here."""
        return sorted(self._running)

    async def run(self) -> None:
        """Join the group, follow its assignments, and drain when stopped. Raises WorkerFailed, KafkaUnreachable."""
        self._failure = asyncio.get_running_loop().create_future()
        await self._membership.start()
        work = (self._poll(), self._follow(), self._report(), self._watch(), self._stopped())
        tasks: list[asyncio.Future[None]] = [asyncio.create_task(each) for each in work]
        try:
            done, _ = await asyncio.wait([*tasks, self._failure], return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                finished.result()
        finally:
            for task in tasks:
                task.cancel()
            last = self._shards()
            self._let_go(set(self._running))
            await self._drain()
            await self._membership.report(_progress(last))
            await self._membership.stop()

    def stop(self) -> None:
        """Let `run` finish the turns, leave the group and return."""
        self._stopping.set()

    async def _stopped(self) -> None:
        await self._stopping.wait()

    def _shards(self) -> dict[int, Shard]:
        return {partition: shard for partition, (shard, _) in self._running.items()}

    async def _report(self) -> None:
        """Commit the group's offsets at intervals: in each turn's transaction that would be two requests of six."""
        reported: dict[int, int] = {}
        while True:
            await asyncio.sleep(REPORT_S)
            progress = _progress(self._shards())
            if progress != reported and await self._membership.report(progress):
                reported = progress

    async def _watch(self) -> None:
        """Notice partitions that were added to the input, and an input that was deleted.

        Producers send some customers to other partitions from then on, so every shard must stop: its takeover finds
        the same, and quarantines it. aiokafka itself asks again after five minutes.
        """
        while True:
            await asyncio.sleep(WATCH_S)
            found = await self._membership.count_partitions()
            if found not in {None, self._expected}:
                log.warning("the input has %d partitions, expected %d", found, self._expected)
                for shard in self._shards().values():
                    shard.doubt("partitions_changed")

    async def _poll(self) -> None:
        while True:
            try:
                await self._membership.poll()
            except (aiokafka.errors.KafkaConnectionError, aiokafka.errors.KafkaTimeoutError, OSError) as error:
                log.warning("the consumer group can't be reached: %s", error)
                await asyncio.sleep(1)
            except aiokafka.errors.KafkaError as error:
                raise WorkerFailed(
                    f"the consumer group refuses this worker: {error!r}.",
                    hint="Look into the broker's log for the reason.",
                ) from error

    async def _follow(self) -> None:
        """After each assignment, stop the shards that were lost and start those that are new."""
        while True:
            await self._membership.changed.wait()
            self._membership.changed.clear()
            assigned = self._membership.assigned
            self._let_go(set(self._running) - assigned)
            for partition in sorted(assigned - set(self._running)):
                # A shard may come back before its last turn here has ended: never run it twice at one time.
                await self._drain([task for task, p in self._leaving.items() if p == partition])
                shard = self._make_shard(partition)
                task = asyncio.create_task(shard.run(), name=f"shard-{partition}")
                task.add_done_callback(self._ended)
                self._running[partition] = (shard, task)

    def _let_go(self, partitions: set[int]) -> None:
        for partition in partitions:
            shard, task = self._running.pop(partition)
            shard.stop()
            self._leaving[task] = partition
            task.add_done_callback(self._leaving.pop)

    async def _drain(self, tasks: Sequence[asyncio.Task[None]] | None = None) -> None:
        """Wait for the last turns of shards, at most DRAIN_S. `tasks` None: of all that are stopping."""
        waiting = list(self._leaving) if tasks is None else list(tasks)
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=DRAIN_S)
        for task in late:
            log.warning("%s didn't end its last turn within %d s: cancelled", task.get_name(), DRAIN_S)
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the worker where a shard's task has ended without being stopped."""
        # Asked for in any case: otherwise asyncio prints the errors of all shards but the first to fail.
        error = None if task.cancelled() else task.exception()
        if task in self._leaving or self._failure is None or self._failure.done():
            return
        self._failure.set_exception(error or WorkerFailed(f"{task.get_name()} ended by itself."))


def _progress(shards: Mapping[int, Shard]) -> dict[int, int]:
    return {partition: shard.offset for partition, shard in shards.items() if shard.offset is not None}
