"""Steps 6 and 4b of a takeover: the records that Kafka's head covers, and those that it must cover yet."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec

from segmentation.agreed import judged_at
from segmentation.step import (
    NEVER_DUE,
    Activation,
    BatchTooLong,
    KafkaRecord,
    Output,
    Scope,
    Step,
    Turn,
    TurnContext,
    TurnPlan,
    never,
)
from stream.engine.flow_control import deadline
from stream.engine.ownership import Owned, planned, stepping
from stream.engine.store import Writes
from stream.errors import ShardLost, ShardQuarantined, StepFailed
from stream.storage.heads import Fingerprint, HeadChange, KafkaHead, StoreHead
from stream.storage.output_log import LoggedOutput, LogRecord, OutputMark
from stream.storage.reads import SKIP_LOST

log = logging.getLogger(__name__)


async def catch_up(owned: Owned, kafka: KafkaHead, end: int, stopping: asyncio.Event) -> None:
    """Absorb the input from R to N, publishing nothing. Nothing of this must be kept: a successor computes it again.

    `end`: of the input, as asked after step 1 of the takeover. Raises ShardQuarantined where the input ends before N,
    ShardLost where it can't be read or the worker is stopping.
    """
    shard, reader, target = owned.shard, owned.reader, kafka.offset
    await _check_end(owned, target, end)
    reader.seek(shard.streams.input, shard.partition, owned.head.offset)
    deadline = time.monotonic() + shard.settings.commit_timeout_s
    while owned.head.offset < target:
        if stopping.is_set():
            raise ShardLost("stopping", f"{shard} was released before it had caught up.")
        if time.monotonic() > deadline:
            raise ShardLost("read_timeout", f"{shard} can't be read from offset {owned.head.offset}.")
        step, until = _judge(shard.step, kafka, owned.head.offset)
        records = [r for r in await reader.read_on(shard.settings.turn_max_orders) if r.offset < until]
        position = min(await reader.position(), until)
        if not records and position == owned.head.offset:
            continue
        await _take(owned, step, records, position, kafka)
        if until < target:
            reader.seek(shard.streams.input, shard.partition, position)
        deadline = time.monotonic() + shard.settings.commit_timeout_s
    if owned.head.merge_clock != owned.head.clock:
        await owned.commit(Writes(), merge_clock=owned.head.clock)
    reader.seek(shard.streams.input, shard.partition, owned.head.offset)
    reader.settle()


async def _take(owned: Owned, step: Step, records: Sequence[KafkaRecord], position: int, kafka: KafkaHead) -> None:
    """Absorb records, in smaller batches where one would hold the event loop for too long. `position`: behind them."""
    left, size = list(records), len(records)
    while True:
        batch = left[:size]
        behind = position if len(batch) == len(left) else left[len(batch)].offset
        try:
            taken, full = await _absorb_batch(owned, step, batch, behind, kafka)
        except BatchTooLong:
            size = max(1, len(batch) // 2)
            continue
        left = left[taken:]
        if full:
            await _unmute(owned, step)
            continue
        if not left:
            return
        size *= 2


async def _absorb_batch(
    owned: Owned, step: Step, records: Sequence[KafkaRecord], behind: int, kafka: KafkaHead
) -> tuple[int, bool]:
    """Absorb one batch, or a part of it, and commit it to Redis. Return (records taken, the plan's `full`).

    `behind`: R after the batch. Raises BatchTooLong: nothing has happened.
    """
    shard, head = owned.shard, owned.head
    turn, created, plan, usable = await _absorb(owned, step, records)
    taken = len(records)
    if plan.full:
        behind = usable[plan.taken].offset
        taken = bisect_left(records, behind, key=lambda record: record.offset)
        records = records[:taken]
    # Needless where changed settings rescore everyone from the start: that gives each a due time, and their moves the
    # cause.
    due = {} if head.scope is Scope.SETTINGS and head.cursor == "" else due_now(turn, head.clock)
    writes = Writes(turn.states, created=created, due=due, earlier=own_due(step, turn.states))
    change = _released(plan, head, kafka)
    change |= {
        "offset": behind,
        "merge_clock": max(plan.clock, head.merge_clock),
        "read": _fingerprint(records, head),
    }
    await owned.commit(shard.store.with_tombstones(writes, shard.step), **change)
    return taken, plan.full


def due_now(turn: Turn, clock: int) -> dict[bytes, int]:
    """Return when to look at the customers of a turn that was absorbed, under a shard's clock.

    Now means at the clock itself: a customer due at T is looked at when the clock first passes T. One whose record came
    at T was scored at T, so time alone moves it later at the earliest.
    """
    now = max(clock, 0)
    return {key: at for key in turn.states if (at := max(now, turn.due.get(key, now))) < NEVER_DUE}


def own_due(step: Step, states: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """Return the due times that states tell themselves, for those that are written without a decision."""
    return {key: at for key, value in states.items() if (at := stepping(step.due, value)) is not None}


async def _unmute(owned: Owned, step: Step) -> None:
    """Unmute the customers of backfills that are over, in Redis alone, so that others can have their slots.

    Live, the rescore at each end did that, and published. Here they only become due now, as after `_absorb_batch`.
    """
    slots, due, after = owned.head.backfills.closed_slots, max(owned.head.clock, 0), ""
    found = size = owned.shard.settings.turn_max_orders
    while found == size:
        assert owned.raw is not None
        rows, found, last = await owned.shard.store.load_slice(owned.raw, after, size)
        states = {key: now for key, value in rows if (now := step.unmuted(value, slots)) is not value}
        if states:
            await owned.commit(Writes(states, due=dict.fromkeys(states, due)))
        after = last.decode()
    await owned.commit(Writes(), backfills=owned.head.backfills.without_closed())


def _judge(step: Step, kafka: KafkaHead, offset: int) -> tuple[Step, int]:
    """Return (the step under the settings that the record at this offset was delivered under, where these end)."""
    judged = judged_at(kafka.judged, kafka.era, offset)
    return (step.under(judged.agreed), min(judged.until, kafka.offset)) if judged else (step, kafka.offset)


async def cover(owned: Owned, kafka: KafkaHead, torn: Sequence[LoggedOutput], end: int, now_ms: int) -> None:
    """Commit a head that covers the outputs of a torn turn, with all else that the turn published (step 4b).

    A late end of another transaction can commit a part of a turn: outputs, but not the head. Their last records for the
    compacted topic are in the outputs themselves. Dead letters, tombstones, records that go on and packages follow from
    the turn's records, which are absorbed here without being stored: Redis stands at N, and Kafka must come first.
    (What goes on twice counts once.) Other errors are those of `catch_up`.
    """
    shard, step, at = owned.shard, owned.shard.step, owned.head
    last = torn[-1].mark
    log.warning(
        "%s: the outputs end with %d, the head with %d: covering a torn transaction", shard, last.number, kafka.count
    )
    head = msgspec.structs.replace(covered(kafka, last), offset=max(kafka.offset, last.offset))
    await _check_end(owned, head.offset, end)
    records = await _records_up_to(owned, head.offset)
    activation = Activation(head.activation, head.version)
    # At once: the turn's time was bounded when it was decided.
    context = TurnContext(at.merge_clock, head.clock, activation, backfills=at.backfills, former=at.former)
    plan = await planned(shard, step.absorb, records, context)
    if plan.full:  # the turn had a slot: by then the customers of the backfills that are over had been rescored
        context = context._replace(backfills=at.backfills.without_closed())
        plan = await planned(shard, step.absorb, records, context)
    assert owned.raw is not None
    keys = list(dict.fromkeys([*plan.keys, *(output.key for output in torn)]))
    values = dict(zip(keys, (await shard.store.load(owned.raw, keys, None, 0)).values, strict=True))
    for output in torn:
        values[output.key] = stepping(step.patch, values[output.key], output.note)
    turn = stepping(step.merge, plan, [values[key] for key in plan.keys])
    # Those that no record changes moved by time or in a rescore. An erasure that a backfill had muted is published so.
    moved = {output.key: value for output in torn if (value := values[output.key]) is not None}
    left = shard.store.with_tombstones(Writes(moved | turn.states), step)
    await owned.ledger.cover(await owned.publication(head, republished(torn, step), turn, records, left, now_ms))


def republished(torn: Sequence[LoggedOutput], step: Step) -> list[Output]:
    """Return a torn turn's outputs as the step made them, for the compacted topic."""
    return [Output(o.key, o.value, o.headers, o.note, stepping(step.latest, o.value, o.note)) for o in torn]


def covered(target: KafkaHead, last: OutputMark) -> KafkaHead:
    """Return the Kafka head with a torn turn's outputs, whose last one has this mark; its offset stays."""
    return msgspec.structs.replace(
        target,
        count=last.number,
        clock=max(target.clock, last.clock),
        activation=max(target.activation, last.activation),
        version=last.version if last.activation > target.activation else target.version,
    )


async def _check_end(owned: Owned, offset: int, end: int) -> None:
    """Raise ShardQuarantined where the input ends before an offset that Kafka's head or an output has."""
    shard = owned.shard
    if offset > (end := await owned.reader.end_reaching(shard.streams.input, shard.partition, end, offset)):
        raise ShardQuarantined(
            "input_truncated",
            f"Kafka's head stands at offset {offset} of {shard}, which ends at offset {end}: "
            "was the topic truncated or recreated?",
            hint=SKIP_LOST,
        )


async def _records_up_to(owned: Owned, end: int) -> list[LogRecord]:
    """Return the input from R to `end`, of which one turn took all."""
    shard, reader = owned.shard, owned.reader
    reader.seek(shard.streams.input, shard.partition, owned.head.offset)
    deadline = time.monotonic() + shard.settings.commit_timeout_s
    records: list[LogRecord] = []
    while await reader.position() < end:
        if time.monotonic() > deadline:
            raise ShardLost("read_timeout", f"{shard} can't be read up to offset {end}.")
        records += await reader.read_on(shard.settings.turn_max_orders)
    return [record for record in records if record.offset < end]


def _released(plan: TurnPlan, head: StoreHead, kafka: KafkaHead) -> HeadChange:
    """Return the change by backfills. Where one ended, its customers are rescored, quietly up to Kafka's cursor."""
    change: HeadChange = {} if plan.backfills is None else {"backfills": plan.backfills}
    if plan.closed:
        change |= {"cursor": "", "quiet": kafka.cursor, "scope": head.scope_with_released()}
    return change


def _fingerprint(records: Sequence[KafkaRecord], head: StoreHead) -> Fingerprint | None:
    if not records:
        return head.read
    last = records[-1]
    return Fingerprint.of(last.offset, last.timestamp, last.key, last.value)


async def _absorb(
    owned: Owned, step: Step, records: Sequence[KafkaRecord]
) -> tuple[Turn, list[bytes], TurnPlan, Sequence[KafkaRecord]]:
    """Return (the turn, keys of its states that had none, the plan, its records) after records delivered before.

    A record that makes the step raise went to the dead letters then: it is left out again.
    """
    try:
        return *await _absorb_all(owned, step, records), records
    except StepFailed:
        usable = [record for record in records if await _is_usable(owned, step, record)]
    return *await _absorb_all(owned, step, usable), usable


async def _is_usable(owned: Owned, step: Step, record: KafkaRecord) -> bool:
    try:
        await _absorb_all(owned, step, [record])
    except StepFailed:
        return False
    return True


async def _absorb_all(owned: Owned, step: Step, records: Sequence[KafkaRecord]) -> tuple[Turn, list[bytes], TurnPlan]:
    head = owned.head
    # `now` is the highest clock that any of these records can have had.
    activation = Activation(head.activation, head.version)
    overdue = deadline() if len(records) > 1 else never
    context = TurnContext(head.merge_clock, head.clock, activation, backfills=head.backfills, overdue=overdue)
    plan = await planned(owned.shard, step.absorb, records, context)
    assert owned.raw is not None
    loaded = await owned.shard.store.load(owned.raw, plan.keys, None, 0)
    turn = stepping(step.merge, plan, loaded.values)
    present = loaded.present(plan.keys)
    return turn, [key for key in turn.states if key not in present], plan
