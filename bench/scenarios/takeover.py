"""Start-up and takeover: the time until a worker owns all shards, by the number of orders that Redis lags behind Kafka.

Redis is put back to its content some orders ago, as after a restore or a fail-over, while Kafka has every move. The
worker must catch up in silence: a takeover may only publish moves by time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, cast

import msgspec
from redis import Redis

from bench.harness import worker_metrics
from bench.harness.children import MeasuredProcess
from bench.harness.deployment import environment
from bench.harness.errors import BenchError
from bench.harness.orders import preload
from bench.harness.outputs import Checked, check_worker, recompute
from bench.harness.worker_run import Heads, end_worker, start_worker, until
from segmentation.output_events import Cause
from segmentation.rfm import announcement, with_announcement
from stream.kafka.clients import end_offsets
from stream.local.machine import HOST, free_port
from stream.settings import Settings
from stream.status.board import ShardStatus
from stream.storage.keys import ShardKeys, status_key
from stream.storage.states import read_states

LAGS: Final = (
    5 / 6,
    1 / 12,
    1 / 120,
    0.0,
)  # shares of all orders: 100,000, 10,000, 1,000 and none of the default 120,000
_PATIENCE_S: Final = 120.0
_LEAST_S: Final = 0.5  # a smaller difference to a takeover without lag is noise
_METRIC: Final = "segstream_takeover_seconds"


@dataclass(frozen=True, slots=True)
class Lag:
    """The takeovers at one lag of Redis behind Kafka."""

    orders: int
    rebuilt: bool  # Redis was emptied by `segstream rebuild`
    ready_s: list[float]  # of each takeover: from the start of the process until all shards are owned and caught up
    ready_p50_s: float
    takeover_p50_s: float  # the part of it since the first shard's takeover began
    shard_p50_s: float  # of one shard, by the worker's metric: mean of the shards, median of the takeovers
    # The lag, over the time that the takeover took longer than without a lag; None: too short a time to measure.
    orders_per_s: float | None


@dataclass(frozen=True, slots=True)
class Takeovers:
    """Takeovers of all shards by one worker, at each lag."""

    orders: int
    customers: int
    shards: int
    times: int  # takeovers at each lag but the rebuilt one
    lags: list[Lag]  # the shortest first, the rebuilt one last
    moved_by_time: int  # moves by time, published during the takeovers
    checks: Checked


@dataclass(frozen=True, slots=True)
class RedisDump:
    """A deployment's shards in Redis at one instant: each key as DUMP returns it (None: it doesn't exist)."""

    lag: int
    rebuilt: bool
    shards: list[dict[str, bytes | None]]


class TakeoverTimes(NamedTuple):
    """The times of one takeover of all shards, in seconds: see `Lag`."""

    ready_s: float
    takeover_s: float
    shard_s: float


@dataclass(slots=True)
class Shards:
    """A deployment's shards in Redis. No other key is touched: other rows' deployments are in the same Redis."""

    settings: Settings
    redis: Redis
    keys: list[ShardKeys] = field(init=False)

    def __post_init__(self) -> None:
        group, topic = self.settings.group, self.settings.orders_topic
        self.keys = [ShardKeys(group, topic, p) for p in range(self.settings.partitions)]

    def dump(self, lag: int, *, rebuilt: bool = False) -> RedisDump:
        """Return the shards' present keys, each shard at one instant."""
        dumps = []
        for keys in self.keys:
            pipe = self.redis.pipeline(transaction=True)
            for key in keys.all():
                pipe.dump(key)
            dumps.append(dict(zip(keys.all(), pipe.execute(), strict=True)))
        return RedisDump(lag, rebuilt, dumps)

    def restore(self, dump: RedisDump) -> None:
        """Put the shards back, and delete their owners' statuses. No worker may run."""
        for values in dump.shards:
            pipe = self.redis.pipeline(transaction=True)
            pipe.delete(*values)
            for key, value in values.items():
                if value is not None:
                    pipe.restore(key, 0, cast("Any", value))
            pipe.execute()
        self.redis.delete(self._status)

    def statuses(self) -> list[str]:
        """Return the states that the shards' owners report."""
        shown = cast("dict[bytes, bytes]", self.redis.hgetall(self._status))
        return [msgspec.json.decode(value, type=ShardStatus).state for value in shown.values()]

    def at_rest(self) -> bool:
        """Return whether no customer is due: a takeover makes those due whose orders it has read again."""
        pipe, now_ms = self.redis.pipeline(transaction=False), time.time_ns() // 1_000_000
        for keys in self.keys:
            pipe.zcount(keys.due, "-inf", now_ms)
        return not any(pipe.execute())

    def settled(self, heads: Heads) -> bool:
        """Return whether all orders are stored and no customer is due."""
        return heads.progress().finished and self.at_rest()

    def states(self) -> dict[bytes, bytes]:
        """Return every customer's state."""
        return {customer: value for keys in self.keys for customer, value in read_states(self.redis, keys)}

    @property
    def _status(self) -> str:
        return status_key(self.settings.group, self.settings.orders_topic)


