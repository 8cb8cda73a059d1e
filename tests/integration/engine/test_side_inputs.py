"""Side inputs on the real Kafka and Redis, with a toy step: what is joined, in which order, and after which faults."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis

from segmentation.events import CONTROL_KEY
from segmentation.step import ORDERS, PROFILES
from stream.clock import now_ms
from stream.dead_letters.records import read_dead_letter
from stream.dead_letters.redrive import redrive
from stream.dead_letters.routing import Selection
from stream.engine import side_inputs
from stream.kafka import topics
from stream.kafka.streams import streams_of
from stream.repair.rebuild import LogShortened, Rebuilder
from stream.settings import Settings
from stream.status.report import report, settled
from stream.storage.heads import GROUP_HEADER, StoreHead, decode_store_head, encode_head, with_stored
from stream.storage.keys import ShardKeys
from tests.support.engine.sided_step import Answers, SidedStep
from tests.support.engine.toy_engine import Engine, engine, eventually, produce, read_all
from tests.support.topics import cut, recreate

NAMES = [b"k%d" % n for n in range(40)]


@pytest.fixture
async def settings(settings_for: Callable[..., Settings]) -> Settings:
    """Return settings of one shard, whose due customers are looked at often."""
    made = settings_for(partitions=1, due_poll_ms=200)
    await topics.create(made)
    return made


def keys_of(settings: Settings) -> ShardKeys:
    return ShardKeys(settings.group, settings.changes_topic, 0)


def redis_of(settings: Settings) -> Redis:
    return Redis.from_url(settings.redis_url.get_secret_value())


def head_of(settings: Settings) -> StoreHead:
    with redis_of(settings) as redis:
        raw = redis.get(keys_of(settings).head)
    assert isinstance(raw, bytes)
    return decode_store_head(raw)


def edit_head(settings: Settings, **changes: object) -> None:
    with redis_of(settings) as redis:
        head = head_of(settings)
        assert head.stored
        raw = encode_head(msgspec.structs.replace(head, **changes, stored=None))
        redis.set(keys_of(settings).head, with_stored(raw, head.stored))


def states_of(settings: Settings) -> dict[bytes, Answers]:
    with redis_of(settings) as redis:
        rows: Any = redis.hgetall(keys_of(settings).states)
        return {key: Answers.of(value) for key, value in rows.items()}


def copied(settings: Settings) -> dict[str, Any]:
    """Return all that Redis has of the shard."""
    with redis_of(settings) as redis:
        return {key: redis.dump(key) for key in keys_of(settings).all()}


def restore(settings: Settings, copy: dict[str, Any]) -> None:
    with redis_of(settings) as redis:
        for key, value in copy.items():
            redis.delete(key)
            if value is not None:
                redis.restore(key, 0, value)


async def answers(settings: Settings) -> list[str]:
    """Return what was answered, as "key:word", in order."""
    records = await read_all(settings, settings.actions_topic)
    seen = dict[str, int]()
    for record in records:
        key, number, _ = record.value.decode().split(":")
        assert int(number) == seen.get(key, 0) + 1, record.value
        seen[key] = int(number)
    return [f"{r.value.decode().split(':')[0]}:{r.value.decode().split(':')[2]}" for r in records]


async def ask(settings: Settings, *names: bytes, delay_ms: int = 0) -> None:
    await produce(settings, [(name, b"ask:%d" % delay_ms) for name in names], settings.changes_topic)


async def learn(settings: Settings, *rows: tuple[bytes, bytes]) -> None:
    await produce(settings, list(rows), settings.profiles_topic)


async def order(settings: Settings, *names: bytes) -> None:
    await produce(settings, [(name, b"order") for name in names])


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Engine]:
    async with engine(settings, SidedStep()) as shown:
        await eventually(lambda: shown.states() == {0: "running"}, what="the takeover")
        yield shown


async def answered(settings: Settings, *wanted: str) -> None:
    async def all_there() -> bool:
        return sorted(await answers(settings)) == sorted(wanted)

    await eventually(all_there, what=f"the answers {wanted}")


async def read_up_to(settings: Settings, topic: str, offset: int) -> None:
    """Wait until Redis' head says that a side input was read up to this offset."""
    await eventually(lambda: head_of(settings).sides.get(topic, 0) >= offset, what=f"{topic} up to {offset}")


