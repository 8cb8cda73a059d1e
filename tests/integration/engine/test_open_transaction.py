"""The runbook's commands for an open transaction of another producer: Kafka's own tool, run as its class."""

from __future__ import annotations

import asyncio
import shlex
import subprocess

import pytest
from aiokafka import AIOKafkaProducer

from stream.kafka import topics
from stream.kafka.clients import input_ends
from stream.local.jars import KAFKA_VERSION, Jar, cache_folder, fetch_jars, find_java, locked_jars
from stream.settings import Settings
from tests.support.runbook import blocks_under

# The server doesn't need this jar, so the local stack has no kafka-transactions.sh.
TOOLS = Jar(
    "org.apache.kafka:kafka-tools:4.1.2", 615926, "cb7aedcd2e418b86079c4b35257c8e37800eea84723c78c8b90f535bd589888e"
)
PARTITION = 3


def run(line: str, settings: Settings, start_offset: str = "") -> list[list[str]]:
    """Run a line of the runbook, and return the table that it prints. `start_offset`: in place of the line's."""
    folder = cache_folder() / f"kafka-{KAFKA_VERSION}"
    jars = fetch_jars(folder, [*locked_jars(KAFKA_VERSION), TOOLS], print)
    script, *arguments = shlex.split(line)
    assert script == "kafka-transactions.sh"
    given = {"localhost:9092": settings.kafka_bootstrap_servers, "orders": settings.orders_topic}
    arguments = [given.get(word, word) for word in arguments]
    assert arguments[arguments.index("--partition") + 1] == str(PARTITION)
    if start_offset:
        arguments[arguments.index("--start-offset") + 1] = start_offset
    classpath = ":".join(map(str, jars))
    done = subprocess.run(
        [find_java(), "-Xmx128m", "-cp", classpath, "org.apache.kafka.tools.TransactionsCommand", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [row.split() for row in done.stdout.splitlines()]


@pytest.mark.slow
async def test_the_runbooks_commands_show_and_end_an_open_transaction(settings: Settings) -> None:
    (describe, find), (abort,) = blocks_under("Records held back")
    await topics.create(settings)
    async with AIOKafkaProducer(**settings.kafka_client(), enable_idempotence=True) as other:
        for _ in range(5):
            await other.send_and_wait(settings.orders_topic, b"x", partition=PARTITION)
    async with AIOKafkaProducer(**settings.kafka_client(), transactional_id=f"{settings.group}-upstream") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(settings.orders_topic, b"x", partition=PARTITION)
        assert (await input_ends(settings, settings.orders_topic))[PARTITION] == (5, 6)

        head, *rows = await asyncio.to_thread(run, describe, settings)
        assert head[-1] == "CurrentTransactionStartOffset"
        assert sorted(row[-1] for row in rows) == ["5", "None"]
        head, *rows = await asyncio.to_thread(run, find, settings)
        assert "StartOffset" in head
        assert rows == [], "the coordinator knows the transaction, and would end it"
        await asyncio.to_thread(run, abort, settings, "5")
        stable, high = (await input_ends(settings, settings.orders_topic))[PARTITION]
        assert stable == high > 6
