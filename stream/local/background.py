"""The local stack in the background, behind `segstream local up|down|status`. The file stack.json lists its servers."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from stream.local.jars import cache_folder
from stream.local.machine import extra, is_free
from stream.local.process import end, is_alive
from stream.local.server import STOP_GRACE_S, Report, Server
from stream.local.stack import Endpoints, LocalStack, LocalStackError
from stream.private_files import private_folder

if TYPE_CHECKING:
    from pathlib import Path

# Two readings of a process's start differ by rounding only; a later process with the same id starts seconds later.
_SAME_START_S = 1.0


class ServerRecord(msgspec.Struct, frozen=True):
    """One server of the background stack: its process (id and start, seconds since 1970) and its port."""

    name: str
    pid: int
    started_s: float
    port: int


class StackRecord(msgspec.Struct, frozen=True):
    """The content of stack.json."""

    kafka: ServerRecord
    valkey: ServerRecord

    @property
    def endpoints(self) -> Endpoints:
        """The servers' addresses."""
        return Endpoints(f"127.0.0.1:{self.kafka.port}", f"redis://127.0.0.1:{self.valkey.port}/0")


class ServerStatus(msgspec.Struct, frozen=True):
    """The present state of a server. `memory_bytes`: its resident memory, None where it doesn't run."""

    name: str
    address: str
    pid: int
    running: bool
    memory_bytes: int | None


class StackStatus(msgspec.Struct, frozen=True):
    """The present state of the background stack. `servers` is empty where none was ever started under `data_dir`."""

    data_dir: str
    running: bool
    servers: list[ServerStatus]


def default_data_dir() -> Path:
    """Return the default folder of the background stack's data."""
    return cache_folder() / "local"


def up(data_dir: Path, report: Report) -> Endpoints:
    """Start the stack under `data_dir` if it doesn't run, on its earlier ports if they are free. Returns its addresses.

    Raises LocalStackError, and then leaves none running.
    """
    record = _read(data_dir)
    if record is not None and all(_process(server) for server in (record.kafka, record.valkey)):
        return record.endpoints
    if record is not None:
        # One of the two may still run.
        down(data_dir)
    private_folder(data_dir)
    stack = LocalStack(
        data_dir,
        report=report,
        kafka_port=_same_port(record.kafka if record else None),
        redis_port=_same_port(record.valkey if record else None),
        watched=False,
    )
    stack.start()
    try:
        _write(data_dir, StackRecord(_record(stack.kafka), _record(stack.valkey)))
    except BaseException:
        stack.stop()
        raise
    return stack.endpoints


def down(data_dir: Path) -> bool:
    """Stop the stack under `data_dir`; its data stays. Returns whether any server ran."""
    record = _read(data_dir)
    running = [p for server in (record.valkey, record.kafka) if (p := _process(server))] if record else []
    for process in running:
        end(process, STOP_GRACE_S)
    return bool(running)


def status(data_dir: Path) -> StackStatus:
    """Return the present state of the stack under `data_dir`."""
    record = _read(data_dir)
    servers = [_status(server) for server in (record.kafka, record.valkey)] if record else []
    return StackStatus(str(data_dir), bool(servers) and all(s.running for s in servers), servers)


def endpoints(data_dir: Path) -> Endpoints:
    """Return the addresses of the running stack under `data_dir`. Raises LocalStackError where none runs."""
    record = _read(data_dir)
    if record is None or not status(data_dir).running:
        raise LocalStackError(f"no Kafka and Valkey run under {data_dir}.", hint="Start them: `segstream local up`.")
    return record.endpoints


def _same_port(record: ServerRecord | None) -> int | None:
    # Shells that have the old addresses in their environment stay usable.
    return record.port if record is not None and is_free(record.port) else None


def _record(server: Server) -> ServerRecord:
    return ServerRecord(server.name, server.pid, server.started_s, server.port)


def _status(record: ServerRecord) -> ServerStatus:
    process = _process(record)
    memory = None
    if process is not None:
        with contextlib.suppress(extra("psutil").NoSuchProcess):
            memory = process.memory_info().rss
    return ServerStatus(record.name, f"127.0.0.1:{record.port}", record.pid, memory is not None, memory)


def _process(record: ServerRecord) -> Any | None:
    """Return the recorded server's psutil.Process; None where it has ended, even if another process has its id now."""
    psutil = extra("psutil")
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.started_s) < _SAME_START_S
    except psutil.NoSuchProcess:
        return None
    return process if same and is_alive(process) else None


def _read(data_dir: Path) -> StackRecord | None:
    path = data_dir / "stack.json"
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackRecord)
    except msgspec.DecodeError as error:
        raise LocalStackError(
            f"{path} can't be read ({error}).", hint="Delete it, and stop servers that still run (find them with ps)."
        ) from error


def _write(data_dir: Path, record: StackRecord) -> None:
    # By renaming: a reader sees the old record or the new one.
    unfinished = data_dir / f"stack.json.{os.getpid()}"
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    unfinished.replace(data_dir / "stack.json")
