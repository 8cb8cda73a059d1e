"""Processes that can't serve /health end with one line and exit code 1."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import closing
from pathlib import Path

import pytest

from stream.errors import WorkerFailed
from stream.hosting.faust_launcher import HostedApp, app_options
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


async def test_a_future_that_nobody_awaits_is_not_printed_behind_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(_: HostedApp, reason: BaseException) -> None:
        assert str(reason) == "first"

    monkeypatch.setattr(HostedApp, "crash", crash)
    app = HostedApp("test", **app_options(Settings(), tmp_path))
    for reason in ("first", "second"):
        await app.fail(WorkerFailed(reason))
    loop = asyncio.get_running_loop()
    with caplog.at_level(logging.INFO):
        loop.create_future().set_exception(OSError("third"))
        loop.call_exception_handler({"message": "never retrieved", "exception": OSError("fourth")})
    assert not caplog.records
