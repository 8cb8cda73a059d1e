"""The contract that the protocol needs of Kafka, tested on the real one and on those in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from segmentation.events import CONTROL_KEY
from segmentation.step import DeadLetter, Forward, Output, Package, Turn
from stream.dead_letters.records import DeadRecord, dead_record
from stream.engine.ledger import Ledger, Onward, Publication
from stream.engine.log_reader import LogReader
from stream.errors import ShardLost, ShardQuarantined
from stream.kafka import topics
from stream.kafka.streams import Streams, streams_of
from stream.settings import Settings
from stream.storage.heads import (
    GROUP_HEADER,
    Fingerprint,
    KafkaHead,
    TakeoverRecord,
)
from stream.storage.tombstones import AT_THE_END, BEGINNING, TurnPlace
from tests.recovery.rig.calm_servers import STORES, calm_servers
from tests.recovery.rig.memory_ledger import MemoryBroker
from tests.simulation.fleet import installed
from tests.simulation.servers.broker import SimulatedBroker
from tests.simulation.servers.logs import SimulatedRecord

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


async def test_packages_of_other_groups_are_left_out(side: Side, reader: LogReader) -> None:
    own, turn = side.settings.group, Turn(3, 0)
    turn.packages = [Package(0, 0, b"first"), Package(2, 0, b"third")]
    turn.forwards = [Forward(1, 0)]
    read = SimulatedRecord(7, 0, b"key", b"second", ())
    onward = Onward.all_of(turn, [read] * 3, side.streams, own)
    foreign = Onward(side.streams.input, 0, (CONTROL_KEY, b"foreign", [(GROUP_HEADER, b"another group")]))
    control = Onward(side.streams.input, 0, (CONTROL_KEY, b"for everyone", []))
    ledger = await side.ledger()
    await ledger.publish(Publication(KafkaHead(0, 0, 0, 0, ""), onward=[foreign, *onward, control, foreign]))
    await ledger.close()
    reader.seek(side.streams.input, 0, 0)
    found: list[bytes | None] = []
    while await reader.position() < 6:
        found += [r.value for r in await reader.read_on(10)]
    assert found == [b"first", b"second", b"third", b"for everyone"]


async def test_the_latest_of_each_key_is_read(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    topic = side.streams.tombstones
    assert topic
    await ledger.publish(Publication(head(1, 0), tombstones={b"x": b"1", b"y": b"1"}))
    await ledger.publish(Publication(head(2, 0), tombstones={b"x": b"2"}))
    assert await reader.read_latest(topic, 0) == {b"x": b"2", b"y": b"1"}
    await ledger.close()


async def test_a_tombstone_of_a_torn_turn_counts_once_its_turn_is_taken(side: Side, reader: LogReader) -> None:
    ledger = await side.ledger()
    topic, first = side.streams.tombstones, TurnPlace.of(head(1, 0))
    assert topic
    await ledger.publish(Publication(head(1, 0), tombstones={b"x": b"1", b"y": b"1"}))
    # Of "w" a compaction has left the torn record alone.
    torn = Publication(head(2, 0), tombstones={b"x": b"2", b"z": b"2", b"w": b"2"}, former={b"x": b"1", b"w": b"1"})
    await ledger._producer.begin_transaction()
    for future, _ in await ledger._send_tombstones(torn):
        await future
    await ledger._producer.commit_transaction()
    assert await reader.read_tombstones(topic, 0, first) == {b"x": b"1", b"y": b"1", b"w": b"1"}
    await ledger.publish(torn)
    taken = {b"x": b"2", b"y": b"1", b"z": b"2", b"w": b"2"}
    assert await reader.read_tombstones(topic, 0, TurnPlace.of(head(2, 0))) == taken
    assert await reader.read_tombstones(topic, 0, AT_THE_END) == taken
    await ledger.close()


async def test_a_tombstone_that_names_no_place_counts(side: Side, reader: LogReader) -> None:
    """A former version wrote it, or it is a copy."""
    ledger = await side.ledger()
    topic = side.streams.tombstones
    assert topic
    await ledger._producer.begin_transaction()
    for future, _ in await ledger._send_rows(topic, [(b"x", b"1", [])]):
        await future
    await ledger._producer.commit_transaction()
    assert await reader.read_tombstones(topic, 0, BEGINNING) == {b"x": b"1"}
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


async def test_each_answer_to_a_fetch_says_how_far_open_transactions_reach(side: Side, reader: LogReader) -> None:
    """A shard takes an order of its side input once two answers after it say that the input is at its end."""
    ledger, topic = await side.ledger(), side.streams.output
    await ledger.publish(turn(1, 1, b"a"))
    reader.seek(topic, 0, 0)
    answers = set[int | None]()

    async def until(drained: bool) -> None:
        async with asyncio.timeout(30):
            while True:
                await reader.read(10, 10)
                known, position = reader.known_bounds(), await reader.position()
                answers.add(reader.answered_at())
                if known and position == known[0] and (position >= known[1]) is drained and len(answers) > 2:
                    return
                await asyncio.sleep(0.01)  # the fetch is under way

    await until(drained=True)
    answers.clear()
    await ledger._producer.begin_transaction()
    for future, _ in await ledger._send_outputs(turn(2, 2, b"b")):
        await future
    await until(drained=False)
    answers.clear()
    await ledger._producer.commit_transaction()
    await until(drained=True)
    await ledger.close()
