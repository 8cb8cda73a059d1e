"""One training at a time: a lock in Redis, with a token so that only its holder releases it, and an expiry.

It only saves work. Two trainings at once would still publish one after the other, and the second would be refused
(registry/publish.py).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from stream.errors import error_text
from stream.storage.client import RedisUnreachable, open_redis, unreachable
from trainer.errors import LockUnreachable, TrainingBusy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from stream.settings import DeploymentSettings

log = logging.getLogger(__name__)

EXPIRY_S: Final = 60.0  # how long the lock outlives its holder
RENEW_S: Final = 15.0


def lock_key(settings: DeploymentSettings) -> str:
    """Return the key of the lock."""
    return f"{{{settings.group}:training}}:lock"


def holder_token() -> str:
    """Return a token of this host, this process, and a random number.

    >>> holder_token().count(" ")
    2
    """
    return f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"


def holder_name(token: bytes | None) -> str:
    """Return the process that a token names.

    >>> holder_name(b"host-1 42 5ccb")
    'process 42 on host-1'
    """
    host, process, *_ = [*(token or b"").decode(errors="replace").split(" "), ""]
    return f"process {process} on {host}" if process else "an unknown process"


@contextmanager
def training_lock(settings: DeploymentSettings, *, renew_s: float = RENEW_S) -> Iterator[None]:
    """Hold the deployment's lock during a training; a thread renews it until the training ends.

    Raises TrainingBusy where another process holds it, LockUnreachable where Redis doesn't answer.
    """
    try:
        redis = open_redis(settings, timeout_s=settings.redis_timeout_s, retries=1)
    except RedisUnreachable as error:
        raise LockUnreachable(str(error)) from None
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
            # Where it was lost or Redis is unreachable, it expires. A model that was published stays published.
            with suppress(LockError, RedisError, OSError):
                lock.release()


def _acquire(settings: DeploymentSettings, redis: Redis, lock: Lock) -> None:
    try:
        if lock.acquire(blocking=False, token=holder_token()):
            return
        holder = redis.get(lock_key(settings))
    except (RedisError, OSError) as error:
        raise LockUnreachable(str(unreachable(settings, error))) from error
    raise TrainingBusy(
        f"another training is under way: {holder_name(holder if isinstance(holder, bytes) else None)}.",
        hint=f"Wait for it to end; if that process has died, the lock expires within {EXPIRY_S:.0f} s.",
    )


def _keep(lock: Lock, done: threading.Event, renew_s: float) -> None:
    """Renew the lock until done. Where it was lost, log a warning; the training goes on."""
    while not done.wait(renew_s):
        try:
            lock.reacquire()
        except LockError:
            log.warning(
                "the lock of this training was lost: another training may have begun; the second to publish is refused"
            )
            return
        except (RedisError, OSError) as error:
            log.warning("the lock of this training can't be renewed: %s", error_text(error))
