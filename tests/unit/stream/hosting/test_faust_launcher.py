"""Processes that can't serve /health end with one line and exit code 1."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest

from stream.settings import Settings
from tests.support.command_line import start


@pytest.mark.parametrize("command", ["worker", "dispatch", "adapters"])
async def test_a_port_that_is_taken_ends_the_process_with_one_line(settings: Settings, command: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        process = start(settings, command, "--http-port", str(port))
        stderr = (await asyncio.to_thread(process.communicate, timeout=60))[1].decode()
    assert process.returncode == 1, stderr
    assert stderr.splitlines()[-1].startswith(f"segstream: 127.0.0.1:{port} can't be opened: "), stderr
    assert stderr.endswith("Set SEGSTREAM_HTTP_PORT.\n")
    assert "Traceback" not in stderr
