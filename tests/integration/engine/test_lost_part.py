"""A part of Redis that vanishes behind an intact head, on a real Valkey: the shard stops, and rebuild restores it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from redis import Redis

from segmentation.step import DueEntry, Turn, TurnContext, TurnPlan
from stream.commands import shards
from stream.kafka import topics
from stream.settings import Settings
from stream.status.report import report
from stream.storage.heads import decode_store_head, encode_head
from stream.storage.keys import ShardKeys
from stream.storage.reads import ShardLostInPart, ShardMissing, read_head
from stream.storage.states import look_at_all
from tests.integration.engine.test_engine import ROWS, ran, redis_of
from tests.support.engine.toy_engine import ToyStep, engine, eventually, produce, verify
from tests.support.engine.toy_step import STATE

PARTS = ("states", "customers", "due", "tombstones")


class DueStep(ToyStep):
    """The toy step, with every customer in the due index, far ahead: each part of the shard holds something."""

    def decide(
        self,
        plan: TurnPlan,
        values: Sequence[bytes | None],
        fired: Sequence[DueEntry],
        more: bool,
        context: TurnContext,
    ) -> Turn:
        turn = super().decide(plan, values, fired, more, context)
        turn.due = {key: 10**12 for key, value in turn.states.items() if STATE.unpack(value)[0]}
        return turn


@pytest.fixture
async def settings(settings_for: Callable[..., Settings]) -> Settings:
    made = settings_for(partitions=1)
    await topics.create(made)
    return made


def keys_of(settings: Settings) -> ShardKeys:
    return ShardKeys(settings.group, settings.orders_topic, 0)


def delete(redis: Redis, settings: Settings, part: str) -> None:
    redis.delete(getattr(keys_of(settings), part))


def expire(redis: Redis, settings: Settings, part: str) -> None:
    redis.pexpire(getattr(keys_of(settings), part), 1)


def restore_older(redis: Redis, settings: Settings, part: str) -> None:
    """Put one key back to where it had one entry less."""
    name = getattr(keys_of(settings), part)
    pipe = redis.pipeline(transaction=True)
    if part in {"states", "tombstones"}:
        pipe.hdel(name, redis.hkeys(name)[0])
    else:
        pipe.zpopmax(name)
    pipe.execute()


ROWS_ERASED = [*ROWS, (b"gone", b"x"), (b"gone", b"erase")]


async def rebuilt(settings: Settings, sent: int) -> None:
    """Rebuild, and check that records count once and that every chain continues."""
    await shards._rebuild(settings, "scoring", None)
    await produce(settings, ROWS)
    async with engine(settings, DueStep()) as running:
        await eventually(lambda: running.taken() >= sent + len(ROWS))
    await verify_all(settings, [*ROWS_ERASED, *ROWS])


async def verify_all(settings: Settings, sent: list[tuple[bytes, bytes]]) -> None:
    await verify(settings, [row for row in sent if row[0] != b"gone"])


QUICK = ((delete, "states"), (restore_older, "due"))


@pytest.mark.parametrize(
    ("how", "part"),
    [
        pytest.param(how, part, marks=() if (how, part) in QUICK else pytest.mark.slow, id=f"{how.__name__}-{part}")
        for how in (delete, expire, restore_older)
        for part in PARTS
    ],
)
async def test_a_part_that_vanishes_while_all_rest_stops_the_shard(
    settings: Settings, part: str, how: Callable[[Redis, Settings, str], None]
) -> None:
    await produce(settings, ROWS_ERASED)
    async with engine(settings, DueStep()) as running:
        await eventually(lambda: running.taken() >= len(ROWS_ERASED))
        with redis_of(settings) as redis:
            how(redis, settings, part)
        await eventually(lambda: running.reasons() == {0: "redis_lost"})
        detail = running.board.shards[0].detail
    assert "instead of" in detail
    assert "segstream rebuild" in detail
    await rebuilt(settings, len(ROWS_ERASED))


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_vanishes_before_a_takeover_stops_the_shard(settings: Settings, part: str) -> None:
    await produce(settings, ROWS_ERASED)
    async with engine(settings, DueStep()) as running:
        await eventually(lambda: running.taken() >= len(ROWS_ERASED))
    with redis_of(settings) as redis:
        delete(redis, settings, part)
        with pytest.raises(ShardLostInPart):
            read_head(redis, keys_of(settings))
    # Without an owner, and whatever the last one showed.
    [row] = await asyncio.to_thread(report, settings, "scoring", 0)
    assert (row.state, row.reason) == ("quarantined", "redis_lost")
    await produce(settings, ROWS)
    async with engine(settings, DueStep()) as running:
        await eventually(lambda: running.reasons() == {0: "redis_lost"})
    await shards._rebuild(settings, "scoring", None)
    async with engine(settings, DueStep()) as running:
        await eventually(lambda: running.taken() >= len(ROWS_ERASED) + len(ROWS))
    await verify_all(settings, [*ROWS_ERASED, *ROWS])


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_vanishes_under_load_breaks_no_chain(settings: Settings, part: str) -> None:
    sent = list(ROWS_ERASED)
    await produce(settings, sent)
    small = settings.model_copy(update={"turn_max_orders": 20, "turn_min_gap_ms": 0})
    async with engine(small, DueStep()) as running:
        await eventually(lambda: running.taken() >= len(sent))
        await produce(settings, ROWS)
        sent += ROWS
        await eventually(lambda: running.taken() >= len(sent) - 500)
        with redis_of(settings) as redis:
            delete(redis, settings, part)
        await produce(settings, ROWS)
        sent += ROWS
        await eventually(lambda: running.reasons() == {0: "redis_lost"})
        await shards._rebuild(settings, "scoring", None)
        with redis_of(settings) as redis:
            redis.delete(f"{{{settings.group}:{settings.orders_topic}}}:status")
        await eventually(lambda: running.taken() >= len(sent), within_s=60)
    await verify_all(settings, sent)


async def test_a_head_of_before_is_taken_over_and_counts_from_then_on(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, len(ROWS))
    with redis_of(settings) as redis:
        raw = redis.get(keys_of(settings).head)
        assert isinstance(raw, bytes)
        old = encode_head(decode_store_head(raw)).partition(b',"stored"')[0] + b"}"
        redis.set(keys_of(settings).head, old)
        assert decode_store_head(old).stored is None
        await produce(settings, ROWS)
        await ran(settings, 2 * len(ROWS))
        await verify(settings, ROWS * 2)
        head = read_head(redis, keys_of(settings))
    assert head
    assert head.stored
    assert head.stored.states == 23


def test_what_reads_the_customers_ends_with_an_error(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=1)
    with pytest.raises(ShardMissing, match="no worker has taken this shard over yet, or Redis has lost it"):
        list(look_at_all(settings, lambda at, page: (at, page)))
