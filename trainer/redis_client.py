"""Open a deployment's Redis for a run: the lock and the customers' states are in it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.storage.client import redis_url

if TYPE_CHECKING:
    from stream.settings import DeploymentSettings
    from trainer.errors import TrainerError


def open_redis(settings: DeploymentSettings, error: type[TrainerError]) -> Redis:
    """Return a client that retries once. Raises `error` where SEGSTREAM_REDIS_URL isn't a Redis URL."""
    timeout_s = settings.redis_timeout_s
    try:
        return Redis.from_url(
            redis_url(settings),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),
            protocol=2,
        )
    except ValueError:
        # Without the library's message: it can quote a part of the URL, which may hold a password.
        raise error(
            "SEGSTREAM_REDIS_URL isn't a Redis URL.",
            hint="Give one like redis://127.0.0.1:6379/0 (in SEGSTREAM_TRAINER_REDIS_URL where that is set).",
        ) from None


def redis_address(settings: DeploymentSettings) -> str:
    """Return host and port of SEGSTREAM_REDIS_URL; the rest of it may be secret."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    return f"{parts.hostname}:{parts.port or 6379}"
