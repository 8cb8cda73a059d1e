"""One server process on this machine: started, awaited, stopped by its process id. Kafka's and Valkey's common part."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, ClassVar

from stream.errors import SegstreamError
from stream.local import watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# There is none on Windows, where start() says so.
if sys.platform != "win32":
    import fcntl

HOST = "127.0.0.1"
# Takes one line of progress; the caller decides where it goes.
Report = Callable[[str], None]
# Cold caches on two busy cores took 20 s.
READY_TIMEOUT_S = 90.0
# Long enough for Kafka to close its logs and for Valkey to write its file out.
STOP_GRACE_S = 15.0
POLL_S = 0.05
# The threads of a server that was just stopped let go of its files a moment after it counts as dead.
_LOCK_TIMEOUT_S = 2.0
# Below the ports that Linux and macOS give to outgoing connections: one of those could take a server's while it restarts.
_PORTS = (15_000, 32_000)
FREE_BYTES_NEEDED = 1_000_000_000


class LocalStackError(SegstreamError):
    """The local Kafka or Valkey can't run here; the hint says what to do."""


class PortTakenError(LocalStackError):
    """Somebody else listens on the port."""


def extra(module: str) -> Any:
    """Import a package of the extra `local`. Raises LocalStackError where it isn't installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise LocalStackError(
            f"the package {module.partition('.')[0]} isn't installed ({error}).",
            hint='Install the extra: pip install "segstream[local]".',
        ) from error


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at this moment."""
    while True:
        port = random.randrange(*_PORTS)  # noqa: S311 (not a secret)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As servers do, so that connections that linger after a restart don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return True
    return False


def check_disk(directory: Path) -> None:
    """Raise LocalStackError where less than a gigabyte is free under `directory` (which exists)."""
    free = shutil.disk_usage(directory).free
    if free < FREE_BYTES_NEEDED:
        raise LocalStackError(
            f"{free / 1e6:.0f} MB free under {directory}, {FREE_BYTES_NEEDED / 1e6:.0f} MB needed.",
            hint="Free some space, or choose another folder with --data-dir or SEGSTREAM_CACHE_DIR.",
        )


