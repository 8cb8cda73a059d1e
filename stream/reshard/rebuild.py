"""`segstream rebuild` of a group whose number of partitions has changed: one pass over the logs, by customer.

The records before a hand-over lie in the partitions of the former count, but their customers live in the shards of the
present one. So they are merged as the former shards merged them, and stored where each customer lives now. The last
hand-over is then where the owners go on by an ordinary takeover.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from segmentation.agreed import Agreed, JudgedBefore, Way, differences, judged_at, way_from
from segmentation.partitioners import PARTITIONERS, Partitioner
from segmentation.rfm import muted_by, with_mute
from segmentation.step import PROFILES, Activation, KafkaRecord, Scope, Step, Turn, TurnContext, TurnPlan
from stream.engine.catch_up import due_now, own_due
from stream.engine.log_reader import LogReader
from stream.engine.ownership import stepping
from stream.engine.store import Loaded, Writes
from stream.errors import SegstreamError, ShardLost, StepFailed
from stream.rates.topic import RateReader
from stream.repair.rebuild import LogShortened, OtherSettings
from stream.reshard.journal import Phase, Reshard
from stream.reshard.moving import ARRIVED, ARRIVING, MovingShard, look_at
from stream.reshard.placement import Inheritance
from stream.storage.client import connect
from stream.storage.heads import KafkaHead, StoreHead, first_head
from stream.storage.tombstones import BEGINNING, TurnPlace

if TYPE_CHECKING:
    from stream.kafka.streams import Streams
    from stream.settings import Settings

PAGE: Final = 4_000


class ReshardUnfinished(SegstreamError):
    """A reshard was begun, and Kafka's part of it isn't done."""


def _under(agreed: Agreed | None, changes: int, head: StoreHead) -> StoreHead:
    """Return a hand-over's head under the present settings, by which all records were merged.

    `changes`: of the settings so far.

    Where moves depend on what has changed since, the customers are rescored: the owner then knows of each move whether
    it is published, and that the settings are its cause.
    """
    rescored = _is_rescored(head, agreed)
    head = replace(head, agreed=agreed, changes=changes)
    return replace(head, cursor="", quiet="", scope=Scope.EVERYONE) if rescored else head


def _is_rescored(head: StoreHead, agreed: Agreed | None) -> bool:
    return way_from(head.agreed, agreed) in {Way.RESCORE, Way.READ_AGAIN}


class _Stretch(NamedTuple):
    """One former shard between two hand-overs."""

    partition: int
    partitions: int  # the count of that time
    start: StoreHead
    end: StoreHead
    judged: Sequence[JudgedBefore]
    following: Sequence[Inheritance]


class ReshardedRebuilder:
    """Makes the shards of one step anew in Redis, from the logs of all counts that the group had."""

    def __init__(
        self, settings: Settings, streams: Streams, step_of: Callable[[Settings, str], Step], journal: Sequence[Reshard]
    ) -> None:
        """`journal`: the group's reshards that moved this step, at least one."""
        self._settings = settings
        self._streams = streams
        self._step_of = step_of
        self._journal = journal
        self._reader = LogReader(settings)
        self._redis = connect(settings)
        self._rates = RateReader(settings)
        self._shards: Mapping[int, MovingShard] = {}
        self._rescores = False  # all customers are rescored then: that gives each a due time

    async def rebuild(self, only: int | None = None) -> AsyncIterator[str]:
        """Rebuild all shards, or one; yield lines about it.

        Raises ReshardUnfinished, and LogShortened where the logs don't start with their first record, before anything
        is changed.
        """
        try:
            last = self._journal[-1]
            self._check(last)
            await self._reader.start()
            await self._rates.read_on()
            cluster, _ = await self._reader.describe(self._streams.pinned())
            await self._check_logs()
            agreed = self._step_of(self._settings, self._streams.step).agreed
            heads = await self._check_heads(agreed, last.partitions)
            wanted = range(last.partitions) if only is None else [only]
            sides = dict.fromkeys(self._streams.sides.values(), 0)  # what came from them is in no state any more
            inherited = [moved.head for moved in last.steps[self._streams.step].inherited]
            self._rescores = any(_is_rescored(head, agreed) for head in inherited)
            self._shards = await look_at(self._settings, self._streams, self._redis, wanted)
            for p, shard in self._shards.items():
                await shard.empty(cluster, last.former)
                if self._streams.tombstones:
                    place = TurnPlace.of(kafka) if (kafka := heads[p]) else BEGINNING
                    remains = await self._reader.read_tombstones(self._streams.tombstones, p, place)
                    await shard.write(Writes(tombstones=remains), ARRIVING)
            for stretch in self._stretches(cluster):
                merged = await self._replay(stretch)
                yield f"{self._streams.input}-{stretch.partition} of {stretch.partitions}: {merged:,} records merged"
            for p, shard in self._shards.items():
                await shard.write(Writes(), ARRIVED)
                head = last.steps[self._streams.step].inherited[p].head
                head = replace(_under(agreed, kafka.changes if (kafka := heads[p]) else 0, head), sides=sides)
                await shard.write(Writes(), "", head)
                yield f"shard {p}: rebuilt up to the last change of the number of partitions"
        finally:
            await self._reader.close()
            await self._rates.close()
            await self._redis.aclose()

    def _check(self, last: Reshard) -> None:
        if last.phase is Phase.SEALED:
            raise ReshardUnfinished(
                f"the reshard to {last.partitions} partitions isn't finished in Kafka.",
                hint=f"Run `segstream reshard --partitions {last.partitions}` first. It says where it needs a rebuild.",
            )
        if last.partitions != self._settings.partitions:
            raise ReshardUnfinished(
                f"the group has {last.partitions} partitions, not {self._settings.partitions}.",
                hint=f"Set SEGSTREAM_PARTITIONS={last.partitions}.",
            )

    async def _check_heads(self, own: Agreed | None, partitions: int) -> list[KafkaHead | None]:
        """Return Kafka's present heads.

        Raises where these have other settings, or are of an input that was made anew.
        """
        heads, found = self._streams.heads, list[KafkaHead | None]()
        for p in range(partitions):
            head = await self._reader.last_kafka_head(heads, p, *(await self._reader.bounds([heads], p))[heads])
            if head and head.era:
                raise _shortened([f"{self._streams.input}-{p} was made anew"])
            if own is not None and head and head.agreed is not None and differences(head.agreed, own):
                raise OtherSettings(
                    f"{self._streams.input}-{p} is under other settings than these.",
                    hint="Restore the settings for the rebuild. To change them for good, run `segstream reconfigure`.",
                )
            found.append(head)
        return found

    async def _check_logs(self) -> None:
        topics = [self._streams.input, self._streams.output]
        shortened = [
            f"{self._streams.input}-{p} was made anew"
            for reshard in self._journal
            for p, shard in enumerate(reshard.steps[self._streams.step].sealed)
            if shard.head.era
        ]
        last = self._journal[-1]
        if profiles := self._streams.sides.get(PROFILES):
            for p in range(last.partitions):
                begin, _ = (await self._reader.bounds([profiles], p))[profiles]
                shortened += [f"{profiles}-{p} starts at offset {begin}"] if begin else []
        for p, inherited in enumerate(last.steps[self._streams.step].inherited):
            bounds, head = await self._reader.bounds(topics, p), inherited.head
            for topic, place in zip(topics, (head.offset, head.position), strict=True):
                begin, end = bounds[topic]
                # Those of the former count are read from the start, the others from where they were begun.
                if begin > (0 if p < last.former else place):
                    shortened.append(f"{topic}-{p} starts at offset {begin}")
                elif end < place:
                    shortened.append(f"{topic}-{p} ends at offset {end}, and the shard had reached {place}")
        if shortened:
            raise _shortened(shortened)

    def _stretches(self, cluster: str) -> list[_Stretch]:
        """Return all former shards, in the order of their times."""
        found: list[_Stretch] = []
        before: Sequence[Inheritance] | None = None
        for reshard in self._journal:
            handover, former = reshard.steps[self._streams.step], reshard.former
            found += [
                _Stretch(
                    p,
                    former,
                    first_head(cluster, (former, former), 0) if before is None else before[p].head,
                    handover.sealed[p].head,
                    handover.sealed[p].judged,
                    handover.inherited,
                )
                for p in range(former)
            ]
            before = handover.inherited
        return found

    async def _replay(self, stretch: _Stretch) -> int:
        """Merge what one former shard published and read; return how many records it read."""
        settings = self._settings.model_copy(update={"partitions": stretch.partitions})
        step, partitioner = self._step_of(settings, self._streams.step), PARTITIONERS[settings.partitioner]
        start, end, p = stretch.start, stretch.end, stretch.partition
        pages = self._reader.read_outputs(self._streams.output, p, start.position, start.count, end.count, end.position)
        async for page in pages:
            values = await self._load(list(page.notes))
            patched = {k: stepping(step.patch, values.get(k), note) for k, note in page.notes.items() if self._at(k)}
            await self._store(patched, values, step, {})
        merged, clock, backfills = 0, start.merge_clock, start.backfills
        async for records in self._records(p, start.offset, end.offset, sorted(j.until for j in stretch.judged)):
            judge = _judge(step, stretch, records[-1].offset)
            left: Sequence[KafkaRecord] = records
            while left:
                activation, rates = Activation(end.activation, end.version), self._rates.known()
                context = TurnContext(clock, end.clock, activation, backfills=backfills, rates=rates)
                plan, values, turn, usable = await self._absorb(judge, left, context, stretch, partitioner)
                await self._store(turn.states, values, step, {} if self._rescores else due_now(turn, end.clock))
                clock, backfills = max(clock, plan.clock), plan.backfills or backfills
                left = usable[plan.taken :] if plan.full else []
                if plan.full:
                    await self._unmute(backfills.closed_slots, stretch, step, end.clock)
                    backfills = backfills.without_closed()
            merged += len(records)
        if backfills.rows:
            await self._remap(stretch)
        return merged

    async def _records(
        self, partition: int, begin: int, end: int, borders: Sequence[int]
    ) -> AsyncIterator[list[KafkaRecord]]:
        self._reader.seek(self._streams.input, partition, begin)
        deadline = time.monotonic() + self._settings.commit_timeout_s
        while (position := await self._reader.position()) < end:
            records = [r for r in await self._reader.read_on(PAGE) if r.offset < end]
            # Records on both sides of a change of settings aren't merged together.
            for _, part in groupby(records, key=lambda r: bisect_right(borders, r.offset)):
                yield list[KafkaRecord](part)
            if await self._reader.position() > position:
                deadline = time.monotonic() + self._settings.commit_timeout_s
            elif time.monotonic() > deadline:
                raise ShardLost("read_timeout", f"{self._streams.input}-{partition} can't be read from {position}.")

    async def _absorb(
        self,
        step: Step,
        records: Sequence[KafkaRecord],
        context: TurnContext,
        stretch: _Stretch,
        partitioner: Partitioner | None,
    ) -> tuple[TurnPlan, dict[bytes, bytes], Turn, Sequence[KafkaRecord]]:
        """Return (the plan, the states before, the turn with those after, the plan's records).

        A record that makes the step raise is left out again.
        """
        usable, p = records, stretch.partition
        while True:
            try:
                plan = stepping(step.absorb, usable, p, context)
                mine = [
                    k for k in plan.keys if not partitioner or partitioner(k, stretch.partitions) == stretch.partition
                ]
                before = await self._load(mine)
                turn = stepping(step.merge, plan, [before.get(key) for key in plan.keys])
            except StepFailed:
                if usable is not records:
                    raise
                usable = [r for r in records if _is_usable(step, r, p, context)]
            else:
                return plan, before, turn, usable

    def _at(self, key: bytes) -> MovingShard | None:
        """Return the shard where a customer lives now; None: it isn't rebuilt."""
        partitioner = PARTITIONERS[self._settings.partitioner]
        assert partitioner is not None  # `segstream reshard` needs one
        return self._shards.get(partitioner(key, self._settings.partitions))

    def _by_shard(self, keys: Sequence[bytes]) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for key in keys:
            if (shard := self._at(key)) is not None:
                found.setdefault(shard.partition, []).append(key)
        return found

    async def _load(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the states of customers, and the remains of erased ones."""
        found: dict[bytes, bytes] = {}
        for p, own in self._by_shard(keys).items():
            shard = self._shards[p]
            loaded: Loaded = await shard.store.load(shard.raw or b"", own, None, 0)
            found |= {key: value for key, value in zip(own, loaded.values, strict=True) if value is not None}
        return found

    async def _store(
        self, states: Mapping[bytes, bytes], before: Mapping[bytes, bytes], step: Step, due: Mapping[bytes, int]
    ) -> None:
        """Write states where their customers live. `due`: when to look at them, where the engine must."""
        for p, keys in self._by_shard(list(states)).items():
            shard = self._shards[p]
            created = [key for key in keys if key not in before or step.is_gone(before[key])]
            times = {key: due[key] for key in keys if key in due}
            values = {key: states[key] for key in keys}
            writes = Writes(values, created=created, due=times, earlier=own_due(step, values))
            await shard.write(shard.store.with_tombstones(writes, step), ARRIVING)

    async def _unmute(self, slots: frozenset[int], stretch: _Stretch, step: Step, clock: int) -> None:
        """Unmute customers of a former shard whose backfills are over, so that others can have their slots."""
        for shard in self._shards.values():
            async for own in self._pages_of(shard, stretch):
                changed = {k: now for k, value in own.items() if (now := step.unmuted(value, slots)) is not value}
                await self._store(changed, own, step, {} if self._rescores else dict.fromkeys(changed, max(clock, 0)))

    async def _remap(self, stretch: _Stretch) -> None:
        """Give the customers whom open backfills mute the slots of the shard where they live now."""
        for p, shard in self._shards.items():
            slots = stretch.following[p].slots.get(stretch.partition) if p < len(stretch.following) else None
            if not slots:
                continue
            async for own in self._pages_of(shard, stretch):
                muted = {key: value for key, value in own.items() if muted_by(value) in slots}
                if muted:
                    changed = {key: with_mute(value, slots[muted_by(value)]) for key, value in muted.items()}
                    await shard.write(Writes(changed), ARRIVING)

    async def _pages_of(self, shard: MovingShard, stretch: _Stretch) -> AsyncIterator[dict[bytes, bytes]]:
        """Yield the customers of a former shard among those of one made anew, with their states."""
        partitioner = PARTITIONERS[self._settings.partitioner]
        assert partitioner is not None  # `segstream reshard` needs one
        found, after = PAGE, ""
        while found == PAGE:
            rows, found, last = await shard.store.load_slice(shard.raw or b"", after, PAGE)
            yield {k: value for k, value in rows if partitioner(k, stretch.partitions) == stretch.partition}
            after = last.decode()


def _shortened(where: Sequence[str]) -> LogShortened:
    return LogShortened(
        f"{'; '.join(where)}: records from before a change of the number of partitions are gone, so Redis "
        "can't be restored completely.",
        hint="Restore a backup of Redis that was made after the change, and whose offset is still in the log. If you "
        "have none, run `segstream rebuild --allow-truncated-logs`.",
    )


def _judge(step: Step, stretch: _Stretch, offset: int) -> Step:
    """Return the step under the settings that the record at this offset was delivered under."""
    # A later change may have let all records be read again: then they count by the present settings.
    earlier = [j for j in stretch.judged if way_from(j.agreed, step.agreed) is not Way.READ_AGAIN]
    judged = judged_at(earlier, stretch.end.era, offset)
    return step.under(judged.agreed) if judged else step


def _is_usable(step: Step, record: KafkaRecord, partition: int, context: TurnContext) -> bool:
    try:
        plan = stepping(step.absorb, [record], partition, context)
        stepping(step.merge, plan, [None] * len(plan.keys))
    except StepFailed:
        return False
    return True
