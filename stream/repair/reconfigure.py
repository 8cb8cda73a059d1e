"""`segstream reconfigure`: the shards of the scoring step go over to other settings, for good.

A change of settings is a transaction of its own, like the start of a model: a head that has the new settings, and,
where moves depend on them, begins a rescore. An owner under the old settings writes it: for a moment, this command.
What Redis needs follows from it: the next takeover brings the states to the settings of Kafka's head
(stream/engine/agreement.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from segmentation.agreed import Agreed, Difference, JudgedBefore, Way, differences, way_from
from segmentation.step import Scope
from stream.engine.agreement import settings_held
from stream.engine.ledger import Publication
from stream.engine.log_reader import LogReader
from stream.engine.ownership import ShardContext
from stream.engine.store import ShardStore
from stream.engine.takeover import follow
from stream.errors import SegstreamError, ShardLost, ShardQuarantined
from stream.kafka.refusals import denial
from stream.rates.topic import RateReader
from stream.storage.client import connect
from stream.storage.heads import KafkaHead
from stream.storage.reads import HeadUnreadable, parse_head

if TYPE_CHECKING:
    from segmentation.step import Step
    from stream.kafka.streams import Streams
    from stream.settings import Settings

log = logging.getLogger(__name__)

ATTEMPTS: Final = 20  # a worker under the old settings that still runs may take its shard back in between
PAUSE_S: Final = 0.5
COMMAND: Final = "segstream reconfigure"
CONSEQUENCES: Final = {
    Way.ADOPT: "later records are judged by the new settings",
    Way.RESCORE: "all customers are scored again",
    Way.READ_AGAIN: "all records are read again, then all customers are scored again",
}


class InputShortened(SegstreamError):
    """States must be read again, but the input doesn't start with its first record any more."""


class ShardsNotChanged(SegstreamError):
    """Some shards are still under their old settings. The others are changed."""


@dataclass(frozen=True, slots=True)
class ShardChange:
    """One shard: the settings that it is under, and those that differ from the wanted ones."""

    partition: int
    held: Agreed | None  # None: none are known
    differences: list[Difference]
    begin: int  # where its input starts
    era: int = 0  # how often its input was made anew
    begun: bool = True  # Kafka has a head of it

    @property
    def way(self) -> Way | None:
        """How it goes over; None: nothing differs."""
        return max((difference.way for difference in self.differences), default=None)


class _Alone:
    """The group, as this command needs it: it takes a shard from whichever owner it has."""

    def identity(self) -> tuple[int, str]:
        """Return the lowest generation, so that no worker stands down for it."""
        return 0, COMMAND

    async def confirm(self, partition: int) -> bool:
        """Return that the shard may be taken."""
        del partition  # the contract asks for it
        return True


