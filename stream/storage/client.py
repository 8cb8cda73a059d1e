"""Connections to Redis: the one place that makes clients, for the engine, the commands and the trainer."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from stream.errors import SegstreamError, causes, error_text
from stream.kafka.clients import CONNECT_TIMEOUT_S
from stream.storage.redis_internals import (
    pack_commands_in_c,
    primary_async,
    primary_sync,
    translate_closed_transport,
    url_options,
)
from stream.tls import why_tls_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.settings import DeploymentSettings

_ACL_HINT = "docs/security.md lists the ACL rules of each role."
_NO_MULTI = "EXEC without MULTI"  # all that redis-py says of a transaction that the user may not begin
_DENIED = re.compile(
    r"(User \S+|This user) has no permissions to (run the '[^']*' command|access [\w ]*)|No permissions to access a key"
)


class RedisUnreachable(SegstreamError):
    """Redis can't be reached, or answers with an error."""


def connect(settings: DeploymentSettings, *, retries: int = 0) -> Redis:
    """Return an asynchronous client. Raises RedisUnreachable, SettingsError.

    By default it never retries: after an unknown outcome the engine must look, not repeat. With Sentinels each new
    connection asks them for the primary, so a takeover after a fail-over finds the new one.
    """
    timeout_s = settings.redis_timeout_s
    options = _options(settings, timeout_s) | {"retry": AsyncRetry(NoBackoff(), retries), "protocol": 2}
    if settings.redis_sentinels:
        asking = _sentinel_options(settings, timeout_s) | {"retry": AsyncRetry(NoBackoff(), 0)}
        client = primary_async(_sentinels(settings), _master(settings), asking, options)
    else:
        client = Redis.from_url(_url(settings), **options)
    pack_commands_in_c(client)
    translate_closed_transport(client)
    return client


def open_redis(settings: DeploymentSettings, *, timeout_s: float, retries: int = 0) -> redis.Redis:
    """Return a synchronous client. Raises RedisUnreachable, SettingsError."""
    options = _options(settings, timeout_s) | {"retry": Retry(NoBackoff(), retries)}
    if settings.redis_sentinels:
        asking = _sentinel_options(settings, timeout_s) | {"retry": Retry(NoBackoff(), 0)}
        return primary_sync(_sentinels(settings), _master(settings), asking, options)
    return redis.Redis.from_url(_url(settings), **options)


@contextmanager
def redis_client(settings: DeploymentSettings) -> Iterator[redis.Redis]:
    """Connect to Redis. Raises RedisUnreachable, also for errors in the body."""
    client = open_redis(settings, timeout_s=min(settings.redis_timeout_s, CONNECT_TIMEOUT_S))
    try:
        client.ping()
        yield client
    except redis.RedisError as error:
        raise unreachable(settings, error) from error
    finally:
        client.close()


def redis_address(settings: DeploymentSettings) -> str:
    """Return where Redis is, without what may be secret: host and port, the path of a socket, or the Sentinels."""
    if settings.redis_sentinels:
        return f"the primary {_master(settings)!r} of the Sentinels {settings.redis_sentinels}"
    parts = urlsplit(_url(settings))
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


def unreachable(settings: DeploymentSettings, error: Exception) -> RedisUnreachable:
    """Return what an error of a client means: one line that names the setting to look at, and no secret."""
    what, hint = _meaning(settings, error)
    return RedisUnreachable(f"Redis at {redis_address(settings)}: {what.removesuffix('.')}.", hint=hint)


def refusal(settings: DeploymentSettings, error: BaseException) -> RedisUnreachable | None:
    """Return that Redis refuses this user, where that is what an error comes from: trying again doesn't help."""
    for cause in causes(error):
        if isinstance(cause, redis.AuthenticationError) or _is_forbidden(cause):
            assert isinstance(cause, Exception)
            return unreachable(settings, cause)
    return None


def _is_forbidden(error: BaseException) -> bool:
    """Return whether the user's ACL forbids the command. Within a script or a transaction the error is a plain one."""
    return isinstance(error, redis.exceptions.NoPermissionError) or (
        isinstance(error, redis.ResponseError) and ("has no permissions" in str(error) or _NO_MULTI in str(error))
    )


