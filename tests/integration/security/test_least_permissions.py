"""Every command and process under exactly the permissions that docs/security.md lists for its role.

Kafka: TLS, SCRAM and ACLs. Redis: TLS and ACL users.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from segmentation.events import Amount, OrderPlaced, encode
from segmentation.profiles import CustomerProfile
from stream.dead_letters.records import read_dead_letter
from stream.kafka.clients import end_offsets, read_topic
from stream.storage.heads import decode_store_head, encode_head
from stream.storage.keys import ShardKeys
from tests.support.delivery.endpoint import SECRET
from tests.support.engine.toy_engine import eventually
from tests.support.secured.programs import ENDED_BY_SIGNAL, Running, run, running
from tests.support.secured.rules import PAGE, documented, redis_users
from trainer.lock import training_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.settings import Settings
    from tests.support.secured.servers import SecuredServers

READS = [
    "status",
    "status --step campaigns",
    "customer c1",
    "customer c1 --everything FILE",
    "score --recency-days 1 --frequency 2 --monetary 3",
    "export --out FILE",
    "forecast",
    "models",
    "models shadow",
    "models drift",
    "rates list",
    "tail changes --from-beginning --limit 1",
    "tail actions --from-beginning --limit 1",
    "tail dead-letters --from-beginning --limit 1",
]

FILES = {"export": "customers.csv", "customer": "held.zip"}

pytestmark = pytest.mark.usefixtures("quiet")


def write_orders(path: Path, customers: range, *, newest_days: int = 1) -> Path:
    """Write orders of customers of three clearly different kinds, the newest so many days old."""
    now = datetime.now(UTC) - timedelta(days=newest_days)
    rows = ["order_id,customer_id,ordered_at,amount"]
    for customer in customers:
        kind = customer % 3
        for n in range((1, 5, 20)[kind]):
            at = now - timedelta(days=(200, 60, 0)[kind] + n, minutes=customer)
            rows.append(f"{customer}-{n},c{customer},{at.isoformat(timespec='seconds')},{(10, 60, 400)[kind] + n}.50")
    path.write_text("\n".join(rows))
    return path


def scored(servers: SecuredServers, settings: Settings) -> int:
    shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
    return sum(int(servers.redis.zcard(keys.customers)) for keys in shards)


async def place_by_the_shop(settings: Settings, count: int) -> None:
    """Send orders without a key, as a team of its own would, and one that nobody can use."""
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for n in range(count):
            order = OrderPlaced(
                id=f"shop-{n}", customer_id=f"shop-{n}", order_id=f"shop-{n}", occurred_at=datetime.now(UTC),
                amount=Amount("10.00", "EUR" if n == 0 else settings.currency),
            )  # fmt: skip
            await producer.send_and_wait(settings.unkeyed_topic, encode(order))
        for topic in (settings.orders_topic, settings.unkeyed_topic):
            await producer.send_and_wait(topic, b"{", key=b"broken", partition=0)


async def describe_by_the_profile_service(settings: Settings) -> None:
    """Send the profile of a customer who is merged later, and one that nobody can use."""
    profile = CustomerProfile(
        id="p-1", customer_id="c3", occurred_at=datetime.now(UTC), consent={"email": "denied"}, language="de"
    )
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        await producer.send_and_wait(settings.profiles_topic, encode(profile), key=b"c3")
        await producer.send_and_wait(settings.profiles_topic, b"{", key=b"broken", partition=0)


async def break_a_move(settings: Settings) -> None:
    """Send a move that the dispatcher can't read, and wait for its dead letters. `settings`: of an administrator."""
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        await producer.send_and_wait(settings.changes_topic, b"{", key=b"broken", partition=0)

    async def dead() -> bool:
        found = await read_topic(settings, settings.changes_dead_letters_topic)
        sources = {read_dead_letter(record).topic for record in found}
        return sources == {settings.changes_topic, settings.profiles_topic}

    await eventually(dead, 60, "the dead letters of a move and of a profile")


