"""All ids of one customer: those that merges have made one, as the shards in Redis know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from segmentation.links import Edge, members_of, root_of
from segmentation.rfm import current, unpack
from stream.storage.keys import ShardKeys, tombstone
from stream.storage.remains import opened_remains
from stream.storage.states import whole_states
from stream.traces.places import shards_of

if TYPE_CHECKING:
    from redis import Redis

    from stream.settings import Settings


class Person(NamedTuple):
    """A customer with all their ids.

    `customer_id`: the one that stays, under which the state is; `ids`: all of them, that one first. `edges`: the merges
    that the state under that id knows.
    """

    customer_id: str
    ids: tuple[str, ...]
    edges: tuple[Edge, ...] = ()

    def knows(self, at_ms: int, from_: str, into: str) -> bool:
        """Return whether the customer's state knows a merge, or a later one of these two in this direction."""
        return any((edge.source, edge.target) == (from_, into) and edge.at >= at_ms for edge in self.edges)

    def others(self, customer_id: str) -> tuple[str, ...]:
        """Return the ids but for one."""
        return tuple(known for known in self.ids if known != customer_id)


def person_of(redis: Redis, settings: Settings, customer_id: str) -> Person:
    """Return the customer whom an id belongs to: an alias leads to the id that stays, over as many shards as it takes.

    An id that no shard knows is a customer by itself. While a merge is under way the answer is the one before it or
    after it, or that of a part of its way. Raises StateFormatError, RedisError.
    """
    at, passed = customer_id, set[str]()
    while True:
        value = _known_of(redis, settings, at)
        edges = () if value is None else unpack(current(value, settings.rules)).links.edges
        stays = root_of(edges, at)
        if stays == at or stays in passed:
            others = sorted((members_of(edges) | {customer_id}) - {at})
            return Person(at, (at, *others), edges)
        passed.add(at)
        at = stays


def stored_value(redis: Redis, settings: Settings, keys: ShardKeys, customer_id: str) -> bytes | None:
    """Return the state of a customer in a shard, or what is left there of one who is gone; None: neither is.

    Raises RedisError.
    """
    found = cast("bytes | None", redis.hget(keys.states, customer_id))
    [value] = whole_states(redis, keys, [customer_id.encode()], [found])
    if value is not None:
        return value
    customer, salt = customer_id.encode(), settings.salt
    left = cast("bytes | None", redis.hget(keys.tombstones, cast("str", tombstone(customer, salt))))
    return None if left is None else opened_remains(left, customer, salt)


def _known_of(redis: Redis, settings: Settings, customer_id: str) -> bytes | None:
    """Return what the shards know of an id: of several, one that has a state comes first."""
    shards = [ShardKeys(settings.group, settings.orders_topic, p) for p in shards_of(settings, customer_id)]
    found = (stored_value(redis, settings, keys, customer_id) for keys in shards)
    return next((value for value in found if value is not None), None)
