"""`segstream reshard` as a process that kills itself (SIGKILL) at its n-th step: python -m … PARTITIONS N.

A step is a write to Kafka or to Redis; it is counted before and after, so each point between two effects is met.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from stream.engine.ledger import Ledger
from stream.reshard import resharder
from stream.reshard.kafka_part import KafkaPart
from stream.reshard.moving import MovingShard
from stream.settings import Settings, load_settings
from stream.worker.steps import step_of
from tests.support.command_line import environment
from tests.support.paths import ROOT

KILLED = -signal.SIGKILL


def counted(call: Callable[..., Awaitable[Any]], steps: list[int], kill_at: int) -> Callable[..., Awaitable[Any]]:
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        for then in (False, True):
            steps[0] += 1
            if steps[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if not then:
                result = await call(*args, **kwargs)
        return result

    return wrapped


def main() -> None:
    partitions, kill_at = int(sys.argv[1]), int(sys.argv[2])
    steps = [0]
    for owner, name in (
        (Ledger, "take_over"),
        (Ledger, "cover"),
        (KafkaPart, "_send"),
        (MovingShard, "write"),
        (resharder, "grow"),
        (resharder, "write_reshard"),
    ):
        setattr(owner, name, counted(getattr(owner, name), steps, kill_at))
    asyncio.run(resharder.reshard(load_settings(), partitions, step_of, print))
    print(f"steps: {steps[0]}")


def run(settings: Settings, partitions: int, kill_at: int) -> subprocess.CompletedProcess[str]:
    """Run it; kill_at 0: to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tests.support.engine.killed_reshard", str(partitions), str(kill_at)],
        env=os.environ | environment(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


if __name__ == "__main__":
    main()
