"""A permission is taken from a process: it ends with one line that names it, and goes on exactly once it is back.

The checker of the recovery tests judges the worker's runs. What a process needs at its start alone is in
test_ways_in.py; here a permission is taken while the process works.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer

from segmentation.event_text import instant
from segmentation.events import CONTROL_KEY, Amount, CustomerErased, CustomerMerged, OrderPlaced, encode
from segmentation.partitioners import murmur2
from stream.kafka import topics
from stream.kafka.clients import end_offsets, read_topic
from stream.settings import Settings
from stream.traces.person import person_of
from tests.recovery.rig import checker
from tests.recovery.rig.feed import Feeder, FeedRecord, OrderFeed
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events
from tests.support.secured.programs import Running, running
from tests.support.secured.rules import KafkaRule, documented, grant, redis_users, revoke, set_redis_users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.secured.servers import SecuredServers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOON_S = 120.0  # on a loaded machine; on a quiet one it takes some two seconds


@dataclass
class RunningShop:
    """A deployment of this module alone, which goes on from test to test. `settings`: of an administrator."""

    servers: SecuredServers
    settings: Settings
    orders: OrderFeed = field(default_factory=lambda: OrderFeed(1, 300, 2))
    acknowledged: set[tuple[int, bytes]] = field(default_factory=set)
    models: int = 0

    def of(self, user: str) -> Settings:
        names = self.settings.model_dump(include=self.settings.model_fields_set - {"redis_url"})
        return self.servers.settings(user, **{k: v for k, v in names.items() if not k.startswith("kafka_")})

    def rule(self, user: str, name: str) -> KafkaRule:
        [number] = [n for n, rule in enumerate(documented()) if (rule.principal, str(rule)) == (f"User:{user}", name)]
        return documented(self.settings)[number]

    def change_redis_user(self, *words: str) -> None:
        command: Any = self.servers.redis.execute_command
        command("ACL", "SETUSER", "worker", *words)

    async def order(self) -> None:
        """Send orders of known and new customers, an erasure, a record that nobody can use, and another model."""
        feeder = Feeder(self.settings, self.models)
        feeder.acknowledged, feeder.models = self.acknowledged, self.models
        records = self.orders.take(60)
        key = next(record.key for record in records if record.key != CONTROL_KEY)
        erased = encode(
            CustomerErased(id=uuid.uuid4().hex, customer_id=key.decode(), occurred_at=instant(self.orders.at_ms))
        )
        for value in (erased, b'{"garbage": %d' % uuid.uuid4().int):
            records.append(FeedRecord(key, value, murmur2(key, self.settings.partitions)))
        try:
            await feeder.send(records)
            assert await feeder.activate()
        finally:
            self.models = feeder.models
            await feeder.close()

    async def settled(self, process: Running) -> None:
        """Wait until all is scored, and what customers were handed on by meanwhile, too."""
        before = dict[int, int]()
        while (ends := await end_offsets(self.settings, self.settings.orders_topic)) != before:
            before = ends
            await self._reaches(ends, process)

    async def _reaches(self, ends: dict[int, int], process: Running) -> None:
        def done() -> bool:
            assert process.process.poll() is None, process.lines()[-3:]
            heads = [shard.head for shard in checker.read_shards(self.settings)]
            return all(h and h["offset"] >= ends[p] and h["cursor"] is None for p, h in enumerate(heads))

        await eventually(done, SOON_S, "a shop at rest")

    def states(self) -> list[Any]:
        return [(shard.states, shard.due, shard.customers) for shard in checker.read_shards(self.settings)]


@pytest.fixture(scope="module", autouse=True)
def page_rules_after(secured: SecuredServers) -> Iterator[None]:
    """Give Redis's users the rules of the page back: the shops of this module change the worker's keys."""
    yield
    set_redis_users(secured.redis, redis_users())


@pytest.fixture(scope="module")
def shop(secured: SecuredServers) -> RunningShop:
    return opened(secured, time="event")


@pytest.fixture(scope="module")
def market(secured: SecuredServers) -> RunningShop:
    """Open a shop whose orders come through adapters."""
    return opened(secured)


def opened(secured: SecuredServers, **others: Any) -> RunningShop:
    mark = uuid.uuid4().hex[:8]
    base = Settings()
    names: dict[str, Any] = {f: f"{getattr(base, f)}-{mark}" for f in Settings.model_fields if f.endswith("_topic")}
    settings = secured.administrator(partitions=2, group=f"g-{mark}", **names, **others)
    asyncio.run(topics.create(settings))
    asyncio.run(grant(secured.administrator(), documented(settings)))
    made = RunningShop(secured, settings)
    made.change_redis_user(*(word for word in redis_users(settings)["worker"] if "~" in word))
    return made


async def ended(process: Running, *words: str) -> None:
    """Wait until the process has ended by itself; its last line, and no other like it, must have these words."""
    await eventually(lambda: process.process.poll() is not None, SOON_S, f"the end of {process.log.name}")
    lines = process.lines()
    assert process.process.returncode == 1, lines[-5:]
    assert [line for line in lines if line.startswith("segstream:")] == lines[-1:], lines[-5:]
    assert "never retrieved" not in "".join(lines)
    for word in (*words, "docs/security.md"):
        assert word in lines[-1]


async def judged(shop: RunningShop) -> None:
    run = await checker.read_run(shop.settings)
    assert not checker.violations(run, shop.acknowledged)


async def goes_on(shop: RunningShop, folder: Path) -> None:
    """With the permission back, the next worker must publish what is missing and nothing twice."""
    with running(shop.of("worker"), "segstream worker", folder / "after.log") as process:
        await shop.order()
        await shop.settled(process)
    await judged(shop)


# A permission, and what the last line says of it.
KAFKA = [
    ("Read topic orders", "the topic orders-"),
    ("Read topic segment-models", "the topic segment-models-"),
    ("Write topic segment-changes", "the topic segment-changes-"),
    ("Write topic orders-dead-letters", "the topic orders-"),
    ("Write topic segstream-scoring-heads", "-scoring-heads"),
    ("Write transactional-id segstream-orders-*", "the transactional id g-"),
]


@pytest.mark.parametrize(("name", "words"), KAFKA, ids=[name for name, _ in KAFKA])
async def test_a_worker_that_loses_a_permission_in_kafka(
    shop: RunningShop, tmp_path: Path, name: str, words: str
) -> None:
    rule = shop.rule("worker", name)
    with running(shop.of("worker"), "segstream worker", tmp_path / "worker.log") as process:
        await shop.order()
        await shop.settled(process)
        await revoke(shop.settings, rule)
        try:
            await shop.order()
            await ended(process, "Kafka doesn't let user 'worker'", words)
        finally:
            await grant(shop.settings, [rule])
    await goes_on(shop, tmp_path)


async def test_a_worker_that_may_not_hand_a_merged_customer_on(market: RunningShop, tmp_path: Path) -> None:
    """Only that needs Write on the topic of orders. Once it is back, the merge is done."""
    guest, account = (uuid.uuid4().hex for _ in range(2))
    rule, now = market.rule("worker", "Write topic orders"), datetime.now(UTC)
    orders = [
        OrderPlaced(
            id=one, customer_id=one, order_id=one, occurred_at=now, amount=Amount("10.00", market.settings.currency)
        )
        for one in (guest, account)
    ]
    await revoke(market.settings, rule)
    try:
        with running(market.of("worker"), "segstream worker", tmp_path / "worker.log") as process:
            await send_events(market.settings, *orders)
            await market.settled(process)
            await send_events(
                market.settings, CustomerMerged(id=guest + account, from_=guest, into=account, occurred_at=now)
            )
            await ended(process, "Kafka doesn't let user 'worker'", "the topic orders-")
    finally:
        await grant(market.settings, [rule])

    def merged() -> bool:
        person = person_of(market.servers.redis, market.settings, guest)
        return (person.customer_id, person.knows(0, guest, account)) == (account, True)

    assert not merged()
    with running(market.of("worker"), "segstream worker", tmp_path / "after.log"):
        await eventually(merged, SOON_S, "the merge")


@pytest.mark.parametrize(
    "taken",
    [("Read topic segstream-scoring-heads",), ("Read topic segstream-tombstones", "Write topic segstream-tombstones")],
    ids=" and ".join,
)
async def test_a_takeover_without_a_permission_in_kafka(
    shop: RunningShop, tmp_path: Path, taken: tuple[str, ...]
) -> None:
    """A worker that runs doesn't need it before its next takeover."""
    rules = [shop.rule("worker", name) for name in taken]
    for rule in rules:
        await revoke(shop.settings, rule)
    try:
        with running(shop.of("worker"), "segstream worker", tmp_path / "worker.log") as process:
            await ended(process, "Kafka doesn't let user 'worker'", rules[0].name)
    finally:
        await grant(shop.settings, rules)
    await goes_on(shop, tmp_path)


