"""The worker as in production (`segstream worker`, one process), watched through the heads of its shards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from redis import Redis

from bench.harness.children import MeasuredProcess
from bench.harness.deployment import environment
from bench.harness.errors import BenchError
from bench.harness.meter import POLL_S, Progress
from stream.settings import Settings
from stream.storage.heads import StoreHead
from stream.storage.keys import ShardKeys
from stream.storage.reads import parse_head

_WORKER: Final = ("stream.cli", "worker")


def start_worker(settings: Settings, name: str, folder: Path, samples: Path | None = None) -> MeasuredProcess:
    """Start a worker. `samples`: run it under the sampler, which writes to this file."""
    module = ["-m", *_WORKER] if samples is None else ["-m", "bench.harness.sampler", str(samples), *_WORKER]
    return MeasuredProcess(name, module, folder=folder, environment=environment(settings))


class Heads:
    """The shards' progress by their heads in Redis: these orders are stored, and their moves published before that."""

    def __init__(self, settings: Settings, redis: Redis, begins: dict[int, int], ends: dict[int, int]) -> None:
        """Watch the shards. `begins`, `ends`: offsets of the first order and after the last, by partition."""
        self._redis = redis
        self._bounds = [(begins[p], ends[p]) for p in sorted(ends)]
        self._shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in sorted(ends)]

    def read(self) -> list[StoreHead]:
        """Return the heads that exist."""
        raws = cast("list[bytes | None]", cast("Any", self._redis).mget([keys.head for keys in self._shards]))
        found = zip(self._shards, raws, strict=True)
        return [parse_head(raw, keys.shard) for keys, raw in found if raw is not None]

    def progress(self) -> Progress:
        """Return the progress: begun with the first takeover, finished when no order and no rescore is left."""
        found = self.read()
        if len(found) < len(self._shards):
            # The first shards may work while others are still being taken over: time counts already, orders not yet.
            return Progress(0, begun=bool(found), finished=False)
        shards = list(zip(found, self._bounds, strict=True))
        return Progress(
            orders=sum(max(head.offset - begin, 0) for head, (begin, _) in shards),
            begun=True,
            finished=all(head.offset >= end and head.cursor is None for head, (_, end) in shards),
        )

    def ready(self) -> bool:
        """Return whether every shard is owned and scores with a model."""
        found = self.read()
        return len(found) == len(self._shards) and all(head.version and head.cursor is None for head in found)


def end_worker(child: MeasuredProcess) -> None:
    """End a worker in order. Raises BenchError where its exit code isn't 0."""
    if code := child.end():
        raise BenchError(f"{child.name} ended with {code}, expected 0.", hint=f"Look at {child.log}.")


def until(condition: Callable[[], bool], child: MeasuredProcess, within_s: float) -> None:
    """Wait until a condition holds. Raises BenchError where the program ends before, or it takes longer."""
    deadline = time.monotonic() + within_s
    while not condition():
        child.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{child.name} isn't ready after {within_s:.0f} s.", hint=f"Look at {child.log}.")
        time.sleep(POLL_S)
