"""`segtrainer schedule --when-drifted`: look at a sample of the customers, and train early if they have drifted far.

Of `stream` it knows the sample that the workers take too, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from segmentation.rfm import StateFormatError
from stream.storage.keys import ShardKeys
from stream.storage.reads import HeadUnreadable
from stream.storage.sample import sampled_drift
from trainer.errors import SnapshotError
from trainer.registry.publish import active_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from stream.settings import DeploymentSettings
    from trainer.schedule.policy import LastRun

LEAST_SAMPLE: Final = 200  # below, an index is mostly chance


@dataclass(slots=True)
class WhenDrifted:
    """Asks for a training where a stability index is above `limit`: looks every `every_s`, and says the same in between.

    Once between two runs of the schedule: where that training changes nothing, neither would the next. Of fewer than
    LEAST_SAMPLE customers it says nothing. `clock`: ms since 1970.
    """

    settings: DeploymentSettings
    redis: Redis
    limit: float
    every_s: float
    clock: Callable[[], int]
    looked_ms: int | None = None
    said: str | None = field(default=None, init=False)

    async def __call__(self, last: LastRun) -> str | None:
        """Say why to train, or None. Raises PublishError, SnapshotError, RedisError."""
        if last.asked:
            self.said = None
            return None
        now_ms = self.clock()
        if self.looked_ms is None or not 0 <= now_ms - self.looked_ms < self.every_s * 1000:
            self.looked_ms, self.said = now_ms, None
            self.said = await self._look(now_ms)
        return self.said

    async def _look(self, now_ms: int) -> str | None:
        settings = self.settings
        model = await active_model(settings)
        if model is None:
            return None
        shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
        wall_ms = None if settings.time == "event" else now_ms
        try:
            drift = await sampled_drift(self.redis, shards, model, settings.rules, wall_ms)
        except HeadUnreadable as error:
            raise SnapshotError(str(error)) from error
        except StateFormatError as error:
            raise SnapshotError(f"group {settings.group}, topic {settings.orders_topic}: {error}.") from error
        name, index = drift.worst()
        if drift.customers < LEAST_SAMPLE or index <= self.limit:
            return None
        return f"drift: the stability index of {name} is {index:.3f}, above {self.limit:g}"
