"""`segstream models drift`: today's customers compared with those that the active model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from redis.exceptions import RedisError

from segmentation.drift import Tally, drift_of
from segmentation.event_text import iso
from segmentation.rfm import StateFormatError
from stream.storage.client import connect, unreachable
from stream.storage.keys import ShardKeys
from stream.storage.reads import StoreUnreadable
from stream.storage.sample import sampled_drift
from stream.storage.states import look_at_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from segmentation.drift import Drift
    from segmentation.model import SegmentModel
    from stream.models.topic import PublishedModels
    from stream.settings import Settings


class DriftReport(msgspec.Struct, frozen=True):
    """Today's customers compared with those that the active model was trained on.

    `stability_indices`: PSI of the segments' shares and of each feature. `distance`: mean distance to the nearest
    centroid in z space (at training, now); `shares`, `means`: of each segment and each feature, likewise. `of`: the
    customers stored, of whom `customers` were looked at and have an order that stands.
    """

    version: str
    as_of: str | None
    of: int
    customers: int
    stability_indices: dict[str, float]
    shares: dict[str, tuple[float, float]]
    distance: tuple[float | None, float]
    means: dict[str, tuple[float | None, float]]


def drift(settings: Settings, published: PublishedModels, progress: Callable[[int], None] | None = None) -> DriftReport:
    """Compare all customers with those of the active model's training.

    `progress(how many were read)`. Raises NoActiveModel, StoreUnreadable, RedisUnreachable.
    """
    model = published.require_active()
    tally = Tally(model, settings.rules)

    def look(at: int, page: list[tuple[bytes, bytes]]) -> int:
        tally.add([value for _, value in page], at)
        return len(page)

    latest, seen = None, 0
    for at, count in look_at_all(settings, look, progress):
        latest, seen = max(latest or at, at), seen + count
    return _report(model, drift_of(tally), latest, seen)


async def drift_sample(settings: Settings, published: PublishedModels, stored: int, now_ms: int) -> DriftReport:
    """Compare a sample of the customers with those of the active model's training.

    `stored`: how many customers there are. `now_ms`: the wall clock, which in event time isn't used. Raises
    NoActiveModel, StoreUnreadable, RedisUnreachable.
    """
    model = published.require_active()
    shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in range(settings.partitions)]
    redis = connect(settings)
    try:
        at_ms = None if settings.time == "event" else now_ms
        found = await sampled_drift(redis, shards, model, settings, at_ms)
    except (RedisError, OSError) as error:
        raise unreachable(settings, error) from error
    except StateFormatError as error:
        raise StoreUnreadable(f"group {settings.group}, topic {settings.orders_topic}: {error}") from error
    finally:
        await redis.aclose()
    return _report(model, found, None, stored)


def _report(model: SegmentModel, found: Drift, as_of_ms: int | None, stored: int) -> DriftReport:
    return DriftReport(
        version=model.version,
        as_of=None if as_of_ms is None else iso(as_of_ms),
        of=stored,
        customers=found.customers,
        stability_indices=found.indices,
        shares=found.shares,
        distance=found.distance,
        means=found.means,
    )
