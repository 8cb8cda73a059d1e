"""The engine with a toy step on the real Kafka and Redis: turns, dead letters, failing records, every quarantine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from redis import Redis

from segmentation.step import DueEntry, StateUnreadable, Turn, TurnContext, TurnPlan
from stream.commands import shards
from stream.kafka import topics
from stream.settings import Settings
from stream.storage.heads import (
    Fingerprint,
    Stored,
    StoreHead,
    decode_kafka_head,
    decode_store_head,
    decode_takeover,
    encode_head,
)
from stream.storage.keys import ShardKeys
from tests.support.engine.toy_engine import STATE, ToyStep, engine, eventually, produce, read_all, verify
from tests.support.topics import add_partitions, cut, delete_topic, recreate

ROWS = [(b"k%d" % (i % 23), b"x") for i in range(600)]


def redis_of(settings: Settings) -> Redis:
    return Redis.from_url(settings.redis_url.get_secret_value())


def keys_of(settings: Settings, partition: int) -> ShardKeys:
    return ShardKeys(settings.group, settings.orders_topic, partition)


async def ran(settings: Settings, sent: int) -> None:
    """Let an engine take all records, and end it."""
    async with engine(settings) as running:
        await eventually(lambda: running.taken() >= sent, what="taking everything")


def edit_head(settings: Settings, **changes: object) -> None:
    """Change fields of every shard's head in Redis."""
    with redis_of(settings) as redis:
        for partition in range(settings.partitions):
            key = keys_of(settings, partition).head
            raw = redis.get(key)
            assert isinstance(raw, bytes)
            redis.set(key, encode_head(msgspec.structs.replace(decode_store_head(raw), **changes)))


async def stops(settings: Settings, reason: str) -> None:
    """Check that a new engine quarantines every shard for that reason, with a detail, and takes no turn."""
    before = len(await read_all(settings, settings.changes_topic))
    async with engine(settings) as running:
        await eventually(lambda: list(running.reasons().values()) == [reason] * settings.partitions, what=reason)
        detail = next(iter(running.board.shards.values())).detail
        assert detail
    assert len(await read_all(settings, settings.changes_topic)) == before