async def test_nothing_is_decided_before_the_profiles_of_before_are_read(
    settings_for: Callable[..., Settings],
) -> None:
    made = settings_for(partitions=1, turn_max_orders=3)  # so that the profiles are many turns
    await topics.create(made)
    await learn(made, *((name, b"deny:1") for name in NAMES))
    await ask(made, *reversed(NAMES))
    async with running(made):
        await answered(made, *(f"{name.decode()}:no" for name in NAMES))


async def test_a_profile_that_is_there_counts_for_the_next_question(settings: Settings) -> None:
    async with running(settings):
        await ask(settings, b"a")
        await answered(settings, "a:yes")
        await learn(settings, (b"a", b"deny:5"), (b"a", b"grant:4"))
        await eventually(lambda: states_of(settings)[b"a"].view == (5, True), what="the profile")
        await ask(settings, b"a")
        await answered(settings, "a:yes", "a:no")
        await learn(settings, (b"a", b"grant:6"))
        await eventually(lambda: states_of(settings)[b"a"].view == (6, False), what="the profile")
        await ask(settings, b"a")
        await answered(settings, "a:yes", "a:no", "a:yes")


@pytest.mark.slow
async def test_an_order_after_a_question_counts_and_one_before_it_does_not(settings: Settings) -> None:
    async with running(settings):
        await order(settings, b"b")
        await ask(settings, b"a", b"b", delay_ms=2_500)
        await order(settings, b"a")
        await answered(settings, "a:later", "b:later", "a:ordered", "b:yes")


@pytest.mark.slow
async def test_nothing_falls_due_before_the_orders_of_before_are_read(settings: Settings) -> None:
    async with running(settings):
        await ask(settings, *NAMES, delay_ms=4_000)
        await answered(settings, *(f"{name.decode()}:later" for name in NAMES))
    await order(settings, *NAMES)
    due = max(state.until for state in states_of(settings).values())
    with redis_of(settings) as redis:
        await eventually(lambda: int(redis.time()[0]) * 1000 > due, what="the due time")
    async with running(settings):
        await answered(settings, *(f"{name.decode()}:{word}" for name in NAMES for word in ("later", "ordered")))


@pytest.mark.slow
async def test_an_order_waits_for_an_earlier_question_in_an_open_transaction(settings: Settings) -> None:
    async with running(settings):
        await answered(settings)
        async with AIOKafkaProducer(
            **settings.kafka_client(), transactional_id=f"{settings.group}-test", linger_ms=0
        ) as asker:
            await asker.begin_transaction()
            await asker.send_and_wait(settings.changes_topic, b"ask:3000", key=b"a", partition=0)
            await order(settings, b"a", b"other")
            # The side input was read: a later profile is joined. Yet the order isn't taken.
            await learn(settings, (b"b", b"deny:1"))
            await eventually(lambda: b"b" in states_of(settings), what="the profile")
            assert head_of(settings).sides[settings.orders_topic] == 0
            await asker.commit_transaction()
        await answered(settings, "a:later", "a:ordered")


async def test_a_redis_that_is_set_back_reads_side_inputs_again(settings: Settings) -> None:
    async with running(settings):
        await learn(settings, (b"a", b"deny:1"))
        await ask(settings, b"a", b"b")
        await answered(settings, "a:no", "b:yes")
    copy = copied(settings)
    async with running(settings):
        await learn(settings, (b"b", b"deny:2"), (b"c", b"deny:3"))
        await eventually(lambda: b"c" in states_of(settings), what="the profile")
        await ask(settings, b"b")
        await answered(settings, "a:no", "b:yes", "b:no")
        after = states_of(settings)
    restore(settings, copy)
    async with running(settings):
        await ask(settings, b"c")
        await answered(settings, "a:no", "b:yes", "b:no", "c:no")
    found = states_of(settings)
    assert {key: found[key] for key in (b"a", b"b")} == {key: after[key] for key in (b"a", b"b")}


