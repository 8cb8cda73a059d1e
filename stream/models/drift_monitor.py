"""Metrics of drift: a sample of a worker's customers, compared now and then with the active model's training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from segmentation.rfm import StateFormatError
from stream.errors import error_text
from stream.storage.keys import ShardKeys
from stream.storage.reads import ShardUnreadable
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
    """Samples the shards that run here. Nothing depends on the sample, so a failure is only logged."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        feed: ModelFeed,
        metrics: Metrics,
        owned: Callable[[], Iterable[int]],
        now_ms: Callable[[], int],
    ) -> None:
        """`owned`: returns the partitions that run here. `now_ms`: the wall clock."""
        self._settings = settings
        self._redis = redis
        self._feed = feed
        self._metrics = metrics
        self._owned = owned
        self._now_ms = now_ms

    async def look(self) -> None:
        """Take a sample and set the metrics; clear them where there is no model, shard or customer."""
        settings, model = self._settings, self._feed.active()
        shards = [ShardKeys(settings.group, settings.orders_topic, partition) for partition in self._owned()]
        if model is None or not shards:
            self._metrics.show_drift(None)
            return
        now_ms = None if settings.time == "event" else self._now_ms()
        drift: Drift | None = None
        try:
            drift = await sampled_drift(self._redis, shards, model, settings, now_ms)
        except (RedisError, OSError, StateFormatError, ShardUnreadable) as error:
            # The shard itself reports what to do when it reads this state.
            log.warning("no sample of the customers: %s", error_text(error))
        except Exception:  # a fault in a mere metric must not stop the shards
            log.exception("no sample of the customers")
        self._metrics.show_drift(drift)
