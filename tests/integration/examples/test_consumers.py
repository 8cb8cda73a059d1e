"""examples/consumers on a real Kafka: nothing is lost, doubled or taken from an aborted transaction, whatever kills."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import UNSET

from segmentation.events import encode
from segmentation.output_events import (
    CampaignAction,
    CampaignBudget,
    CampaignConverted,
    CampaignScheduled,
    CampaignWithheld,
    Cause,
    Money,
    SegmentChanged,
    Withheld,
)
from stream.kafka.clients import end_offsets
from stream.settings import Settings
from tests.support.command_line import environment
from tests.support.consumers import LANGUAGES, prepare
from tests.support.engine.toy_engine import eventually
from tests.support.topics import cut

AT = "2026-11-30T00:00:00.000Z"
HOUR_MS = 3_600_000
Programs = Callable[[str], list[str]]


class Row(NamedTuple):
    """A row of the table `customers`."""

    segment: str | None
    merged_into: str | None
    sequence: int


@pytest.fixture(scope="module", params=LANGUAGES)
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return prepare(request.param, tmp_path_factory.mktemp(request.param))


@dataclass
class Crm:
    """An example's program with its database and its group, started and killed as often as wanted."""

    command: list[str]
    settings: Settings
    folder: Path
    group: str = field(default_factory=lambda: f"crm-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.database = self.folder / "crm.db"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the program, and kill it with SIGKILL at the end."""
        variables = {"GROUP": self.group, "DATABASE": str(self.database), "NODE_NO_WARNINGS": "1"}
        with (self.folder / "output").open("ab") as output:
            process = subprocess.Popen(
                self.command, env=os.environ | environment(self.settings) | variables, stdout=output, stderr=output
            )
        try:
            yield process
            assert process.poll() is None, self.output
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text("utf-8", "replace")

    def query(self, sql: str) -> list[Any]:
        """Ask the database. No rows where the program hasn't made the table yet."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(self.database, timeout=60)) as db:
            made = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            return db.execute(sql).fetchall() if made & set(sql.split()) else []

    def execute(self, sql: str) -> None:
        with closing(sqlite3.connect(self.database, timeout=60)) as db, db:
            db.execute(sql)

    async def waits_for(self, condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        def met() -> bool:
            assert process.poll() is None, self.output
            return condition()

        try:
            await eventually(met, within_s=120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from error

    async def committed(self, topic: str) -> dict[int, int]:
        """Return the offsets that the group has committed, 0 where it has none."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_bootstrap_servers, group_id=self.group, enable_auto_commit=False
        ) as consumer:
            partitions = [TopicPartition(topic, p) for p in range(self.settings.partitions)]
            consumer.assign(partitions)
            return {tp.partition: await consumer.committed(tp) or 0 for tp in partitions}


class Record(NamedTuple):
    topic: str
    key: str
    value: bytes | None


class ShardOutputs:
    """Publishes as a worker does: in transactions of one producer, each customer's in one partition."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self.settings, self.producer = settings, producer

    async def publish(self, records: Sequence[Record], *, abort: bool = False, age_ms: int = 0) -> None:
        await self.producer.begin_transaction()
        at = int(time.time() * 1000) - age_ms
        for topic, key, value in records:
            partition = sum(key.encode()) % self.settings.partitions
            await self.producer.send(topic, value, key.encode(), partition=partition, timestamp_ms=at)
        await self.producer.flush()
        await (self.producer.abort_transaction() if abort else self.producer.commit_transaction())


@asynccontextmanager
async def shard(settings: Settings) -> AsyncIterator[ShardOutputs]:
    client = settings.kafka_client()
    async with AIOKafkaProducer(**client, transactional_id=f"{settings.group}-shard", acks="all") as producer:
        yield ShardOutputs(settings, producer)


class Customers:
    """Moves as the scoring step publishes them, and the table that they must lead to."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.table: dict[str, Row] = {}

    def move(self, customer: str, to: str | None, cause: Cause = Cause.ORDER, into: str | None = None) -> list[Record]:
        before = self.table.get(customer, Row(None, None, 0))
        row = Row(to, into, before.sequence + 1)
        self.table[customer] = row
        return self.records(customer, before.segment, row, cause)

    def phantom(self, customer: str) -> list[Record]:
        """A move that is never committed: with a number that would win over all real ones."""
        return self.records(customer, None, Row("Phantom", None, 99), Cause.ORDER)

    def records(self, customer: str, from_: str | None, row: Row, cause: Cause) -> list[Record]:
        event = encode(
            SegmentChanged(
                id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{customer}:{row.sequence}")), customer_id=customer,
                sequence=row.sequence, from_=from_, to=row.segment, cause=cause, occurred_at=AT, scored_at=AT,
                model_version=None, rfm=None, before=None, distances={}, next=None, causation_id=None,
                merged_into=row.merged_into or UNSET,
            )
        )  # fmt: skip
        state = event if row.segment else None
        return [
            Record(self.settings.changes_topic, customer, event),
            Record(self.settings.state_topic, customer, state),
        ]

    def in_database(self, crm: Crm) -> dict[str, Row]:
        return {
            row[0]: Row(*row[1:])
            for row in crm.query("SELECT customer_id, segment, merged_into, sequence FROM customers")
        }