def measure_takeovers(
    settings: Settings,
    redis: Redis,
    folder: Path,
    orders: Sequence[tuple[bytes, bytes]],
    *,
    times: int,
    report: Callable[[str], None],
) -> Takeovers:
    """Process the orders, let new workers take over `times` times at each lag (rebuilt: once), and check the outputs.

    The topics exist, the model is active, and there are no orders yet. Raises BenchError where a worker fails.
    """
    shards, expected = Shards(settings, redis), recompute(orders)
    begins = asyncio.run(end_offsets(settings, settings.orders_topic))
    report(f"processing {len(orders):,} orders in stages")
    dumps = _stages(shards, folder, orders, begins)
    heads = Heads(settings, redis, begins, asyncio.run(end_offsets(settings, settings.orders_topic)))
    before, reference = asyncio.run(check_worker(settings, redis, expected)), shards.states()
    dumps.append(_rebuilt(shards, folder, len(orders)))
    problems = list(before.problems)
    took: list[list[TakeoverTimes]] = [[] for _ in dumps]
    for number in range(times):
        last = number == times - 1
        for dump, row in zip(dumps, took, strict=True):
            if dump.rebuilt and not last:
                continue  # the longest by far: once is enough
            report(f"takeover {number + 1} of {times}, Redis {dump.lag:,} orders behind")
            row.append(_take_over(shards, folder, heads, dump, rest=last))
            problems += differences(reference, shards.states())
    checked = asyncio.run(check_worker(settings, redis, expected))
    for problem in (*problems, *unexpected_moves(before, checked)):
        checked.complain(problem)
    return Takeovers(
        orders=len(orders),
        customers=len(expected),
        shards=len(shards.keys),
        times=times,
        lags=lags_of(dumps, took),
        moved_by_time=checked.moves - before.moves,
        checks=checked,
    )


def _stages(
    shards: Shards, folder: Path, orders: Sequence[tuple[bytes, bytes]], begins: dict[int, int]
) -> list[RedisDump]:
    """Send the orders in stages, one worker processing them; return Redis at each lag, the shortest lag first."""
    settings, found = shards.settings, list[RedisDump]()
    rest = iter(orders)
    sent = 0
    with start_worker(settings, "takeover-stages", folder) as child:
        for lag in sorted({round(len(orders) * part) for part in LAGS}, reverse=True):
            asyncio.run(preload(settings, islice(rest, len(orders) - lag - sent)))
            sent = len(orders) - lag
            ends = asyncio.run(end_offsets(settings, settings.orders_topic))
            heads = Heads(settings, shards.redis, begins, ends)
            until(partial(shards.settled, heads), child, _PATIENCE_S + sent / 1_000)
            if lag:
                found.append(shards.dump(lag))
        end_worker(child)
    return [shards.dump(0), *reversed(found)]


