"""The network of webhooks: the name is resolved here, and only an address that was checked is connected to.

A check before the request would leave a gap: between check and connection the name may resolve to another address
(DNS rebinding). So the check is where the connection is made, below httpx, in the place that httpcore has for it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import httpcore
import httpx

from stream.webhooks.addresses import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

Resolve = Callable[[str, int], Awaitable[list[str]]]
_RESOLVING: Final = 2  # names at once
_KEPT_S: Final = 60.0  # that an idle connection stays open


class AddressRefused(httpx.ConnectError):
    """A host's addresses are all of those that a webhook may not be sent to."""


class Resolver:
    """Resolves names in threads of its own: an endpoint whose name servers hang takes no thread from the others."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, in the order in which to try them. Raises OSError."""
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that are allowed, and to no others."""

    def __init__(self, *, allow_private: bool, resolve: Resolve | None = None) -> None:
        """`allow_private`: also to addresses of private networks and of this machine."""
        self._allow_private = allow_private
        self._resolve = resolve or Resolver()
        self._below = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first allowed address of a host that answers. Raises AddressRefused, httpcore.ConnectError."""
        name = host.strip("[]")
        try:
            addresses = await self._resolve(name, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {name} can't be resolved: {error}") from error
        refused = {address: refusal(address, allow_private=self._allow_private) for address in addresses}
        allowed = [address for address, why in refused.items() if why is None]
        if not allowed:
            shown = ", ".join(f"{address} ({why})" for address, why in refused.items())
            resolved = "" if shown.startswith(f"{name} (") else f"{name} is "
            raise AddressRefused(f"{resolved}{shown or 'no address'}, which webhooks may not be sent to")
        failure: Exception | None = None
        for address in allowed:
            try:
                return await self._below.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None, "there is one allowed address at least"
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's own signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: a webhook goes to a host."""
        del timeout, socket_options
        raise httpcore.ConnectError(f"{path} isn't a host")

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore asks between attempts to connect."""
        await asyncio.sleep(seconds)


class CheckedTransport(httpx.AsyncBaseTransport):
    """The transport of httpx over a checked network, without proxy and HTTP/2.

    Each request has a pool of one connection to itself. A pool of httpcore looks at each of its connections several
    times a request, by a system call: with 50 of them that takes nearly all of a process's time.
    """

    def __init__(self, network: CheckedNetwork, tls: ssl.SSLContext) -> None:
        """Connect to nothing yet."""
        self._network = network
        self._tls = tls
        self._pools: list[httpcore.AsyncConnectionPool] = []
        self._free: list[httpcore.AsyncConnectionPool] = []  # the last one used comes first

    def _pool(self) -> httpcore.AsyncConnectionPool:
        if self._free:
            return self._free.pop()
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            keepalive_expiry=_KEPT_S,
            retries=0,
            network_backend=self._network,
        )
        self._pools.append(pool)
        return pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises httpx.TransportError."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        sent = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        pool = self._pool()
        free = partial(self._free.append, pool)
        try:
            with _as_httpx():
                answer = await pool.handle_async_request(sent)
        except BaseException:
            free()
            raise
        stream = _AnswerStream(answer, free)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream, extensions=answer.extensions)

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.aclose()


class _AnswerStream(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response, free: Callable[[], None]) -> None:
        self._answer = answer
        self._free: Callable[[], None] | None = free

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        """End the answer; a part that wasn't read closes its connection."""
        try:
            await self._answer.aclose()
        finally:
            free, self._free = self._free, None
            if free is not None:
                free()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Translate httpcore's errors to httpx's."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise httpx.TimeoutException(str(error)) from error
    except httpcore.ConnectError as error:
        raise httpx.ConnectError(str(error)) from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise httpx.TransportError(str(error)) from error
