"""An ordinary Faust agent that does the same job, at least once: `python -m bench.scenarios.faust_agent`.

It is written as Faust's documentation shows: one agent takes one event at a time, keeps its state in Redis, asks the
trained scikit-learn objects per event, and sends a change where the segment differs. Yeo-Johnson is plain `math`, which
is quicker for one row than scikit-learn's own transformer. The agent keeps sums only: it has no window, no moves by
silence and no cancellations, and doesn't detect repeats.
"""

from __future__ import annotations

import argparse
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import faust
import numpy as np
from redis.asyncio import Redis
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from bench.harness.children import CountFile
from bench.harness.model import bench_model
from segmentation.model import SegmentModel
from stream.settings import Settings, load_settings

_DAY_S: Final = 86_400.0


class AgentAmount(faust.Record):
    """Money as decimal text."""

    value: str
    currency: str


class AgentOrder(faust.Record, serializer="json"):
    """`order.placed`."""

    type: str
    id: str
    order_id: str
    customer_id: str
    occurred_at: str
    amount: AgentAmount


class Classifier:
    """The benchmark's model as scikit-learn objects."""

    def __init__(self, model: SegmentModel) -> None:
        centroids = np.array([segment.centroid for segment in model.segments])
        self._lambdas = [feature.lam or 0.0 for feature in model.features]
        self._scaler = StandardScaler().fit(np.zeros((2, 3)))
        self._scaler.mean_ = np.array([feature.mean for feature in model.features])
        self._scaler.scale_ = np.array([feature.scale for feature in model.features])
        self._clusters = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)
        self._clusters.cluster_centers_ = centroids
        self._names = [segment.name for segment in model.segments]

    def segment(self, recency_days: float, frequency: int, monetary: float) -> str:
        """Return the nearest segment's name."""
        row = [
            math.expm1(lam * math.log1p(value)) / lam
            for lam, value in zip(self._lambdas, (recency_days, frequency, monetary), strict=True)
        ]
        return self._names[int(self._clusters.predict(self._scaler.transform([row]))[0])]


def build(settings: Settings, progress: CountFile) -> Any:
    """Return the Faust app."""
    app: Any = faust.App(
        settings.group,
        broker=f"aiokafka://{settings.kafka_bootstrap_servers}",
        topic_partitions=settings.partitions,
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        autodiscover=False,
    )
    orders = app.topic(settings.orders_topic, key_type=str, value_type=AgentOrder)
    changes = app.topic(settings.changes_topic, key_type=str, value_serializer="json")
    redis: Any = Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True)
    classifier = Classifier(bench_model())

    @app.agent(orders)  # type: ignore[untyped-decorator]  # the app is Any
    async def score(stream: Any) -> None:
        count = 0
        async for order in stream:
            if not count:
                progress.write(count)
            key = f"{settings.group}:{order.customer_id}"
            known: dict[str, str] = await redis.hgetall(key)
            at_s = max(datetime.fromisoformat(order.occurred_at).timestamp(), float(known.get("last", 0)))
            frequency = int(known.get("frequency", 0)) + 1
            monetary = float(known.get("monetary", 0)) + float(order.amount.value)
            recency_days = (datetime.now(UTC).timestamp() - at_s) / _DAY_S
            before, segment = known.get("segment"), classifier.segment(recency_days, frequency, monetary)
            if segment != before:
                change = {"customer_id": order.customer_id, "from": before, "to": segment, "causation_id": order.id}
                await changes.send(key=order.customer_id, value=change)
            after: dict[str, Any] = {"last": at_s, "frequency": frequency, "monetary": monetary, "segment": segment}
            await redis.hset(key, mapping=after)
            count += 1
            progress.write(count)

    return app


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.scenarios.faust_agent", description=__doc__)
    parser.add_argument("progress", type=Path, help="file for the count of events")
    progress = CountFile(parser.parse_args().progress)
    # Faust would parse them too.
    sys.argv[1:] = []
    faust.Worker(build(load_settings(), progress), loglevel="WARNING", quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