async def delete_a_topic(settings: Settings) -> None:
    """Leave one for `segstream topics create` to make. `settings`: of an administrator."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        await admin.delete_topics([settings.reports_topic])
    finally:
        await admin.close()


async def forget_the_first_order(settings: Settings) -> None:
    """Let retention overtake the first order. `settings`: of an administrator."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(settings.orders_topic, 0): RecordsToDelete(1)})
    finally:
        await admin.close()


async def read_by_the_campaign_tool(settings: Settings) -> None:
    topics = {settings.actions_topic, settings.changes_topic, settings.state_topic}
    async with AIOKafkaConsumer(
        *topics, **settings.kafka_client(), group_id="crm", auto_offset_reset="earliest"
    ) as consumer:
        seen = set[str]()

        async def all_of_them() -> bool:
            seen.update(partition.topic for partition in await consumer.getmany(timeout_ms=200))
            return seen == topics

        await eventually(all_of_them, 60, "actions, moves and latest moves")
        await consumer.commit()


def wait_for(condition: Callable[[], bool], processes: list[Running], what: str) -> None:
    def come_about() -> bool:
        ended = [process.lines() for process in processes if process.process.poll() is not None]
        assert not ended, ended
        return condition()

    try:
        asyncio.run(eventually(come_about, 90, what))
    except AssertionError as error:
        raise AssertionError([process.lines()[-5:] for process in processes]) from error


def write_endpoints(path: Path) -> Path:
    """Write an endpoint that nobody serves: its actions are given up after one attempt."""
    secret = path.with_suffix(".secret")
    secret.write_text(SECRET)
    secret.chmod(0o600)
    path.write_text(
        f"endpoints: [{{name: crm, url: 'http://127.0.0.1:9/', secrets: [{{file: '{secret}'}}], retries: [], "
        "allow_http: true, allow_private: true, start: beginning}]"
    )
    return path


async def see_actions_given_up(settings: Settings) -> None:
    """Wait for a dead letter of an endpoint. `settings`: of an administrator."""

    async def dead() -> bool:
        return any((await end_offsets(settings, settings.actions_dead_letters_topic)).values())

    await eventually(dead, 60, "an action that is given up")


def quarantine(servers: SecuredServers, settings: Settings) -> None:
    """Put an unreadable head into a shard of the dispatcher, which then waits for `segstream retry`."""
    keys = ShardKeys(settings.group, settings.changes_topic, 0)
    servers.redis.set(keys.head, b"unreadable")


def commands_asked(servers: SecuredServers) -> set[str]:
    """Return the commands that Valkey has run so far, those of scripts included."""
    stats = servers.redis.info("commandstats").items()
    return {name.removeprefix("cmdstat_").replace("|", " ") for name, row in stats if row["calls"]}


def see_a_rescore(servers: SecuredServers) -> None:
    """Let the reader look at models while a shard is rescored, which is over too soon to be met by chance."""
    key = ShardKeys("segstream", "orders", 1).head
    raw = servers.redis.get(key)
    assert isinstance(raw, bytes)
    head = decode_store_head(raw)
    servers.redis.set(key, encode_head(msgspec.structs.replace(head, cursor="c")))
    run(servers.settings("reader"), "segstream models")


def renew_the_lock(servers: SecuredServers) -> None:
    """Hold the trainer's lock until it is renewed, as in a training of more than 15 s."""
    with training_lock(servers.settings("trainer"), renew_s=0.05):
        asyncio.run(eventually(lambda: "pexpire" in commands_asked(servers), 30, "a renewed lock"))


