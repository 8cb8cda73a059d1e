"""The end of the former shards: each is taken over once more, brought to rest, and sealed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from segmentation.step import Step
from stream.clock import now_ms
from stream.engine.flow_control import TurnSlots
from stream.engine.ledger import Publication
from stream.engine.ownership import Owned, ShardContext
from stream.engine.store import ShardStore
from stream.engine.takeover import take_over
from stream.engine.turns import Turns
from stream.errors import SegstreamError, ShardLost
from stream.kafka.refusals import denial
from stream.kafka.streams import Streams
from stream.metrics import Metrics
from stream.rates.topic import RateReader
from stream.reshard.placement import Sealed, kafka_head
from stream.status.board import StatusBoard

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from stream.settings import Settings

log = logging.getLogger(__name__)

ATTEMPTS: Final = 20  # a worker that tries to take a sealed shard over fences this command once each time
AT_ONCE: Final = 8  # shards: a takeover mostly waits for Kafka's answers
QUIET_S: Final = 60.0  # longest time without a turn while a shard is drained


class ShardNotSealed(SegstreamError):
    """A former shard can't be brought to its end."""


class _CommandAsMember:
    """The command in place of a member of the consumer group, which must be empty."""

    def identity(self) -> tuple[int, str]:
        return 0, "segstream reshard"

    async def confirm(self, partition: int) -> bool:
        del partition
        return True


class Sealer:
    """Brings the former shards of one step to their end."""

    def __init__(self, settings: Settings, streams: Streams, step: Step, redis: Redis, partitions: int) -> None:
        """Use settings and step of the former count. `partitions`: the new one."""
        self._settings = settings
        self._streams = streams
        self._step = step
        self._redis = redis
        self._partitions = partitions
        self._rates = RateReader(settings)

    async def seal(self, *, drained: bool, report: Callable[[str], None]) -> list[Sealed]:
        """Seal all shards; return how they ended. `drained`: first take turns up to the end of the input.

        Raises ShardQuarantined where a shard needs help first, ShardNotSealed where others keep it, KafkaDenied.
        """

        async def seal(partition: int) -> Sealed:
            sealed = await self._seal(partition, drained=drained)
            report(f"{self._streams.input}-{partition}: sealed at offset {sealed.head.offset:,}")
            return sealed

        return await self._all(seal)

    async def look(self) -> list[Sealed]:
        """Take all shards over, and leave them as they are. Return how they are. Raises as `seal` does."""
        return await self._all(lambda partition: self._seal(partition, drained=False, sealed=False))

    async def _all(self, work: Callable[[int], Awaitable[Sealed]]) -> list[Sealed]:
        """Return the results of all shards, AT_ONCE of them at a time. The first error ends the others."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(partition: int) -> Sealed:
            async with slots:
                return await work(partition)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(partition)) for partition in range(self._settings.partitions)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        finally:
            await self._rates.close()
        return [task.result() for task in tasks]

    async def _seal(self, partition: int, *, drained: bool, sealed: bool = True) -> Sealed:
        store = ShardStore.of(self._redis, self._settings, self._streams.input, partition)
        context = ShardContext(
            self._settings, self._streams, partition, self._step, store, _CommandAsMember(), self._rates,
            handing_over=True,
        )  # fmt: skip
        error: Exception | None = None
        for attempt in range(ATTEMPTS):
            try:
                return await self._try(context, drained=drained, sealed=sealed)
            except SegstreamError as failure:
                if not isinstance(failure, ShardLost):
                    raise
                error = failure
            except Exception as failure:  # as in a worker: one rule for all errors
                if denied := denial(self._settings, failure):
                    raise denied from failure
                error = failure
            log.info("%s: %r; taking it over again", context, error)
            await asyncio.sleep(min(5.0, 0.1 * 2**attempt))
        raise ShardNotSealed(
            f"{context} couldn't be brought to its end: {error!r}.",
            hint="Stop every worker and dispatcher of the group, then run the same command again.",
        ) from error

    async def _try(self, context: ShardContext, *, drained: bool, sealed: bool) -> Sealed:
        owned = await take_over(context, now_ms(), asyncio.Event())
        try:
            if drained:
                await self._drain(owned)
            # With the new count in its head, no worker of the former one takes the shard over any more.
            if sealed:
                head = replace(kafka_head(owned.head), judged=owned.judged, reread=owned.reread)
                await owned.ledger.cover(Publication(replace(head, partitions=self._partitions)))
            # The journal keeps it: without the id of the customer that a rescore has come to.
            anonymous = None if owned.head.cursor is None else ""
            return Sealed(replace(owned.head, cursor=anonymous, quiet="", stored=None), list(owned.judged))
        finally:
            await owned.close()

    async def _drain(self, owned: Owned) -> None:
        """Take turns until the input is at its end, to which nobody writes any more; side inputs at that of before."""
        context = owned.shard
        _, end = (await owned.reader.bounds([self._streams.input], context.partition))[self._streams.input]
        owned.reader.seek(self._streams.input, context.partition, owned.head.offset)
        board = StatusBoard(self._redis, self._settings.group, self._streams.input, "segstream reshard", now_ms)
        await board.put(context, "running", owned.head)
        turns = Turns(context, None, Metrics(), board, TurnSlots(1), now_ms, asyncio.Event())
        turns.begin(owned)
        place, deadline = _place(owned), time.monotonic() + QUIET_S
        while owned.head.offset < end or owned.sides.are_behind:
            await turns.turn(owned)
            if _place(owned) != place:
                place, deadline = _place(owned), time.monotonic() + QUIET_S
            elif time.monotonic() > deadline:
                raise ShardLost("read_timeout", f"{context} can't be read from {place}.")
        await board.release(context)


def _place(owned: Owned) -> dict[str, int]:
    """Return where a shard stands in each of its inputs."""
    return owned.sides.offsets | {owned.shard.streams.input: owned.head.offset}