@pytest.mark.parametrize("command", ["hset", "hdel", "zadd", "set", "multi"])
async def test_a_worker_that_loses_a_command_of_redis(shop: RunningShop, tmp_path: Path, command: str) -> None:
    with running(shop.of("worker"), "segstream worker", tmp_path / "worker.log") as process:
        await shop.order()
        await shop.settled(process)
        before = shop.states()
        shop.change_redis_user(f"-{command}")
        try:
            await shop.order()
            await ended(process, "SEGSTREAM_REDIS_URL", f"'{command}'")
            assert shop.states() == before, "a commit was written in part"
            with running(shop.of("worker"), "segstream worker", tmp_path / "under denial.log") as next_one:
                await ended(next_one, "SEGSTREAM_REDIS_URL", f"'{command}'")
        finally:
            shop.change_redis_user(f"+{command}")
    await goes_on(shop, tmp_path)


async def test_a_worker_that_loses_its_keys_of_redis(shop: RunningShop, tmp_path: Path) -> None:
    keys = [word for word in redis_users(shop.settings)["worker"] if "~" in word]
    with running(shop.of("worker"), "segstream worker", tmp_path / "worker.log") as process:
        await shop.order()
        await shop.settled(process)
        shop.change_redis_user("resetkeys")
        try:
            await shop.order()
            await ended(process, "SEGSTREAM_REDIS_URL", "No permissions to access a key")
        finally:
            shop.change_redis_user(*keys)
    await goes_on(shop, tmp_path)


