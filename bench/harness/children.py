"""The measured programs: real processes that end with the benchmark, however the benchmark ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

import psutil

from bench.harness.errors import BenchError
from stream.local import watchdog
from stream.local.process import tail

ROOT: Final = Path(__file__).resolve().parents[2]
_GRACE_S: Final = 15.0  # to finish a turn and leave the group


class MeasuredProcess:
    """A process `python ARGUMENTS…` under a watchdog, with its output in a log. Leaving the context ends it."""

    def __init__(self, name: str, arguments: list[str], *, folder: Path, environment: dict[str, str]) -> None:
        """Start the process in `folder`, where its log is written too. Raises BenchError."""
        self.name = name
        self.log = folder / f"{name}.log"
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        with self.log.open("ab") as log:
            self._watchdog = subprocess.Popen(
                watchdog.command_line([sys.executable, *arguments], _GRACE_S),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environment | {"PYTHONPATH": path},
                start_new_session=True,
            )
        assert self._watchdog.stdout is not None
        line = self._watchdog.stdout.readline()
        try:
            self.process = psutil.Process(int(line))
        except (ValueError, psutil.NoSuchProcess):
            self.end()
            raise self.failed() from None

    def check(self) -> None:
        """Raise BenchError if the process has ended."""
        if self._watchdog.poll() is not None:
            raise self.failed()

    def failed(self) -> BenchError:
        """Return an error with the exit code and the end of the log."""
        return BenchError(f"{self.name} ended with {self._watchdog.poll()}; its log ends: {tail(self.log)}")

    def end(self) -> int:
        """Ask the process to end (SIGTERM), wait, and return its exit code."""
        with contextlib.suppress(BrokenPipeError):
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
        code = self._watchdog.wait(_GRACE_S + 5)
        if self._watchdog.stdout is not None:
            self._watchdog.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class CountFile:
    """A number that one process writes and another reads, at the price of one system call: eight bytes of a file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def write(self, count: int) -> None:
        """Write the number."""
        os.pwrite(self._file, count.to_bytes(8, "little"), 0)

    def read(self) -> int | None:
        """Return the number; None before the first write."""
        found = os.pread(self._file, 8, 0)
        return int.from_bytes(found, "little") if found else None

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
