"""Every use of an undocumented part of redis-py and hiredis, one function each. No other module may touch one.

All were read in redis-py 8.1.0 and hiredis 3.5.0. Before you upgrade either, read each of them in the new version:
tests/unit/stream/storage/test_redis_internals.py lists them. Importing this module changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncPool
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import Sentinel
from redis.sentinel import SentinelConnectionPool as Pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis


def pack_commands_in_c(client: AsyncRedis) -> None:
    """Let a client pack its commands with hiredis. Call it before the client connects.

    redis-py's synchronous connections do so, its asynchronous ones pack in Python. A commit has thousands of arguments,
    and packing them was most of its CPU time.
    """
    base: type[Any] = client.connection_pool.connection_class

    class PackingConnection(base):  # type: ignore[misc]  # its class depends on the URL: TCP, TLS or Unix socket
        def pack_command(self, *args: Any) -> list[bytes]:
            # As redis-py does: "SCRIPT LOAD" is two arguments.
            return [hiredis.pack_command((*args[0].split(), *args[1:]))]

    client.connection_pool.connection_class = PackingConnection


def translate_closed_transport(client: AsyncRedis) -> None:
    """Let a client raise redis-py's ConnectionError for a closed transport. Call it before the client connects.

    uvloop raises RuntimeError for a transport that was closed under a command, and redis-py doesn't translate it. A
    status that can't be shown would then end the worker.
    """
    base: type[Any] = client.connection_pool.connection_class

    class TranslatingConnection(base):  # type: ignore[misc]  # as above
        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            try:
                await super().send_packed_command(*args, **kwargs)
            except RuntimeError as error:
                raise RedisConnectionError(f"the connection was closed: {error}.") from error

    client.connection_pool.connection_class = TranslatingConnection


def url_options(url: str) -> dict[str, Any]:
    """Return what a Redis URL says of a connection, except where it goes and whether by TLS. Raises ValueError."""
    where = {"host", "port", "path", "connection_class"}
    return {name: value for name, value in cast("Any", parse_url)(url).items() if name not in where}


def primary_async(
    sentinels: Sequence[tuple[str, int]], name: str, asking: Mapping[str, Any], options: Mapping[str, Any]
) -> AsyncRedis:
    """Return a client of the primary that Sentinels know by this name. `asking`: options of connections to them.

    Closing the client closes the connections to the Sentinels too, which redis-py leaves open.
    """

    class ClosingPool(AsyncPool):
        async def disconnect(self, inuse_connections: bool = True) -> None:
            await super().disconnect(inuse_connections)
            if inuse_connections:  # the client is closed; after a fail-over only idle connections are dropped
                await self.sentinel_manager.aclose()

    manager = cast("Any", AsyncSentinel)(sentinels, sentinel_kwargs=dict(asking))
    client: AsyncRedis = manager.master_for(name, connection_pool_class=ClosingPool, **options)
    return client


def primary_sync(
    sentinels: Sequence[tuple[str, int]], name: str, asking: Mapping[str, Any], options: Mapping[str, Any]
) -> Redis:
    """Return a client of the primary, as `primary_async` does."""

    class ClosingPool(Pool):
        def disconnect(self, inuse_connections: bool = True) -> None:
            super().disconnect(inuse_connections)
            if inuse_connections:
                for sentinel in self.sentinel_manager.sentinels:
                    sentinel.close()

    manager = cast("Any", Sentinel)(sentinels, sentinel_kwargs=dict(asking))
    client: Redis = manager.master_for(name, connection_pool_class=ClosingPool, **options)
    return client
