"""kill -9 of workers at random moments, in full flow: every record counts once, every output is told once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.settings import Settings
from tests.toy_engine import counts, eventually, produce, verify

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("SEED", "1"))
FAULTS = int(os.environ.get("FAULTS", "8"))


def start(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **{
            f"SEGSTREAM_{name.upper()}": str(getattr(settings, name))
            for name in ("kafka_bootstrap_servers", "group", "partitions", "session_timeout_ms", "turn_max_orders")
        },
        **{f"SEGSTREAM_{n.upper()}": getattr(settings, n) for n in Settings.model_fields if n.endswith("_topic")},
        "SEGSTREAM_REDIS_URL": settings.redis_url.get_secret_value(),
    }
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.toy_engine"], env=environment, cwd=ROOT, stdout=out, stderr=out
        )


async def test_kill_9_of_workers_in_full_flow(settings_for: Callable[..., Settings], tmp_path: Path) -> None:
    from stream import topics

    # Small turns, so that a kill is likely to hit one; a short session, so that the group notices soon.
    settings = settings_for(session_timeout_ms=3_000, turn_max_orders=40)
    await topics.create(settings)
    rng = random.Random(SEED)
    logs = [tmp_path / f"worker-{i}.log" for i in range(2)]
    workers = [start(settings, log) for log in logs]
    sent: list[tuple[bytes, bytes]] = []
    try:
        for fault in range(FAULTS):
            until = time.monotonic() + rng.uniform(0.3, 2.0)
            while time.monotonic() < until:
                rows = [(b"k%d" % rng.randrange(200), b"x") for _ in range(rng.randrange(1, 120))]
                await produce(settings, rows)
                sent += rows
            victim = rng.randrange(2)
            if fault % 4 == 3:
                # An owner that pauses for longer than its session, and wakes up after its successor began.
                workers[victim].send_signal(signal.SIGSTOP)
                await asyncio.sleep(5)
                workers[victim].send_signal(signal.SIGCONT)
            else:
                workers[victim].kill()
                workers[victim].wait()
                logs[victim] = tmp_path / f"worker-{victim}-{fault}.log"
                workers[victim] = start(settings, logs[victim])
        deadline = time.monotonic() + 90
        while sum((await counts(settings)).values()) < len(sent):
            assert time.monotonic() < deadline, f"SEED={SEED}: {sum((await counts(settings)).values())} of {len(sent)}"
            await asyncio.sleep(0.3)
        await verify(settings, sent)
        await eventually(lambda: all("owned from" in log.read_text() for log in logs), what="both working")
        for worker in workers:
            worker.terminate()
        assert [worker.wait(30) for worker in workers] == [0, 0]
        await verify(settings, sent)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
