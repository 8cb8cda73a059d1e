"""What schedulers remember of the runs, and which of them may run now: two keys in Redis, beside the training's lock."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from trainer.lock import EXPIRY_S, holder_token
from trainer.schedule.policy import LastRun

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)


class RunMemory:
    """The last run of a deployment. Whoever holds the turn may write it. All methods raise RedisError."""

    def __init__(self, redis: Redis, group: str) -> None:
        """Keep to two keys of the group."""
        self._redis = redis
        self._key = f"{{{group}:training}}:last"
        self._lock = Lock(redis, f"{{{group}:training}}:turn", timeout=EXPIRY_S, thread_local=False)

    async def read(self, now_ms: int) -> LastRun:
        """Give the last run. On the very first call ever: none yet, and nothing missed before now."""
        raw = await self._redis.get(self._key)
        if raw is not None:
            try:
                return msgspec.json.decode(raw, type=LastRun)
            except msgspec.DecodeError as error:
                log.warning("what %s says of the last training can't be read, and is begun anew: %s", self._key, error)
                await self._redis.delete(self._key)
        # Of two schedulers that start at once the first one's word counts.
        await self._redis.set(self._key, msgspec.json.encode(LastRun(instant_ms=now_ms)), nx=True)
        return await self.read(now_ms)

    async def write(self, last: LastRun) -> None:
        """Remember. For whoever holds the turn."""
        await self._redis.set(self._key, msgspec.json.encode(last))

    async def take_turn(self) -> bool:
        """Say whether this scheduler may run now, and no other may until `end_turn`, or EXPIRY_S without `renew`."""
        return bool(await self._lock.acquire(blocking=False, token=holder_token()))

    async def renew(self) -> bool:
        """Put off the expiry. False: the turn is another's by now. A server that doesn't answer is only told."""
        try:
            await self._lock.reacquire()
        except LockError:
            return False
        except (RedisError, OSError) as error:
            log.warning("the turn to train can't be renewed: %s", error)
        return True

    async def owns_turn(self) -> bool:
        """Say whether the turn is still this scheduler's."""
        return bool(await self._lock.owned())

    async def end_turn(self) -> None:
        """Let others run. A turn that was lost is nobody's loss."""
        with suppress(LockError):
            await self._lock.release()