def _rebuilt(shards: Shards, folder: Path, orders: int) -> RedisDump:
    """Run `segstream rebuild`, and return Redis after it."""
    arguments = ["-m", "stream.cli", "rebuild", "--yes"]
    with MeasuredProcess("rebuild", arguments, folder=folder, environment=environment(shards.settings)) as child:
        child.process.wait(_PATIENCE_S)
        end_worker(child)
    return shards.dump(orders, rebuilt=True)


def _take_over(shards: Shards, folder: Path, heads: Heads, dump: RedisDump, *, rest: bool) -> TakeoverTimes:
    """Put Redis back, start a worker, and end it when it is ready; `rest`: and when no customer is due."""
    shards.restore(dump)
    port = free_port()
    settings = shards.settings.model_copy(update={"http_port": port})
    name = f"takeover-{'rebuilt' if dump.rebuilt else dump.lag}"
    began = time.perf_counter()
    with start_worker(settings, name, folder) as child:
        patience_s = _PATIENCE_S + dump.lag / 1_000
        until(lambda: bool(shards.statuses()), child, patience_s)
        first = time.perf_counter()
        running = ["running"] * len(shards.keys)
        until(lambda: shards.statuses() == running and heads.progress().finished, child, patience_s)
        ready = time.perf_counter()
        shard_s = _shard_s(port)
        if rest:
            until(shards.at_rest, child, patience_s)
        end_worker(child)
    return TakeoverTimes(ready - began, ready - first, shard_s)


def _shard_s(port: int) -> float:
    """Return the mean of the takeovers so far, by the worker's metric. Raises BenchError where it has none."""
    found = {sample.name: sample.value for sample in worker_metrics.read(port) if sample.name.startswith(_METRIC)}
    if not (count := found.get(f"{_METRIC}_count")):
        raise BenchError(f"{HOST}:{port}/metrics has no {_METRIC}, though all shards were taken over.")
    return found[f"{_METRIC}_sum"] / count


def differences(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> list[str]:
    """Return a text where a takeover changed a state other than by one move by time; else []."""
    if before.keys() != after.keys():
        return [f"{len(after):,} customers after a takeover, {len(before):,} before it"]
    wrong = [customer for customer, value in before.items() if not _same(value, after[customer])]
    return [f"{len(wrong):,} states differ after a takeover, such as that of {wrong[0]!r}"] if wrong else []


def _same(before: bytes, after: bytes) -> bool:
    """Return whether the states are the same, to the byte, or differ by one announced move alone."""
    old = announcement(before)
    return before == after or (announcement(after)[1] == old[1] + 1 and with_announcement(after, *old) == before)


def unexpected_moves(before: Checked, after: Checked) -> list[str]:
    """Return texts on moves that takeovers published and time didn't cause."""
    causes = sorted({*before.causes, *after.causes} - {Cause.SILENCE})
    more = {cause: after.causes.get(cause, 0) - before.causes.get(cause, 0) for cause in causes}
    return [f"{count} moves published in takeovers: {cause}" for cause, count in more.items() if count]


def lags_of(dumps: Iterable[RedisDump], took: Iterable[Sequence[TakeoverTimes]]) -> list[Lag]:
    """Return the figures of each lag. The first dump is the one without a lag."""
    found: list[Lag] = []
    for dump, row in zip(dumps, took, strict=True):
        takeover_s = median(one.takeover_s for one in row)
        longer_s = takeover_s - (found[0].takeover_p50_s if found else takeover_s)
        found.append(
            Lag(
                orders=dump.lag,
                rebuilt=dump.rebuilt,
                ready_s=[round(one.ready_s, 3) for one in row],
                ready_p50_s=round(median(one.ready_s for one in row), 3),
                takeover_p50_s=round(takeover_s, 3),
                shard_p50_s=round(median(one.shard_s for one in row), 3),
                orders_per_s=round(dump.lag / longer_s, 1) if longer_s >= _LEAST_S else None,
            )
        )
    return found
