"""The needs of a server on this machine: the packages of the extra `local`, a free port, disk space."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stream.errors import SegstreamError

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
# Below the ports of outgoing connections on Linux and macOS: a connection could take the port of a restarting server.
_PORTS = (15_000, 32_000)
FREE_BYTES_NEEDED = 1_000_000_000


class LocalStackError(SegstreamError):
    """The local Kafka or Valkey can't run here; the hint says what to do."""


class PortTakenError(LocalStackError):
    """Another process listens on the port."""


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
    """Return a port of 127.0.0.1 that no process listens on at this moment."""
    while True:
        port = random.randrange(*_PORTS)  # noqa: S311 (not a secret)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # Servers set it too: connections of a previous process that are still closing don't block a restart.
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