@pytest.mark.timeout(300)
def test_every_command_and_process_works_with_the_documented_permissions(
    secured: SecuredServers, tmp_path: Path
) -> None:
    def as_user(user: str, line: str, *files: Path) -> str:
        return run(secured.settings(user), line, *files)

    orders = write_orders(tmp_path / "orders.csv", range(90))
    history = write_orders(tmp_path / "history.csv", range(90, 120), newest_days=30)
    deployment = secured.settings("worker")
    asyncio.run(delete_a_topic(secured.administrator()))
    assert deployment.reports_topic in as_user("operator", "segstream topics create")
    as_user("reader", "segstream topics check")
    with ExitStack() as stack:

        def start(user: str, line: str) -> Running:
            return stack.enter_context(running(secured.settings(user), line, tmp_path / f"{user}.log"))

        processes = [
            start("worker", "segstream worker"),
            start("dispatcher", "segstream dispatch"),
            start("adapters", "segstream adapters"),
            start("trainer", "segtrainer schedule"),
            start("deliverer", f"segstream deliver --endpoints {write_endpoints(tmp_path / 'endpoints.yaml')}"),
        ]
        as_user("operator", "segstream replay FILE", orders)
        as_user("operator", "segstream backfill FILE --id old", history)
        asyncio.run(place_by_the_shop(secured.settings("shop"), 3))
        asyncio.run(describe_by_the_profile_service(secured.settings("profiles")))
        wait_for(lambda: scored(secured, deployment) == 122, processes, "all customers")
        for line in (
            "run --recipe rfm --min-customers 30 --k 3 --activate --force",
            "run --recipe rfm --min-customers 30 --k 4 --candidate --force",
            "list",
            "report",
        ):
            as_user("trainer", f"segtrainer {line}")
        as_user("trainer", "segtrainer run --recipe rfm --min-customers 30 --k 3 --dry-run --force --from FILE", orders)
        rates = tmp_path / "rates.csv"
        rates.write_text(f"day,currency,rate\n{datetime.now(UTC).date()},EUR,1.16\n")
        assert "1 orders and refunds wait" in as_user("operator", "segstream rates load FILE", rates)
        as_user("operator", "segstream dead-letters redrive --reason no_rate")
        wait_for(lambda: scored(secured, deployment) == 123, processes, "the order in another currency")
        asyncio.run(break_a_move(secured.administrator()))
        asyncio.run(read_by_the_campaign_tool(secured.settings("crm")))
        asyncio.run(see_actions_given_up(secured.administrator()))
        for line in ("redrive --endpoint crm", "status", "disable crm", "enable crm"):
            as_user("operator", f"segstream deliveries {line}")
        for line in READS:
            as_user("reader", f"segstream {line}", *([tmp_path / FILES[line.split()[0]]] if "FILE" in line else []))
        assert "erased" in as_user("operator", "segstream erase c2")
        as_user("operator", "segstream dead-letters redrive --reason not_json")
        as_user("operator", "segstream dead-letters redrive --topic changes --reason not_json")
        quarantine(secured, deployment)
        for step in ("scoring", "campaigns"):
            as_user("operator", f"segstream rebuild --step {step} --yes")
            as_user("operator", f"segstream retry --step {step}")
        wait_for(lambda: scored(secured, deployment) >= 122, processes, "the rebuilt customers")
        assert "are one customer" in as_user("operator", "segstream merge c3 c4")
        asyncio.run(forget_the_first_order(secured.administrator()))
        as_user("operator", "segstream rebuild --partition 0 --allow-truncated-logs --yes")
        for step in ("scoring", "campaigns"):
            as_user("operator", f"segstream skip-lost --step {step} --yes")
        listed = msgspec.json.decode(as_user("trainer", "segtrainer list --json"))
        as_user("trainer", f"segtrainer promote {listed['candidate']}")
        as_user("trainer", "segtrainer rollback")
        for process in processes:
            code, lines = process.stop()
            assert (code, lines[-1]) == (0, ENDED_BY_SIGNAL[process.program]), lines
    see_a_rescore(secured)
    renew_the_lock(secured)
    changed = secured.settings("operator", dwell_hours=1.0)
    assert "changed" in run(changed, "segstream reconfigure --yes")
    assert "3 partitions" in run(changed, "segstream reshard --partitions 3 --yes")
    each_permission_was_needed(secured)


def each_permission_was_needed(servers: SecuredServers) -> None:
    used = servers.kafka.used_rules()
    idle = [str(rule) for rule in documented() if rule not in used]
    assert not idle, f"{PAGE} grants what nothing asked for: {idle}"
    asked = commands_asked(servers)
    listed = {
        word.removeprefix("+").replace("|", " ")
        for words in redis_users().values()
        for word in words
        if word.startswith("+")
    }
    assert not listed - asked, f"{PAGE} grants commands that nothing uses: {sorted(listed - asked)}"
