"""`segstream models`: which model scores, how far a rescore has come, and a preview of what a candidate would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from segmentation.decisions import CompiledModel, ScoringContext
from segmentation.events import iso
from segmentation.money import format_units
from segmentation.shadow import Verdict, verdicts
from stream.errors import SegstreamError
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import HeadUnreadable, read_head
from stream.storage.scan import look_at_all

if TYPE_CHECKING:
    from redis import Redis

    from segmentation.model import SegmentModel
    from stream.models.topic import PublishedModels
    from stream.settings import Settings

EXAMPLES: Final = 3  # of customers, of each flow


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


class Flow(msgspec.Struct, frozen=True):
    """Customers who would go from one segment to another; `money`: their monetary value."""

    from_segment: str | None
    to_segment: str | None
    customers: int
    money: str
    examples: list[str]


class Held(msgspec.Struct, frozen=True):
    """A segment's customers now, and after the model's activation. `money`: their monetary value."""

    segment: str | None
    customers: int
    money: str
    customers_after: int
    money_after: str


class ShadowReport(msgspec.Struct, frozen=True):
    """The effect that activating a model would have now. `moving`: the share of all customers that would move."""

    version: str
    active: str | None
    as_of: str | None
    customers: int
    moving: float
    flows: list[Flow]
    segments: list[Held]


def shard_models(settings: Settings) -> list[ShardModel]:
    """Return the model of each shard that has a head in Redis. Raises RedisUnreachable."""
    found = []
    with redis_client(settings) as redis:
        for partition in range(settings.partitions):
            keys = ShardKeys(settings.group, settings.orders_topic, partition)
            try:
                head = read_head(redis, keys)
            except HeadUnreadable as error:
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


def chosen(published: PublishedModels, version: str | None) -> SegmentModel:
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


def shadow(
    settings: Settings, published: PublishedModels, model: SegmentModel, progress: Callable[[int], None] | None = None
) -> ShadowReport:
    """Score every customer by this model, and publish nothing.

    `progress(how many were read)`. Raises StoreUnreadable, RedisUnreachable.
    """
    compiled = CompiledModel.of(model, settings.group, published.names)
    scoring = ScoringContext.of(compiled, settings.dwell_ms, settings.rules)
    named = replace(published, names=published.names | {segment.id: segment.name for segment in model.segments})
    flows: dict[tuple[int, int], list[Any]] = {}
    held: dict[int, list[int]] = {}
    seen, moving, latest = 0, 0, 0

    def look(at: int, page: list[tuple[bytes, bytes]]) -> list[Verdict]:
        return verdicts(page, at, scoring)

    for at, found in look_at_all(settings, look, progress):
        for one in found:
            before, after = held.setdefault(one.announced, [0] * 4), held.setdefault(one.segment, [0] * 4)
            before[0] += 1
            before[1] += one.monetary
            after[2] += 1
            after[3] += one.monetary
            if one.announced != one.segment:
                moving += 1
                flow = flows.setdefault((one.announced, one.segment), [0, 0, []])
                flow[0] += 1
                flow[1] += one.monetary
                if len(flow[2]) < EXAMPLES:
                    flow[2].append(one.key.decode())
        seen, latest = seen + len(found), max(latest, at)
    return ShadowReport(
        version=model.version,
        active=None if published.active is None else published.active.version,
        as_of=iso(latest) if seen else None,
        customers=seen,
        moving=moving / seen if seen else 0.0,
        flows=[
            Flow(named.name(source), named.name(target), customers, format_units(money), examples)
            for (source, target), (customers, money, examples) in sorted(flows.items(), key=lambda row: -row[1][0])
        ],
        segments=[
            Held(named.name(segment), now, format_units(money), then, format_units(money_then))
            for segment, (now, money, then, money_then) in sorted(held.items())
        ],
    )
