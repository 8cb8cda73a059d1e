"""`segstream reshard`: the order of its steps, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.partitioners import PARTITIONERS, Partitioner
from segmentation.step import Step
from stream.engine.log_reader import LogReader
from stream.errors import SegstreamError, ShardLost, ShardQuarantined
from stream.kafka import topics
from stream.kafka.growth import grow, members, partition_counts
from stream.kafka.streams import streams_of
from stream.reshard.journal import Phase, Reshard, StepHandover, read_journal, write_reshard
from stream.reshard.kafka_part import KafkaPart, reshard_producer
from stream.reshard.moving import MovingShard, look_at
from stream.reshard.placement import Sealed, inherit
from stream.reshard.redis_part import RedisPart
from stream.reshard.sealing import Sealer
from stream.storage.client import connect

if TYPE_CHECKING:
    from stream.settings import Settings

STEPS: Final = ("scoring", "campaigns")  # in this order: the moves of the first are the input of the second
RESEALS: Final = 3


class ReshardRefused(SegstreamError):
    """This reshard can't be done, and nothing was changed."""


class Plan(NamedTuple):
    """The effects of a reshard. `begun`: an earlier run of the command left off; None: it is a new one."""

    former: int
    partitions: int
    number: int
    steps: tuple[str, ...]
    grows: dict[str, int]  # topics with fewer partitions, by name
    customers: int
    begun: Reshard | None

    def lines(self) -> list[str]:
        """Return what to tell the operator."""
        if self.begun:
            first = f"goes on with the reshard from {self.former} to {self.partitions} partitions ({self.begun.phase})"
        else:
            first = (
                f"goes from {self.former} to {self.partitions} partitions; of {self.customers:,} customers those move "
                "whose partition changes"
            )
        topics_ = ", ".join(f"{name} ({count})" for name, count in self.grows.items())
        return [
            first,
            f"steps: {', '.join(self.steps)}",
            f"topics that get {self.partitions} partitions, for good: {topics_ or 'none, all have them'}",
        ]