class Reconfigurer:
    """Brings the shards of the scoring step under the settings of this command."""

    def __init__(self, settings: Settings, streams: Streams, step: Step) -> None:
        """`step`: under the new settings. Call `look`, then `change`, then `close`."""
        self._settings = settings
        self._streams = streams
        self._step = step
        self._reader = LogReader(settings)
        self._redis = connect(settings)
        self._rates = RateReader(settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._reader.close()
        await self._rates.close()
        await self._redis.aclose()

    async def look(self) -> list[ShardChange]:
        """Return what each shard is under. Raises ShardQuarantined where Kafka's heads can't be read."""
        await self._reader.start()
        _, counts = await self._reader.describe(self._streams.pinned())
        return [await self._look(partition) for partition in range(counts[self._streams.input])]

    async def change(self, shards: Sequence[ShardChange], now_ms: int) -> AsyncIterator[str]:
        """Change shard by shard, and yield a line about each.

        Killed at any moment, each shard is under the old settings or the new ones; a second run does the rest. Raises
        ShardsNotChanged where some stay under the old ones.
        """
        left: list[str] = []
        for shard in shards:
            if shard.way is None and shard.begun:
                yield f"shard {shard.partition}: under these settings already"
                continue
            try:
                way = (await self._change(shard, now_ms)).way
            except ShardQuarantined as stop:
                left.append(f"shard {shard.partition} can't be taken over ({stop.reason}): {stop}")
            except (ShardLost, KafkaError, RedisError, TimeoutError, AssertionError) as error:
                left.append(f"shard {shard.partition} was taken back again and again: {error}")
            else:
                done = CONSEQUENCES[way] if way else "it had no turn yet"
                yield f"shard {shard.partition}: changed; {done}"
        if left:
            raise ShardsNotChanged(
                f"not changed: {'; '.join(left)}",
                hint="Fix that, stop the workers that still have the old settings, and run the command again.",
            )
        assert self._step.agreed is not None
        await self._store(0).change_agreed(msgspec.json.encode(self._step.agreed))

    def _store(self, partition: int) -> ShardStore:
        return ShardStore.of(self._redis, self._settings, self._streams.input, partition)

    async def _look(self, partition: int) -> ShardChange:
        streams = self._streams
        bounds = await self._reader.bounds(streams.pinned(), partition)
        kafka = await self._reader.last_kafka_head(streams.heads, partition, *bounds[streams.heads])
        store, head = self._store(partition), None
        try:
            if (raw := await store.read_head()) is not None:
                head = parse_head(raw, f"{streams.input}-{partition}")
        except (ShardQuarantined, HeadUnreadable) as stop:
            log.debug("shard %d: %s", partition, stop)  # Kafka's head decides; `change` reports what is wrong
        held = await settings_held(store, kafka, head)
        wanted = self._step.agreed
        differ = differences(held, wanted) if held is not None and wanted is not None else []
        era = kafka.era if kafka else 0
        return ShardChange(partition, held, differ, bounds[streams.input][0], era, begun=kafka is not None)

    async def _change(self, change: ShardChange, now_ms: int) -> ShardChange:
        """Change one shard, again and again while a worker of the old settings takes it back.

        One without a head, too: else an owner that has looked already would begin it under the old settings. Return
        what it was under in the end.
        """
        last: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_S * random.uniform(0.1, 1.0))  # noqa: S311  # jitter, not a secret
            try:
                await self._publish(self._shard(change), now_ms)
            except ShardQuarantined as stop:
                if stop.reason != "settings_changed":
                    raise
                change, last = await self._look(change.partition), stop  # an owner has begun it in between
            # A fenced producer may also fail in an assertion of aiokafka.
            except (ShardLost, KafkaError, RedisError, TimeoutError, AssertionError) as error:
                if denied := denial(self._settings, error):
                    raise denied from error
                log.debug("%s-%d: %s; again", self._streams.input, change.partition, error)
                last = error
            else:
                return change
        assert last is not None
        raise last

    def _shard(self, change: ShardChange) -> ShardContext:
        step, partition = self._step.under(change.held) if change.held else self._step, change.partition
        store = self._store(partition)
        return ShardContext(self._settings, self._streams, partition, step, store, _Alone(), self._rates)

    async def _publish(self, shard: ShardContext, now_ms: int) -> None:
        """Own the shard for a moment, and commit the head that changes its settings."""
        owned, kafka, bounds = await follow(shard, now_ms)
        try:
            assert self._step.agreed is not None
            begin, _ = bounds[self._streams.input]
            head = changed(kafka, shard.step.agreed, self._step.agreed, begin)
            await owned.ledger.cover(Publication(head))
        finally:
            await owned.close()


def changed(head: KafkaHead, held: Agreed | None, wanted: Agreed, begin: int) -> KafkaHead:
    """Return Kafka's head with other settings; where moves depend on them, all customers are rescored.

    Records that are read again are judged by the new settings too. Otherwise the head notes by which they were judged,
    so that a replay comes to the same states. `begin`: where the input starts; of records before that nothing is kept.
    """
    way = way_from(held, wanted)
    judged = tuple(part for part in head.judged if part.era == head.era and part.until > begin)
    if way is Way.READ_AGAIN:
        judged = ()
    elif way is not None and held is not None:
        judged = (*judged, JudgedBefore(head.offset, held, head.era))
    number = head.changes + 1
    reread = number if way is Way.READ_AGAIN else head.reread
    after = msgspec.structs.replace(head, agreed=wanted, judged=judged, changes=number, reread=reread)
    return after if way in {None, Way.ADOPT} else msgspec.structs.replace(after, cursor="", scope=Scope.SETTINGS)


def shortened(shards: Sequence[ShardChange]) -> list[ShardChange]:
    """Return the shards whose records must be read again, but are gone in part."""
    return [shard for shard in shards if shard.way is Way.READ_AGAIN and (shard.begin or shard.era)]


def check_inputs(shards: Sequence[ShardChange], topic: str) -> None:
    """Raise InputShortened where records that must be read again are gone."""
    if gone := shortened(shards):
        where = "; ".join(
            f"{topic}-{shard.partition} " + (f"starts at offset {shard.begin:,}" if shard.begin else "was made anew")
            for shard in gone
        )
        raise InputShortened(
            f"{where}: earlier records are gone, so the states can't be read again completely. Customers whose orders "
            "are gone would keep their segment until their next order, and others would be scored by the orders that "
            "are left.",
            hint="To accept that, run `segstream reconfigure --allow-truncated-logs --yes`. Else restore the settings.",
        )