async def test_every_record_counts_once_and_every_output_is_published_once(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    assert await verify(settings, ROWS) > 100
    await produce(settings, ROWS)
    await ran(settings, 1200)
    await verify(settings, ROWS + ROWS)
    latest = await read_all(settings, settings.state_topic)
    changes = await read_all(settings, settings.changes_topic)
    assert {r.key: r.value for r in latest} == {r.key: r.value for r in changes}


async def test_the_group_commits_offsets_for_lag_monitors(settings: Settings) -> None:
    await produce(settings, ROWS)
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()

    async def reported() -> int:
        offsets = await admin.list_consumer_group_offsets(settings.group)
        return sum(max(at.offset, 0) for at in offsets.values())

    async def all_reported() -> bool:
        return await reported() == 600

    async with engine(settings) as running:
        await eventually(all_reported, what="the group's offsets at the end")
        await produce(settings, ROWS[:1])
        await eventually(lambda: running.taken() == 601)
    # The last offsets are committed when the worker leaves.
    assert await reported() == 601
    await admin.close()


async def test_bad_records_go_to_the_dead_letters_with_their_coordinates(settings: Settings) -> None:
    rows = [(b"k%d" % (i % 5), b"bad" if i % 10 == 3 else b"x") for i in range(200)]
    await produce(settings, rows)
    await ran(settings, 200)
    await verify(settings, rows)
    dead = await read_all(settings, settings.orders_dead_letters_topic)
    assert len(dead) == 20
    sent = {(r.partition, r.offset) for r in await read_all(settings, settings.orders_topic) if r.value == b"bad"}
    headers = [dict(r.headers) for r in dead]
    assert {(int(h["__connect.errors.partition"]), int(h["__connect.errors.offset"])) for h in headers} == sent
    assert {h["segstream_reason"] for h in headers} == {b"bad"}
    assert all(r.value == b"bad" for r in dead)


async def test_a_record_that_makes_the_step_raise_is_isolated(settings: Settings) -> None:
    rows = [(b"k%d" % (i % 11), b"poison" if i in {50, 51, 300} else b"x") for i in range(400)]
    await produce(settings, rows)
    await ran(settings, 400)
    await verify(settings, rows)
    dead = await read_all(settings, settings.orders_dead_letters_topic)
    assert [dict(r.headers)["segstream_reason"] for r in dead] == [b"step_failed"] * 3


async def test_two_engines_share_the_shards_and_a_third_joins(settings: Settings) -> None:
    async with engine(settings) as one, engine(settings) as two:
        await eventually(lambda: sorted(map(len, (one.membership.assigned, two.membership.assigned))) == [2, 2])
        await produce(settings, ROWS)
        async with engine(settings) as three:
            await eventually(lambda: len(three.membership.assigned) >= 1)
            everyone = (one, two, three)
            await eventually(lambda: sum(len(e.membership.assigned) for e in everyone) == settings.partitions)
            await produce(settings, ROWS)
        await eventually(lambda: one.intake.owned + two.intake.owned == settings.partitions)
        await produce(settings, ROWS)

        async def done() -> bool:
            with redis_of(settings) as redis:
                heads = [redis.get(keys_of(settings, p).head) for p in range(settings.partitions)]
            return sum(decode_store_head(h).offset for h in heads if isinstance(h, bytes)) == 1800

        await eventually(done)
    await verify(settings, ROWS * 3)


async def test_a_flushed_redis_stops_the_shards_and_rebuild_recovers_it(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    with redis_of(settings) as redis:
        for partition in range(settings.partitions):
            redis.delete(*keys_of(settings, partition).all())
    await stops(settings, "redis_lost")
    await shards._rebuild(settings, "scoring", None)
    await ran(settings, 600)
    published = await verify(settings, ROWS)
    await produce(settings, ROWS)
    await ran(settings, 1200)
    assert await verify(settings, ROWS * 2) > published


async def test_redis_put_back_to_an_earlier_instant_catches_up_in_silence(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    with redis_of(settings) as redis:
        names = [k for p in range(settings.partitions) for k in keys_of(settings, p).all()]
        dumps = {name: redis.dump(name) for name in names}
        await produce(settings, ROWS)
        await ran(settings, 1200)
        published = await verify(settings, ROWS * 2)
        for name, dump in dumps.items():
            redis.delete(name)
            if isinstance(dump, bytes):
                redis.restore(name, 0, dump)
    await ran(settings, 1200)
    assert await verify(settings, ROWS * 2) == published


def traces(settings: Settings) -> tuple[set[str], int]:
    """Return (the keys of Redis that still name the erased customer, the number of tombstones)."""
    found, stones = set(), 0
    with redis_of(settings) as redis:
        for partition in range(settings.partitions):
            keys = keys_of(settings, partition)
            if redis.hexists(keys.states, "former"):
                found.add("states")
            found |= {name for name in (keys.due, keys.customers) if redis.zscore(name, "former") is not None}
            names = [name for name in redis.hkeys(keys.tombstones) if name != b"salt"]
            assert b"former" not in b"".join(names)
            stones += len(names)
    return found, stones


async def test_an_erased_key_leaves_only_a_hash_and_continues_its_chain(settings: Settings) -> None:
    life = [(b"former", b"x")] * 7
    await produce(settings, [*ROWS, *life, (b"former", b"erase")])
    await ran(settings, 608)
    assert traces(settings) == (set(), 1)
    # A rebuild from Kafka alone reads the input again, before the erasure too.
    for _ in range(2):
        await shards._rebuild(settings, "scoring", None)
        await ran(settings, 608)
        assert traces(settings) == (set(), 1)
    await produce(settings, life)
    await ran(settings, 615)
    assert traces(settings)[0] != set()
    assert traces(settings)[1] == 0
    published = [r.value for r in await read_all(settings, settings.changes_topic) if r.key == b"former"]
    assert published == [b"former:1:1", b"former:2:2", b"former:3:1", b"former:4:2"]


async def test_another_salt_stops_every_shard_with_erased_keys(settings: Settings) -> None:
    await produce(settings, [(b"k%d" % i, b"erase") for i in range(40)])
    await ran(settings, 40)
    with redis_of(settings) as redis:
        for partition in range(settings.partitions):
            redis.hset(keys_of(settings, partition).tombstones, "salt", b"another")
    await stops(settings, "salt_changed")


async def test_a_rollback_under_a_running_owner_is_noticed_while_idle(settings: Settings) -> None:
    await produce(settings, ROWS)
    async with engine(settings) as running:
        await eventually(lambda: running.taken() >= 600)
        with redis_of(settings) as redis:
            for partition in range(settings.partitions):
                keys = keys_of(settings, partition)
                redis.delete(keys.states, keys.due, keys.customers, keys.tombstones)
                raw = redis.get(keys.head)
                assert isinstance(raw, bytes)
                head = decode_store_head(raw)
                empty = msgspec.structs.replace(
                    head, offset=0, position=0, count=0, read=None, written=None, token="old",
                    stored=Stored(0, 0, 0, 0),
                )  # fmt: skip
                redis.set(keys.head, encode_head(empty))

        async def back() -> bool:
            try:
                await verify(settings, ROWS)
            except AssertionError:
                return False
            return True

        await eventually(back, what="the rebuilt states")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": "another"}, "foreign_cluster"),
        ({"partitions": (3, 4)}, "partitions_changed"),
        ({"offset": 10**9}, "input_truncated"),
        ({"read": Fingerprint(0, 1, 2)}, "input_changed"),
        ({"written": Fingerprint(0, 0, 2)}, "output_changed"),
    ],
)
async def test_a_redis_of_other_logs_stops_the_shards(
    settings: Settings, changes: dict[str, object], reason: str
) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    edit_head(settings, **changes)
    await stops(settings, reason)


async def test_redis_ahead_of_kafka_stops_the_shards(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    await produce(settings, ROWS)
    with redis_of(settings) as redis:
        for partition in range(settings.partitions):
            key = keys_of(settings, partition).head
            raw = redis.get(key)
            assert isinstance(raw, bytes)
            head = decode_store_head(raw)
            redis.set(key, encode_head(msgspec.structs.replace(head, offset=head.offset + 1, read=None)))
    await stops(settings, "redis_ahead")


async def test_an_unreadable_head_stops_its_shard_until_it_is_restored(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    key = keys_of(settings, 0).head
    with redis_of(settings) as redis:
        raw = redis.get(key)
        redis.set(key, b"something else")
        async with engine(settings) as running:
            await eventually(lambda: running.reasons() == {0: "redis_format"})
            await eventually(
                lambda: sorted(running.states().values()) == ["quarantined", "running", "running", "running"]
            )
            assert isinstance(raw, bytes)
            redis.set(key, raw)
            redis.hdel(f"{{{settings.group}:{settings.orders_topic}}}:status", "0")
            await eventually(lambda: set(running.states().values()) == {"running"})


async def test_a_recreated_topic_stops_the_shards(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    await recreate(settings, settings.orders_topic)
    await produce(settings, [(key, b"other") for key, _ in ROWS])
    await stops(settings, "input_changed")


async def test_an_input_that_was_truncated_past_redis_stops_the_shards(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    await produce(settings, ROWS)
    ends = {p: sum(1 for r in await read_all(settings, settings.orders_topic) if r.partition == p) for p in range(4)}
    await cut(settings, settings.orders_topic, {p: end - 1 for p, end in ends.items()})
    await stops(settings, "input_gone")


async def test_a_first_start_on_a_truncated_log_begins_at_its_first_record(settings: Settings) -> None:
    await produce(settings, ROWS)
    await cut(settings, settings.orders_topic)
    await produce(settings, ROWS)
    await ran(settings, 1200)
    await verify(settings, ROWS)


async def test_an_unreadable_state_stops_its_shard_and_makes_no_dead_letter(settings: Settings) -> None:
    class Strict(ToyStep):
        def decide(
            self,
            plan: TurnPlan,
            values: Sequence[bytes | None],
            fired: Sequence[DueEntry],
            more: bool,
            context: TurnContext,
        ) -> Turn:
            if any(value is not None and len(value) != STATE.size for value in values):
                raise StateUnreadable("9 bytes")
            return super().decide(plan, values, fired, more, context)

    await produce(settings, ROWS)
    await ran(settings, 600)
    with redis_of(settings) as redis:
        for partition in range(settings.partitions):
            for name in redis.hkeys(keys_of(settings, partition).states):
                redis.hset(keys_of(settings, partition).states, name, "torn")
    await produce(settings, ROWS)
    async with engine(settings, Strict()) as running:
        await eventually(lambda: list(running.reasons().values()) == ["state_format"] * 4)
    assert not await read_all(settings, settings.orders_dead_letters_topic)


async def test_a_number_of_partitions_that_differs_from_the_settings_stops_the_shards(settings: Settings) -> None:
    await produce(settings, ROWS)
    other = settings.model_copy(update={"partitions": 5})
    async with engine(other) as running:
        await eventually(lambda: list(running.reasons().values()) == ["partitions_changed"] * 4)


async def test_added_partitions_stop_the_shards(settings: Settings) -> None:
    await produce(settings, ROWS)
    await ran(settings, 600)
    await add_partitions(settings, settings.orders_topic, 6)
    async with engine(settings) as running:
        await eventually(lambda: list(running.reasons().values()) == ["partitions_changed"] * 6)


async def test_partitions_added_under_running_owners_stop_them_soon(settings: Settings) -> None:
    await produce(settings, ROWS)
    async with engine(settings) as running:
        await eventually(lambda: running.taken() == 600)
        await add_partitions(settings, settings.orders_topic, 6)
        await eventually(lambda: list(running.reasons().values()) == ["partitions_changed"] * 4, 20)
        assert "`segstream reshard --partitions 6`" in running.board.shards[0].detail


async def test_a_missing_topic_is_named_in_the_detail(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    await topics.create(settings)
    await delete_topic(settings, settings.changes_topic)
    async with engine(settings) as running:
        await eventually(lambda: list(running.reasons().values()) == ["topic_missing"] * 4)
        assert "segstream topics create" in running.board.shards[0].detail


def test_the_head_has_one_encoding() -> None:
    head = StoreHead(
        token="t",
        turn=1,
        offset=2,
        position=3,
        count=4,
        clock=5,
        merge_clock=5,
        activation=6,
        version="v",
        cursor=None,
        quiet="",
        cluster="c",
        partitions=(1, 1),
        read=Fingerprint(1, 2, 3),
    )
    assert encode_head(decode_store_head(encode_head(head))) == encode_head(head)


@pytest.mark.parametrize("decode", [decode_kafka_head, decode_store_head, decode_takeover])
@pytest.mark.parametrize("value", [b"", b"no head", b"{}", b'{"token":"\xff"}', b"\xff\xfe"])
def test_bytes_that_are_no_head_raise_one_error(decode: Callable[[bytes], object], value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(value)
