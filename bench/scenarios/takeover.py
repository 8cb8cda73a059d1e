"""Start-up and takeover: how long a worker takes until all shards are its own, by how far Redis lags behind Kafka.

Redis is put back to how it stood some orders ago, as after a restore or a fail-over; Kafka has told everything. The worker must catch
up in silence: whatever it tells in a takeover is wrong, unless time alone has moved a customer meanwhile.
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
from segmentation.events import Cause
from segmentation.rfm import announcement, with_announcement
from stream.engine.status_board import ShardStatus
from stream.kafka.clients import end_offsets
from stream.local.machine import HOST, free_port
from stream.settings import Settings
from stream.storage.keys import ShardKeys, status_key
from stream.storage.reads import read_states

LAGS: Final = (5 / 6, 1 / 12, 1 / 120, 0.0)  # parts of all orders: 100,000, 10,000, 1,000 and none of the usual 120,000
_PATIENCE_S: Final = 120.0
_LEAST_S: Final = 0.5  # less than this on top of a takeover without lag is the noise of starts
_METRIC: Final = "segstream_takeover_seconds"


@dataclass(frozen=True, slots=True)
class Lag:
    """The takeovers with Redis so many orders behind Kafka."""

    orders: int
    rebuilt: bool  # Redis was emptied by `segstream rebuild`
    ready_s: list[float]  # of each: from the start of the process until all shards are owned and have caught up
    ready_p50_s: float
    takeover_p50_s: float  # of it, since the first shard's takeover began
    shard_p50_s: float  # a shard's takeover as the worker's metric has it: the shards' mean; the takeovers' median
    orders_per_s: (
        float | None
    )  # read again, over what the takeover took longer than without a lag; None: too little to tell


@dataclass(frozen=True, slots=True)
class Takeovers:
    """One worker takes over all shards, at each lag."""

    orders: int
    customers: int
    shards: int
    times: int  # of each lag but the rebuilt one
    lags: list[Lag]  # the shortest first, the rebuilt one last
    moved_by_time: int  # told while this was measured, and rightly so
    checks: Checked


@dataclass(frozen=True, slots=True)
class RedisDump:
    """What Redis has of a deployment's shards at some instant: each key as DUMP gives it (None: it isn't there)."""

    lag: int
    rebuilt: bool
    dumps: list[dict[str, bytes | None]]  # by shard


class TakeoverTimes(NamedTuple):
    """Of one takeover of all shards, in seconds: see `Lag`."""

    ready_s: float
    takeover_s: float
    shard_s: float


@dataclass(slots=True)
class Shards:
    """A deployment's shards in Redis. No other key is touched: other rows' deployments lie beside them."""

    settings: Settings
    redis: Redis
    keys: list[ShardKeys] = field(init=False)

    def __post_init__(self) -> None:
        group, topic = self.settings.group, self.settings.orders_topic
        self.keys = [ShardKeys(group, topic, p) for p in range(self.settings.partitions)]

    def dump(self, lag: int, *, rebuilt: bool = False) -> RedisDump:
        """As they stand. Each shard at one instant, as its commits are."""
        dumps = []
        for keys in self.keys:
            pipe = self.redis.pipeline(transaction=True)
            for key in keys.all():
                pipe.dump(key)
            dumps.append(dict(zip(keys.all(), pipe.execute(), strict=True)))
        return RedisDump(lag, rebuilt, dumps)

    def restore(self, snapshot: RedisDump) -> None:
        """Put them back, and forget who owned them. No worker may run."""
        for dumps in snapshot.dumps:
            pipe = self.redis.pipeline(transaction=True)
            pipe.delete(*dumps)
            for key, value in dumps.items():
                if value is not None:
                    pipe.restore(key, 0, cast("Any", value))
            pipe.execute()
        self.redis.delete(self._status)

    def told(self) -> list[str]:
        """The states in which their owners say they are, of those that have one."""
        shown = cast("dict[bytes, bytes]", self.redis.hgetall(self._status))
        return [msgspec.json.decode(value, type=ShardStatus).state for value in shown.values()]

    def at_rest(self) -> bool:
        """Whether nobody is due: a takeover makes everyone due whose orders it has read again."""
        pipe, now_ms = self.redis.pipeline(transaction=False), time.time_ns() // 1_000_000
        for keys in self.keys:
            pipe.zcount(keys.due, "-inf", now_ms)
        return not any(pipe.execute())

    def settled(self, place: Heads) -> bool:
        """Whether all orders of this place are worked off, too."""
        return place.progress().finished and self.at_rest()

    def states(self) -> dict[bytes, bytes]:
        """Every customer's state."""
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
    """Work off the orders, then let a new worker take over `times` times at each lag (rebuilt: once); check that it tells nothing.

    The topics are there, the model is active, and there are no orders yet. Raises BenchError where a worker doesn't end well.
    """
    shards, expected = Shards(settings, redis), recompute(orders)
    begins = asyncio.run(end_offsets(settings, settings.orders_topic))
    report(f"working off {len(orders):,} orders in stages")
    snapshots = _stages(shards, folder, orders, begins)
    place = Heads(settings, redis, begins, asyncio.run(end_offsets(settings, settings.orders_topic)))
    before, reference = asyncio.run(check_worker(settings, redis, expected)), shards.states()
    snapshots.append(_rebuilt(shards, folder, len(orders)))
    problems = list(before.problems)
    took: list[list[TakeoverTimes]] = [[] for _ in snapshots]
    for number in range(times):
        last = number == times - 1
        for snapshot, row in zip(snapshots, took, strict=True):
            if snapshot.rebuilt and not last:
                continue  # the longest by far: once is enough
            report(f"takeover {number + 1} of {times}, Redis {snapshot.lag:,} orders behind")
            row.append(_take_over(shards, folder, place, snapshot, rest=last))
            problems += differences(reference, shards.states())
    checked = asyncio.run(check_worker(settings, redis, expected))
    for problem in (*problems, *unexpected_moves(before, checked)):
        checked.complain(problem)
    return Takeovers(
        orders=len(orders),
        customers=len(expected),
        shards=len(shards.keys),
        times=times,
        lags=lags_of(snapshots, took),
        moved_by_time=checked.moves - before.moves,
        checks=checked,
    )


