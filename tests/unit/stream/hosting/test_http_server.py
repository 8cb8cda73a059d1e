from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import aiohttp
import pytest

from stream.hosting.http_server import PortUnavailable, http_server

HOST = "127.0.0.1"


def _free_port() -> int:
    with closing(socket.create_server((HOST, 0))) as server:
        return int(server.getsockname()[1])


async def _get(port: int, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}{path}") as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def test_the_body_decides_the_status() -> None:
    body: dict[str, Any] = {"healthy": True, "step": "scoring"}
    port = _free_port()
    async with http_server(HOST, port, health=lambda: body, metrics=lambda: b"a 1\n", setting="S"):
        assert await _get(port, "/health") == (
            200, "application/json; charset=utf-8", '{"healthy": true, "step": "scoring"}',
        )  # fmt: skip
        body["healthy"] = False
        assert (await _get(port, "/health"))[0] == 503
        assert await _get(port, "/metrics") == (200, "text/plain; charset=utf-8", "a 1\n")
    with pytest.raises(aiohttp.ClientConnectorError):
        await _get(port, "/health")


async def test_without_a_port_nothing_is_served() -> None:
    async with http_server(HOST, 0, health=dict, metrics=bytes, setting="S"):
        pass


async def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    with closing(socket.create_server((HOST, 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable, match=rf"127\.0\.0\.1:{port} can't be opened: .*Set SEGSTREAM_X\."):
            async with http_server(HOST, port, health=dict, metrics=bytes, setting="SEGSTREAM_X"):
                pass
