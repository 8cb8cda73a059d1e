"""The contract that the protocol needs, tested on the real Kafka and Redis and on those in memory."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from segmentation.step import DeadLetter, DueEntry, Output
from stream.dead_letters.records import DeadRecord, dead_record
from stream.engine.ledger import Ledger, Publication
from stream.engine.log_reader import LogReader
from stream.engine.store import ShardStore, Writes
from stream.errors import ShardLost, ShardQuarantined
from stream.kafka import topics
from stream.kafka.streams import Streams, streams_of
from stream.settings import Settings
from stream.storage.client import connect
from stream.storage.heads import (
    Fingerprint,
    KafkaHead,
    Stored,
    TakeoverRecord,
    encode_head,
    first_head,
    with_stored,
)
from stream.storage.keys import ShardKeys
from tests.recovery.rig.memory_ledger import MemoryBroker
from tests.recovery.rig.memory_store import MemoryStore
from tests.simulation.case import CALM
from tests.simulation.choices import Choices
from tests.simulation.fleet import installed
from tests.simulation.servers.broker import SimulatedBroker
from tests.simulation.servers.kafka_clients import SimulatedKafka
from tests.simulation.servers.redis_client import RedisPlace, SimulatedRedis
from tests.simulation.servers.redis_server import SimulatedRedisServer
from tests.simulation.wire import SimulatedWire

STORES: Final = [pytest.param("real", marks=pytest.mark.servers), "memory", "simulated"]
# `make recovery` runs the contract on the newest Kafka too.
SIDES: Final = [*STORES, pytest.param("newest", marks=[pytest.mark.servers, pytest.mark.recovery])]
MAKERS: Final = {"real": "settings_for", "newest": "settings_for_newest"}
BRIEF: Final = {"partitions": 1, "commit_timeout_s": 3.0, "transaction_timeout_ms": 5_000}
BARRIER: Final = TakeoverRecord(1, "me", 0)


@dataclass
class Side:
    """One kind of Kafka, and a shard on it."""

    settings: Settings
    streams: Streams
    memory: MemoryBroker | None = None
    simulated: SimulatedBroker | None = None

    async def ledger(self) -> Ledger:
        return await Ledger.open(self.settings, self.streams, 0)

    async def send(self, *values: bytes) -> None:
        """Send orders outside any transaction."""
        if self.memory:
            self.memory.send(self.streams.input, [(b"key", value) for value in values])
            return
        if self.simulated:
            log = self.simulated.logs[TopicPartition(self.streams.input, 0)]
            log.append([(b"key", value, ()) for value in values], 0)
            return
        async with AIOKafkaProducer(**self.settings.kafka_client()) as rig:
            for value in values:
                await rig.send_and_wait(self.streams.input, value, key=b"key", partition=0)


@pytest.fixture(params=SIDES)
async def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Side]:
    if maker := MAKERS.get(request.param):
        settings: Settings = request.getfixturevalue(maker)(**BRIEF)
        await topics.create(settings)
        yield Side(settings, streams_of(settings, "scoring"))
        return
    settings = Settings(**BRIEF)  # type: ignore[arg-type]  # each value is of its field's type
    streams = streams_of(settings, "scoring")
    if request.param == "simulated":
        kafka, place = calm_servers(streams)
        with installed(asyncio.get_running_loop(), kafka, place, 0):
            yield Side(settings, streams, simulated=kafka.broker)
            # aiokafka's futures complain while they are collected: now, not in the middle of anything else.
            gc.collect()
        return
    broker = MemoryBroker(1)
    broker.install(monkeypatch.setattr)
    yield Side(settings, streams, broker)


def calm_servers(streams: Streams) -> tuple[SimulatedKafka, RedisPlace]:
    """Return the simulation's servers, on which nothing goes wrong by itself."""
    loop, choices = asyncio.get_running_loop(), Choices(0)
    broker = SimulatedBroker(loop, choices, CALM)
    for topic in (*streams.pinned(), streams.latest, streams.dead_letters):
        broker.create(str(topic), 1)
    wire = SimulatedWire(loop, choices, delays=0, breaks=0, ends=0)
    return SimulatedKafka(broker, wire), RedisPlace(SimulatedRedisServer())


@pytest.fixture
async def reader(side: Side) -> AsyncIterator[LogReader]:
    made = LogReader(side.settings)
    await made.start()
    yield made
    await made.close()


