"""One run under faults: servers, workers and the feed; how to bring it to rest and check it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stream.kafka import topics
from stream.settings import Settings
from tests.recovery.rig import checker
from tests.recovery.rig.feed import Feeder, OrderFeed, slices
from tests.recovery.rig.fleet import Fleet
from tests.recovery.rig.servers import RigServers

SETTLE_S: Final = 240.0  # finds a stuck worker; all else takes a fraction of this, even on a busy machine
PROGRESS_S: Final = 0.5
# Short time-outs, so that each of them expires; small turns, so that there are many points at which to fail.
SHORT: Final[dict[str, Any]] = {
    "time": "event",
    "partitions": 4,
    "turn_max_orders": 40,
    "due_slice": 25,
    "rescore_slice": 40,
    "session_timeout_ms": 3_000,
    "redis_timeout_s": 1.5,
    "commit_timeout_s": 6.0,
    "transaction_timeout_ms": 4_000,
    "backoff_max_s": 2.0,
}


def settings_on(servers: RigServers, **overrides: Any) -> Settings:
    """Make settings without proxies, with a group and topic names that no other run has."""
    mark = uuid.uuid4().hex[:8]
    base = Settings()
    names = {f: f"{getattr(base, f)}-{mark}" for f in Settings.model_fields if f.endswith("_topic")}
    where = {"kafka_bootstrap_servers": servers.kafka.address, "redis_url": servers.redis_url}
    return Settings(**{**SHORT, **names, **where, "group": f"g-{mark}", **overrides})


def twin_of(settings: Settings, **overrides: Any) -> Settings:
    """Make settings of another group on the same orders and models."""
    mark = uuid.uuid4().hex[:8]
    own = {f: f"{f}-{mark}" for f in ("changes_topic", "state_topic", "actions_topic")}
    return settings.model_copy(update={**own, "group": f"g-{mark}", **overrides})


@dataclass
class RecoveryWorld:
    """Everything that a fault may act on."""

    servers: RigServers
    settings: Settings
    fleet: Fleet
    feeder: Feeder
    orders: OrderFeed
    folder: Path
    rng: random.Random
    began: float = field(default_factory=time.monotonic)
    events: list[str] = field(default_factory=list)
    rests: list[int] = field(default_factory=list)  # when (ms) all that was sent before had been read by campaigns, too
    losses: int = 0  # parts of Redis that were deleted behind a head: their shards must stop

    def note(self, line: str) -> None:
        """Record an event, to explain a failure."""
        text = f"{time.monotonic() - self.began:7.1f} s  {line}"
        self.events.append(text)
        print(text, flush=True)

    async def feed(self, count: int, *, size: int = 30, pace_s: float = 0.0) -> None:
        for some in slices(self.orders.take(count), size):
            await self.feeder.send(some)
            await asyncio.sleep(pace_s)

    async def silence(self, days: int) -> None:
        await self.feeder.send(self.orders.silence(days))

    async def settled(self, settings: Settings | None = None, within_s: float = SETTLE_S) -> None:
        """Wait until all records sent so far are scored. Start ended workers again meanwhile, as a supervisor does.

        Each shard counts from the moment that it was seen at rest: orders may go on flowing. `within_s`: without any
        progress of the shards that aren't there yet.
        """
        chosen = settings or self.settings
        waiting = await self.ends(chosen)
        before: Mapping[int, object] = {}
        deadline = time.monotonic() + within_s
        while True:
            heads = [shard.head for shard in await asyncio.to_thread(checker.read_shards, chosen)]
            for p, head in enumerate(heads):
                if head and p in waiting and head["offset"] >= waiting[p] and head["cursor"] is None:
                    del waiting[p]
            if not waiting:
                return
            self.fleet.restart_ended()
            now = {p: (h and (h["offset"], h["cursor"])) for p, h in enumerate(heads) if p in waiting}
            if now != before:
                before, deadline = now, time.monotonic() + within_s
            if time.monotonic() > deadline:
                raise AssertionError(f"no progress for {within_s} s: heads {heads}, ends {waiting}; {self.stuck()}")
            await asyncio.sleep(PROGRESS_S)

    async def at_rest(self, settings: Settings | None = None) -> None:
        """Wait until all records are scored that were sent, and all that customers were handed on by meanwhile."""
        chosen, before = settings or self.settings, dict[int, int]()
        while (ends := await self.ends(chosen)) != before:
            before = ends
            await self.settled(chosen)

    def stuck(self) -> str:
        """Describe the workers: their statuses and the last lines of their logs."""
        key = f"{{{self.settings.group}:{self.settings.orders_topic}}}:status"
        with self.servers.redis() as redis:
            statuses: Any = redis.hgetall(key)
        lines = {p: self.fleet.last_line(p) for p in self.fleet.running}
        return f"status {[json.loads(v) for v in statuses.values()]}; last lines {lines}"

    async def ends(self, settings: Settings) -> dict[int, int]:
        from stream.kafka.clients import end_offsets

        return await end_offsets(settings, settings.orders_topic)

    async def judge(self, calm: checker.GroupRun | None = None, *, rebuild: bool = True) -> checker.GroupRun:
        """Run all checks: against an undisturbed run of the same input, and Redis against a rebuild.

        `calm`: the undisturbed run, if there is one already.
        """
        if calm is None:
            await self.silence(400)
        await self.at_rest()
        run = await checker.read_run(self.settings)
        wrong = self._wrong_alone(run)
        if rebuild:
            wrong += await self.differences_after_rebuild(run)
        if calm is None:
            # After the rebuild the shards continue as before.
            await self.silence(30)
            await self.at_rest()
            run = await checker.read_run(self.settings)
            wrong += self._wrong_alone(run)
        wrong += checker.differences(run, calm or await self.undisturbed(), self.settings.rules, self.settings.salt)
        if wrong:
            raise AssertionError("\n".join([f"{len(wrong)} violations:", *wrong]))
        return run

    async def wrong_alone(self) -> list[str]:
        """Run the checks that need no other run: in wall time no two runs are the same."""
        return self._wrong_alone(await checker.read_run(self.settings))

    def _wrong_alone(self, run: checker.GroupRun) -> list[str]:
        stopped = [f"quarantined: {line}" for line in self.quarantined()]
        return checker.violations(run, self.feeder.acknowledged) + stopped

    def quarantined(self) -> list[str]:
        """Return the log lines of quarantined shards: no fault but a loss may stop one.

        A shard that stopped for a loss without one doesn't come to rest, since nobody rebuilds it.
        """
        return self.fleet.grep(r"quarantined \((?!redis_lost)" if self.losses else r"quarantined \(")

    async def rebuilt(self, partition: int) -> None:
        """Rebuild one shard, as an operator does: again where Kafka can't be reached meanwhile."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                await self.segstream("rebuild", "--yes", "--partition", str(partition))
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(PROGRESS_S)
            else:
                return

    async def undisturbed(self, *, first: bool = False) -> checker.GroupRun:
        """Run the same input without faults. `first`: before the group itself, so that it has no packages to take."""
        # Large turns: the moves don't depend on how the input is divided.
        calm = twin_of(self.settings, turn_max_orders=4_000, due_slice=512, rescore_slice=2_000)
        await topics.create(calm)
        await self.servers.admit(calm)
        fleet = Fleet(self.servers, calm, self.folder / "calm")
        fleet.is_twin = not first
        fleet.start(0)
        try:
            await self.at_rest(calm)
            return await checker.read_run(calm)
        finally:
            fleet.close()

    async def segstream(self, *arguments: str) -> None:
        """Run a command against the servers themselves. Raises where it fails."""
        settings = self.settings
        values = {name: getattr(settings, name) for name in Settings.model_fields if name.endswith("_topic")}
        values |= {name: getattr(settings, name) for name in ("group", "partitions", "time")}
        values |= self.servers.way_in(None)
        environment = os.environ | {f"SEGSTREAM_{name.upper()}": str(value) for name, value in values.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stream.cli", *arguments, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode(errors="replace")

    async def differences_after_rebuild(self, run: checker.GroupRun) -> list[str]:
        """Run `segstream rebuild` under running workers: Redis must be as before, and no move published again."""
        await self.segstream("rebuild", "--yes")
        await self.settled()
        again = await checker.read_run(self.settings)
        wrong = [
            f"after a rebuild: {line}" for line in checker.other_states(again.shards, run.shards, self.settings.rules)
        ]
        if [row.value for row in again.moves] != [row.value for row in run.moves]:
            wrong.append(f"a rebuild has published moves: {len(run.moves)} before, {len(again.moves)} after")
        return wrong


@asynccontextmanager
async def world(
    servers: RigServers, folder: Path, seed: int, settings: Settings, *, customers: int = 400, garbage: bool = True
) -> AsyncIterator[RecoveryWorld]:
    """Make a group with its topics on these servers, without workers; heal and end it afterwards."""
    await topics.create(settings)
    await servers.admit(settings)
    made = RecoveryWorld(
        servers,
        settings,
        Fleet(servers, settings, folder / "workers"),
        Feeder(settings, seed),
        OrderFeed(seed, customers, settings.partitions, garbage=garbage),
        folder,
        random.Random(seed),
    )
    try:
        yield made
    finally:
        made.fleet.close()
        await asyncio.to_thread(servers.heal)
        await made.feeder.close()


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within_s: float, what: str) -> None:
    """Poll a condition until it holds. Raises AssertionError after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        assert time.monotonic() < deadline, f"{what} didn't happen within {within_s} s"
        await asyncio.sleep(0.05)
