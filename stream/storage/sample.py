"""A random sample of a deployment's customers: cheap enough for every few minutes, active and inactive ones alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, cast

from segmentation.drift import Drift, Tally, drift_of
from stream.storage.keys import ShardKeys
from stream.storage.reads import check_agreed, read_head_async
from stream.storage.states import whole_states_async

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.asyncio import Redis

    from segmentation.model import SegmentModel
    from stream.settings import DeploymentSettings

SAMPLE: Final = 1_000  # customers of a shard


class Sampled(NamedTuple):
    """States of some customers, and their shard's clock (ms)."""

    clock: int
    values: list[bytes]


async def sample(redis: Redis, keys: ShardKeys, settings: DeploymentSettings, count: int = SAMPLE) -> Sampled | None:
    """Read customers of a shard at random, none twice; None: the shard has had no record yet.

    Raises ShardUnreadable (also where the states are under other settings), RedisError.
    """
    head = await read_head_async(redis, keys)
    check_agreed(head, settings, keys.shard)
    if head is None or head.clock_ms is None:
        return None
    # Customer, state, customer, state, …
    found = cast("list[bytes]", await redis.hrandfield(keys.states, count, withvalues=True))
    values = await whole_states_async(redis, keys, found[0::2], found[1::2])
    return Sampled(head.clock_ms, [value for value in values if value is not None])


async def sampled_drift(
    redis: Redis, shards: Iterable[ShardKeys], model: SegmentModel, settings: DeploymentSettings, now_ms: int | None
) -> Drift:
    """Compare a sample of these shards' customers with those that a model was trained on.

    `now_ms`: the wall clock; None in event time, where each shard's own clock counts. Raises StateFormatError,
    ShardUnreadable, RedisError.
    """
    tally = Tally(model, settings.rules)
    for keys in shards:
        if (found := await sample(redis, keys, settings)) is not None:
            tally.add(found.values, max(found.clock, now_ms or found.clock))
    return drift_of(tally)
