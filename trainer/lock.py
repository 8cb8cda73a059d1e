"""One training at a time: a lock in Redis, with a token so that nobody lets go of another's, and an expiry.

It saves work and nerves, and nothing rests on it: two trainings at once would still publish one after the other, and
the second would hear it (publish.py).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from redis.retry import Retry

from trainer.errors import LockUnreachable, TrainingBusy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.settings import DeploymentSettings

log = logging.getLogger(__name__)

EXPIRY_S: Final = 60.0  # how long the lock outlives who held it
RENEW_S: Final = 15.0


def lock_key(settings: DeploymentSettings) -> str:
    """Name the key that holds who trains."""
    return f"{{{settings.group}:training}}:lock"


def whose() -> str:
    """Make a token of this host, this process, and something that never comes twice.

    >>> whose().count(" ")
    2
    """
    return f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"


def told(token: bytes | None) -> str:
    """Say who a token is of.

    >>> told(b"shop-1 42 5ccb")
    'process 42 on shop-1'
    """
    host, process, *_ = [*(token or b"").decode(errors="replace").split(" "), ""]
    return f"process {process} on {host}" if process else "somebody else"


@contextmanager
def training_lock(settings: DeploymentSettings, *, renew_s: float = RENEW_S) -> Iterator[None]:
    """Hold the deployment's lock round a training; a thread keeps it while that lasts.

    Raises TrainingBusy where another one holds it, LockUnreachable where Redis doesn't answer.
    """
    url, timeout_s = settings.redis_url.get_secret_value(), settings.redis_timeout_s
    try:
        redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 1), protocol=2
        )
    except ValueError as error:
        raise LockUnreachable(f"SEGSTREAM_REDIS_URL isn't a Redis URL: {error}.") from None
    # The token must be known to the thread that renews it.
    lock = Lock(redis, lock_key(settings), timeout=EXPIRY_S, thread_local=False)
    done = threading.Event()
    with redis:
        _acquire(settings, redis, lock)
        keeper = threading.Thread(target=_keep, args=(lock, done, renew_s), name="training-lock", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            # Lost or unreachable: it expires, and what was published stands all the same.
            with suppress(LockError, RedisError, OSError):
                lock.release()


def _acquire(settings: DeploymentSettings, redis: Redis, lock: Lock) -> None:
    try:
        if lock.acquire(blocking=False, token=whose()):
            return
        holder = redis.get(lock_key(settings))
    except (RedisError, OSError) as error:
        parts = urlsplit(settings.redis_url.get_secret_value())  # of it only what is no secret
        raise LockUnreachable(
            f"Redis at {parts.hostname}:{parts.port or 6379}: {error}.",
            hint="Check SEGSTREAM_REDIS_URL, and that it runs.",
        ) from error
    raise TrainingBusy(
        f"another training is under way: {told(holder if isinstance(holder, bytes) else None)}.",
        hint=f"Wait for it; if it died, the lock goes within {EXPIRY_S:.0f} s.",
    )


def _keep(lock: Lock, done: threading.Event, renew_s: float) -> None:
    """Put the expiry off until done. A lock that was lost is told, and the training goes on."""
    while not done.wait(renew_s):
        try:
            lock.reacquire()
        except LockError:
            log.warning(
                "the training's lock was lost: another training may have begun, and one of the two will hear it"
            )
            return
        except (RedisError, OSError) as error:
            log.warning("the training's lock can't be renewed: %s", error)
