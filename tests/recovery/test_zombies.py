"""Owners that were away, and servers that refuse: no worker fences a healthy successor or retries without a pause."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stream.local.machine import free_port
from tests.recovery.rig.proxy import END_TXN, GROUP_TALK, HOST
from tests.recovery.rig.servers import RigServers
from tests.recovery.rig.world import RecoveryWorld, eventually, settings_on, world

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(600)]

# The waits between a shard's takeovers grow to this: 0.1, 0.2, 0.4... s, up to the setting, each at least half.
LONG_WAIT_S = 3.0
SOON_S = 120.0


@pytest.fixture
async def rig(servers: RigServers, tmp_path: Path, seed: int) -> AsyncIterator[RecoveryWorld]:
    """Two workers, orders and a model."""
    async with world(servers, tmp_path, seed, settings_on(servers, partitions=2)) as made:
        yield made


async def opened(rig: RecoveryWorld, *indexes: int) -> None:
    for index in indexes:
        rig.fleet.start(index)
    await rig.feed(200)
    assert await rig.feeder.activate()
    await rig.feed(50)
    await rig.settled()


def takeovers(rig: RecoveryWorld, index: int) -> int:
    return len(re.findall("owned from offset", rig.fleet.log(index).read_text()))


def lost(rig: RecoveryWorld, index: int) -> int:
    return len(re.findall("taking over afresh", rig.fleet.log(index).read_text()))


async def kept_busy(rig: RecoveryWorld, seconds: float) -> None:
    async with asyncio.timeout(seconds + 60):
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await rig.feed(10, pace_s=0.2)


def successor_of(rig: RecoveryWorld, index: int) -> int:
    return next(p for p in rig.fleet.running if p != index)


async def test_an_owner_that_only_the_coordinator_has_lost_leaves_its_successor_alone(rig: RecoveryWorld) -> None:
    await opened(rig, 0, 1)
    await eventually(lambda: takeovers(rig, 0) > 0 and takeovers(rig, 1) > 0, SOON_S, "both at work")
    before = takeovers(rig, 1)
    # It reads, publishes and commits as before, but its group considers it dead.
    rig.servers.wires[0].kafka.lose(requests=GROUP_TALK)
    await eventually(lambda: takeovers(rig, 1) > before, SOON_S, "a successor")
    settled, tries = takeovers(rig, 1), takeovers(rig, 0)
    errors = lost(rig, 1)
    await kept_busy(rig, 8)
    assert (takeovers(rig, 1), lost(rig, 1), takeovers(rig, 0)) == (settled, errors, tries)
    assert lost(rig, 0) > 0, "the old owner never learnt that it was fenced"
    rig.servers.wires[0].heal()
    await rig.judge(rebuild=False)


async def test_an_owner_that_wakes_up_leaves_its_successor_alone(rig: RecoveryWorld) -> None:
    await opened(rig, 0, 1)
    await eventually(lambda: takeovers(rig, 0) > 0 and takeovers(rig, 1) > 0, SOON_S, "both at work")
    before = takeovers(rig, 1)
    rig.fleet.pause(0)
    await eventually(lambda: takeovers(rig, 1) > before, SOON_S, "a successor")
    await kept_busy(rig, 2)
    owned = takeovers(rig, 0) + takeovers(rig, 1)
    rig.fleet.resume(0)
    await kept_busy(rig, 8)
    # It joins again and gets its share back. Each shard changes its owner once, perhaps with one extra try.
    assert takeovers(rig, 0) + takeovers(rig, 1) - owned <= 2 * rig.settings.partitions
    await rig.judge(rebuild=False)


def health(port: int) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def longest_wait_s(rig: RecoveryWorld, since: datetime) -> float:
    """Return the longest time between two failures of one shard, from the log."""
    found: dict[str, list[datetime]] = {}
    for line in rig.fleet.grep("taking over afresh"):
        if found_line := re.match(r"(\S+ \S+),(\d+) WARNING stream\.engine\.shard: (\S+): ", line):
            at = datetime.fromisoformat(f"{found_line[1]}.{found_line[2]}").astimezone()
            found.setdefault(found_line[3], []).append(at)
    waits = [(b - a).total_seconds() for times in found.values() for a, b in pairwise(t for t in times if t > since)]
    return max(waits, default=0.0)


@pytest.mark.parametrize("trouble", ["full", "read-only", "no transactions"])
async def test_a_server_that_refuses_is_retried_ever_more_seldom(
    servers: RigServers, tmp_path: Path, seed: int, trouble: str
) -> None:
    port, settings = free_port(), settings_on(servers, partitions=2, backoff_max_s=30.0)
    async with world(servers, tmp_path, seed, settings) as rig:
        rig.fleet.start(0, http_port=port)
        await opened(rig)
        since = datetime.now(UTC)
        with servers.redis() as redis:
            if trouble == "full":
                redis.config_set("maxmemory", 1)
            elif trouble == "read-only":
                redis.config_set("min-replicas-to-write", 5)
            else:
                servers.wires[0].kafka.lose(requests=[END_TXN])
        await kept_busy(rig, 3)
        await eventually(lambda: longest_wait_s(rig, since) >= LONG_WAIT_S, SOON_S, "a long wait")

        async def unwell() -> bool:
            code, answer = await asyncio.to_thread(health, port)
            return code == 503 and any(s["state"] == "failing" and s["detail"] for s in answer["shards"].values())

        await eventually(unwell, SOON_S, "a status that says so")
        await asyncio.to_thread(servers.heal)
        await rig.judge(rebuild=False)
