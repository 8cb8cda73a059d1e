"""The adapters as real processes lose nothing when they are killed, refused by the broker or joined by others."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from segmentation.partitioners import murmur2
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.local.machine import free_port
from stream.settings import Settings
from stream.settings_sources import PREFIX
from tests.integration.engine.test_dirty_input import oddly_named
from tests.support.paths import ROOT

Place = tuple[str, int, int]  # topic, partition, offset
SOURCE_PARTITIONS = 3
SHOP = """
import time
from stream.adapters.mapping import Adapters

adapters = Adapters()

@adapters.map("{topic}")
def to_events(record):
    time.sleep(0.0004)  # so that a kill hits the middle
    kind, number = record.value.decode().split()
    if kind == "basket":
        return
    if kind == "bad":
        raise ValueError(number)
    amount = {{"value": number, "currency": "XXX" if kind == "foreign" else "USD"}}
    for n in range(1 + (kind == "two")):
        yield {{
            "type": "order.placed", "id": record.event_id(n), "order_id": number, "customer_id": "c" + number,
            "occurred_at": "2026-01-01T00:00:00Z", "amount": amount,
        }}
"""
UNKEYED = (
    b'{"type":"order.placed","id":"u-%d","order_id":"u-%d","customer_id":"u%d","occurred_at":"2026-01-01T00:00:00Z",'
    b'"amount":{"value":"1.00","currency":"USD"},"unknown":%d}'
)


class Shop:
    """A deployment with a topic of the shop, and the shop's adapter in a file."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.topic = f"shop-{settings.group}"
        self.folder = folder
        self.log = folder / "adapters.log"
        (folder / "shop_adapter.py").write_text(SHOP.format(topic=self.topic))

    async def open(self) -> None:
        await topics.create(self.settings)
        async with admin(self.settings) as client:
            await client.create_topics([NewTopic(self.topic, SOURCE_PARTITIONS, 1)])

    @contextmanager
    def started(self, http_port: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        names = [n for n in Settings.model_fields if n.endswith("_topic")]
        names += ["kafka_bootstrap_servers", "group", "partitions", "session_timeout_ms", "max_event_bytes"]
        chosen = {f"{PREFIX}{n.upper()}": str(getattr(self.settings, n)) for n in names}
        command = [sys.executable, "-m", "stream.cli", "adapters", "--app", "shop_adapter:adapters"]
        with self.log.open("ab") as out:
            running = subprocess.Popen(
                [*command, "--http-port", str(http_port)],
                cwd=self.folder,
                env=os.environ | chosen | {"PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=out,
            )
        try:
            yield running
        finally:
            running.kill()
            running.wait()

    async def produce(self, count: int) -> dict[Place, bytes]:
        """Send records of all kinds to the shop's topic, and events without keys; return them by their coordinates."""
        kinds = [b"order", b"order", b"two", b"basket", b"bad", b"foreign", b"order"]
        rows = [(self.topic, n % SOURCE_PARTITIONS, b"%b %d" % (kinds[n % len(kinds)], n)) for n in range(count)]
        rows += [
            (self.settings.unkeyed_topic, n % 4, UNKEYED % (n, n, n, n) if n % 10 else b"{%d" % n)
            for n in range(count // 4)
        ]
        producer = AIOKafkaProducer(**self.settings.kafka_client(), transactional_id=f"shop-{self.topic}", linger_ms=5)
        placed: dict[Place, bytes] = {}
        await producer.start()
        try:
            # In transactions, whose markers leave gaps in the offsets; aborted records are no orders.
            for at in range(0, len(rows), 500):
                for value, commit in (
                    (rows[at : at + 500], True),
                    ([(t, p, b"order 0") for t, p, _ in rows[:9]], False),
                ):
                    await producer.begin_transaction()
                    sent = [await producer.send(t, v, partition=p, key=b"k") for t, p, v in value]
                    for (topic, partition, content), future in zip(value, sent, strict=True):
                        offset = (await future).offset
                        if commit:
                            placed[topic, partition, offset] = content
                    await (producer.commit_transaction() if commit else producer.abort_transaction())
        finally:
            await producer.stop()
        return placed

    async def produce_odd(self) -> dict[Place, bytes]:
        """Send a record with a header name that isn't UTF-8, which stock aiokafka can't read."""
        value = UNKEYED % (9, 9, 9, 9)
        async with AIOKafkaProducer(**self.settings.kafka_client()) as producer:
            batch = oddly_named(producer.create_batch())
            batch.append(key=None, value=value, headers=[("abcd", b"1")], timestamp=None)
            sent = await (await producer.send_batch(batch, self.settings.unkeyed_topic, partition=0))
        return {(self.settings.unkeyed_topic, 0, sent.offset): value}

    async def committed(self) -> dict[tuple[str, int], int]:
        async with admin(self.settings) as client:
            found = await client.list_consumer_group_offsets(f"{self.settings.group}-adapters")
        return {(tp.topic, tp.partition): at.offset for tp, at in found.items()}

    async def became(self) -> dict[Place, set[bytes]]:
        """Return the outcome of each record: its set of order events, or its dead letters with their reasons."""
        found: dict[Place, set[bytes]] = defaultdict(set)
        for record in await read_topic(self.settings, self.settings.orders_topic):
            place = re.fullmatch(r"(.*)-(\d+)@(\d+)", dict(record.headers)["segstream_source"].decode())
            assert place
            assert record.key == msgspec.json.decode(record.value)["customer_id"].encode()
            assert record.partition == murmur2(record.key, self.settings.partitions)
            found[place[1], int(place[2]), int(place[3])].add(record.value)
        for record in await read_topic(self.settings, self.settings.orders_dead_letters_topic):
            headers = dict(record.headers)
            topic, partition, offset = (headers[f"__connect.errors.{n}"] for n in ("topic", "partition", "offset"))
            letter = headers["segstream_reason"] + b":" + record.value
            found[topic.decode(), int(partition), int(offset)].add(letter)
        return found

    async def has_become(self, wanted: dict[Place, set[bytes]]) -> bool:
        return await self.became() == wanted

    async def verify_acknowledged(self, placed: dict[Place, bytes]) -> int:
        """Check that everything the group has committed is in Kafka; return the number of records."""
        committed = await self.committed()
        became = await self.became()
        below = {p: v for p, v in placed.items() if p[2] < committed.get(p[:2], 0)}
        assert {p: became.get(p, set()) for p in below} == {p: expected(p, v) for p, v in below.items()}
        return len(below)


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(**settings.kafka_client())
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def configure(settings: Settings, topic: str, **config: str) -> None:
    """Set these settings of a topic, and no others."""
    named = {name.replace("_", "."): value for name, value in config.items()}
    async with admin(settings) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, named)])


