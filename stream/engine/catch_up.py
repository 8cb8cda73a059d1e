"""Step 6 of a takeover: what Kafka has told already is merged into Redis, and nothing is told again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from segmentation.step import Activation, TurnContext, TurnPlan
from stream.engine.ownership import Owned, stepping
from stream.engine.store import Writes
from stream.errors import ShardLost, ShardQuarantined, StepFailed
from stream.storage.heads import Fingerprint, KafkaHead, StoreHead


async def catch_up(owned: Owned, kafka: KafkaHead | None, end: int, stopping: asyncio.Event) -> None:
    """Absorb the input from R to N in silence. Nothing of this needs storing: a successor computes it again.

    `end`: of the input, as asked after the takeover's step 1: N isn't behind it.

    Raises ShardQuarantined where the input ends before N, ShardLost where it can't be read or the worker is stopping.
    """
    shard, reader = owned.shard, owned.reader
    target = kafka.offset if kafka else owned.head.offset
    if target > end:
        raise ShardQuarantined(
            "input_truncated",
            f"Kafka's head stands at offset {target} of {shard}, which ends at {end}: truncated or recreated?",
            hint="Restore the topic, or start over under another group.",
        )
    reader.seek(shard.streams.input, shard.partition, owned.head.offset)
    deadline = time.monotonic() + shard.settings.commit_timeout_s
    while owned.head.offset < target:
        if stopping.is_set():
            raise ShardLost("stopping", f"{shard} is released before it has caught up.")
        if time.monotonic() > deadline:
            raise ShardLost("read_timeout", f"{shard} can't be read from offset {owned.head.offset}.")
        records = [r for r in await reader.read_on(shard.settings.turn_max_orders) if r.offset < target]
        position = min(await reader.position(), target)
        if not records and position == owned.head.offset:
            continue
        head = owned.head
        states, created, plan = await _absorb(owned, records)
        # Due now: at the clock itself, since what is due at exactly T is told when the clock first passes T.
        writes = Writes(states, created=created, due=dict.fromkeys(states, max(head.clock, 0)))
        await owned.commit(
            shard.store.with_tombstones(writes, shard.step.is_erased),
            offset=position,
            merge_clock=max(plan.clock, head.merge_clock),
            read=_fingerprint(records, head),
            **_released(plan, head, kafka),
        )
        deadline = time.monotonic() + shard.settings.commit_timeout_s
    if owned.head.merge_clock != owned.head.clock:
        await owned.commit(Writes(), merge_clock=owned.head.clock)
    reader.seek(shard.streams.input, shard.partition, owned.head.offset)
    reader.settle()


def _released(plan: TurnPlan, head: StoreHead, kafka: KafkaHead | None) -> dict[str, Any]:
    """What the records say of back-fills. Where one ended, its customers are looked at, up to Kafka's cursor in silence."""
    changes: dict[str, Any] = {} if plan.backfills is None else {"backfills": plan.backfills}
    if plan.closed:
        changes |= {"cursor": "", "quiet": kafka.cursor if kafka else "", "scope": head.scope_with_released()}
    return changes


def _fingerprint(records: list[Any], head: StoreHead) -> Fingerprint | None:
    if not records:
        return head.read
    last = records[-1]
    return Fingerprint.of(last.offset, last.timestamp, last.key, last.value)


async def _absorb(owned: Owned, records: list[Any]) -> tuple[dict[bytes, bytes], list[bytes], TurnPlan]:
    """(new states, those that are new, the plan) after records that were delivered before.

    A record that makes the step raise went to the dead letters then: it is left out again.
    """
    try:
        return await _absorb_all(owned, records)
    except StepFailed:
        usable = [record for record in records if await _is_usable(owned, record)]
    return await _absorb_all(owned, usable)


async def _is_usable(owned: Owned, record: Any) -> bool:
    try:
        await _absorb_all(owned, [record])
    except StepFailed:
        return False
    return True


async def _absorb_all(owned: Owned, records: list[Any]) -> tuple[dict[bytes, bytes], list[bytes], TurnPlan]:
    step, head = owned.shard.step, owned.head
    # `now` is the highest clock that any of these records can have had.
    activation = Activation(head.activation, head.version)
    frame = TurnContext(head.merge_clock, head.clock, activation, backfills=head.backfills)
    plan = stepping(step.absorb, records, owned.shard.partition, frame)
    assert owned.raw is not None
    loaded = await owned.shard.store.load(owned.raw, plan.keys, None, 0)
    states = stepping(step.merge, plan, loaded.values)
    there = loaded.present(plan.keys)
    return states, [key for key in states if key not in there], plan
