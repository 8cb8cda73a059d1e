"""Connections to Redis: the engine's asynchronous one and the commands' synchronous one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.errors import SegstreamError
from stream.kafka.clients import CONNECT_TIMEOUT_S
from stream.storage.redis_internals import pack_commands_in_c, server_address, translate_closed_transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.settings import DeploymentSettings


class RedisUnreachable(SegstreamError):
    """Redis can't be reached, or answers with an error."""


def redis_url(settings: DeploymentSettings) -> str:
    """Return SEGSTREAM_REDIS_URL. Raises ValueError where its host can't be a name: no look-up would report that."""
    url = settings.redis_url.get_secret_value()
    (urlsplit(url).hostname or "").encode("idna")
    return url


@contextmanager
def redis_client(settings: DeploymentSettings) -> Iterator[redis.Redis]:
    """Connect to Redis. Raises RedisUnreachable, also for errors in the body."""
    timeout_s = min(settings.redis_timeout_s, CONNECT_TIMEOUT_S)
    try:
        client = redis.Redis.from_url(
            redis_url(settings),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        # Neither the URL nor the error, which quotes it: the URL may hold a password.
        raise RedisUnreachable(
            "SEGSTREAM_REDIS_URL isn't a Redis URL.", hint="Give one like redis://127.0.0.1:6379/0."
        ) from None
    try:
        client.ping()
        yield client
    except redis.RedisError as error:
        # Without the URL, which may hold a password.
        raise RedisUnreachable(
            f"Redis at {server_address(client)}: {error}.",
            hint="Check SEGSTREAM_REDIS_URL, and that Redis or Valkey runs (`segstream local up` starts one here).",
        ) from error
    finally:
        client.close()


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client for the engine. It never retries: after an unknown outcome the engine must look, not repeat."""
    client = Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=AsyncRetry(NoBackoff(), 0),
        protocol=2,
    )
    pack_commands_in_c(client)
    translate_closed_transport(client)
    return client
