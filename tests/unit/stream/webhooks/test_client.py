"""One attempt, against real servers on this machine: what comes back, and what is never done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from stream.clock import now_ms
from stream.errors import SettingsError
from stream.logs import logging_config
from stream.webhooks.answers import EXCERPT, Meaning, WebhookAnswer
from stream.webhooks.client import WebhookClient
from stream.webhooks.endpoints import Endpoint, SecretSource
from stream.webhooks.signing import signing_key
from tests.support.delivery.endpoint import DROP, SECRET, Reply, action, encoded, webhook_endpoint

KEY = signing_key(SECRET)
BODY = encoded(action(1, "c"))
ID = action(1, "c")["id"]

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def tcp_server(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on 127.0.0.1; yields the port."""

    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def sent(url: str, *, addresses: list[list[str]] | None = None, **options: Any) -> WebhookAnswer:
    """Make one attempt. `addresses`: what the name resolves to, attempt by attempt."""
    chosen = {"allow_http": True, "allow_private": True, "timeout": "1s", **options}
    endpoint = Endpoint(name="crm", url=url, secrets=(SecretSource(env="S"),), **chosen)
    turns = iter(addresses or [])

    async def resolve(_host: str, _port: int) -> list[str]:
        return next(turns)

    client = WebhookClient(endpoint, [KEY], now_ms, resolve=resolve if addresses else None)
    try:
        for _ in (addresses or [[]])[1:]:
            await client.send(ID, BODY)
        return await client.send(ID, BODY)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("reply", "status", "meaning"),
    [
        (Reply(200, body="x" * 100_000), 200, Meaning.DELIVERED),
        (Reply(204), 204, Meaning.DELIVERED),
        (Reply(302, {"location": "/hook"}), 302, Meaning.FAILED),
        (Reply(400, body="no such\nfield"), 400, Meaning.FAILED),
        (Reply(410), 410, Meaning.GONE),
        (Reply(429, {"retry-after": "7"}), 429, Meaning.FAILED),
        (Reply(500, body="x" * 10_000_000), 500, Meaning.FAILED),
        (Reply(DROP), None, Meaning.FAILED),
        (Reply(200, delay_s=5), None, Meaning.FAILED),
    ],
)
async def test_answers(reply: Reply, status: int | None, meaning: Meaning) -> None:
    async with webhook_endpoint() as receiver:
        receiver.behave = lambda _event, _before: reply
        answer = await sent(receiver.url)
        assert len(receiver.received) == 1, "a redirect was followed, or an attempt made twice"
    assert (answer.status, answer.meaning) == (status, meaning)
    assert len(answer.detail) <= EXCERPT + 60
    assert "\n" not in answer.detail
    assert answer.retry_after_ms == (7_000 if "retry-after" in reply.headers else None)


async def test_an_answer_that_repeats_the_url_shows_no_token() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readline()).split()[1].decode()
        body = f"Cannot POST {target}: no hook T0ken/8"
        writer.write(f"HTTP/1.1 404 Not Found\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()

    async with tcp_server(talk) as port:
        answer = await sent(f"http://127.0.0.1:{port}/hooks/T0ken%2F8?key=abcdef123&v=1")
    assert answer.detail == "404 Not Found: Cannot POST /hooks/…?key=…&v=1: no hook …"


async def test_connections_are_used_again() -> None:
    ports = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(BODY))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with tcp_server(talk) as port:
        answer = await sent(f"http://crm.example:{port}/", addresses=[["127.0.0.1"]] * 3)
    assert answer.meaning is Meaning.DELIVERED
    assert len(ports) == 1


@pytest.mark.parametrize("rest", [b"", b"content-length: 100\r\n\r\ntorn", b"transfer-encoding: chunked\r\n\r\nZZ"])
async def test_a_status_counts_though_the_body_is_torn(rest: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + (rest or b"\r\n"))
        await writer.drain()
        if not rest:
            await asyncio.sleep(5)  # a body without an end

    async with tcp_server(talk) as port:
        assert (await sent(f"http://127.0.0.1:{port}/")).meaning is Meaning.DELIVERED


@pytest.mark.parametrize("garbage", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 999999 X\r\n\r\n", b"\x00" * 200_000])
async def test_garbage_is_a_failure(garbage: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(garbage)

    async with tcp_server(talk) as port:
        answer = await sent(f"http://127.0.0.1:{port}/")
    assert answer.status is None
    assert answer.detail


async def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        answer = await sent(f"http://127.0.0.1:{bound.getsockname()[1]}/")
    assert answer.status is None
    assert "refused" in answer.detail.lower() or "failed" in answer.detail.lower()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://2130706433:{}/", "http://0x7f.1:{}/", "http://[::1]:{}/"]
)  # fmt: skip
async def test_this_machine_is_never_connected_to_unless_allowed(url: str) -> None:
    connected = []

    async def talk(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        connected.append(1)

    async with tcp_server(talk) as port:
        answer = await sent(url.format(port), allow_private=False)
    assert answer.status is None
    assert "may not be sent to" in answer.detail
    assert "127.0.0.1 is 127.0.0.1" not in answer.detail
    assert not connected


async def test_a_name_that_changes_its_address_is_checked_at_each_connection() -> None:
    connected = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        connected.append(1)
        writer.write(b"HTTP/1.1 500 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async with tcp_server(talk) as port:
        answer = await sent(f"http://crm.example:{port}/", addresses=[["127.0.0.1"], ["169.254.169.254", "10.0.0.1"]],
                            allow_private=True, timeout="1s")  # fmt: skip
        assert connected == [1]
        assert "169.254.169.254" not in answer.detail, "10.0.0.1 is allowed, so it was tried"
        answer = await sent(f"http://crm.example:{port}/", addresses=[["127.0.0.1"], ["169.254.169.254"]])
    assert "crm.example is 169.254.169.254 (link-local, where clouds serve metadata)" in answer.detail


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with webhook_endpoint() as receiver:
        assert (await sent(receiver.url)).meaning is Meaning.DELIVERED


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("other.example", True), ("localhost", False)])
async def test_certificate_and_name_are_checked(name: str, tmp_path: Path, *, trusted: bool) -> None:
    ca, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(tls)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with tcp_server(talk, tls) as port:
        options: dict[str, Any] = {"ca_file": tmp_path / "ca.pem"} if trusted else {}
        answer = await sent(f"https://localhost:{port}/", addresses=[["127.0.0.1"]], **options)
    if name == "localhost" and trusted:
        assert answer.meaning is Meaning.DELIVERED
    else:
        assert answer.status is None
        assert "certificate" in answer.detail.lower()


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        endpoint = Endpoint(name="crm", url="https://crm.example/", secrets=(SecretSource(env="S"),), ca_file=path)
        with pytest.raises(SettingsError, match="ca_file"):
            WebhookClient(endpoint, [KEY], now_ms)


async def test_no_log_has_the_url(caplog: pytest.LogCaptureFixture) -> None:
    levels = {name: options["level"] for name, options in logging_config("DEBUG")["loggers"].items()}
    before = {name: logging.getLogger(name).level for name in ("httpx", "httpcore")}
    for name in before:
        logging.getLogger(name).setLevel(levels[name])
    caplog.set_level(logging.DEBUG)
    try:
        await sent("http://127.0.0.1:9/?token=hunter2")
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
    assert "hunter2" not in caplog.text
