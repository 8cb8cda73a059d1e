"""The keys of Redis: those of a shard, and those of the group."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of one shard. The braces put them into one slot of a Redis Cluster, so that a commit is atomic."""

    group: str
    topic: str
    partition: int

    @property
    def shard(self) -> str:
        """The shard's name in messages."""
        return f"{self.topic}-{self.partition}"

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
        """A sorted set of all customers under one score, in the order of their bytes: the order of a rescore."""
        return f"{self.tag}:customers"

    @property
    def tombstones(self) -> str:
        """A hash: `tombstone` of an erased customer -> the rest of its state. And SALT_FIELD."""
        return f"{self.tag}:tombstones"

    @property
    def pieces(self) -> str:
        """A hash: the pieces of large states (stream/storage/pieces.py)."""
        return f"{self.tag}:pieces"

    @property
    def agreed(self) -> str:
        """A string, of the group: the settings of the first worker, for shards whose heads don't have any yet."""
        return f"{{{self.group}:{self.topic}}}:agreed"

    def all(self) -> tuple[str, str, str, str, str, str]:
        """Return head, states, due index, customers, tombstones, pieces: the order in which the scripts take them."""
        return self.head, self.states, self.due, self.customers, self.tombstones, self.pieces


SALT_FIELD = b"salt"  # its value distinguishes two salts, and reveals neither


def tombstone(customer: bytes, salt: bytes) -> bytes:
    """Return the 16 bytes under which an erased customer is kept: BLAKE2b, keyed with the deployment's salt.

    >>> tombstone(b"c-42", b"salt").hex()
    'f6c4aafbbb638164ce62035893272a21'
    """
    key = salt if len(salt) <= blake2b.MAX_KEY_SIZE else blake2b(salt).digest()
    return blake2b(customer, digest_size=16, key=key, person=b"segstream").digest()


def probe_key(group: str, topic: str) -> str:
    """Return the key, in the slot of the statuses, that `segstream status` writes to see whether Redis takes writes."""
    return f"{{{group}:{topic}}}:probe"


def status_key(group: str, topic: str) -> str:
    """Return the key of a hash: partition -> its owner's ShardStatus (JSON). The engine takes no decision from it."""
    return f"{{{group}:{topic}}}:status"