def head(offset: int, count: int) -> KafkaHead:
    return KafkaHead(offset, count, 7, 2, "v")


def turn(offset: int, first: int, *keys: bytes) -> Publication:
    """Return a turn with one output for each key, numbered from `first`."""
    outputs = [Output(key, b"move of " + key, [], b"note of " + key, b"latest") for key in keys]
    return Publication(head(offset, first + len(keys) - 1), outputs)


async def read_all(reader: LogReader, side: Side, start: int, seen: int, number: int) -> list[tuple[int, int | None]]:
    """Return (position, number of the last output) of each page, up to the present end."""
    _, end = (await reader.bounds([side.streams.output], 0))[side.streams.output]
    pages = reader.read_outputs(side.streams.output, 0, start, seen, number, end)
    return [(page.position, page.mark.number if page.mark else None) async for page in pages]


async def tear(ledger: Ledger, publication: Publication) -> None:
    """Commit outputs without their head, as a late end of an earlier transaction does."""
    await ledger._producer.begin_transaction()
    for future, _ in await ledger._send_outputs(publication):
        await future
    await ledger._producer.commit_transaction()


async def test_a_turn_is_read_back(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    barrier = await ledger.take_over(BARRIER)
    assert await reader.read_kafka_head(side.streams.heads, 0, 0, barrier) == (None, None)
    published = await ledger.publish(turn(5, 1, b"a", b"b"))
    assert published
    assert published.last == Fingerprint.of(published.position - 1, 0, b"b", b"move of b")
    assert await ledger.publish(turn(6, 3)) is None
    again = await ledger.take_over(BARRIER)
    assert again > barrier
    assert await reader.read_kafka_head(side.streams.heads, 0, 0, again) == (head(6, 2), BARRIER)
    # Records behind the barrier aren't seen.
    assert await reader.read_kafka_head(side.streams.heads, 0, 0, barrier) == (None, None)
    [page] = [p async for p in reader.read_outputs(side.streams.output, 0, 0, 0, 2, published.position)]
    assert page.notes == {b"a": b"note of a", b"b": b"note of b"}
    assert page.mark == (2, 5, 7, 2, "v")
    assert page.last == published.last
    await ledger.close()


async def test_offsets_are_not_dense(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    first = await ledger.publish(turn(1, 1, b"a"))
    second = await ledger.publish(turn(2, 2, b"a"))
    assert first
    assert second
    assert second.position == first.position + 2, "a marker lies between"
    assert await reader.record_at(side.streams.output, 0, first.position) is None
    found = await reader.record_at(side.streams.output, 0, second.position - 1)
    assert found
    assert (found.offset, found.key) == (second.position - 1, b"a")
    assert await reader.bounds([side.streams.output], 0) == {side.streams.output: (0, second.position + 1)}
    await ledger.close()


async def test_a_successor_fences(side: Side, reader: LogReader) -> None:
    predecessor = await side.ledger()
    await predecessor.publish(turn(1, 1, b"a"))
    # In the middle of a turn: the outputs are sent, the transaction is open.
    await predecessor._producer.begin_transaction()
    for future, _ in await predecessor._send_outputs(turn(2, 2, b"b")):
        await future
    assert (await reader.bounds([side.streams.output], 0))[side.streams.output][1] == 2, (
        "an open transaction isn't read"
    )
    successor = await side.ledger()
    barrier = await successor.take_over(BARRIER)
    with pytest.raises((KafkaError, ShardLost)):
        await predecessor._producer.commit_transaction()
    await predecessor.close()
    assert await reader.read_kafka_head(side.streams.heads, 0, 0, barrier) == (head(1, 1), None)
    assert (await read_all(reader, side, 0, 0, 1))[-1][1] == 1
    # The aborted output took one offset, its marker another.
    assert (await reader.bounds([side.streams.output], 0))[side.streams.output][1] == 4
    published = await successor.publish(turn(2, 2, b"c"))
    assert published
    assert published.position == 5
    await successor.close()


@pytest.mark.parametrize("keys", [[b"b"], []], ids=["moves", "no moves"])
async def test_a_fenced_owner_publishes_nothing(side: Side, reader: LogReader, keys: list[bytes]) -> None:
    predecessor = await side.ledger()
    await predecessor.publish(turn(1, 1, b"a"))
    successor = await side.ledger()
    with pytest.raises((KafkaError, ShardLost)):
        await predecessor.publish(turn(2, 2, *keys))
    await predecessor.close()
    barrier = await successor.take_over(BARRIER)
    assert await reader.read_kafka_head(side.streams.heads, 0, 0, barrier) == (head(1, 1), None)
    await successor.close()


async def test_outputs_are_read_to_s_and_to_the_end(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    await ledger.publish(turn(1, 1, b"a"))
    await tear(ledger, turn(2, 2, b"b"))
    # Beyond S, up to the end: a torn transaction.
    assert (await read_all(reader, side, 0, 0, 1))[-1][1] == 2
    # Beyond an end that is too low, up to S.
    pages = [p async for p in reader.read_outputs(side.streams.output, 0, 0, 0, 2, 0)]
    assert pages[-1].mark
    assert pages[-1].mark.number == 2
    with pytest.raises(ShardQuarantined) as stop:
        await read_all(reader, side, 0, 0, 3)
    assert stop.value.reason == "outputs_missing"
    await ledger.close()


async def test_a_head_covers_what_a_torn_transaction_left(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    torn = turn(2, 1, b"b")
    torn.dead, torn.tombstones = [letter(side, 1)], {b"x": b"1"}
    await tear(ledger, torn)
    await ledger.cover(torn)
    barrier = await ledger.take_over(BARRIER)
    found, _ = await reader.read_kafka_head(side.streams.heads, 0, 0, barrier)
    assert found == KafkaHead(2, 1, 7, 2, "v", dead=1)
    # The move isn't sent again; all else is there.
    outputs = reader.read_outputs(side.streams.output, 0, 0, 0, 1, 0)
    assert [output.key for page in [p async for p in outputs] for output in page.outputs] == [b"b"]
    assert side.streams.latest
    assert side.streams.tombstones
    assert await reader.read_latest(side.streams.latest, 0) == {b"b": b"latest"}
    assert await reader.read_latest(side.streams.tombstones, 0) == {b"x": b"1"}
    assert await dead_letters(side, reader, 0) == {1}
    await ledger.close()


async def test_each_head_knows_where_the_dead_letters_end(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    await ledger.publish(Publication(head(1, 0), dead=[letter(side, 0)]))
    await ledger.publish(turn(2, 1, b"a"))
    barrier = await ledger.take_over(BARRIER)
    found, _ = await reader.read_kafka_head(side.streams.heads, 0, 0, barrier)
    assert found
    assert (found.offset, found.dead) == (2, 1)
    assert await dead_letters(side, reader, 0) == {0}
    assert await dead_letters(side, reader, found.dead or 0) == set()
    # A torn turn without outputs.
    await ledger._producer.begin_transaction()
    for future, _ in await ledger._send_dead([letter(side, 2), letter(side, 3), letter(side, 4, "other")]):
        await future
    await ledger._producer.commit_transaction()
    assert await dead_letters(side, reader, found.dead or 0) == {2, 3}
    await ledger.close()


def letter(side: Side, offset: int, group: str | None = None) -> DeadRecord:
    """Return the dead letter of an order. `group`: of another one that reads the same orders."""
    record = SimpleNamespace(offset=offset, key=b"key", value=b"garbage", headers=[])
    rejected = DeadLetter(0, "not_json", None, "garbage")
    return dead_record(
        record, rejected, side.streams.input, 0, now_ms=0, max_bytes=10_000, group=group or side.settings.group
    )


async def dead_letters(side: Side, reader: LogReader, begin: int) -> frozenset[int]:
    """Return the orders that have a dead letter from that position on."""
    topic = side.streams.dead_letters
    _, end = (await reader.bounds([topic], 0))[topic]
    return await reader.dead_letters(topic, 0, (begin, end), side.streams.input)


async def test_the_input_is_read_in_order(side: Side, reader: LogReader) -> None:
    await side.send(b"1", b"2", b"3")
    reader.seek(side.streams.input, 0, 1)
    records = await reader.read(1, 3_000)
    assert [(r.offset, r.key, r.value) for r in records] == [(1, b"key", b"2")]
    assert await reader.position() == 2
    assert [r.value for r in await reader.read(10, 3_000)] == [b"3"]
    assert await reader.read(10, 10) == []
    assert reader.known_bounds() == (3, 3)


async def test_the_latest_of_each_key_is_read(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    topic = side.streams.tombstones
    assert topic
    await ledger.publish(Publication(head(1, 0), tombstones={b"x": b"1", b"y": b"1"}))
    await ledger.publish(Publication(head(2, 0), tombstones={b"x": b"2"}))
    assert await reader.read_latest(topic, 0) == {b"x": b"2", b"y": b"1"}
    await ledger.close()


async def test_a_send_that_fails_fails_the_turn(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    await ledger.publish(turn(1, 1, b"a"))
    if side.memory:
        side.memory.faults.refused[side.streams.output] = 1
        big = turn(2, 2, b"b")
    else:
        big = turn(2, 2, b"b")
        big.outputs[0].value = b"x" * (side.settings.max_event_bytes * 2)
    with pytest.raises((KafkaError, ShardLost, ValueError)):
        await ledger.publish(big)
    await ledger.close()
    successor = await side.ledger()
    barrier = await successor.take_over(BARRIER)
    assert await reader.read_kafka_head(side.streams.heads, 0, 0, barrier) == (head(1, 1), None)
    assert (await read_all(reader, side, 0, 0, 1))[-1][1] == 1
    await successor.close()


async def test_the_topics_are_described(side: Side, reader: LogReader) -> None:
    cluster, counts = await reader.describe(side.streams.pinned())
    assert cluster
    assert counts == dict.fromkeys(side.streams.pinned(), 1)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ShardStore]:
    if request.param == "memory":
        memory = MemoryStore()
        await memory.read_head()
        yield memory
        return
    keys = ShardKeys(uuid.uuid4().hex, "orders", 0)
    if request.param == "simulated":
        kafka, place = calm_servers(streams_of(Settings(), "scoring"))
        simulated = ShardStore(cast("Any", SimulatedRedis(place, kafka.wire, 5)), keys, b"salt")
        await simulated.read_head()
        yield simulated
        return
    url = request.getfixturevalue("stack").endpoints.redis
    redis = connect(Settings(redis_url=url))
    made = ShardStore(redis, keys, b"salt")
    await made.read_head()
    yield made
    await redis.aclose()


def store_head(turn: int) -> bytes:
    """Return the bytes of a head, without counts."""
    return encode_head(msgspec.structs.replace(first_head("cluster", (1, 1), 0), turn=turn))


async def test_the_head_is_compared_and_set(store: ShardStore) -> None:
    assert await store.read_head() is None
    assert await store.is_empty()
    one, two = store_head(1), store_head(2)
    first = await store.commit(None, one, Writes({b"a": b"1"}, created=[b"a"], due={b"a": 7}))
    assert first == with_stored(one, Stored(1, 1, 1, 0))
    with pytest.raises(ShardLost):
        await store.commit(None, two, Writes({b"a": b"2"}))
    with pytest.raises(ShardLost):
        await store.commit(two, two, Writes({b"a": b"2"}))
    assert await store.committed(one) == first
    assert await store.committed(two) is None
    assert (await store.load(first, [b"a", b"b"], None, 0)).values == [b"1", None]
    second = await store.commit(first, two, Writes({b"a": b"2"}, idle=[b"a"]))
    assert second == with_stored(two, Stored(1, 1, 0, 0))
    assert await store.read_head() == second
    assert not await store.is_empty()


async def test_nothing_is_loaded_under_another_head(store: ShardStore) -> None:
    await store.commit(None, store_head(1), Writes())
    for asked in ([b"a"], []):
        with pytest.raises(ShardLost):
            await store.load(store_head(2), asked, 10, 5)
    with pytest.raises(ShardLost):
        await store.load_slice(store_head(2), "", 5)


VANISHED: Final = {
    "states": "0 states instead of 2",
    "customers": "0 entries in the list of customers instead of 2",
    "due": "0 due times instead of 2",
    "tombstones": "0 tombstones instead of 2",
}


async def lose(store: ShardStore, name: str) -> None:
    """Delete one key of the shard behind its head."""
    if isinstance(store, MemoryStore):
        store.lose(name)
    else:
        await store._redis.delete(getattr(store._keys, name))


@pytest.mark.parametrize(("name", "shown"), VANISHED.items(), ids=VANISHED)
async def test_a_part_that_vanished_behind_the_head_is_noticed(store: ShardStore, name: str, shown: str) -> None:
    await store.commit(None, store_head(1), store.with_tombstones(Writes({b"c": b"left"}), bool))
    raw = await store.read_head()
    states = {b"a": b"1", b"b": b"2"}
    raw = await store.commit(raw, store_head(2), Writes(states, created=list(states), due=dict.fromkeys(states, 7)))
    await lose(store, name)

    async def stops(call: Awaitable[object]) -> None:
        with pytest.raises(ShardQuarantined, match=shown) as stop:
            await call
        assert stop.value.reason == "redis_lost"
        assert "segstream rebuild" in str(stop.value)

    await stops(store.load(raw, [b"a"], None, 0))
    await stops(store.load(raw, [], 5, 10))
    await stops(store.load_slice(raw, "", 5))
    await stops(store.commit(raw, store_head(3), Writes({b"a": b"3"})))
    await stops(store.read_head())


async def test_a_head_of_a_version_that_counts_nothing_gets_its_counts(store: ShardStore) -> None:
    raw = await store.commit(None, store_head(1), Writes({b"a": b"1"}, created=[b"a"]))
    old = raw.replace(b',"stored":[1,1,0,0]', b"")
    assert old != raw
    if isinstance(store, MemoryStore):
        store.kept.head = old
    else:
        await store._redis.set(store._keys.head, old)
    assert await store.read_head() == old
    assert (await store.load(old, [b"a"], None, 0)).values == [b"1"]
    new = await store.commit(old, store_head(2), Writes({b"b": b"1"}, created=[b"b"]))
    assert new == with_stored(store_head(2), Stored(2, 2, 0, 0))


async def test_due_customers_are_found(store: ShardStore) -> None:
    names = [b"a", b"b", b"c"]
    raw = await store.commit(
        None, store_head(1), Writes(dict.fromkeys(names, b"s"), created=names, earlier={b"a": 30, b"b": 20, b"c": 10})
    )
    assert (await store.load(raw, [], 30, 5)).fired == [DueEntry(10, b"c", b"s"), DueEntry(20, b"b", b"s")]
    assert (await store.load(raw, [], 30, 1)).fired == [DueEntry(10, b"c", b"s")]
    assert (await store.load(raw, [], None, 5)).fired == []
    raw = await store.commit(raw, store_head(2), Writes(earlier={b"a": 40, b"b": 5}, due={b"c": 50}))
    assert [(d.at, d.key) for d in (await store.load(raw, [], 99, 5)).fired] == [(5, b"b"), (30, b"a"), (50, b"c")]
    raw = await store.commit(raw, store_head(3), Writes(idle=[b"a", b"b"]))
    assert [d.key for d in (await store.load(raw, [], 99, 5)).fired] == [b"c"]


async def test_customers_are_found_in_slices(store: ShardStore) -> None:
    names = [b"a", b"b", b"c"]
    raw = await store.commit(None, store_head(1), Writes(dict.fromkeys(names, b"s"), created=names))
    assert await store.load_slice(raw, "", 2) == ([(b"a", b"s"), (b"b", b"s")], 2, b"b")
    assert await store.load_slice(raw, "b", 2) == ([(b"c", b"s")], 1, b"c")
    assert await store.load_slice(raw, "c", 2) == ([], 0, b"")


async def test_erased_customers_are_stored_under_hashes(store: ShardStore) -> None:
    raw = await store.commit(None, store_head(1), Writes({b"a": b"s"}, created=[b"a"], earlier={b"a": 1}))
    raw = await store.commit(
        raw, store_head(2), store.with_tombstones(Writes({b"a": b"left"}), lambda value: value == b"left")
    )
    found = await store.load(raw, [b"a"], 99, 5)
    assert (found.values, found.fired, found.erased) == ([b"left"], [], frozenset({b"a"}))
    assert found.present([b"a"]) == set()
    assert await store.load_slice(raw, "", 5) == ([], 0, b"")
    raw = await store.commit(raw, store_head(3), Writes({b"a": b"back"}, created=[b"a"]))
    back = await store.load(raw, [b"a"], None, 0)
    assert (back.values, back.erased) == ([b"back"], frozenset())


@pytest.mark.parametrize("states", [{}, {b"n%d" % i: b"s" for i in range(11_000)}], ids=["empty", "customers"])
async def test_a_shard_can_be_started_anew(store: ShardStore, states: dict[bytes, bytes]) -> None:
    await store.commit(None, store_head(1), Writes({b"a": b"s"}, created=[b"a"], due={b"a": 1}))
    await store.start_anew(store_head(0), states)
    raw = await store.read_head()
    assert raw == with_stored(store_head(0), Stored(len(states), len(states), 0, 0))
    assert (await store.load(raw, [b"a", *list(states)[:1]], 99, 5)).values == [None, *list(states.values())[:1]]