async def test_a_redis_that_is_lost_is_rebuilt_with_what_the_side_inputs_say(settings: Settings) -> None:
    async with running(settings):
        await learn(settings, (b"a", b"deny:1"), (b"silent", b"deny:1"))
        await ask(settings, b"a", b"b")
        await ask(settings, b"c", b"d", delay_ms=600_000)
        await answered(settings, "a:no", "b:yes", "c:later", "d:later")
        await order(settings, b"c")
        await eventually(lambda: states_of(settings)[b"c"].ordered > 0, what="the order")
    before, places = states_of(settings), head_of(settings).sides
    with redis_of(settings) as redis:
        due = redis.zrange(keys_of(settings).due, 0, -1, withscores=True)
        redis.delete(*keys_of(settings).all())
    step = SidedStep()
    async for _ in Rebuilder(settings, streams_of(settings, "campaigns"), step).rebuild():
        pass
    assert head_of(settings).sides == {}
    async with running(settings):
        await eventually(lambda: states_of(settings) == before, what="the states of before")
        await eventually(lambda: head_of(settings).sides == places, what="the places of before")
    with redis_of(settings) as redis:
        assert redis.zrange(keys_of(settings).due, 0, -1, withscores=True) == due
    assert len(await answers(settings)) == 4


async def test_a_rebuild_refuses_where_profiles_have_expired(settings: Settings) -> None:
    async with running(settings):
        await learn(settings, (b"a", b"deny:1"), (b"b", b"deny:1"))
        await read_up_to(settings, settings.profiles_topic, 2)
    await cut(settings, settings.profiles_topic, {0: 1})
    rebuilder = Rebuilder(settings, streams_of(settings, "campaigns"), SidedStep())
    with pytest.raises(LogShortened, match=f"{settings.profiles_topic}-0 starts at offset 1: consents from before"):
        await anext(rebuilder.rebuild())
    rebuilder = Rebuilder(settings, streams_of(settings, "campaigns"), SidedStep())
    async for _ in rebuilder.rebuild(allow_truncated_logs=True):
        pass
    async with running(settings):
        await eventually(lambda: b"b" in states_of(settings), what="what is left of the profiles")
    assert b"a" not in states_of(settings)


async def test_a_head_of_a_former_version_reads_profiles_from_the_start_and_orders_from_the_end(
    settings: Settings,
) -> None:
    await learn(settings, (b"a", b"deny:1"))
    async with running(settings):
        await ask(settings, b"b")
        await answered(settings, "b:yes")
    await order(settings, b"a", b"b", b"c")
    with redis_of(settings) as redis:
        raw = redis.get(keys_of(settings).head)
        assert isinstance(raw, bytes)
        fields = msgspec.json.decode(raw)
        del fields["sides"]
        redis.set(keys_of(settings).head, msgspec.json.encode(fields))
        redis.hdel(keys_of(settings).states, "a")
        redis.zrem(keys_of(settings).customers, "a")
        fields["stored"] = [1, 1, 0, 0]
        redis.set(keys_of(settings).head, msgspec.json.encode(fields))
    async with running(settings):
        await eventually(lambda: states_of(settings).get(b"a", Answers()).view == (1, True), what="the profile")
        await read_up_to(settings, settings.profiles_topic, 1)
        assert head_of(settings).sides[settings.orders_topic] == 3


@pytest.mark.slow
async def test_an_offset_that_a_side_input_does_not_have_is_read_from_the_start(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await learn(settings, (b"a", b"deny:1"), (b"a", b"deny:2"))
    async with running(settings):
        await read_up_to(settings, settings.profiles_topic, 2)
    await recreate(settings, settings.profiles_topic)
    await learn(settings, (b"b", b"deny:7"))
    with caplog.at_level(logging.WARNING, logger=side_inputs.__name__):
        async with running(settings) as shown:
            await eventually(lambda: states_of(settings).get(b"b", Answers()).view == (7, True), what="the profile")
            assert shown.reasons() == {}
    assert f"{settings.profiles_topic}-0 has offsets 0 to 1, and had come to 2" in caplog.text
    assert states_of(settings)[b"a"].view == (2, True)


@pytest.mark.slow
async def test_records_without_an_effect_move_the_offset_after_a_while_or_many_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_inputs, "UNSTORED_S", 1.0)
    async with running(settings) as shown:
        await order(settings, *NAMES)
        await read_up_to(settings, settings.orders_topic, len(NAMES))
        assert head_of(settings).turn < 5
        monkeypatch.setattr(side_inputs, "UNSTORED_S", 3_600.0)
        await order(settings, *NAMES * 26)  # 1,040
        await read_up_to(settings, settings.orders_topic, len(NAMES) * 27)
        assert states_of(settings) == {}
        assert shown.reasons() == {}