@pytest.mark.slow
async def test_moves_are_followed_from_the_state_on_without_a_gap(
    programs: Programs, settings: Settings, tmp_path: Path
) -> None:
    customers = Customers(settings)
    crm = Crm(programs("moves"), settings, tmp_path)
    names = [f"c-{number}" for number in range(400)]
    async with shard(settings) as worker:
        # History: the state alone still has it. Of those who left before, it has nothing.
        for segment in ("New", "Loyal"):
            await worker.publish([r for name in names for r in customers.move(name, segment)], age_ms=HOUR_MS)
        gone = customers.move("c-1", None, Cause.ERASURE) + customers.move("c-2", None, Cause.MERGED, "c-3")
        await worker.publish(gone, age_ms=HOUR_MS)
        await cut(settings, settings.changes_topic)
        del customers.table["c-1"], customers.table["c-2"]
        # Recent moves, which both topics have, among aborted transactions.
        for name in names[3:40]:
            await worker.publish(customers.phantom("never"), abort=True)
            await worker.publish(customers.phantom(name), abort=True)
            await worker.publish(customers.move(name, "Champions"))
            await worker.publish(customers.phantom(name), abort=True)

        # Visible in one topic earlier than in the other: the end of a transaction reaches their partitions in turn.
        late = [customers.move(name, "Champions") for name in names[80:90]]
        await worker.publish([changed for changed, _ in late])
        # Customers move while it copies the state. It is killed while it does, or right after.
        done = asyncio.Event()

        async def go_on() -> None:
            for number in count():
                await worker.publish(customers.move(names[300 + number % 100], f"Segment {number % 7}"))
                if done.is_set():
                    return

        moving = asyncio.create_task(go_on())
        with crm.running() as process:
            await crm.waits_for(crm.database.exists, process)
        with crm.running() as process:
            await crm.waits_for(lambda: len(customers.in_database(crm)) > 300, process)
            done.set()
            await moving
            await crm.waits_for(lambda: customers.in_database(crm) == customers.table, process)
            await worker.publish([state for _, state in late])
            for name in names[40:80]:
                await worker.publish(customers.move(name, "At Risk"))
                await worker.publish(customers.phantom(name), abort=True)
            await crm.waits_for(lambda: customers.in_database(crm)["c-40"].segment == "At Risk", process)
        # While it is dead.
        for at in range(80, 400, 40):
            await worker.publish([r for name in names[at : at + 40] for r in customers.move(name, "Champions")])
            await worker.publish(customers.phantom(names[at]), abort=True)
        await worker.publish(
            customers.move("c-4", None, Cause.ERASURE) + customers.move("c-5", None, Cause.MERGED, "c-6")
        )
        with crm.running() as process:
            await crm.waits_for(lambda: customers.in_database(crm) == customers.table, process)
            await reached(crm, settings.changes_topic)
        # It goes on from the committed offsets, and neither copies the state again nor reads all moves again.
        crm.execute("DELETE FROM customers WHERE customer_id <> 'c-7'")
        await worker.publish(customers.move("c-7", "Lost"))
        with crm.running() as process:
            await crm.waits_for(lambda: customers.in_database(crm) == {"c-7": customers.table["c-7"]}, process)


@pytest.mark.slow
async def test_an_older_move_that_comes_later_changes_nothing(
    programs: Programs, settings: Settings, tmp_path: Path
) -> None:
    customers = Customers(settings)
    crm = Crm(programs("moves"), settings, tmp_path)
    async with shard(settings) as worker:
        with crm.running() as process:
            await crm.waits_for(lambda: len(crm.query("SELECT * FROM beginning")) == settings.partitions, process)
            await stays_idle(process)
            first = customers.move("c-1", "New")
            last = customers.move("c-1", None, Cause.ERASURE)
            await worker.publish([*last, *first, *customers.move("c-1~", "New")])
            await crm.waits_for(lambda: "c-1~" in customers.in_database(crm), process)
            assert customers.in_database(crm) == customers.table


