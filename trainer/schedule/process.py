"""Run `segtrainer run` as a process, and the command for failures."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from trainer.schedule.scheduler import RunResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.schedule.policy import DueRun, LastRun

log = logging.getLogger(__name__)

_PATIENCE_S: Final = 20.0  # between SIGTERM and SIGKILL
_ALARM_S: Final = 60.0
TIMED_OUT: Final = 124  # the exit code of coreutils' timeout


async def train_once(options: Sequence[str], run: DueRun, timeout_s: float) -> RunResult:
    """Run `segtrainer run` with these options and copy its stderr; end it on cancellation and after `timeout_s`."""
    command = [sys.executable, "-m", "trainer.cli", "run", "--by", "schedule", "--reason", run.text, *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(timeout_s):
            last = await _copy_stderr(process)
            code = await process.wait()
    except TimeoutError:
        return RunResult(TIMED_OUT, f"no end within {timeout_s:.0f} s")
    finally:
        await _end(process)
    # A process that was ended by a signal has a negative code; shells report 128 + signal.
    return RunResult(code, last) if code >= 0 else RunResult(128 - code, last or f"ended by signal {-code}")


async def run_alarm_command(command: Sequence[str], last: LastRun) -> None:
    """Run the command for failures, with the facts in its environment. Never raises."""
    facts = {
        "SEGTRAINER_EXIT_CODE": str(last.exit_code),
        "SEGTRAINER_ERROR": last.error,
        "SEGTRAINER_ATTEMPT": str(last.attempt),
        "SEGTRAINER_WHY": last.why,
    }
    try:
        process = await asyncio.create_subprocess_exec(*command, env=os.environ | facts)
    except OSError as error:
        log.error("the --on-failure command can't be run: %s: %s", command[0], error.strerror)  # noqa: TRY400  # a traceback adds nothing
        return
    try:
        async with asyncio.timeout(_ALARM_S):
            code = await process.wait()
        if code:
            log.error("the --on-failure command failed: %s ended with exit code %d", command[0], code)
    except TimeoutError:
        log.error("the --on-failure command didn't end within %.0f s: %s", _ALARM_S, command[0])  # noqa: TRY400  # as above
    finally:
        await _end(process)


async def _copy_stderr(process: asyncio.subprocess.Process) -> str:
    """Copy stderr as it comes. Return its last line that isn't empty."""
    assert process.stderr is not None
    last, rest = "", b""
    # Not readline, which fails on a line longer than its buffer.
    while block := await process.stderr.read(65_536):
        sys.stderr.buffer.write(block)
        sys.stderr.buffer.flush()
        rest = (rest + block)[-4096:]
    for line in rest.decode(errors="replace").splitlines():
        last = line.strip() or last
    return last


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _PATIENCE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
