"""The plain loop of a nightly job: read every customer, find the nearest centroid, write the customer back with it.

`python -m bench.scenarios.plain_rescore BY` does this once with `nearer_at_risk(BY)`, in one process, over the worker's
states, and prints the number of customers and the seconds as JSON. The worker's rescore is measured against it. It does
less: it has no margin, publishes no moves, computes no due instants, and starts again after a crash.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from bench.harness.model import nearer_at_risk
from segmentation.entries import DAY_MS
from segmentation.model import Feature, SegmentModel
from segmentation.money import UNITS
from segmentation.rfm import headers
from segmentation.state_bytes import SEGMENT
from stream.settings import Settings, load_settings
from stream.storage.keys import ShardKeys
from stream.storage.states import PAGE, read_states

OUT: Final = "bench:plain:states"  # a hash: customer -> state; the worker's own states must not change


def nearest(values: Sequence[bytes], at_ms: int, model: SegmentModel) -> NDArray[np.int64]:
    """Return the segment id of each state's nearest centroid, by NumPy alone. Without orders the id means nothing."""
    head = headers(values)
    recency = np.maximum(at_ms - head["last"], 0) / DAY_MS
    figures = (recency, head["frequency"].astype(np.float64), head["monetary"] / UNITS)
    z = np.stack([_z(x, feature) for x, feature in zip(figures, model.features, strict=True)], axis=1)
    centroids = np.array([segment.centroid for segment in model.segments])
    ids = np.array([segment.id for segment in model.segments])
    found: NDArray[np.int64] = ids[((z[:, None, :] - centroids) ** 2).sum(axis=2).argmin(axis=1)]
    return found


def _z(x: NDArray[np.float64], feature: Feature) -> NDArray[np.float64]:
    """Return Yeo-Johnson of x >= 0 with the model's λ, which isn't 0, scaled."""
    lam = feature.lam or 1.0
    return (((1.0 + x) ** lam - 1.0) / lam - feature.mean) / feature.scale


def rescore(settings: Settings, redis: Any, model: SegmentModel) -> int:
    """Rescore all shards, page by page; return the number of customers."""
    customers = 0
    for partition in range(settings.partitions):
        rows = read_states(redis, ShardKeys(settings.group, settings.orders_topic, partition))
        while page := list(islice(rows, PAGE)):
            segments = nearest([value for _, value in page], time.time_ns() // 1_000_000, model)
            marks = segments.astype("<u2").view("V2").tolist()
            states = {
                key: value[: SEGMENT.start] + mark + value[SEGMENT.stop :]
                for (key, value), mark in zip(page, marks, strict=True)
            }
            redis.hset(OUT, mapping=cast("dict[Any, Any]", states))
            customers += len(page)
    return customers


def main() -> None:
    """Measure one rescore, and delete its output afterwards."""
    settings, model = load_settings(), nearer_at_risk(float(sys.argv[1]))
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        redis.delete(OUT)
        began = time.perf_counter()
        customers = rescore(settings, redis, model)
        seconds = time.perf_counter() - began
        redis.delete(OUT)
    print(json.dumps({"customers": customers, "seconds": seconds}))


if __name__ == "__main__":
    main()
