"""The workers of a test: real processes, each with its own proxies; killed, paused and restarted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from stream.settings import Settings
from tests.recovery.rig.servers import RigServers
from tests.support.paths import ROOT

FAREWELL_S: Final = 45.0  # most that a stopping worker needs: a turn's time-out, the drain, the group
# The settings that differ from the defaults in these tests: passed to the workers by name.
NAMES: Final = (
    "group",
    "partitions",
    "time",
    "turn_max_orders",
    "due_slice",
    "rescore_slice",
    "session_timeout_ms",
    "commit_timeout_s",
    "transaction_timeout_ms",
    "redis_timeout_s",
    "backoff_max_s",
    "http_port",
    "log_level",
)


class Fleet:
    """The workers of one group. A worker's index is that of its wires in `servers.wires`."""

    def __init__(self, servers: RigServers, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.is_twin = False  # these workers take another group's packages, and send none
        self.dispatchers: frozenset[int] = frozenset()  # these decide on campaigns; the others score
        self.mutant: int | None = None  # the ingredient of the protocol that these workers lack
        self.ended_alone: list[str] = []  # workers that ended unasked: index, exit code, last line of the log
        self._servers = servers
        self._folder = folder
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._doomed: set[int] = set()  # workers that will kill themselves at a point
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def running(self) -> list[int]:
        """The indexes of the workers that run."""
        return sorted(self._running)

    def alike(self, index: int) -> list[int]:
        """Return the workers that run and do the same as this one."""
        return [other for other in self.running if (other in self.dispatchers) == (index in self.dispatchers)]

    @property
    def free(self) -> list[int]:
        return [index for index in range(len(self._servers.wires)) if index not in self._running]

    def log(self, index: int) -> Path:
        return self._folder / f"worker-{index}.log"

    def clock(self, index: int) -> Path:
        return self._folder / f"clock-{index}"

    def start(
        self,
        index: int,
        *,
        point: str = "",
        passing: int = 1,
        page: int | None = None,
        http_port: int = 0,
        stop: str = "",
        root: Path = ROOT,
    ) -> subprocess.Popen[bytes]:
        """Start a worker; `point`: where it kills itself; `stop`: point:passing at which it stops itself.

        `root`: of the code that it runs.
        """
        assert index not in self._running, f"worker {index} runs already"
        # Written atomically: the worker reads it each time that it reads its clock.
        if not self.clock(index).exists():
            self.set_clock(index, 0)
        known = None if root == ROOT else _settings_in(root)
        environment = os.environ | self._settings_of(index, http_port, known) | {
            "RECOVERY_POINT": point,
            "RECOVERY_PASSING": str(passing),
            "RECOVERY_PAGE": "" if page is None else str(page),
            "RECOVERY_CLOCK": str(self.clock(index)),
            "RECOVERY_STOP": stop,
            "RECOVERY_STEP": "campaigns" if index in self.dispatchers else "scoring",
            "RECOVERY_TWIN": "1" if self.is_twin else "",
            "RECOVERY_MUTANT": "" if self.mutant is None else str(self.mutant),
        }  # fmt: skip
        with self.log(index).open("ab") as log:
            log.write(f"---- started at {time.time():.3f}, point {point!r}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.recovery.rig.worker"], env=environment, cwd=root, stdout=log, stderr=log
            )
        self._running[index] = process
        if point:
            self._doomed.add(index)
        return process

    def _settings_of(self, index: int, http_port: int, known: str | None) -> dict[str, str]:
        """Return a worker's settings. `known`: only those that stand in this text."""
        settings, wires = self.settings, self._servers.wires[index]
        values = {name: str(getattr(settings, name)) for name in NAMES}
        values |= {name: getattr(settings, name) for name in Settings.model_fields if name.endswith("_topic")}
        values |= {name: str(value) for name, value in self._servers.way_in(wires).items()}
        values |= {
            "http_port": str(http_port),
            "erasure_salt": settings.erasure_salt.get_secret_value(),
        }
        if settings.rules_file is not None:
            values["rules_file"] = str(settings.rules_file)
        names = [name for name in values if known is None or f"    {name}:" in known]
        return {f"SEGSTREAM_{name.upper()}": values[name] for name in names}

    def set_clock(self, index: int, ms: int) -> None:
        """Set the error of a worker's clock."""
        new = self.clock(index).with_suffix(".new")
        new.write_text(str(ms))
        new.replace(self.clock(index))

    def pid(self, index: int) -> int:
        return self._running[index].pid

    def kill(self, index: int) -> None:
        """SIGKILL."""
        process = self._running.pop(index)
        self._doomed.discard(index)
        process.kill()
        process.wait()

    def pause(self, index: int) -> None:
        self._running[index].send_signal(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        self._running[index].send_signal(signal.SIGCONT)

    def leave(self, index: int) -> int:
        """Stop a worker with SIGTERM; kill it where that takes too long. Return the exit code."""
        process = self._running[index]
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.ended_alone.append(f"worker {index}: doesn't end on SIGTERM within {FAREWELL_S} s; {self.log(index)}")
            return -signal.SIGKILL
        finally:
            self._running.pop(index)
            self._doomed.discard(index)

    def restart_ended(self) -> list[int]:
        """Start the workers again that have ended. Return their indexes."""
        back = []
        for index, process in list(self._running.items()):
            if (code := process.poll()) is None:
                continue
            del self._running[index]
            if index in self._doomed and code == -signal.SIGKILL:
                self._doomed.discard(index)
            else:
                self.ended_alone.append(f"worker {index}: exit code {code}: {self.last_line(index)}")
            self.start(index)
            back.append(index)
        return back

    def last_line(self, index: int) -> str:
        lines = self.log(index).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def grep(self, pattern: str) -> list[str]:
        """Return the lines of all workers' logs that match."""
        found = re.compile(pattern)
        return [
            line
            for log in sorted(self._folder.glob("worker-*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if found.search(line)
        ]

    def close(self) -> None:
        """Kill all workers."""
        for index in self.running:
            self.kill(index)


def _settings_in(root: Path) -> str:
    """Return the definitions of a version's settings: a worker refuses any that it doesn't know."""
    return "".join([(root / "stream" / name).read_text("utf-8") for name in ("settings.py", "connection_settings.py")])
