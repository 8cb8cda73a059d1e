"""Shards whose logs have lost records: the operator's commands let them go on, with unbroken chains."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from redis import Redis
from typer.testing import CliRunner

from stream import cli
from stream.commands import shards
from stream.kafka.streams import streams_of
from stream.repair.rebuild import LogShortened, Rebuilder
from stream.repair.skip_lost import LossSkipper, NotToBeSkipped
from stream.settings import Settings
from stream.storage.heads import MARK_HEADER, NOTE_HEADER, StoreHead, decode_store_head
from stream.storage.keys import ShardKeys
from tests.support.command_line import environment
from tests.support.engine.deployment import open_deployment
from tests.support.engine.real_worker import processes, settled
from tests.support.engine.toy_engine import ToyStep, counts, engine, eventually, produce, read_all, verify
from tests.support.paths import ROOT
from tests.support.topics import cut, recreate

pytestmark = pytest.mark.slow

FIRST = [(b"k%d" % (i % 23), b"x") for i in range(300)]
MISSED = [(b"k%d" % (i % 19), b"x") for i in range(200)]
LAST = [(b"k%d" % (i % 29), b"x") for i in range(140)]


def heads(settings: Settings) -> list[StoreHead]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        raws = [redis.get(ShardKeys(settings.group, settings.orders_topic, p).head) for p in range(settings.partitions)]
    return [decode_store_head(raw) for raw in raws if isinstance(raw, bytes)]


async def ran(settings: Settings, sent: int) -> None:
    """Let an engine take as many records as `sent` in this era of the input."""
    async with engine(settings) as running:
        await eventually(lambda: running.taken() >= sent or bool(running.reasons()), what="taking everything")
        assert running.reasons() == {}


async def reasons(settings: Settings) -> set[str]:
    """Return the reasons of the quarantine in which every shard ends."""
    async with engine(settings) as running:
        await eventually(lambda: len(running.reasons()) == settings.partitions, what="quarantine")
        return set(running.reasons().values())


async def skipped(settings: Settings) -> list[str]:
    return [line async for line in LossSkipper(settings, streams_of(settings, "scoring"), ToyStep()).skip()]


async def rebuilt(settings: Settings, **how: Any) -> list[str]:
    return [line async for line in Rebuilder(settings, streams_of(settings, "scoring"), ToyStep()).rebuild(**how)]


async def overtaken(settings: Settings) -> int:
    """Let retention delete records that nobody has read. Return the offsets, of all partitions, at the end."""
    await produce(settings, FIRST)
    await ran(settings, len(FIRST))
    await produce(settings, MISSED)
    await cut(settings, settings.orders_topic)
    await produce(settings, LAST)
    assert await reasons(settings) == {"input_gone"}
    return len(FIRST + MISSED + LAST)


async def made_anew(settings: Settings) -> int:
    """Let the input be deleted and created anew, with fewer records than before."""
    await produce(settings, FIRST)
    await ran(settings, len(FIRST))
    await recreate(settings, settings.orders_topic)
    await produce(settings, LAST)
    assert await reasons(settings) == {"input_truncated"}
    return len(LAST)


async def made_anew_and_longer(settings: Settings) -> int:
    await produce(settings, FIRST)
    await ran(settings, len(FIRST))
    await recreate(settings, settings.orders_topic)
    await produce(settings, LAST * 4)
    assert await reasons(settings) == {"input_changed"}
    return len(LAST * 4)


async def check_chains(settings: Settings) -> int:
    """Check that the outputs of each key are 1, 2, 3… Return their number."""
    last: Counter[bytes] = Counter()
    for record in await read_all(settings, settings.changes_topic):
        key, sequence, _ = record.value.split(b":")
        last[key] += 1
        assert int(sequence) == last[key], record.value
    return last.total()


@pytest.mark.parametrize(
    ("loss", "kept"), [(overtaken, FIRST + LAST), (made_anew, FIRST + LAST), (made_anew_and_longer, FIRST + LAST * 4)]
)
async def test_shards_go_on_with_their_states(settings: Settings, loss: Any, kept: list[tuple[bytes, bytes]]) -> None:
    sent = await loss(settings)
    lines = await skipped(settings)
    assert all("goes on at offset" in line for line in lines)
    await ran(settings, sent)
    published = await verify(settings, kept)
    # A second takeover, and a second run of the command, find everything in order.
    assert all("has lost nothing" in line for line in await skipped(settings))
    await produce(settings, MISSED)
    await ran(settings, sent + len(MISSED))
    assert await verify(settings, kept + MISSED) >= published


@pytest.mark.parametrize(("loss", "left"), [(overtaken, LAST), (made_anew, LAST)])
async def test_a_rebuild_goes_on_with_what_is_left(
    settings: Settings, loss: Any, left: list[tuple[bytes, bytes]]
) -> None:
    sent = await loss(settings)
    before = heads(settings)
    with pytest.raises(LogShortened, match="skip-lost"):
        await rebuilt(settings)
    assert heads(settings) == before, "nothing is changed without a decision"
    lines = await rebuilt(settings, allow_truncated_logs=True)
    assert sum("goes on at offset" in line for line in lines) == settings.partitions
    await ran(settings, sent)
    assert await counts(settings) == dict(Counter(key for key, _ in left))
    await produce(settings, FIRST)
    await ran(settings, sent + len(FIRST))
    assert await check_chains(settings) > 100
    lines = await rebuilt(settings, allow_truncated_logs=True)
    assert not any("goes on at offset" in line for line in lines)


@pytest.mark.parametrize("loss", [overtaken, made_anew])
async def test_the_commands_work_beside_a_worker(settings: Settings, loss: Any) -> None:
    sent = await loss(settings)
    async with engine(settings) as running:
        await eventually(lambda: len(running.reasons()) == settings.partitions)
        await shards._skip_lost(settings, "scoring", None)
        with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            redis.delete(f"{{{settings.group}:{settings.orders_topic}}}:status")
        await eventually(lambda: running.taken() >= sent and not running.reasons())
    await verify(settings, FIRST + LAST)


async def test_a_healthy_shard_is_not_disturbed(settings: Settings) -> None:
    await produce(settings, FIRST)
    async with engine(settings) as running:
        await eventually(lambda: running.taken() >= len(FIRST))
        tokens = [head.token for head in heads(settings)]
        assert all("has lost nothing" in line for line in await skipped(settings))
        await produce(settings, LAST)
        await eventually(lambda: running.taken() >= len(FIRST + LAST))
        assert [head.token for head in heads(settings)] == tokens, "no takeover"


async def test_states_that_are_lost_too_can_not_be_kept(settings: Settings) -> None:
    await overtaken(settings)
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        for p in range(settings.partitions):
            redis.delete(*ShardKeys(settings.group, settings.orders_topic, p).all())
    with pytest.raises(NotToBeSkipped, match="no states to keep"):
        await skipped(settings)


async def test_a_backup_of_redis_from_before_the_input_was_made_anew_is_refused(settings: Settings) -> None:
    """Its offset means another record, though the input has that many records again."""
    await produce(settings, FIRST)
    await ran(settings, len(FIRST))
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        names = [k for p in range(4) for k in ShardKeys(settings.group, settings.orders_topic, p).all()]
        dumps = {name: redis.dump(name) for name in names}
        await recreate(settings, settings.orders_topic)
        await produce(settings, LAST)
        await skipped(settings)
        await ran(settings, len(LAST))
        await produce(settings, FIRST * 2)
        await ran(settings, len(LAST + FIRST * 2))
        for name, dump in dumps.items():
            redis.delete(name)
            if isinstance(dump, bytes):
                redis.restore(name, 0, dump)
    assert await reasons(settings) == {"input_changed"}
    await skipped(settings)
    await ran(settings, len(LAST + FIRST * 2))
    await verify(settings, FIRST + LAST + FIRST * 2)


async def test_the_step_covers_what_a_torn_transaction_left(settings: Settings) -> None:
    """Its mark has an offset of the input before, which must not become one of the new input."""
    await produce(settings, FIRST)
    await ran(settings, len(FIRST))
    before, topic = heads(settings), settings.changes_topic
    async with AIOKafkaProducer(**settings.kafka_client()) as producer:
        for p, head in enumerate(before):
            mark = b"%d:%d:%d:0:" % (head.count + 1, head.offset + 50, head.clock + 50)
            note = (9).to_bytes(8, "little") + (1).to_bytes(8, "little")
            headers = [(MARK_HEADER, mark), (NOTE_HEADER, note)]
            await producer.send_and_wait(topic, b"t%d:1:9" % p, key=b"t%d" % p, partition=p, headers=headers)
    await recreate(settings, settings.orders_topic)
    await produce(settings, LAST)
    await skipped(settings)
    await ran(settings, len(LAST))
    assert [head.count for head in heads(settings)] > [head.count for head in before]
    await check_chains(settings)
    assert sum(head.offset for head in heads(settings)) == len(LAST)


KILLED = """
import os, signal, sys
from stream import cli
from stream.engine.ledger import Ledger
from stream.engine.store import ShardStore
from tests.support.engine.toy_step import ToyStep
import stream.worker.steps
stream.worker.steps.step_of = lambda settings, step: ToyStep()
name, when = sys.argv.pop(1), sys.argv.pop(1)
owner = Ledger if hasattr(Ledger, name) else ShardStore
real = getattr(owner, name, None)
async def dies(*args, **named):
    if when == "after":
        await real(*args, **named)
    os.kill(os.getpid(), signal.SIGKILL)