def _stages(
    shards: Shards, folder: Path, orders: Sequence[tuple[bytes, bytes]], begins: dict[int, int]
) -> list[RedisDump]:
    """Send the orders up to each lag and let one worker work them off: Redis at each, the shortest lag first."""
    settings, found = shards.settings, list[RedisDump]()
    rest = iter(orders)
    sent = 0
    with start_worker(settings, "takeover-stages", folder) as child:
        for lag in sorted({round(len(orders) * part) for part in LAGS}, reverse=True):
            asyncio.run(preload(settings, islice(rest, len(orders) - lag - sent)))
            sent = len(orders) - lag
            ends = asyncio.run(end_offsets(settings, settings.orders_topic))
            place = Heads(settings, shards.redis, begins, ends)
            until(partial(shards.settled, place), child, _PATIENCE_S + sent / 1_000)
            if lag:
                found.append(shards.dump(lag))
        end_worker(child)
    return [shards.dump(0), *reversed(found)]


def _rebuilt(shards: Shards, folder: Path, orders: int) -> RedisDump:
    """Redis as `segstream rebuild` leaves it."""
    arguments = ["-m", "stream.cli", "rebuild", "--yes"]
    with MeasuredProcess("rebuild", arguments, folder=folder, environment=environment(shards.settings)) as child:
        child.process.wait(_PATIENCE_S)
        end_worker(child)
    return shards.dump(orders, rebuilt=True)


def _take_over(shards: Shards, folder: Path, place: Heads, snapshot: RedisDump, *, rest: bool) -> TakeoverTimes:
    """Put Redis back, start a worker, and end it when it is ready; `rest`: when it has looked again at everyone it made due, too."""
    shards.restore(snapshot)
    port = free_port()
    settings = shards.settings.model_copy(update={"http_port": port})
    name = f"takeover-{'rebuilt' if snapshot.rebuilt else snapshot.lag}"
    began = time.perf_counter()
    with start_worker(settings, name, folder) as child:
        patience_s = _PATIENCE_S + snapshot.lag / 1_000
        until(lambda: bool(shards.told()), child, patience_s)
        first = time.perf_counter()
        running = ["running"] * len(shards.keys)
        until(lambda: shards.told() == running and place.progress().finished, child, patience_s)
        ready = time.perf_counter()
        shard_s = _shard_s(port)
        if rest:
            until(shards.at_rest, child, patience_s)
        end_worker(child)
    return TakeoverTimes(ready - began, ready - first, shard_s)


def _shard_s(port: int) -> float:
    """What the worker's metric says of its takeovers so far: their mean. Raises BenchError where it tells of none."""
    told = {sample.name: sample.value for sample in worker_metrics.read(port) if sample.name.startswith(_METRIC)}
    if not (count := told.get(f"{_METRIC}_count")):
        raise BenchError(f"{HOST}:{port}/metrics tells of no {_METRIC}, though all shards were taken over.")
    return told[f"{_METRIC}_sum"] / count


def differences(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> list[str]:
    """What a takeover has made of the states that it shouldn't have: each is the same to the byte, or time has moved its customer, once."""
    if before.keys() != after.keys():
        return [f"{len(after):,} customers after a takeover, {len(before):,} before it"]
    wrong = [customer for customer, value in before.items() if not _same(value, after[customer])]
    return [f"{len(wrong):,} states differ after a takeover, such as that of {wrong[0]!r}"] if wrong else []


def _same(before: bytes, after: bytes) -> bool:
    """Whether nothing has changed, or what was announced alone, by one move."""
    told = announcement(before)
    return before == after or (announcement(after)[1] == told[1] + 1 and with_announcement(after, *told) == before)


def unexpected_moves(before: Checked, after: Checked) -> list[str]:
    """Moves told in the takeovers that have another cause than time."""
    causes = sorted({*before.causes, *after.causes} - {Cause.SILENCE})
    more = {cause: after.causes.get(cause, 0) - before.causes.get(cause, 0) for cause in causes}
    return [f"{count} moves told in takeovers: {cause}" for cause, count in more.items() if count]


def lags_of(snapshots: Iterable[RedisDump], took: Iterable[Sequence[TakeoverTimes]]) -> list[Lag]:
    """The figures of each lag. The first snapshot is the one without a lag."""
    found: list[Lag] = []
    for snapshot, row in zip(snapshots, took, strict=True):
        takeover_s = median(one.takeover_s for one in row)
        longer_s = takeover_s - (found[0].takeover_p50_s if found else takeover_s)
        found.append(
            Lag(
                orders=snapshot.lag,
                rebuilt=snapshot.rebuilt,
                ready_s=[round(one.ready_s, 3) for one in row],
                ready_p50_s=round(median(one.ready_s for one in row), 3),
                takeover_p50_s=round(takeover_s, 3),
                shard_p50_s=round(median(one.shard_s for one in row), 3),
                orders_per_s=round(snapshot.lag / longer_s, 1) if longer_s >= _LEAST_S else None,
            )
        )
    return found