class Server(ABC):
    """A server under `directory`, on `port` of 127.0.0.1 (None: a free one, the same for every later start).

    `kept`: it dies with this process, however this process dies. Otherwise it lives on until somebody stops it.
    """

    name: ClassVar[str]

    def __init__(self, directory: Path, *, port: int | None, report: Report, kept: bool) -> None:
        self.directory = directory
        self.log = directory / "server.log"
        self.port = port if port is not None else free_port()
        self._chosen = port is None
        self._report = report
        self._kept = kept
        self._guardian: subprocess.Popen[bytes] | None = None
        self._process: Any = None  # psutil.Process: knows its process from a later one of the same id

    @abstractmethod
    def _prepare(self) -> list[str]:
        """Write what the server needs under `directory` and return its command."""

    @abstractmethod
    def _answers(self) -> bool:
        """Tell whether the server serves requests. May raise OSError or EOFError while it doesn't."""

    def _choose_ports(self) -> None:
        """Take other free ports."""
        self.port = free_port()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id. Raises LocalStackError before the first start."""
        if self._process is None:
            raise LocalStackError(f"{self.name} was never started.", hint="Call start() first.")
        return int(self._process.pid)

    @property
    def started_s(self) -> float:
        """When the process began, seconds since 1970 by the system's books: with `pid`, it names the process for good."""
        return float(self._process.create_time()) if self._process is not None else 0.0

    @property
    def running(self) -> bool:
        """Whether the process is there (it may be suspended)."""
        return self._process is not None and is_alive(self._process)

    def start(self) -> None:
        """Start the server and return once it answers. Nothing happens where it runs already.

        Raises PortTakenError, or LocalStackError with the tail of the log where the server ends or never answers.
        """
        if self.running:
            return
        if sys.platform == "win32":
            raise LocalStackError("there is no Valkey for Windows.", hint="Use WSL, or servers of your own.")
        # Of a server that ended by itself: it has nothing to keep any more.
        self._dismiss_guardian()
        self.directory.mkdir(parents=True, exist_ok=True)
        check_disk(self.directory)
        try:
            self._start_once()
        except PortTakenError:
            if not self._chosen:
                raise
            # Between the choice of a free port and its use, somebody else took it.
            self._choose_ports()
            self._start_once()
        self._chosen = False

    def _start_once(self) -> None:
        if not is_free(self.port):
            raise PortTakenError(
                f"port {self.port} of {HOST}, wanted by {self.name}, is taken.",
                hint="Stop what listens there, or choose another port.",
            )
        with self._locked() as lock:
            command = self._prepare()
            told = self.log.stat().st_size if self.log.exists() else 0
            self._launch(command, lock)
        try:
            self._await_answer(told)
        except BaseException:
            self.kill()
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the folder's lock, and yield its descriptor: a server that inherits it holds the lock as long as it lives.

        Kafka's own lock comes too late: a second node writes to the metadata log before it looks for it. Valkey has none.
        """
        with (self.directory / "server.lock").open("ab") as lock:
            if not _until(lambda: _lock(lock), _LOCK_TIMEOUT_S):
                raise LocalStackError(
                    f"another {self.name} works on {self.directory}.", hint="Stop that one, or choose another folder."
                )
            yield lock.fileno()

    def _launch(self, command: list[str], lock: int) -> None:
        psutil = extra("psutil")
        # By its file and isolated: independent of the working folder, and starts in 20 ms.
        watched = [sys.executable, "-I", "-S", watchdog.__file__, "kept" if self._kept else "free", str(STOP_GRACE_S)]
        try:
            with self.log.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 (our own command, no shell)
                    [*watched, *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock],
                )
        except BaseException:
            self._await_strays()
            raise
        self._guardian = process
        try:
            with _pipe(process.stdout) as told:
                line = told.readline()
        except BaseException:
            # Ctrl-C before we know whom it has started: it alone can stop that one.
            self._dismiss_guardian()
            raise
        if not self._kept:
            self._dismiss_guardian()
        if not line:
            self._dismiss_guardian()
            raise LocalStackError(f"{self.name} can't be started by {command[0]}.", hint=f"See {self.log}.")
        try:
            self._process = psutil.Process(int(line))
        except psutil.NoSuchProcess:
            # Ended before we looked; the log says why, and _await_answer tells it.
            self._process = None

    def _await_strays(self) -> None:
        """Ctrl-C within Popen leaves a guardian that nobody knows. Its stdin is closed by then, so it stops what it keeps and ends."""
        psutil = extra("psutil")
        strays = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = child.cmdline()
                if watchdog.__file__ in line and any(str(self.directory) in part for part in line):
                    strays.append(child)
        psutil.wait_procs(strays, STOP_GRACE_S + 5)

    def _await_answer(self, log_from: int) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            # A refused connection is the ordinary answer of a server that isn't up yet.
            with contextlib.suppress(OSError, EOFError):
                if self._answers():
                    return
            if not self.running:
                self._raise_ended(log_from)
            time.sleep(POLL_S)
        raise LocalStackError(
            f"{self.name} (process {self.pid}) gave no answer on {self.address} within {READY_TIMEOUT_S:.0f} s; "
            f"its log ends: {tail(self.log, log_from)}",
            hint=f"The whole log: {self.log}.",
        )

    def _raise_ended(self, log_from: int) -> None:
        last = tail(self.log, log_from)
        if "Address already in use" in last:
            raise PortTakenError(f"{self.name} found a port of {HOST} taken: {last}", hint="Choose another port.")
        raise LocalStackError(
            f"{self.name} ended at its start; its log ends: {last}",
            hint=f"The whole log: {self.log}; its data: {self.directory} (delete the folder to begin afresh).",
        )

    def stop(self) -> None:
        """Stop the server in good order, by force after 15 s. Nothing happens where it doesn't run."""
        if self._guardian is not None:
            self._dismiss_guardian()
        if self._process is not None:
            end(self._process, STOP_GRACE_S)

    def kill(self) -> None:
        """Kill the server (SIGKILL) and wait until it is gone."""
        if self._process is not None:
            end(self._process, 0.0)
        self._dismiss_guardian()

    def suspend(self) -> None:
        """Stop the server's clock (SIGSTOP): its connections stay, and nobody answers on them."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended server go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def _dismiss_guardian(self) -> None:
        if self._guardian is None:
            return
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        try:
            self._guardian.wait(STOP_GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        self._guardian = None


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "asked for with PIPE"
    return stream


def is_alive(process: Any) -> bool:
    """Tell whether a psutil.Process is still the one it was, and not a dead one that nobody has waited for."""
    psutil = extra("psutil")
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(process: Any, grace_s: float) -> None:
    """Stop a psutil.Process by SIGTERM, by SIGKILL after `grace_s` seconds (0: at once), and wait until it is gone.

    Raises LocalStackError where it outlives even that by 10 s.
    """
    psutil = extra("psutil")
    with contextlib.suppress(psutil.NoSuchProcess):
        if grace_s > 0:
            process.terminate()
            # A suspended process takes no SIGTERM until it goes on.
            process.resume()
        if not _gone(process, grace_s):
            process.kill()
    if not _gone(process, 10.0):
        raise LocalStackError(
            f"process {process.pid} doesn't end.", hint=f"Look at it: ps -o pid,stat,args -p {process.pid}."
        )


def _until(condition: Callable[[], bool], within_s: float) -> bool:
    """Look every 50 ms whether the condition holds, for `within_s` seconds at most."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _gone(process: Any, within_s: float) -> bool:
    # Not psutil's wait(): it takes a dead process that nobody has waited for as a living one.
    return _until(lambda: not is_alive(process), within_s)


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def tail(log: Path, start: int = 0, lines: int = 12) -> str:
    """Return the last lines of a log behind byte `start`, joined by " | " (a message is one line)."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "(empty)"
