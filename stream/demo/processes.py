"""The demo's own workers, dispatcher and trainer: real processes, which end with the demo, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from stream.demo.source import DemoError
from stream.local import watchdog
from stream.local.process import tail

_GRACE_S: Final = 10.0  # to finish a turn and leave the group
_ROOT: Final = Path(__file__).resolve().parents[2]


class DemoProcess:
    """`python ARGUMENTS…` with its output in a log, under a watchdog that ends it when this process has ended."""

    def __init__(self, name: str, arguments: list[str], *, log: Path, folder: Path) -> None:
        """Start it in `folder`, with this process's environment."""
        self.name = name
        self.log = log
        # The folder isn't the checkout's, and the packages may not be installed.
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
        """None while it runs."""
        return self._watchdog.poll()

    def failed(self) -> DemoError:
        """Say that it ended, and why as far as its log knows."""
        return DemoError(
            f"the {self.name} ended with {self.exit_code}; its log ends: {tail(self.log)}",
            hint=f"The whole: {self.log}.",
        )

    def ask_to_end(self) -> None:
        """Let it end in good order, without waiting for it."""
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()

    def end(self) -> None:
        """Return when it has ended, by force if need be."""
        self.ask_to_end()
        try:
            self._watchdog.wait(_GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()
            self._watchdog.wait()


class DemoProcesses:
    """All that were started, ended together."""

    def __init__(self, logs: Path, folder: Path) -> None:
        """`logs`: where each gets one, by its name; `folder`: where they run."""
        self._logs = logs
        self._folder = folder
        self._all: list[DemoProcess] = []

    def start(self, name: str, *arguments: str) -> DemoProcess:
        """Start one with arguments for Python; `name` is its log's too."""
        child = DemoProcess(name, list(arguments), log=self._logs / f"{name}.log", folder=self._folder)
        self._all.append(child)
        return child

    def check(self) -> None:
        """Raise DemoError where one has ended with an error."""
        for child in self._all:
            if child.exit_code not in {None, 0}:
                raise child.failed()

    def end(self) -> None:
        """End all at once, and wait for them."""
        for child in self._all:
            child.ask_to_end()
        for child in self._all:
            child.end()
