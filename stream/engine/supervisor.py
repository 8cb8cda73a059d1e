"""Kafka in: which shards are this worker's, by membership in the consumer group, and one task for each.

The membership consumer never reads: its partitions are paused, it polls to stay a member. Each shard reads through a
consumer of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import aiokafka.errors

from stream.engine.shard import Shard
from stream.errors import WorkerFailed
from stream.kafka.membership import GroupMembership

log = logging.getLogger(__name__)

DRAIN_S: Final = 20.0  # how long a shard may take over its last turn
REPORT_S: Final = 1.0  # between two reports of the group's offsets


class Supervisor:
    """Runs one shard task for each partition that the group gives this worker."""

    def __init__(self, membership: GroupMembership, make_shard: Callable[[int], Shard]) -> None:
        """`make_shard` builds the shard of a partition."""
        self._membership = membership
        self._make_shard = make_shard
        self._running: dict[int, tuple[Shard, asyncio.Task[None]]] = {}
        self._leaving: dict[asyncio.Task[None], int] = {}  # told to stop, in their last turn
        self._stopping = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None

    @property
    def owned(self) -> int:
        """How many shards run here."""
        return len(self._running)

    @property
    def partitions(self) -> list[int]:
        """The partitions of these shards."""
        return sorted(self._running)

    async def run(self) -> None:
        """Join, follow the assignments, drain when stopped. Raises WorkerFailed."""
        self._failure = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._membership.start(), 60)
        except (aiokafka.errors.KafkaError, OSError, TimeoutError) as error:
            raise WorkerFailed(
                f"Kafka can't be reached: {error!r}.",
                hint="Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS; `segstream local up` starts one.",
            ) from error
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(work) for work in (self._poll(), self._follow(), self._report())
        ]
        stopping: asyncio.Task[Any] = asyncio.create_task(self._stopping.wait())
        try:
            watched: list[asyncio.Future[Any]] = [*tasks, stopping, self._failure]
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                finished.result()
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            last = self._shards()
            self._let_go(set(self._running))
            await self._drain()
            await self._membership.report(_progress(last))
            await self._membership.stop()

    def stop(self) -> None:
        """Finish the turns, leave the group; `run` returns."""
        self._stopping.set()

    def _shards(self) -> dict[int, Shard]:
        return {partition: shard for partition, (shard, _) in self._running.items()}

    async def _report(self) -> None:
        """The group's offsets, at intervals: in the turn's transaction they would cost two requests of six."""
        reported: dict[int, int] = {}
        while True:
            await asyncio.sleep(REPORT_S)
            progress = _progress(self._shards())
            if progress != reported and await self._membership.report(progress):
                reported = progress

    async def _poll(self) -> None:
        while True:
            try:
                await self._membership.poll()
            except (aiokafka.errors.KafkaConnectionError, aiokafka.errors.KafkaTimeoutError, OSError) as error:
                log.warning("the group can't be reached: %s", error)
                await asyncio.sleep(1)
            except aiokafka.errors.KafkaError as error:
                raise WorkerFailed(
                    f"the consumer group refuses this worker: {error!r}.", hint="The broker's log says more."
                ) from error

    async def _follow(self) -> None:
        """After each assignment: stop what was lost, take over what is new, leave the rest alone."""
        while True:
            await self._membership.changed.wait()
            self._membership.changed.clear()
            assigned = self._membership.assigned
            self._let_go(set(self._running) - assigned)
            for partition in sorted(assigned - set(self._running)):
                # A shard that comes back while its last turn here isn't over: one at a time.
                await self._gone(partition)
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

    async def _gone(self, partition: int) -> None:
        await self._drain([task for task, p in self._leaving.items() if p == partition])

    async def _drain(self, tasks: Sequence[asyncio.Task[None]] | None = None) -> None:
        """Wait for last turns, but not for ever."""
        waiting = list(self._leaving) if tasks is None else list(tasks)
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=DRAIN_S)
        for task in late:
            log.warning("%s takes too long over its last turn: cancelled", task.get_name())
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A shard's task ends when it is told to. In any other case the worker must not live on as if nothing were."""
        if task in self._leaving or self._failure is None or self._failure.done():
            return
        error = None if task.cancelled() else task.exception()
        self._failure.set_exception(error or WorkerFailed(f"{task.get_name()} ended by itself."))


def _progress(shards: Mapping[int, Shard]) -> dict[int, int]:
    return {partition: shard.offset for partition, shard in shards.items() if shard.offset is not None}
