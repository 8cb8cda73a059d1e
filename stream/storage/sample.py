"""A sample of a deployment's customers, from Redis: cheap enough to be taken every few minutes, and fair to who is at rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, cast

from segmentation.drift import Drift, Tally, drift_of
from stream.storage.heads import NO_CLOCK, decode_store_head
from stream.storage.keys import ShardKeys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.asyncio import Redis

    from segmentation.model import SegmentModel
    from segmentation.rfm import Rules

SAMPLE: Final = 1_000  # customers of a shard


class Sampled(NamedTuple):
    """Some customers' states, and their shard's clock (ms)."""

    clock: int
    values: list[bytes]


async def sample(redis: Redis, keys: ShardKeys, count: int = SAMPLE) -> Sampled | None:
    """Take customers of a shard at random, none twice; None before its first record.

    Raises msgspec.DecodeError where the head isn't one, RedisError.
    """
    raw = cast("bytes | None", await redis.get(keys.head))
    clock = NO_CLOCK if raw is None else decode_store_head(raw).clock
    if clock == NO_CLOCK:
        return None
    # Customer, state, customer, state, …
    found = cast("list[bytes]", await redis.hrandfield(keys.states, count, withvalues=True))
    return Sampled(clock, found[1::2])


async def sampled_drift(
    redis: Redis, shards: Iterable[ShardKeys], model: SegmentModel, rules: Rules, now_ms: int | None
) -> Drift:
    """Compare a sample of these shards' customers with those that a model was trained on.

    `now_ms`: the wall clock; None in event time, where each shard's own clock counts. Raises StateFormatError,
    msgspec.DecodeError, RedisError.
    """
    tally = Tally(model, rules)
    for keys in shards:
        if (found := await sample(redis, keys)) is not None:
            tally.add(found.values, max(found.clock, now_ms or found.clock))
    return drift_of(tally)
