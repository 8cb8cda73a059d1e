"""Processes by their id: whether one is alive, how it is ended, and the last lines of its log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stream.local.machine import LocalStackError, extra

if TYPE_CHECKING:
    from pathlib import Path

POLL_S = 0.05
_KILL_TIMEOUT_S = 10.0


def is_alive(process: Any) -> bool:
    """Return whether a psutil.Process still runs: not a later process with its id, and not a zombie."""
    psutil = extra("psutil")
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(process: Any, grace_s: float) -> None:
    """Stop a psutil.Process and wait until it has ended: by SIGTERM, after `grace_s` seconds by SIGKILL (0: at once).

    Raises LocalStackError where it still runs 10 s after SIGKILL.
    """
    psutil = extra("psutil")
    with contextlib.suppress(psutil.NoSuchProcess):
        if grace_s > 0:
            process.terminate()
            # A suspended process takes no SIGTERM until it is resumed.
            process.resume()
        if not _has_ended(process, grace_s):
            process.kill()
    if not _has_ended(process, _KILL_TIMEOUT_S):
        raise LocalStackError(
            f"process {process.pid} doesn't end.", hint=f"Look at it: ps -o pid,stat,args -p {process.pid}."
        )


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Check the condition every 50 ms until it holds, for `within_s` seconds at most. Returns whether it holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _has_ended(process: Any, within_s: float) -> bool:
    # Not psutil's wait(): to it, a zombie still runs.
    return wait_until(lambda: not is_alive(process), within_s)


def tail(log: Path, start: int = 0, lines: int = 12) -> str:
    """Return the last lines of a log from byte `start` on, joined by " | " because a message is one line."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "(empty)"
