"""`segstream worker` and `segstream dispatch` as real processes, and readers of their results."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from redis import Redis

from bench.harness.model import bench_model
from segmentation.model import SegmentModel
from stream.kafka.clients import end_offsets, read_topic
from stream.settings import Settings
from stream.storage.heads import decode_store_head
from stream.storage.keys import ShardKeys
from stream.storage.states import read_states
from tests.support.command_line import environment
from tests.support.engine.toy_engine import eventually
from tests.support.paths import ROOT
from trainer.registry.publish import publish


@contextmanager
def processes(settings: Settings, folder: Path, *commands: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run `segstream worker` or `segstream dispatch` as a process, with these settings."""
    running = [launch(settings, folder, command) for command in commands]
    try:
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def launch(settings: Settings, folder: Path, command: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / f"{command.split(maxsplit=1)[0]}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stream.cli", *command.split()],
            env=os.environ | environment(settings),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )


def store_heads(settings: Settings, topic: str) -> list[Any]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        raws = [redis.get(ShardKeys(settings.group, topic, p).head) for p in range(settings.partitions)]
    return [decode_store_head(raw) if isinstance(raw, bytes) else None for raw in raws]


async def settled(settings: Settings, *, topic: str | None = None, activation: int = 0) -> None:
    """Wait until all records are scored, under at least that activation, and the moves can be read."""
    name = topic or settings.orders_topic
    outputs = settings.changes_topic if name == settings.orders_topic else settings.actions_topic
    ends = await end_offsets(settings, name)

    def there() -> bool:
        heads_ = store_heads(settings, name)
        return all(
            h is not None and h.offset >= ends[p] and h.cursor is None and h.activation >= activation
            for p, h in enumerate(heads_)
        )

    await eventually(there, 90, f"{name} settled")
    positions = [head.position for head in store_heads(settings, name)]

    async def readable() -> bool:
        # A transaction's end is written a moment after its commit is answered.
        found = await end_offsets(settings, outputs)
        return all(found[p] >= position for p, position in enumerate(positions))

    await eventually(readable, 30, f"{outputs} readable")


def activate(settings: Settings, model: SegmentModel | None = None) -> int:
    """Publish a model (default: the benchmark's) and start it on every partition. Return the activation."""
    number = put(settings, model or bench_model(), active=True)
    assert number is not None
    return number


def put(settings: Settings, model: SegmentModel, *, active: bool) -> int | None:
    """Publish a model as the active one or as the candidate. Return the activation; None: a candidate has none."""
    event_time = settings.time == "event"
    return publish(settings, model, activate=active, event_time=event_time, now_ms=time.time_ns() // 1_000_000).number


async def moves(settings: Settings, *, keep: tuple[str, ...] = ()) -> list[list[dict[str, Any]]]:
    """Read the moves of each partition in order, without the fields that differ from run to run.

    These are the ids, which contain the group, and scored_at. `keep`: those of them to keep.
    """
    out: list[list[dict[str, Any]]] = [[] for _ in range(settings.partitions)]
    for record in sorted(await read_topic(settings, settings.changes_topic), key=lambda r: (r.partition, r.offset)):
        move = msgspec.json.decode(record.value)
        assert record.key == move["customer_id"].encode()
        out[record.partition].append({k: v for k, v in move.items() if k in keep or k not in {"id", "scored_at"}})
    return out


def states(settings: Settings) -> dict[bytes, bytes]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        return {
            customer: value
            for p in range(settings.partitions)
            for customer, value in read_states(redis, ShardKeys(settings.group, settings.orders_topic, p))
        }


def check_chains(partitions: list[list[dict[str, Any]]]) -> None:
    last: dict[str, dict[str, Any]] = {}
    for move in itertools.chain.from_iterable(partitions):
        before = last.get(move["customer_id"])
        assert move["sequence"] == (before["sequence"] + 1 if before else 1)
        assert move["from"] == (before["to"] if before else None)
        last[move["customer_id"]] = move
