"""The measured deployments on one stack: settings, topics and model of each."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, Literal

from pydantic import SecretStr

from bench.harness.model import bench_model
from segmentation.model import SegmentModel
from stream.kafka import topics
from stream.local.stack import Endpoints
from stream.settings import Settings
from stream.settings_sources import PREFIX
from trainer.registry.publish import publish

PARTITIONS = 8


def deployment(
    endpoints: Endpoints, name: str, orders_topic: str, time_mode: Literal["wall", "event"] = "wall"
) -> Settings:
    """Return the settings of a deployment with its own group, output topics and Redis keys; models are shared."""
    return Settings(
        kafka_bootstrap_servers=endpoints.kafka,
        redis_url=SecretStr(endpoints.redis),
        partitions=PARTITIONS,
        group=f"bench-{name}",
        time=time_mode,
        orders_topic=orders_topic,
        changes_topic=f"changes-{name}",
        state_topic=f"state-{name}",
        actions_topic=f"actions-{name}",
    )


def environment(settings: Settings) -> dict[str, str]:
    """Return a program's environment: exactly these settings, and no other setting of this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | {f"{PREFIX}{name.upper()}": _text(getattr(settings, name)) for name in settings.model_fields_set}


def _text(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def make_topics(settings: Settings) -> None:
    """Create the deployment's missing topics."""
    asyncio.run(topics.create(settings))


def activate_model(settings: Settings, model: SegmentModel | None = None) -> int:
    """Publish a model and activate it; return the number of the activation.

    None: the benchmark's model, activated on the orders topic too: event time needs that, wall time skips it.
    """
    # Workers in wall time read activations from the models topic; event time needs one among the orders.
    activated = publish(
        settings, model or bench_model(), activate=True, event_time=model is None, now_ms=time.time_ns() // 1_000_000
    )
    assert activated.number is not None
    return activated.number