def decisions(number: int) -> list[tuple[str, bytes]]:
    """The records of campaign-actions about a customer, each with its key: among them one action, twice."""
    customer, move = f"c-{number}", f"move-{number}"

    def of(kind: str) -> dict[str, Any]:
        return {
            "id": named(kind, number), "customer_id": customer, "campaign": "win-back", "segment": "Lost",
            "action": "Win-back", "channel": "email", "change_id": move, "occurred_at": AT, "decided_at": AT,
            "rules": "0a1b2c3d",
        }  # fmt: skip

    action = encode(CampaignAction(**of("action"), reason="Loyal → Lost (silence)"))
    order: dict[str, Any] = {"order_id": "o-1", "amount": Money("20.00", "EUR"), "ordered_at": AT, "acted_at": AT}
    unknown = json.dumps({**of("unknown"), "type": "campaign.of_a_later_version"}).encode()
    events = [
        encode(CampaignScheduled(**of("scheduled"), until=AT, why="delay")),
        action,
        encode(CampaignWithheld(**of("withheld"), reason=Withheld.HELD_OUT, detail="global")),
        encode(CampaignConverted(**of("converted"), action_id=named("action", number), held_out=False, **order)),
        unknown,
        action,  # published again, it keeps its id
    ]
    budget = encode(CampaignBudget(id=named("budget", number), shard=0, used={}, decided_at=AT))
    return [*((customer, event) for event in events), ("\0budget:0", budget)]


def named(kind: str, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind}:{number}"))


@pytest.mark.slow
async def test_only_committed_actions_lead_to_messages_each_to_one(
    programs: Programs, settings: Settings, tmp_path: Path
) -> None:
    crm = Crm(programs("actions"), settings, tmp_path)
    wanted: set[str] = set()
    number = 0

    async def publish(worker: ShardOutputs, transactions: int, customers: int = 1) -> None:
        nonlocal number
        for _ in range(transactions):
            fresh = range(number, number := number + customers)
            wanted.update(named("action", one) for one in fresh)
            await worker.publish([Record(settings.actions_topic, *row) for one in fresh for row in decisions(one)])
            for _again in range(2):
                aborted = decisions(-number)
                await worker.publish([Record(settings.actions_topic, *row) for row in aborted], abort=True)

    def stored() -> set[str]:
        return {row[0] for row in crm.query("SELECT id FROM messages")}

    async with shard(settings) as worker:
        # Killed with most of them still to come: some fetched, some stored.
        await publish(worker, 30, customers=100)
        with crm.running() as process:
            await crm.waits_for(lambda: bool(stored()), process)
        await publish(worker, 30)
        with crm.running() as process:
            await crm.waits_for(lambda: stored() >= wanted, process)
            await reached(crm, settings.actions_topic)
        assert stored() == wanted
        assert len(crm.query("SELECT * FROM messages")) == len(wanted)
        # It goes on from the committed offsets: what was read before doesn't come again.
        crm.execute("DELETE FROM messages")
        wanted.clear()
        with crm.running() as process:
            await stays_idle(process)
            await publish(worker, 1)
            await crm.waits_for(lambda: bool(stored()), process)
        assert stored() == wanted


async def stays_idle(process: subprocess.Popen[bytes]) -> None:
    """Check that the program doesn't end while it has nothing to read: for longer than it waits for records."""
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, 3)


async def reached(crm: Crm, topic: str) -> None:
    """Wait until the group has committed the end of what it can see."""
    visible = await last_visible(crm.settings, topic)

    async def met() -> bool:
        committed = await crm.committed(topic)
        return all(committed[p] >= end for p, end in visible.items())

    await eventually(met, within_s=60, what="the commit of the last record")


async def last_visible(settings: Settings, topic: str) -> dict[int, int]:
    """Return by partition the offset behind the last committed record."""
    ends = await end_offsets(settings, topic)
    found: dict[int, int] = {}
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False,
        auto_offset_reset="earliest",
    ) as consumer:  # fmt: skip
        partitions = [TopicPartition(topic, p) for p in ends]
        consumer.assign(partitions)
        while any([await consumer.position(tp) < ends[tp.partition] for tp in partitions]):
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                found[tp.partition] = records[-1].offset + 1
    return found


# Two producers, whose batches lie between each other: the offsets of 1's first and last transaction are aborted.
ABORTED = """
import { dropAborted } from './read-committed.js'
const batch = (producerId, firstOffset, attributes) =>
  ({ producerId, firstOffset: BigInt(firstOffset), lastOffsetDelta: 0, attributes, records: [firstOffset] })
const data = 1 << 4, end = 1 << 4 | 1 << 5
const records = [
  batch(1n, 0, data), batch(2n, 1, data), batch(1n, 2, data), batch(1n, 3, end), batch(-1n, 4, 0), batch(1n, 5, data),
  batch(2n, 6, end), batch(1n, 7, end), batch(1n, 8, data), batch(2n, 9, data)
]
const abortedTransactions = [{ producerId: 1n, firstOffset: 8n }, { producerId: 1n, firstOffset: 0n }]
const response = { responses: [{ partitions: [{ abortedTransactions, records }] }] }
dropAborted(response)
const left = records.filter(({ attributes }) => attributes !== end).flatMap(({ records }) => records)
console.log(JSON.stringify([left, records.length]))
"""


@pytest.mark.slow
def test_the_node_consumer_drops_every_aborted_transaction_also_one_whose_end_has_not_come(tmp_path: Path) -> None:
    command = prepare("node", tmp_path)("aborted")
    Path(command[-1]).write_text(ABORTED, "utf-8")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == [[1, 4, 5, 9], 10]  # all batches stay, so that the stream goes on behind them