class Resharder:
    """One run of the command. After a crash at any point the next run goes on where this one ended."""

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        step_of: Callable[[Settings, str], Step],
        report: Callable[[str], None],
    ) -> None:
        """Connect to nothing yet. `partitions`: the new count. `step_of`: builds a step for settings."""
        self._settings = settings
        self._new = settings.model_copy(update={"partitions": partitions})
        self._step_of = step_of
        self._report = report
        self._redis = connect(settings)

    async def close(self) -> None:
        """Close the connection to Redis."""
        await self._redis.aclose()

    async def plan(self) -> Plan:
        """Look at everything and change nothing. Raises ReshardRefused."""
        self._partitioner()
        journal = await read_journal(self._settings)
        partitions = self._new.partitions
        shards = {step: await self._look(step) for step in STEPS}
        begun = _begun(journal, shards)
        if begun and begun.partitions != partitions:
            raise ReshardRefused(
                f"a reshard to {begun.partitions} partitions was begun and isn't finished.",
                hint=f"Finish it first: `segstream reshard --partitions {begun.partitions}`.",
            )
        former = begun.former if begun else self._former(shards["scoring"], journal)
        if begun is None and former >= partitions:
            raise ReshardRefused(
                f"the group has {former} partitions, expected fewer than {partitions}."
                + (" There is nothing to do." if former == partitions else ""),
                hint="" if former == partitions else "Kafka can't reduce a number of partitions, nor can segstream.",
            )
        if begun is None:
            _refuse_begun_shards(shards, former)
        grows = await self._check_topics(former)
        if found := await members(self._settings, [self._settings.group_of(step) for step in STEPS]):
            raise ReshardRefused(
                f"workers still run: {', '.join(f'{count} in the group {name}' for name, count in found.items())}.",
                hint="Stop all workers and dispatchers of the group; one that was killed leaves after its session "
                "time-out (SEGSTREAM_SESSION_TIMEOUT_MS).",
            )
        steps = tuple(begun.steps) if begun else tuple(s for s in STEPS if any(m.head for m in shards[s].values()))
        customers = sum([await self._redis.zcard(m.keys.customers) for m in shards["scoring"].values()])
        number = begun.number if begun else (journal[-1].number + 1 if journal else 1)
        return Plan(former, partitions, number, steps, grows, customers, begun)

    def _partitioner(self) -> Partitioner:
        partitioner = PARTITIONERS[self._settings.partitioner]
        if partitioner is None:
            raise ReshardRefused(
                "SEGSTREAM_PARTITIONER is none: nobody knows on which partition a customer's next order will come.",
                hint="Set it to your producers' partitioner if they have one. Otherwise start over with another "
                "SEGSTREAM_GROUP and new topics.",
            )
        return partitioner

    async def _look(self, step: str) -> Mapping[int, MovingShard]:
        streams = streams_of(self._settings, step)
        return await look_at(self._settings, streams, self._redis, range(self._new.partitions))

    def _former(self, shards: Mapping[int, MovingShard], journal: list[Reshard]) -> int:
        if journal:
            return journal[-1].partitions
        counts = {shard.head.partitions[0] for shard in shards.values() if shard.head}
        if not counts:
            raise ReshardRefused(
                f"Redis has no shard of the group {self._settings.group!r}.",
                hint="A group that was never in use needs no reshard: set SEGSTREAM_PARTITIONS, and run "
                "`segstream topics create`. If Redis was lost: `segstream rebuild` comes first.",
            )
        return min(counts)

    async def _check_topics(self, former: int) -> dict[str, int]:
        """Return the topics that will grow. Raises ReshardRefused where some can't."""
        partitions = self._new.partitions
        counts = await partition_counts(self._new)
        orders = counts.get(self._settings.orders_topic, 0)
        if orders not in {former, partitions}:
            raise ReshardRefused(
                f"the topic {self._settings.orders_topic} has {orders} partitions, expected {former} or {partitions}.",
                hint=f"It was given {orders} by hand: run `segstream reshard --partitions {orders}` first."
                if former < orders < partitions
                else f"Give --partitions {max(orders, former)} or more.",
            )
        if larger := [f"{name} ({count})" for name, count in counts.items() if count > partitions]:
            raise ReshardRefused(
                f"topics have more than {partitions} partitions already: {', '.join(larger)}.",
                hint="Give the largest of these counts as --partitions.",
            )
        return {name: count for name, count in counts.items() if count < partitions}

    async def run(self, plan: Plan) -> None:
        """Do what the plan says.

        1. Every former shard is taken over once: one that is quarantined is found before anything is changed.
        2. The topics grow. No worker that starts from now on takes over a shard of the former count.
        3. Each shard is taken over by this command, and a head with the new count seals it. Scoring first; then
           campaigns, which take the last moves from their input.
        4. The journal, in Kafka: where each shard was handed over.
        5. Kafka's part: the latest moves, the remains of erased customers, the new heads. The journal says so.
        6. Redis' part: the customers, then the heads of the new count: from then on workers may start.

        Raises ReshardRefused, ShardNotSealed, ShardQuarantined, RedisNotSealed, AnotherReshard.
        """
        reshard = plan.begun
        async with AsyncExitStack() as stack:
            await topics.create(self._settings)
            if reshard is None:
                await self._check_shards(plan)  # 1
            await grow(self._new)  # 2
            producer = await stack.enter_async_context(reshard_producer(self._settings))
            reader = LogReader(self._new)
            stack.push_async_callback(reader.close)
            await reader.start()
            for attempt in range(RESEALS):
                if reshard is None:
                    reshard = await self._seal(plan, reader)  # 3
                    await write_reshard(producer, self._settings.reshards_topic, reshard)  # 4
                if reshard.phase is Phase.SEALED:
                    part = KafkaPart(self._new, self._partitioner(), producer, reader)
                    try:
                        await self._move_in_kafka(part, reshard)  # 5
                    except ShardLost:
                        if attempt == RESEALS - 1:
                            raise
                        reshard = None
                        continue
                    reshard = reshard.at(Phase.COMMITTED)
                    await write_reshard(producer, self._settings.reshards_topic, reshard)
                break
            assert reshard is not None
            for step in reshard.steps:  # 6
                streams = streams_of(self._new, step)
                await RedisPart(self._new, streams, self._redis, self._partitioner(), reshard, self._report).move()
            await write_reshard(producer, self._settings.reshards_topic, reshard.at(Phase.DONE))

    def _of_former(self, plan: Plan) -> Settings:
        return self._settings.model_copy(update={"partitions": plan.former})

    async def _check_shards(self, plan: Plan) -> None:
        settings = self._of_former(plan)
        for step in plan.steps:
            sealer = Sealer(settings, streams_of(settings, step), self._step_of(settings, step), self._redis, 0)
            heads = [shard.head for shard in await _or_refuse(sealer)]
            inherit(heads, plan.partitions, [0] * plan.partitions)  # raises where the backfills are too many

    async def _seal(self, plan: Plan, reader: LogReader) -> Reshard:
        settings, steps = self._of_former(plan), {}
        for step in plan.steps:
            streams = streams_of(settings, step)
            sealer = Sealer(settings, streams, self._step_of(settings, step), self._redis, plan.partitions)
            sealed = await sealer.seal(drained=step == "campaigns", report=self._report)
            begins = [(await reader.bounds([streams.input], p))[streams.input][0] for p in range(plan.partitions)]
            steps[step] = StepHandover(sealed, inherit([s.head for s in sealed], plan.partitions, begins))
        return Reshard(plan.number, plan.former, plan.partitions, Phase.SEALED, steps)

    async def _move_in_kafka(self, part: KafkaPart, reshard: Reshard) -> None:
        for step, handover in reshard.steps.items():
            streams = streams_of(self._new, step)
            if streams.latest:
                moved = await part.move_latest(streams.latest, reshard)
                self._report(f"{streams.latest}: {moved:,} customers moved")
            if streams.tombstones:
                await part.copy_tombstones(streams.tombstones, [s.head for s in handover.sealed], reshard.partitions)
            await part.write_heads(streams, handover, self._report)