def expected(place: Place, value: bytes) -> set[bytes]:
    """Return the outcome that a record must have, however often it was read; for a basket nothing."""
    kind, _, number = value.partition(b" ")
    if value.startswith(b"{"):
        return {value} if value.endswith(b"}") else {b"not_json:" + value}
    if kind in {b"bad", b"foreign"}:
        return {(b"adapter_failed:" if kind == b"bad" else b"unknown_currency:") + value}
    ids = ["{}:{}:{}".format(*place)] if kind != b"basket" else []
    if kind == b"two":
        ids.append(ids[0] + "#1")
    return {
        b'{"type":"order.placed","id":"%b","order_id":"%b","customer_id":"c%b","occurred_at":"2026-01-01T00:00:00Z",'
        b'"amount":{"value":"%b","currency":"USD"}}' % (event_id.encode(), number, number, number)
        for event_id in ids
    }


def served(port: int, path: str) -> str:
    """Return the answer; nothing while there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def metric(port: int, name: str) -> float:
    lines = served(port, "metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def until(condition: Callable[[], Any], shop: Shop, running: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        assert running.poll() is None, shop.log.read_text()
        assert time.monotonic() < deadline, f"{what}: {shop.log.read_text()}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def shop(settings_for: Callable[..., Settings], tmp_path: Path) -> Shop:
    made = Shop(settings_for(session_timeout_ms=3_000), tmp_path)
    await made.open()
    return made


@pytest.mark.slow
async def test_nothing_is_lost_when_adapters_are_killed_stopped_and_joined(shop: Shop) -> None:
    port, second = free_port(), free_port()
    placed = await shop.produce(2_560)
    wanted = {place: outcome for place, value in placed.items() if (outcome := expected(place, value))}
    assert len(placed) == 3_200

    with shop.started(port) as running:
        await until(lambda: metric(port, "segstream_events_total") > 800, shop, running, "in the middle")
        running.kill()
    assert 300 < len(await shop.became()) < len(wanted)
    await shop.verify_acknowledged(placed)

    with shop.started(port) as running:
        await until(lambda: metric(port, "segstream_events_total") > 300, shop, running, "going on")
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0, shop.log.read_text()
    stopped = await shop.verify_acknowledged(placed)
    assert 300 < stopped < len(placed)

    async def all_committed() -> bool:
        return await shop.committed() == {p[:2]: p[2] + 1 for p in sorted(placed)}

    # The group reassigns the partitions while records arrive.
    with shop.started(port) as running, shop.started(second) as other:
        for at, process in ((port, running), (second, other)):
            await until(partial(served, at, "health"), shop, process, "started")
        await until(all_committed, shop, running, "everything committed")
        for process in (running, other):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in (running, other)] == [0, 0], shop.log.read_text()
    assert await shop.became() == wanted


@pytest.mark.slow
async def test_a_permanent_refusal_ends_the_process_with_one_line_and_acknowledges_nothing(shop: Shop) -> None:
    settings, port = shop.settings, free_port()
    placed = await shop.produce_odd() | await shop.produce(80)
    await configure(settings, settings.orders_topic, max_message_bytes="50")
    with shop.started() as running:
        assert await asyncio.to_thread(running.wait, 30) == 1
    logged = shop.log.read_text()
    assert "segstream: Kafka refuses what becomes of" in logged
    assert "Traceback" not in logged, logged
    await shop.verify_acknowledged(placed)
    assert await read_topic(settings, settings.orders_topic) == []

    await configure(settings, settings.orders_topic, max_message_bytes="1048576")
    wanted = {place: outcome for place, value in placed.items() if (outcome := expected(place, value))}
    with shop.started(port) as running:
        await until(lambda: metric(port, "segstream_events_total") >= len(placed), shop, running, "all taken")
        await until(lambda: shop.has_become(wanted), shop, running, "everything arrived")