if real:
    setattr(owner, name, dies)
cli.app()
"""
POINTS = [
    (command, name, when)
    for command, names in (
        ("skip-lost", ("take_over", "cover", "commit")), ("rebuild", ("take_over", "cover", "start_anew"))
    )
    for name, when in itertools.product(names, ("before", "after"))
]  # fmt: skip


@pytest.mark.parametrize(("command", "name", "when"), POINTS)
async def test_a_killed_command_is_run_again(settings: Settings, command: str, name: str, when: str) -> None:
    sent = await made_anew(settings)
    arguments = [command, "--yes", *(["--allow-truncated-logs"] if command == "rebuild" else [])]

    def run(*point: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED, *point, *arguments],
            env=environment(settings), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    killed = await asyncio.to_thread(run, name, when)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # A worker in between either works on, or stops: it never works on a half.
    async with engine(settings) as running:
        states = running.states
        await eventually(lambda: len(states()) == 4 and set(states().values()) <= {"quarantined", "running"})
    done = await asyncio.to_thread(run, "nothing", "at all")
    assert done.returncode == 0, done.stderr
    await ran(settings, sent)
    await check_chains(settings)
    expected = LAST if command == "rebuild" else FIRST + LAST
    assert await counts(settings) == dict(Counter(key for key, _ in expected))


async def test_a_topic_of_moves_made_anew_stops_both_steps_and_both_go_on(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    """It is the output of one step and the input of the other."""
    settings = settings_for(partitions=2, backoff_max_s=1.0)
    async with open_deployment(settings) as shop:
        with processes(settings, tmp_path, "dispatch"):
            await shop.start()
            await shop.order()
            await shop.settled()
            await settled(settings, topic=settings.changes_topic)
            await shop.stop()
        await recreate(settings, settings.changes_topic)
        with processes(settings, tmp_path, "dispatch"):
            await shop.start()
            assert await shop.quarantined() == {"output_changed"}

            async def stopped() -> bool:
                shown = await asyncio.to_thread(
                    CliRunner().invoke, cli.app, ["status", "--step", "campaigns", "--json"], env=environment(settings)
                )
                return [json.loads(row)["reason"] for row in shown.stdout.splitlines()] == ["input_truncated"] * 2

            await eventually(stopped, 60, "the dispatcher's quarantine")
            await shop.run(["segstream skip-lost", "segstream skip-lost --step campaigns"])
            shop.customers += [f"new-{i}" for i in range(8)]
            await shop.works()
            await settled(settings, topic=settings.changes_topic)
    actions = [json.loads(r.value) for r in await read_all(settings, settings.actions_topic)]
    assert len({action["id"] for action in actions}) == len(actions)
    assert {action["customer_id"] for action in actions} == set(shop.customers)
