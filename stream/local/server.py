"""The common part of Kafka and Valkey: a server process on this machine, started, awaited and stopped."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from stream.local import watchdog
from stream.local.machine import HOST, LocalStackError, PortTakenError, check_disk, extra, free_port, is_free
from stream.local.process import POLL_S, end, is_alive, tail, wait_until
from stream.private_files import FOLDER_MODE, private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Windows has no fcntl; start() refuses to run there.
if sys.platform != "win32":
    import fcntl

# Takes one line of progress; the caller decides where to show it.
Report = Callable[[str], None]
# With cold caches on two busy cores a start took 20 s.
READY_TIMEOUT_S = 90.0
# Long enough for Kafka to close its logs and for Valkey to write its file.
STOP_GRACE_S = 15.0
# The threads of a server that was just stopped close its files a moment after it counts as dead.
_LOCK_TIMEOUT_S = 2.0


class Server(ABC):
    """A server with its data under `directory`, on `port` of 127.0.0.1 (None: a free one, kept for later starts).

    `watched`: it ends with this process, even if this process is killed. Otherwise it runs until it is stopped.
    """

    name: str

    def __init__(self, directory: Path, *, port: int | None, report: Report, watched: bool) -> None:
        self.directory = directory
        self.log = directory / "server.log"
        self.port = port if port is not None else free_port()
        self._chosen = port is None
        self._report = report
        self._watched = watched
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._process: Any = None  # psutil.Process: recognises a later process with the same id

    @abstractmethod
    def _prepare(self) -> list[str]:
        """Write the server's files under `directory`, and return its command."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server serves requests. May raise OSError or EOFError while it doesn't."""

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
        """When the process began, seconds since 1970 by the system: with `pid` it identifies the process for good."""
        return float(self._process.create_time()) if self._process is not None else 0.0

    @property
    def running(self) -> bool:
        """Whether the process exists. It may be suspended."""
        return self._process is not None and is_alive(self._process)

    def start(self) -> None:
        """Start the server, and return once it answers. Do nothing where it runs already.

        Raises PortTakenError, or LocalStackError with the end of the log where the server ends or never answers.
        """
        if self.running:
            return
        if sys.platform == "win32":
            raise LocalStackError("there is no Valkey for Windows.", hint="Use WSL, or your own servers.")
        # The watchdog of a server that ended by itself.
        self._end_watchdog()
        private_folder(self.directory)
        self.directory.chmod(FOLDER_MODE)  # also one that an earlier version made
        check_disk(self.directory)
        try:
            self._start_once()
        except PortTakenError:
            if not self._chosen:
                raise
            # Another process took the port between its choice and its use.
            self._choose_ports()
            self._start_once()
        self._chosen = False

    def _start_once(self) -> None:
        if not is_free(self.port):
            raise PortTakenError(
                f"port {self.port} of {HOST}, wanted by {self.name}, is taken.",
                hint="Stop the process that listens on it, or choose another port.",
            )
        with self._locked() as lock:
            command = self._prepare()
            log_start = self.log.stat().st_size if self.log.exists() else 0
            self._launch(command, lock)
        try:
            self._await_answer(log_start)
        except BaseException:
            self.kill()
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the folder's lock, and yield its descriptor: a server that inherits it holds the lock until it ends.

        Kafka's own lock comes too late: a second node writes to the metadata log before it checks it. Valkey has none.
        """
        with (self.directory / "server.lock").open("ab") as lock:
            if not wait_until(lambda: _lock(lock), _LOCK_TIMEOUT_S):
                raise LocalStackError(
                    f"another {self.name} works on {self.directory}.", hint="Stop that one, or choose another folder."
                )
            yield lock.fileno()

    def _launch(self, command: list[str], lock: int) -> None:
        psutil = extra("psutil")
        try:
            with self.log.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 (our own command, no shell)
                    watchdog.command_line(command, STOP_GRACE_S, watched=self._watched),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[lock],
                )
        except BaseException:
            self._await_stray_watchdogs()
            raise
        self._watchdog = process
        try:
            with _pipe(process.stdout) as stdout:
                line = stdout.readline()
        except BaseException:
            # Ctrl-C before the process id is known: only the watchdog can stop the server then.
            self._end_watchdog()
            raise
        if not self._watched:
            self._end_watchdog()
        if not line:
            self._end_watchdog()
            raise LocalStackError(f"{self.name} can't be started by {command[0]}.", hint=f"See {self.log}.")
        try:
            self._process = psutil.Process(int(line))
        except psutil.NoSuchProcess:
            # It has ended already. _await_answer raises with the end of its log.
            self._process = None

    def _await_stray_watchdogs(self) -> None:
        """Wait for a watchdog that Ctrl-C left behind within Popen. It stops its server, as its stdin is closed."""
        psutil = extra("psutil")
        strays = []
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = child.cmdline()
                if watchdog.__file__ in line and any(str(self.directory) in part for part in line):
                    strays.append(child)
        psutil.wait_procs(strays, STOP_GRACE_S + 5)

    def _await_answer(self, log_start: int) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            # A server that is starting refuses connections.
            with contextlib.suppress(OSError, EOFError):
                if self._answers():
                    return
            if not self.running:
                self._raise_ended(log_start)
            time.sleep(POLL_S)
        raise LocalStackError(
            f"{self.name} (process {self.pid}) gave no answer on {self.address} within {READY_TIMEOUT_S:.0f} s; "
            f"its log ends: {tail(self.log, log_start)}",
            hint=f"The whole log: {self.log}.",
        )

    def _raise_ended(self, log_start: int) -> None:
        last = tail(self.log, log_start)
        if "Address already in use" in last:
            raise PortTakenError(f"{self.name} found a port of {HOST} taken: {last}", hint="Choose another port.")
        raise LocalStackError(
            f"{self.name} ended at its start; its log ends: {last}",
            hint=f"The whole log: {self.log}; its data: {self.directory} (delete the folder to start with none).",
        )

    def stop(self) -> None:
        """Stop the server by SIGTERM, after 15 s by SIGKILL. Do nothing where it doesn't run."""
        if self._watchdog is not None:
            self._end_watchdog()
        if self._process is not None:
            end(self._process, STOP_GRACE_S)

    def kill(self) -> None:
        """Kill the server (SIGKILL), and wait until it has ended."""
        if self._process is not None:
            end(self._process, 0.0)
        self._end_watchdog()

    def suspend(self) -> None:
        """Suspend the server (SIGSTOP): its connections stay open, and requests on them get no answer."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a suspended server (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def _end_watchdog(self) -> None:
        if self._watchdog is None:
            return
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        try:
            self._watchdog.wait(STOP_GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()
            self._watchdog.wait()
        self._watchdog = None


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "Popen was called with PIPE"
    return stream


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
