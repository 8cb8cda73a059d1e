"""A shard of Redis in memory, which loses keys or its worker on demand.

It passes the contract of the real store (test_store_contract.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

from segmentation.step import DueEntry
from stream.engine.store import Loaded, ShardStore, Writes
from stream.errors import ShardLost
from stream.storage.heads import Stored, stored_of, with_stored
from stream.storage.keys import SALT_FIELD, ShardKeys, tombstone


class Crash(BaseException):
    """The death of a worker. The engine never catches it."""


@dataclass(slots=True)
class StoredShard:
    """The content of Redis for one shard."""

    head: bytes | None = None
    states: dict[bytes, bytes] = field(default_factory=dict)
    due: dict[bytes, int] = field(default_factory=dict)
    customers: set[bytes] = field(default_factory=set)
    tombstones: dict[bytes, bytes] = field(default_factory=dict)

    def stored(self) -> Stored:
        return Stored(len(self.states), len(self.customers), len(self.due), len(self.tombstones))


class MemoryStore(ShardStore):
    """The store of one shard. `crashes`: its worker dies at the next commit. `vanishes`: keys that are gone by then."""

    def __init__(self, salt: bytes = b"salt") -> None:
        super().__init__(cast("Any", None), ShardKeys("memory", "orders", 0), salt)
        self.kept = StoredShard()
        self.crashes = False
        self.vanishes: tuple[str, ...] = ()

    def copy(self) -> StoredShard:
        """Copy the content. Assign the copy to `kept` to go back to it."""
        return deepcopy(self.kept)

    def lose(self, *names: str) -> None:
        """Lose keys behind an intact head: states, customers, due or tombstones."""
        for name in names:
            getattr(self.kept, name).clear()

    async def read_head(self) -> bytes | None:
        if self.kept.head is not None:
            self._check_counts(stored_of(self.kept.head), self.kept.stored())
        return self.kept.head

    async def is_empty(self) -> bool:
        return not any(self.kept.stored())

    async def load(
        self, head: bytes, keys: Sequence[bytes], horizon: int | None, limit: int, hold: Any = None
    ) -> Loaded:
        kept = self.kept
        self._compare((kept.head, *kept.stored()), head)
        left = {key: kept.tombstones.get(tombstone(key, self._salt)) for key in keys if key not in kept.states}
        opened = {key: self._opened(key, value) for key, value in left.items() if value is not None}
        values = [kept.states.get(key, opened.get(key)) for key in keys]
        fired = sorted((at, key) for key, at in kept.due.items() if horizon is not None and at < horizon)[:limit]
        return Loaded(
            values,
            [DueEntry(at, key, kept.states.get(key)) for at, key in fired],
            frozenset(opened),
            min((at for at in kept.due.values() if horizon is not None and at >= horizon), default=None),
        )

    async def former_tombstones(self, head: bytes | None, writes: Writes) -> dict[bytes, bytes]:
        if head is None or not writes.tombstones:
            return {}
        self._compare((self.kept.head, *self.kept.stored()), head)
        return {name: self.kept.tombstones[name] for name in writes.tombstones if name in self.kept.tombstones}

    async def load_slice(self, head: bytes, after: str, limit: int) -> tuple[list[tuple[bytes, bytes]], int, bytes]:
        self._compare((self.kept.head, *self.kept.stored()), head)
        names = sorted(name for name in self.kept.customers if name > after.encode() or not after)[:limit]
        rows = [(name, self.kept.states[name]) for name in names if name in self.kept.states]
        return rows, len(names), names[-1] if names else b""

    async def commit(self, expected: bytes | None, head: bytes, writes: Writes) -> bytes:
        if self.crashes:
            self.crashes = False
            raise Crash
        kept = self.kept
        self.lose(*self.vanishes)
        self.vanishes = ()
        if kept.head != expected:
            raise ShardLost("redis_head", "another head")
        self._check_counts(self._counted(expected), kept.stored())
        kept.states |= writes.states
        kept.customers |= set(writes.created)
        for key, at in writes.earlier.items():
            kept.due[key] = min(at, kept.due.get(key, at))
        kept.due |= writes.due
        for key in (*writes.idle, *writes.deleted):
            kept.due.pop(key, None)
        for key in writes.deleted:
            kept.states.pop(key, None)
            kept.customers.discard(key)
        for key in writes.created:
            kept.tombstones.pop(tombstone(key, self._salt), None)
        if writes.tombstones:
            kept.tombstones |= {**writes.tombstones, SALT_FIELD: self._salt_mark}
        kept.head = with_stored(head, kept.stored())
        return kept.head

    async def committed(self, head: bytes) -> bytes | None:
        return self.kept.head if self.kept.head == with_stored(head, self.kept.stored()) else None

    async def start_anew(self, head: bytes, states: Mapping[bytes, bytes]) -> None:
        self.kept = StoredShard(None, dict(states), {}, set(states))
        self.kept.head = with_stored(head, self.kept.stored())
