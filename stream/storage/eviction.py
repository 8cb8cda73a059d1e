"""A Redis that evicts keys: refused when a worker starts, and shown as a warning where it begins to later.

A policy other than `noeviction` is refused whatever `maxmemory` says, because both can be changed while Redis runs. The
`volatile-` policies too: they spare keys without an expiry, as the shards' are, but not the lock of the trainings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import RedisError

from stream.errors import SegstreamError
from stream.storage.client import redis_address

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from stream.settings import Settings

log = logging.getLogger(__name__)

NO_EVICTION: Final = "noeviction"
_SECTION: Final = "memory"  # of INFO, which says the policy where CONFIG is forbidden


class RedisEvicts(SegstreamError):
    """Redis may delete the shards' keys when its memory is full."""


def check_eviction(settings: Settings, redis: Redis) -> None:
    """Raise RedisEvicts unless Redis keeps all keys, or the settings allow that it doesn't.

    A policy that Redis doesn't tell is let pass, with a warning in the log.
    """
    try:
        policy = _policy(cast("Mapping[str, Any]", redis.info(_SECTION)))
    except RedisError as error:
        log.debug("INFO: %s", error)
        policy = ""
    if not policy:
        log.warning("Redis doesn't tell its maxmemory-policy: make sure that it is %s", NO_EVICTION)
    elif policy != NO_EVICTION and not settings.redis_eviction_allowed:
        raise RedisEvicts(
            f"Redis at {redis_address(settings)}: {_meaning(policy)}",
            hint=f"Set `maxmemory-policy {NO_EVICTION}` in Redis, or SEGSTREAM_REDIS_EVICTION_ALLOWED=true to start "
            "all the same.",
        )


async def eviction_warning(redis: AsyncRedis, last: str) -> str:
    """Return a warning where Redis may evict keys; "": it keeps them. `last`: the answer where it can't be asked."""
    try:
        policy = _policy(cast("Mapping[str, Any]", await redis.info(_SECTION)))
    except (RedisError, OSError):
        return last
    return _meaning(policy) if policy not in {"", NO_EVICTION} else ""


def _policy(memory: Mapping[str, Any]) -> str:
    return str(memory.get("maxmemory_policy", ""))


def _meaning(policy: str) -> str:
    return f"its maxmemory-policy is {policy}: when its memory is full, it deletes customers' states."
