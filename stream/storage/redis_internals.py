"""Every use of an undocumented part of redis-py and hiredis, one function each. No other module may touch one.

All were read in redis-py 8.1.0 and hiredis 3.5.0. Before you upgrade either, read each of them in the new version:
tests/unit/stream/storage/test_redis_internals.py lists them. Importing this module changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
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


def server_address(client: Redis) -> str:
    """Return "host:port", or the path of a Unix socket: the URL without its password."""
    address = client.connection_pool.connection_kwargs
    return f"{address['host']}:{address['port']}" if "host" in address else str(address.get("path", ""))
