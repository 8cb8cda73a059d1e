"""Connections to Redis: the engine's asynchronous one and the commands' synchronous one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import hiredis
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from stream.errors import SegstreamError
from stream.kafka.clients import CONNECT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.settings import DeploymentSettings


class RedisUnreachable(SegstreamError):
    """Redis doesn't answer, or not as it should."""


@contextmanager
def redis_client(settings: DeploymentSettings) -> Iterator[redis.Redis]:
    """Connect to Redis. Raises RedisUnreachable, later too."""
    url, timeout_s = settings.redis_url.get_secret_value(), min(settings.redis_timeout_s, CONNECT_TIMEOUT_S)
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
    except ValueError:
        # Nothing of the URL or of the error, which quotes it: it may hold a password.
        raise RedisUnreachable(
            "SEGSTREAM_REDIS_URL isn't a Redis URL.", hint="Give one like redis://127.0.0.1:6379/0."
        ) from None
    try:
        client.ping()
        yield client
    except redis.RedisError as error:
        # Without the URL, which may hold a password.
        told = client.connection_pool.connection_kwargs
        raise RedisUnreachable(
            f"Redis at {told.get('host', told.get('path'))}:{told.get('port', '')}: {error}.",
            hint="Check SEGSTREAM_REDIS_URL, and that Redis or Valkey runs (`segstream local up` starts one here).",
        ) from error
    finally:
        client.close()


def connect(url: str, timeout_s: float) -> Redis:
    """A client of the engine's: no silent retries, since an unknown outcome must be looked at, not repeated."""
    client = Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=AsyncRetry(NoBackoff(), 0),
        protocol=2,
    )
    pool = client.connection_pool
    pool.connection_class = _made_ready(pool.connection_class)
    return client


def _made_ready(base: type[Any]) -> type[Any]:
    """A connection that packs commands in C, and tells of a transport closed under it as redis-py tells of every other lost connection.

    redis-py packs in C only where it isn't asynchronous; a commit has thousands of arguments, and packing was most of its CPU time.
    uvloop raises RuntimeError for that transport, which redis-py hands on: a status that can't be shown would end the worker.
    """

    class Connection(base):  # type: ignore[misc]  # which class it is depends on the URL
        def pack_command(self, *args: Any) -> list[bytes]:
            # As redis-py does: "SCRIPT LOAD" is two arguments.
            return [hiredis.pack_command((*args[0].split(), *args[1:]))]

        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            try:
                await super().send_packed_command(*args, **kwargs)
            except RuntimeError as error:
                raise RedisConnectionError(f"the connection was closed: {error}.") from error

    return Connection
