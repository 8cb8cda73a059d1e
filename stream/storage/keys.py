"""Where a shard lies in Redis, and the one way to read it from outside the engine (export, trainer, status)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

from stream.storage.heads import NO_CLOCK, decode_store_head

if TYPE_CHECKING:
    from redis import Redis

PAGE = 2_000


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of one shard. The braces put them into one slot of a Redis Cluster, so that a commit is atomic."""

    group: str
    topic: str
    partition: int

    @property
    def tag(self) -> str:
        """The hash tag."""
        return f"{{{self.group}:{self.topic}:{self.partition}}}"

    @property
    def head(self) -> str:
        """A string: the StoreHead."""
        return f"{self.tag}:head"

    @property
    def states(self) -> str:
        """A hash: customer -> packed state."""
        return f"{self.tag}:states"

    @property
    def due(self) -> str:
        """A sorted set: customer by the instant (ms) at which to look again."""
        return f"{self.tag}:due"

    @property
    def customers(self) -> str:
        """A sorted set of all customers under one score, in the order of their bytes: the order of a rescore (TIME 7)."""
        return f"{self.tag}:customers"

    @property
    def tombstones(self) -> str:
        """A hash: `tombstone` of an erased customer -> what is left of its state. And SALT_FIELD."""
        return f"{self.tag}:tombstones"

    def all(self) -> tuple[str, str, str, str, str]:
        """Head, states, due index, customers, tombstones: the order in which the scripts take them."""
        return self.head, self.states, self.due, self.customers, self.tombstones


SALT_FIELD = b"salt"  # its value tells two salts apart, and gives neither away


def tombstone(customer: bytes, salt: bytes) -> bytes:
    """The 16 bytes under which an erased customer is kept: BLAKE2b with the deployment's salt as its key.

    >>> tombstone(b"c-42", b"salt").hex()
    'f6c4aafbbb638164ce62035893272a21'
    """
    key = salt if len(salt) <= blake2b.MAX_KEY_SIZE else blake2b(salt).digest()
    return blake2b(customer, digest_size=16, key=key, person=b"segstream").digest()


def status_key(group: str, topic: str) -> str:
    """A hash: partition -> what its owner says of it (JSON). For people; the engine takes no decision from it."""
    return f"{{{group}:{topic}}}:status"


def read_clock(redis: Redis, keys: ShardKeys) -> int | None:
    """The shard's clock in ms; None before its first record. Raises msgspec.DecodeError where the head isn't one."""
    head = cast("bytes | None", redis.get(keys.head))
    clock = NO_CLOCK if head is None else decode_store_head(head).clock
    return None if clock == NO_CLOCK else clock


def read_states(redis: Redis, keys: ShardKeys) -> Iterator[tuple[bytes, bytes]]:
    """Each customer of a shard and its packed state, in the order of the customers' bytes.

    Not a snapshot: a customer is read once, at some instant during the read.
    """
    after = b"-"
    while True:
        page = cast("list[bytes]", redis.zrange(keys.customers, after, b"+", bylex=True, offset=0, num=PAGE))
        if not page:
            return
        values = cast("list[bytes | None]", redis.hmget(keys.states, cast("list[str]", page)))
        for customer, value in zip(page, values, strict=True):
            if value is not None:
                yield customer, value
        after = b"(" + page[-1]
