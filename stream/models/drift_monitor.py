"""How the customers of this worker's shards lie in the newest active model: looked at now and then, shown as metrics."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from segmentation.rfm import StateFormatError
from stream.storage.keys import ShardKeys
from stream.storage.reads import HeadUnreadable
from stream.storage.sample import sampled_drift

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis.asyncio import Redis

    from segmentation.drift import Drift
    from stream.metrics import Metrics
    from stream.models.feed import ModelFeed
    from stream.settings import Settings

log = logging.getLogger(__name__)


class DriftMonitor:
    """Looks at a sample of the shards that run here. Nothing is decided by it, and whatever goes wrong is only told."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        feed: ModelFeed,
        metrics: Metrics,
        owned: Callable[[], Iterable[int]],
        now_ms: Callable[[], int],
    ) -> None:
        """`owned`: the partitions that run here now."""
        self._settings = settings
        self._redis = redis
        self._feed = feed
        self._metrics = metrics
        self._owned = owned
        self._now_ms = now_ms

    async def look(self) -> None:
        """Take a sample and show it. Without a model, or shards, or customers there is nothing to show."""
        settings, model = self._settings, self._feed.active()
        shards = [ShardKeys(settings.group, settings.orders_topic, partition) for partition in self._owned()]
        if model is None or not shards:
            self._metrics.show_drift(None)
            return
        now_ms = None if settings.time == "event" else self._now_ms()
        drift: Drift | None = None
        try:
            drift = await sampled_drift(self._redis, shards, model, settings.rules, now_ms)
        except (RedisError, OSError, StateFormatError, HeadUnreadable) as error:
            # What is to be done the shard itself says, when it comes across it.
            log.warning("no sample of the customers: %s", error)
        except Exception:  # the shards must go on, whatever is wrong with a figure for people
            log.exception("no sample of the customers")
        self._metrics.show_drift(drift)
