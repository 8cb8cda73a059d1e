"""`segstream models`: the models on the topic, and how far each shard is with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream.errors import SegstreamError
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import ShardUnreadable, read_head

if TYPE_CHECKING:
    from redis import Redis

    from segmentation.model import SegmentModel
    from stream.models.topic import PublishedModels
    from stream.settings import Settings


class ModelUnknown(SegstreamError):
    """No such model is on the topic."""


class ShardModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """The model that a shard scores by. `rescored`: the share of its customers that were rescored; None: all.

    `quarantined`: why the shard is quarantined, where its head in Redis is unreadable; its model is unknown then.
    """

    partition: int
    version: str
    activation: int
    rescored: float | None
    quarantined: str = ""


class ModelRow(msgspec.Struct, frozen=True):
    """A model on the topic. `shards`: how many score by it."""

    version: str
    state: str  # active, candidate, or nothing
    parent: str | None
    as_of: str | None
    customers: int | None
    segments: list[str]
    silhouette: float | None
    shards: int


def shard_models(settings: Settings) -> list[ShardModel]:
    """Return the model of each shard that has a head in Redis. Raises RedisUnreachable."""
    found = []
    with redis_client(settings) as redis:
        for partition in range(settings.partitions):
            keys = ShardKeys(settings.group, settings.orders_topic, partition)
            try:
                head = read_head(redis, keys)
            except ShardUnreadable as error:
                found.append(ShardModel(partition, "", 0, None, f"{error.reason}: {error}"))
                continue
            if head is None:
                continue
            found.append(ShardModel(partition, head.version, head.activation, _rescored(redis, keys, head.cursor)))
    return found


def _rescored(redis: Redis, keys: ShardKeys, cursor: str | None) -> float | None:
    if cursor is None:
        return None
    everyone = redis.zcard(keys.customers)
    done = redis.zlexcount(keys.customers, "-", f"[{cursor}") if cursor else 0
    return done / everyone if everyone else 1.0


def model_rows(published: PublishedModels, shards: list[ShardModel]) -> list[ModelRow]:
    """Return a row for every model on the topic, in the topic's order."""
    scoring: dict[str, int] = {}
    for shard in shards:
        scoring[shard.version] = scoring.get(shard.version, 0) + 1
    return [_row(model, published, scoring.get(model.version, 0)) for model in published.models.values()]


def _row(model: SegmentModel, published: PublishedModels, shards: int) -> ModelRow:
    active = published.active is not None and published.active.version == model.version
    candidate = published.candidate is not None and published.candidate.version == model.version
    facts = model.training
    return ModelRow(
        version=model.version,
        state="active" if active else "candidate" if candidate else "",
        parent=model.parent,
        as_of=None if facts is None else facts.as_of.isoformat(),
        customers=None if facts is None else facts.customers,
        segments=[segment.name for segment in model.segments],
        silhouette=None if facts is None else facts.silhouette,
        shards=shards,
    )


def find_model(published: PublishedModels, version: str | None) -> SegmentModel:
    """Return the model whose version begins so, by default the candidate. Raises ModelUnknown."""
    if version is None:
        if published.candidate is None:
            raise ModelUnknown(
                "there is no candidate.",
                hint="`segtrainer run --candidate` makes one; or name a version: `segstream models`.",
            )
        return published.candidate
    found = [model for name, model in published.models.items() if name.startswith(version)]
    if len(found) != 1:
        raise ModelUnknown(
            f"{len(found) or 'no'} models have a version that begins with {version!r}.",
            hint=f"The topic has {', '.join(published.models) or 'none'}.",
        )
    return found[0]
