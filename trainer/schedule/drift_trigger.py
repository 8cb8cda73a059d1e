"""`segtrainer schedule --when-drifted`: measure the drift of a sample of the customers, and train early if it is large.

It is the sample that the workers take for their metrics too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from segmentation.rfm import StateFormatError
from stream.storage.keys import ShardKeys
from stream.storage.reads import ShardUnreadable
from stream.storage.sample import sampled_drift
from trainer.errors import SnapshotError
from trainer.registry.publish import active_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from stream.settings import DeploymentSettings
    from trainer.schedule.policy import LastRun

LEAST_SAMPLE: Final = 200  # with fewer customers an index is mostly chance


@dataclass(slots=True)
class DriftTrigger:
    """A check that asks for a training where a stability index is above `limit`.

    It measures every `every_s` and repeats its answer in between. It asks once between two runs of the schedule: if
    that training doesn't reduce the drift, another one wouldn't either. With fewer than LEAST_SAMPLE customers it never
    asks.
    `clock`: ms since 1970.
    """

    settings: DeploymentSettings
    redis: Redis
    limit: float
    every_s: float
    clock: Callable[[], int]
    looked_ms: int | None = None
    reason: str | None = field(default=None, init=False)

    async def __call__(self, last: LastRun) -> str | None:
        """Return the reason to train, or None. Raises PublishError, SnapshotError, RedisError."""
        if last.asked:
            self.reason = None
            return None
        now_ms = self.clock()
        if self.looked_ms is None or not 0 <= now_ms - self.looked_ms < self.every_s * 1000:
            self.looked_ms, self.reason = now_ms, None
            self.reason = await self._look(now_ms)
        return self.reason

    async def _look(self, now_ms: int) -> str | None:
        settings = self.settings
        model = await active_model(settings)
        if model is None:
            return None
        shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
        wall_ms = None if settings.time == "event" else now_ms
        try:
            drift = await sampled_drift(self.redis, shards, model, settings, wall_ms)
        except ShardUnreadable as error:
            raise SnapshotError(str(error)) from error
        except StateFormatError as error:
            raise SnapshotError(f"group {settings.group}, topic {settings.orders_topic}: {error}.") from error
        name, index = drift.worst()
        if drift.customers < LEAST_SAMPLE or index <= self.limit:
            return None
        return f"drift: the stability index of {name} is {index:.3f}, above {self.limit:g}"
