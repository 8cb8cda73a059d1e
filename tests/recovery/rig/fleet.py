"""The workers of a test: real processes on places with wires of their own, killed, paused and restarted."""

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
from tests.recovery.rig.proxy import HOST
from tests.recovery.rig.servers import RigServers
from tests.support.paths import ROOT

FAREWELL_S: Final = 45.0  # a turn's time-out, the drain, the group: a worker that is told to stop needs no longer
# What differs from the defaults in these tests: passed on to the workers by name.
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
    """Workers of one group. A worker's place is its index in `servers.wires`."""

    def __init__(self, servers: RigServers, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.mutant: int | None = None  # the ingredient of the protocol that these workers lack
        self.ended_alone: list[str] = []  # workers that ended without being told to: place, exit code, last words
        self._servers = servers
        self._folder = folder
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._doomed: set[int] = set()  # places whose worker dies at a point some time
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def places(self) -> list[int]:
        """Where a worker runs."""
        return sorted(self._running)

    @property
    def free_places(self) -> list[int]:
        return [place for place in range(len(self._servers.wires)) if place not in self._running]

    def log(self, place: int) -> Path:
        return self._folder / f"worker-{place}.log"

    def clock(self, place: int) -> Path:
        return self._folder / f"clock-{place}"

    def start(
        self,
        place: int,
        *,
        point: str = "",
        passing: int = 1,
        page: int | None = None,
        http_port: int = 0,
        stop: str = "",
    ) -> subprocess.Popen[bytes]:
        """Start a worker; `point`: where it kills itself; `stop`: point:passing at which it stops itself."""
        assert place not in self._running, f"there is a worker on place {place}"
        # Whole or not at all: the worker reads it at every look at its clock.
        if not self.clock(place).exists():
            self.set_clock(place, 0)
        environment = os.environ | self._settings_of(place, http_port) | {
            "RECOVERY_POINT": point,
            "RECOVERY_PASSING": str(passing),
            "RECOVERY_PAGE": "" if page is None else str(page),
            "RECOVERY_CLOCK": str(self.clock(place)),
            "RECOVERY_STOP": stop,
            "RECOVERY_MUTANT": "" if self.mutant is None else str(self.mutant),
        }  # fmt: skip
        with self.log(place).open("ab") as log:
            log.write(f"---- started at {time.time():.3f}, point {point!r}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.recovery.rig.worker"], env=environment, cwd=ROOT, stdout=log, stderr=log
            )
        self._running[place] = process
        if point:
            self._doomed.add(place)
        return process

    def _settings_of(self, place: int, http_port: int) -> dict[str, str]:
        settings, wires = self.settings, self._servers.wires[place]
        values = {name: str(getattr(settings, name)) for name in NAMES}
        values |= {name: getattr(settings, name) for name in Settings.model_fields if name.endswith("_topic")}
        values |= {
            "kafka_bootstrap_servers": f"{HOST}:{wires.kafka.port}",
            "redis_url": f"redis://{HOST}:{wires.redis.port}/0",
            "http_port": str(http_port),
            "erasure_salt": settings.erasure_salt.get_secret_value(),
        }
        return {f"SEGSTREAM_{name.upper()}": value for name, value in values.items()}

    def set_clock(self, place: int, ms: int) -> None:
        """How wrong the clock of the worker on this place is."""
        new = self.clock(place).with_suffix(".new")
        new.write_text(str(ms))
        new.replace(self.clock(place))

    def pid(self, place: int) -> int:
        return self._running[place].pid

    def kill(self, place: int) -> None:
        """SIGKILL."""
        process = self._running.pop(place)
        self._doomed.discard(place)
        process.kill()
        process.wait()

    def pause(self, place: int) -> None:
        self._running[place].send_signal(signal.SIGSTOP)

    def resume(self, place: int) -> None:
        self._running[place].send_signal(signal.SIGCONT)

    def leave(self, place: int) -> int:
        """SIGTERM: drained and gone. Returns the exit code; kills where it takes too long."""
        process = self._running[place]
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.ended_alone.append(f"place {place}: doesn't end on SIGTERM within {FAREWELL_S} s; {self.log(place)}")
            return -signal.SIGKILL
        finally:
            self._running.pop(place)
            self._doomed.discard(place)

    def tend(self) -> list[int]:
        """What a supervisor does: whoever has ended is started again. Returns the places."""
        back = []
        for place, process in list(self._running.items()):
            if (code := process.poll()) is None:
                continue
            del self._running[place]
            if place in self._doomed and code == -signal.SIGKILL:
                self._doomed.discard(place)
            else:
                self.ended_alone.append(f"place {place}: exit code {code}: {self.last_words(place)}")
            self.start(place)
            back.append(place)
        return back

    def last_words(self, place: int) -> str:
        lines = self.log(place).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def grep(self, pattern: str) -> list[str]:
        """The lines of all workers' logs that match."""
        found = re.compile(pattern)
        return [
            line
            for log in sorted(self._folder.glob("worker-*.log"))
            for line in log.read_text(errors="replace").splitlines()
            if found.search(line)
        ]

    def close(self) -> None:
        """All gone, by force."""
        for place in self.places:
            self.kill(place)
