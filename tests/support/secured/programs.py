"""Commands and processes of both programs, run by a user of the secured servers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import trainer.cli
from stream import cli
from stream.errors import SegstreamError
from stream.settings import Settings
from tests.support.command_line import environment
from tests.support.paths import ROOT

PROGRAMS = {"segstream": cli.app, "segtrainer": trainer.cli.app}
ENDED_BY_SIGNAL = {
    "segstream": "segstream: stopped by SIGTERM or SIGINT.",
    "segtrainer": "segtrainer: stopped by SIGTERM.",
}


def run(settings: Settings, line: str, *files: Path) -> str:
    """Run a command to its end, which must be a good one. Return what it printed. `files`: in place of each `FILE`."""
    program, *arguments = line.split()
    for file in files:
        arguments[arguments.index("FILE")] = str(file)
    result = CliRunner().invoke(PROGRAMS[program], arguments, env=environment(settings))
    assert result.exit_code == 0, f"{line}: {result.exception or result.output}"
    return str(result.stdout)


def refused(settings: Settings, line: str) -> str:
    """Run a command that must be refused. Return the line that `main` would write to stderr."""
    program, *arguments = line.split()
    result = CliRunner().invoke(PROGRAMS[program], arguments, env=environment(settings))
    assert isinstance(result.exception, SegstreamError), f"{line}: {result.exception or result.output!r}"
    return str(result.exception)


class Running:
    """A process, and its stderr in a file."""

    def __init__(self, settings: Settings, line: str, log: Path) -> None:
        self.program, *arguments = line.split()
        self.log = log
        module = {"segstream": "stream.cli", "segtrainer": "trainer.cli"}[self.program]
        with log.open("wb") as stderr:
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=os.environ | environment(settings), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip

    def lines(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines()

    def ended(self, within_s: float = 60.0) -> tuple[int, list[str]]:
        """Wait for the end. Return the exit code and the lines on stderr."""
        return self.process.wait(within_s), self.lines()

    def stop(self) -> tuple[int, list[str]]:
        self.process.terminate()
        return self.ended()


@contextmanager
def running(settings: Settings, line: str, log: Path) -> Iterator[Running]:
    """Run a process, and kill it at the end of the block if it runs then."""
    process = Running(settings, line, log)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()