async def test_a_record_that_cannot_be_used_is_a_dead_letter_that_finds_back(settings: Settings) -> None:
    await learn(settings, (b"a", b"bad"), (b"b", b"deny:1"))
    async with running(settings):
        await read_up_to(settings, settings.profiles_topic, 2)
    [record] = await read_all(settings, settings.changes_dead_letters_topic)
    letter = read_dead_letter(record)
    assert (letter.topic, letter.partition, letter.offset) == (settings.profiles_topic, 0, 0)
    assert (letter.reason, letter.key, letter.value) == ("bad", b"a", b"bad")
    # Redis has lost the turn: the record is read again, and isn't reported again.
    edit_head(settings, sides={settings.profiles_topic: 0, settings.orders_topic: 0})
    async with running(settings):
        await learn(settings, (b"c", b"deny:1"))
        await read_up_to(settings, settings.profiles_topic, 3)
    assert len(await read_all(settings, settings.changes_dead_letters_topic)) == 1
    report = await redrive(settings, settings.changes_dead_letters_topic, Selection(frozenset({"bad"})))
    assert report.to == {settings.profiles_topic: 1}
    back = (await read_all(settings, settings.profiles_topic))[-1]
    assert (back.key, back.value) == (b"a", b"bad")


async def test_a_record_that_makes_the_step_raise_stops_nobody(settings: Settings) -> None:
    rows = [(name, b"deny:1") for name in NAMES]
    rows.insert(17, (b"x", b"poison"))
    await learn(settings, *rows)
    await ask(settings, *NAMES)
    async with running(settings) as shown:
        await answered(settings, *(f"{name.decode()}:no" for name in NAMES))
        assert shown.reasons() == {}
    [letter] = map(read_dead_letter, await read_all(settings, settings.changes_dead_letters_topic))
    assert (letter.topic, letter.offset, letter.reason) == (settings.profiles_topic, 17, "step_failed")


async def test_what_is_handed_on_comes_by_the_side_input_and_only_to_its_own_group(settings: Settings) -> None:
    await learn(settings, (b"a", b"hand:0:b=deny:3"))
    async with AIOKafkaProducer(**settings.kafka_client()) as other:
        await other.send_and_wait(
            settings.profiles_topic, b"c=deny:3", key=CONTROL_KEY, partition=0, headers=[(GROUP_HEADER, b"other")]
        )
    async with running(settings):
        await eventually(lambda: states_of(settings).get(b"b", Answers()).view == (3, True), what="the package")
    assert b"c" not in states_of(settings)
    sent = (await read_all(settings, settings.profiles_topic))[-1]
    assert (sent.key, dict(sent.headers)[GROUP_HEADER]) == (CONTROL_KEY, settings.group.encode())


async def test_metrics_and_the_report_show_how_far_side_inputs_lag(settings: Settings) -> None:
    async with running(settings) as shown:
        await ask(settings, b"a")
        await answered(settings, "a:yes")
        await learn(settings, (b"a", b"deny:1"))
        await read_up_to(settings, settings.profiles_topic, 1)

        def lag(source: str) -> float | None:
            return shown.metrics.registry.get_sample_value(
                "segstream_side_lag_records", {"step": "campaigns", "partition": "0", "input": source}
            )

        await eventually(lambda: lag(PROFILES) == lag(ORDERS) == 0, what="the lag")
    assert lag(PROFILES) is None  # another worker shows it
    await learn(settings, (b"a", b"deny:2"), (b"a", b"deny:3"))
    await order(settings, b"a")
    [row] = await asyncio.to_thread(report, settings, "campaigns", now_ms())
    assert row.side_lag == {PROFILES: 2, ORDERS: 1}
    assert not settled([row])
