"""States as readers see them, whatever their owner's way of storing: those that lie in pieces are put together."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from segmentation.rfm import StateFormatError
from segmentation.step import StateUnreadable
from stream.clock import now_ms
from stream.storage.client import redis_client
from stream.storage.keys import ShardKeys
from stream.storage.pieces import Ends, ends_of
from stream.storage.reads import REBUILD, ShardLostInPart, StoreUnreadable, read_head, require_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from stream.settings import Settings

T = TypeVar("T")

PAGE: Final = 2_000
_ATTEMPTS: Final = 100  # an owner moves a state on to other pieces once in dozens of orders


def read_states(redis: Redis, keys: ShardKeys) -> Iterator[tuple[bytes, bytes]]:
    """Yield each customer of a shard with the packed state, in the order of the customers' bytes.

    This isn't a snapshot: each customer is read once, at some instant during the read. Raises ShardUnreadable where
    the shard has lost a part before or meanwhile, RedisError.
    """
    before = read_head(redis, keys)
    yield from _pages(redis, keys)
    now = read_head(redis, keys)
    if before and (now is None or now.offset < before.offset):
        raise ShardLostInPart(
            f"Redis was put back, or made anew, while {keys.shard} was read.", hint="Run the command again."
        )


def _pages(redis: Redis, keys: ShardKeys) -> Iterator[tuple[bytes, bytes]]:
    after = b"-"
    while True:
        page = cast("list[bytes]", redis.zrange(keys.customers, after, b"+", bylex=True, offset=0, num=PAGE))
        if not page:
            return
        values = cast("list[bytes | None]", redis.hmget(keys.states, cast("list[str]", page)))
        for customer, value in zip(page, whole_states(redis, keys, page, values), strict=True):
            if value is not None:
                yield customer, value
        after = b"(" + page[-1]


def whole_states(
    redis: Redis, keys: ShardKeys, customers: Sequence[bytes], values: Sequence[bytes | None]
) -> list[bytes | None]:
    """Return these states, those in pieces put together, each as of one instant. `values`: of the states' hash.

    Raises StoreUnreadable, RedisError.
    """
    found = list(values)
    for index, (customer, value) in enumerate(zip(customers, values, strict=True)):
        reading = _Reading(keys, customer, value)
        while reading.ends is not None:
            reading.take(reading.ask(redis.pipeline(transaction=True)))
        found[index] = reading.value
    return found


async def whole_states_async(
    redis: AsyncRedis, keys: ShardKeys, customers: Sequence[bytes], values: Sequence[bytes | None]
) -> list[bytes | None]:
    """Do as `whole_states`."""
    found = list(values)
    for index, (customer, value) in enumerate(zip(customers, values, strict=True)):
        reading = _Reading(keys, customer, value)
        while reading.ends is not None:
            reading.take(await reading.ask(redis.pipeline(transaction=True)))
        found[index] = reading.value
    return found


class _Reading:
    """The reading of one state: ends and pieces in one transaction, again where the ends name other pieces by then."""

    def __init__(self, keys: ShardKeys, customer: bytes, value: bytes | None) -> None:
        self.value = value
        self.ends: Ends | None = self._ends(keys, value)
        self._keys, self._customer, self._left = keys, customer, _ATTEMPTS

    def ask(self, pipe: Any) -> Any:
        """Ask for the ends, and for the pieces of the ends that are known. `pipe`: of either client."""
        assert self.ends is not None
        pipe.hmget(self._keys.states, [self._customer])
        pipe.hmget(self._keys.pieces, self.ends.fields(self._customer))
        return pipe.execute()

    def take(self, answer: Sequence[Any]) -> None:
        """Take the answer. `ends` is None then, or what to ask for again."""
        ((value,), pieces), asked = answer, self.ends
        assert asked is not None
        self.value, self.ends = value, self._ends(self._keys, value)
        if self.ends is None:
            return
        if self.ends.fields(self._customer) == asked.fields(self._customer):
            try:
                self.value, self.ends = self.ends.whole(pieces), None
            except StateUnreadable as error:
                raise ShardLostInPart(
                    f"{error}: of {self._customer.decode(errors='replace')!r} in {self._keys.pieces}.", hint=REBUILD
                ) from None
        elif (left := self._left - 1) >= 0:
            self._left = left
        else:
            raise StoreUnreadable(
                f"the state of {self._customer.decode(errors='replace')!r} changes faster than it can be read.",
                hint="Run the command again.",
            )

    @staticmethod
    def _ends(keys: ShardKeys, value: bytes | None) -> Ends | None:
        try:
            return ends_of(value)
        except StateUnreadable as error:
            raise StoreUnreadable(f"a state in {keys.states} can't be read: {error}.", hint=REBUILD) from None


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
            while page := list(islice(states, PAGE)):
                try:
                    found = look(at, page)
                except StateFormatError as error:
                    raise StoreUnreadable(f"a state in {keys.states} can't be read: {error}", hint=REBUILD) from error
                seen += len(page)
                if progress:
                    progress(seen)
                yield at, found
