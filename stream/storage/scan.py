"""A scan of all customers: each state as of its shard's own instant, a page at a time, without writing anything."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from segmentation.rfm import StateFormatError
from stream.clock import now_ms
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.reads import REBUILD, StoreUnreadable, read_states, require_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.settings import Settings

_PAGE: Final = 2_000

T = TypeVar("T")


def look_at_all(
    settings: Settings,
    look: Callable[[int, list[tuple[bytes, bytes]]], T],
    progress: Callable[[int], None] | None = None,
    now_ms: Callable[[], int] = now_ms,
) -> Iterator[tuple[int, T]]:
    """Yield (an instant in ms, the result of `look` at a page of customers as of that instant), shard by shard.

    In event time the instant is the shard's clock, in wall time it is now; a shard without a record is left out.
    `progress` gets the number of customers looked at. Raises StoreUnreadable, RedisUnreachable.
    """
    seen = 0
    with redis_client(settings) as redis:
        for partition in range(settings.partitions):
            keys = ShardKeys(settings.group, settings.orders_topic, partition)
            clock = require_head(redis, keys, settings).clock_ms
            if clock is None:
                continue
            at = clock if settings.time == "event" else max(clock, now_ms())
            states = read_states(redis, keys)
            while page := list(islice(states, _PAGE)):
                try:
                    found = look(at, page)
                except StateFormatError as error:
                    raise StoreUnreadable(f"a state in {keys.states} can't be read: {error}", hint=REBUILD) from error
                seen += len(page)
                if progress:
                    progress(seen)
                yield at, found