def _begun(journal: list[Reshard], shards: Mapping[str, Mapping[int, MovingShard]]) -> Reshard | None:
    """Return the reshard to go on with: one that isn't done, or whose work in Redis is gone, restored from before."""
    if not journal:
        return None
    last = journal[-1]
    if last.phase is not Phase.DONE:
        return last
    moved = [shards[step][p] for step in last.steps for p in range(last.partitions) if p in shards[step]]
    return None if all(shard.is_ready(last.partitions) for shard in moved) else last.at(Phase.COMMITTED)


def _refuse_begun_shards(shards: Mapping[str, Mapping[int, MovingShard]], former: int) -> None:
    begun = [m.keys.shard for of in shards.values() for p, m in of.items() if p >= former and m.head is not None]
    if begun:
        raise ReshardRefused(
            f"{', '.join(begun)} were begun by workers of the new count before their customers had been moved.",
            hint="Their customers have two chains of moves already. Start over with another SEGSTREAM_GROUP "
            "(docs/how-to/add-partitions.md).",
        )


async def _or_refuse(sealer: Sealer) -> list[Sealed]:
    try:
        return await sealer.look()
    except ShardQuarantined as error:
        raise ReshardRefused(
            f"a shard needs help first ({error.reason}): {error}",
            hint="The runbook says what to do for each reason.",
        ) from error


async def reshard(
    settings: Settings, partitions: int, step_of: Callable[[Settings, str], Step], report: Callable[[str], None]
) -> None:
    """Plan and run in one go."""
    resharder = Resharder(settings, partitions, step_of, report)
    try:
        await resharder.run(await resharder.plan())
    finally:
        await asyncio.shield(resharder.close())
