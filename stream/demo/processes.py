"""The demo's workers, dispatcher and trainer: real processes, which end when the demo ends, even if it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from stream.demo.source import DemoError
from stream.local import watchdog
from stream.local.process import tail

_GRACE_S: Final = 10.0  # for finishing a turn and leaving the consumer group
_ROOT: Final = Path(__file__).resolve().parents[2]


class DemoProcess:
    """`python ARGUMENTS…` with its output in a log, under a watchdog that ends it when this process has ended."""

    def __init__(self, name: str, arguments: list[str], *, log: Path, folder: Path) -> None:
        """Start the process in `folder`, with this process's environment."""
        self.name = name
        self.log = log
        # The process starts in another folder than this repository's, and the packages may not be installed.
        path = os.pathsep.join(p for p in (str(_ROOT), os.environ.get("PYTHONPATH")) if p)
        with log.open("ab") as file:
            self._watchdog = subprocess.Popen(  # noqa: S603 - our own command, no shell
                watchdog.command_line([sys.executable, *arguments], _GRACE_S),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=file,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the process runs."""
        return self._watchdog.poll()

    def failed(self) -> DemoError:
        """Return an error that says how the process ended, with the end of its log."""
        return DemoError(
            f"the {self.name} ended with {self.exit_code}; its log ends: {tail(self.log)}",
            hint=f"The whole log: {self.log}.",
        )

    def ask_to_end(self) -> None:
        """Ask the process to end in good order, without waiting."""
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()

    def end(self) -> None:
        """End the process, by force if need be, and wait for it."""
        self.ask_to_end()
        try:
            self._watchdog.wait(_GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()
            self._watchdog.wait()


class DemoProcesses:
    """The processes of a demo, which are ended together."""

    def __init__(self, logs: Path, folder: Path) -> None:
        """Write a log for each process into `logs`, named like the process; `folder`: their working directory."""
        self._logs = logs
        self._folder = folder
        self._all: list[DemoProcess] = []

    def start(self, name: str, *arguments: str) -> DemoProcess:
        """Start a process with arguments for Python; its log has its name."""
        child = DemoProcess(name, list(arguments), log=self._logs / f"{name}.log", folder=self._folder)
        self._all.append(child)
        return child

    def check(self) -> None:
        """Raise DemoError if a process has ended with an error."""
        for child in self._all:
            if child.exit_code not in {None, 0}:
                raise child.failed()

    def end(self) -> None:
        """End all processes at the same time, and wait for them."""
        for child in self._all:
            child.ask_to_end()
        for child in self._all:
            child.end()
