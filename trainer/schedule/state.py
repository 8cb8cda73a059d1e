"""The last run, and the turn of the scheduler that may run: two keys in Redis, beside the lock of trainings."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from stream.errors import error_text
from trainer.lock import EXPIRY_S, holder_token
from trainer.schedule.policy import LastRun

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)


class RunMemory:
    """The last run of a deployment, which the holder of the turn may write. All methods raise RedisError."""

    def __init__(self, redis: Redis, group: str) -> None:
        """Use two keys of the group."""
        self._redis = redis
        self._key = f"{{{group}:training}}:last"
        self._lock = Lock(redis, f"{{{group}:training}}:turn", timeout=EXPIRY_S, thread_local=False)

    async def read(self, now_ms: int) -> LastRun:
        """Return the last run. The very first call stores that there was none, and that nothing was missed so far."""
        raw = await self._redis.get(self._key)
        if raw is not None:
            try:
                return msgspec.json.decode(raw, type=LastRun)
            except msgspec.DecodeError as error:
                log.warning("the record of the last training in %s can't be read, and is reset: %s", self._key, error)
                await self._redis.delete(self._key)
        # Of two schedulers that start at once, the first one to write counts.
        await self._redis.set(self._key, msgspec.json.encode(LastRun(instant_ms=now_ms)), nx=True)
        return await self.read(now_ms)

    async def write(self, last: LastRun) -> None:
        """Store the last run. Only the holder of the turn may call it."""
        await self._redis.set(self._key, msgspec.json.encode(last))

    async def take_turn(self) -> bool:
        """Return whether this scheduler gets the turn: it lasts until `end_turn`, or EXPIRY_S without `renew`."""
        return bool(await self._lock.acquire(blocking=False, token=holder_token()))

    async def renew(self) -> bool:
        """Renew the turn. Return False where it was lost; where Redis doesn't answer, log a warning and return True."""
        try:
            await self._lock.reacquire()
        except LockError:
            return False
        except (RedisError, OSError) as error:
            log.warning("the turn to train can't be renewed: %s", error_text(error))
        return True

    async def owns_turn(self) -> bool:
        """Return whether this scheduler still has the turn."""
        return bool(await self._lock.owned())

    async def end_turn(self) -> None:
        """Give the turn back, if it wasn't lost."""
        with suppress(LockError):
            await self._lock.release()