async def place_unkeyed(shop: RunningShop) -> set[str]:
    """Send orders without a key, and a record that nobody can use. Return the orders' ids."""
    ids = {uuid.uuid4().hex for _ in range(20)}
    async with AIOKafkaProducer(**shop.settings.kafka_client()) as producer:
        for one in ids:
            order = OrderPlaced(
                id=one, customer_id=one, order_id=one, occurred_at=datetime.now(UTC),
                amount=Amount("10.00", shop.settings.currency),
            )  # fmt: skip
            await producer.send_and_wait(shop.settings.unkeyed_topic, encode(order))
        await producer.send_and_wait(shop.settings.unkeyed_topic, b"{")
    return ids


async def arrived(shop: RunningShop, ids: set[str], dead: int) -> None:
    async def all_there() -> bool:
        found = {
            json.loads(record.value)["id"] for record in await read_topic(shop.settings, shop.settings.orders_topic)
        }
        letters = await read_topic(shop.settings, shop.settings.orders_dead_letters_topic)
        return ids <= found and len(letters) >= dead

    await eventually(all_there, SOON_S, "the orders of the adapters")


# With what is only read, no record need come for the loss to be noticed.
ADAPTERS = [
    ("Read topic orders-unkeyed", "the topic orders-unkeyed-", False),
    ("Read group segstream-adapters", "the consumer group g-", False),
    ("Write topic orders", "the topic orders-", True),
    ("Write topic orders-dead-letters", "the topic orders-", True),
]


@pytest.mark.parametrize(("name", "words", "flows"), ADAPTERS, ids=[name for name, *_ in ADAPTERS])
async def test_adapters_that_lose_a_permission(
    market: RunningShop, tmp_path: Path, name: str, words: str, flows: bool
) -> None:
    rule = market.rule("adapters", name)
    letters = len(await read_topic(market.settings, market.settings.orders_dead_letters_topic))
    with running(market.of("adapters"), "segstream adapters", tmp_path / "adapters.log") as process:
        ids = await place_unkeyed(market)
        await arrived(market, ids, letters + 1)
        await revoke(market.settings, rule)
        try:
            if flows:
                ids |= await place_unkeyed(market)
            await ended(process, "Kafka doesn't let user 'adapters'", words)
            if not flows:
                ids |= await place_unkeyed(market)
        finally:
            await grant(market.settings, [rule])
    with running(market.of("adapters"), "segstream adapters", tmp_path / "after.log"):
        await arrived(market, ids, letters + 2)