def _meaning(settings: DeploymentSettings, error: Exception) -> tuple[str, str]:
    if isinstance(error, (MasterNotFoundError, AsyncMasterNotFoundError)):
        return _why_no_primary(settings, str(error))
    if isinstance(error, redis.AuthenticationError):
        return f"it refuses the user or the password ({str(error).removesuffix('.')})", (
            "Set both in SEGSTREAM_REDIS_URL: rediss://USER:PASSWORD@HOST:PORT/0, special characters percent-encoded."
        )
    if _is_forbidden(error):
        return f"the ACL of SEGSTREAM_REDIS_URL's user is too narrow: {_denied_command(error)}", _ACL_HINT
    tls = urlsplit(_url(settings)).scheme == "rediss"
    plain = "write redis:// in SEGSTREAM_REDIS_URL"
    if tls and (why := why_tls_failed(error, settings.redis_tls, address="SEGSTREAM_REDIS_URL", plain=plain)):
        return why
    hint = "Check SEGSTREAM_REDIS_URL, and that Redis or Valkey runs (`segstream local up` starts one here)."
    if tls and isinstance(error, redis.TimeoutError):
        hint = f"Check SEGSTREAM_REDIS_URL, and that Redis runs. If this port has no TLS, {plain}."
    elif any(words in str(error) for words in ("closed by server", "reset by peer", "Broken pipe")):
        hint = "If this port expects TLS, write rediss:// in SEGSTREAM_REDIS_URL."
        if tls:
            hint = "If it asks for a client's certificate, set SEGSTREAM_REDIS_SSL_CERTFILE and …_KEYFILE."
    return error_text(error), hint


def _denied_command(error: Exception) -> str:
    """Return the sentence of an ACL's refusal, without the script and the arguments around it."""
    if _NO_MULTI in str(error):
        return "it has no permissions to run the 'multi' command"
    found = _DENIED.search(str(error))
    return found[0] if found else error_text(error)


def _why_no_primary(settings: DeploymentSettings, text: str) -> tuple[str, str]:
    """Return what redis-py's text says, without the text: it holds one error for each Sentinel that didn't answer."""
    if "Authentication" in text or "NOAUTH" in text:
        return "they refuse the user or the password", (
            "Check SEGSTREAM_REDIS_SENTINEL_USERNAME and SEGSTREAM_REDIS_SENTINEL_PASSWORD."
        )
    if " - " not in text.removeprefix(f"No master found for {settings.redis_sentinel_master!r}"):
        return "they know no healthy primary of this name", "Check SEGSTREAM_REDIS_SENTINEL_MASTER."
    return "no Sentinel answers that knows a healthy primary of this name", (
        "Check SEGSTREAM_REDIS_SENTINELS, SEGSTREAM_REDIS_SENTINEL_MASTER, and whether they expect TLS (rediss:// in "
        "SEGSTREAM_REDIS_URL) or not."
    )


def _url(settings: DeploymentSettings) -> str:
    """Return SEGSTREAM_REDIS_URL. Raises RedisUnreachable where it isn't a URL that redis-py takes.

    Neither the URL nor redis-py's error, which quotes it, is shown: it may hold a password. A host that can't be a name
    is found here, because no look-up would report that.
    """
    url = settings.redis_url.get_secret_value()
    try:
        (urlsplit(url).hostname or "").encode("idna")
        url_options(url)
        _check_credentials(url)
    except ValueError:
        raise RedisUnreachable(
            "SEGSTREAM_REDIS_URL isn't a Redis URL.",
            hint="Give one like redis://127.0.0.1:6379/0; special characters of a password percent-encoded.",
        ) from None
    return url


def _check_credentials(url: str) -> None:
    """Raise ValueError where a password isn't percent-encoded and has "/", "?" or "#".

    These end the address, so a part of the password would be taken for the host, and shown.
    """
    parts = urlsplit(url)
    if parts.scheme != "unix" and "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("a part behind the address has an @")


def _options(settings: DeploymentSettings, timeout_s: float) -> dict[str, Any]:
    """Return the options of each connection to Redis. With Sentinels, the URL's own too. Raises SettingsError."""
    url = _url(settings)
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    tls = urlsplit(url).scheme == "rediss"
    if tls:
        options |= _tls_options(settings)
    if settings.redis_sentinels:
        options |= url_options(url) | {"ssl": tls}
    return options


def _tls_options(settings: DeploymentSettings) -> dict[str, Any]:
    """Return redis-py's names of the files. They are read here once, to report what is wrong with them."""
    files = settings.redis_tls
    files.context()
    options: dict[str, Any] = {}
    if files.cafile:
        options["ssl_ca_certs"] = str(files.cafile)
    if files.certfile:
        options |= {
            "ssl_certfile": str(files.certfile),
            "ssl_keyfile": str(files.keyfile or files.certfile),
            "ssl_password": files.password,
        }
    return options


def _sentinel_options(settings: DeploymentSettings, timeout_s: float) -> dict[str, Any]:
    """Return the options of each connection to a Sentinel: TLS as for Redis, and credentials of its own."""
    tls = urlsplit(_url(settings)).scheme == "rediss"
    password = settings.redis_sentinel_password
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "username": settings.redis_sentinel_username,
        "password": password.get_secret_value() if password else None,
        **({"ssl": True, **_tls_options(settings)} if tls else {}),
    }


def _sentinels(settings: DeploymentSettings) -> list[tuple[str, int]]:
    servers = [server.strip().rpartition(":") for server in (settings.redis_sentinels or "").split(",")]
    return [(host, int(port)) for host, _, port in servers]


def _master(settings: DeploymentSettings) -> str:
    return settings.redis_sentinel_master or ""
