"""A shard in Redis: its head, states and due index. One atomic load, one atomic commit; no decision is taken here.

Every commit compares the head with the one that this owner wrote last. It is refused where another owner wrote since,
or Redis was restored or flushed. Every call also compares what the shard's keys hold with what the head counts: where a
part has vanished behind an intact head, the shard is quarantined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from segmentation.step import DueEntry, Held, StateUnreadable
from stream.errors import ShardLost, ShardQuarantined
from stream.storage.heads import UNCOUNTED, Stored, stored_of, with_stored
from stream.storage.held_states import HeldStates
from stream.storage.keys import SALT_FIELD, ShardKeys, tombstone
from stream.storage.pieces import Ends, PieceWrites, ends_of, whole_or_lost
from stream.storage.reads import HeadUnreadable, ShardLostInPart, check_stored, parse_head
from stream.storage.remains import opened_remains, stored_remains
from stream.storage.scripts import COMMIT, DUE, HEAD

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

    from segmentation.step import Remnant, Step
    from stream.settings import Settings

MAX_SLICE: Final = 5_000  # most due customers of a load, because of Lua's unpack


@dataclass(slots=True)
class Writes:
    """The writes of a commit, besides the head."""

    states: dict[bytes, bytes] = field(default_factory=dict)
    held: dict[bytes, Held] = field(default_factory=dict)  # states held open, written where they have changed
    created: Sequence[bytes] = ()  # those of `states` that are new, or were erased before
    earlier: Mapping[bytes, int] = field(default_factory=dict)  # due times, only where absent or earlier
    due: Mapping[bytes, int] = field(default_factory=dict)
    idle: Sequence[bytes] = ()
    deleted: Sequence[bytes] = ()  # keys of customers who are gone: no trace of them stays
    tombstones: Mapping[bytes, bytes] = field(default_factory=dict)  # the rest of their states, by hash


class LeftBehind(NamedTuple):
    """The remains of customers that a turn sends to the topic of tombstones, by hash."""

    now: Mapping[bytes, bytes]
    before: Mapping[bytes, bytes]  # those that they replace


@dataclass(frozen=True, slots=True)
class Loaded:
    """An atomic read of the shard."""

    values: list[Any]  # bytes or None; states held open, where `load` may open them
    fired: list[DueEntry]
    erased: frozenset[bytes] = frozenset()  # keys whose values come from tombstones
    next_due: int | None = None  # the first instant (ms) in the due index that is not before the horizon

    def present(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return the keys that have a state. `keys`: those of the load."""
        return {
            key for key, value in zip(keys, self.values, strict=True) if value is not None and key not in self.erased
        }


class ShardStore:
    """One shard's part of Redis. Every call may raise redis.RedisError, which the engine answers with a takeover."""

    def __init__(self, redis: Redis, keys: ShardKeys, salt: bytes) -> None:
        """`redis`: shared by the shards of a worker. `salt`: hides the ids of customers who are gone."""
        self._redis = redis
        self._keys = keys
        self._salt = salt
        self._sha: dict[str, str] = {}
        self._any_erased = False
        self._held = HeldStates()
        self._divided: dict[bytes, Ends] = {}  # what Redis holds of customers whose states lie in pieces, where known

    @classmethod
    def of(cls, redis: Redis, settings: Settings, topic: str, partition: int) -> ShardStore:
        """Return the store of a shard of these settings. `topic`: the step's input."""
        return cls(redis, ShardKeys(settings.group, topic, partition), settings.salt)

    async def read_head(self) -> bytes | None:
        """Read the head's bytes, and load the scripts, which a restarted server has forgotten.

        Raises ShardQuarantined where a part of the shard has vanished, or where customers were erased under another
        salt: their late events would bring them back.
        """
        self._held.clear()
        self._divided.clear()
        self._sha = {script: await self._redis.script_load(script) for script in (COMMIT, HEAD, DUE)}
        pipe = self._redis.pipeline(transaction=True)
        self._ask(pipe)
        pipe.hget(self._keys.tombstones, cast("str", SALT_FIELD))
        (raw, *found), mark = await self._execute(pipe)
        self._any_erased = mark is not None
        if mark not in {None, self._salt_mark}:
            raise ShardQuarantined(
                "salt_changed",
                f"customers of {self._keys.shard} were erased under another salt than SEGSTREAM_ERASURE_SALT.",
                hint="Restore the salt: under another one, late events would bring erased customers back.",
            )
        if raw is not None:
            self._check_counts(stored_of(raw), found)
        return cast("bytes | None", raw)

    async def is_empty(self) -> bool:
        """Return whether nothing of the shard is there, whatever its head."""
        return not await self._redis.exists(*self._keys.all()[1:])

    async def agreed(self, otherwise: bytes | None) -> bytes | None:
        """Return the settings of the group's first worker. `otherwise`: these, where there was none before.

        Atomic: of two workers with other settings that begin at one moment, one is refused.
        """
        if otherwise is not None:
            await self._redis.set(self._keys.agreed, otherwise, nx=True)
        return cast("bytes | None", await self._redis.get(self._keys.agreed))

    async def change_agreed(self, settings: bytes) -> None:
        """Set what `agreed` returns (`segstream reconfigure`)."""
        await self._redis.set(self._keys.agreed, settings)

    async def partition_counts(self, partitions: int) -> set[int]:
        """Return the partition counts that the heads of all shards of the step name; unreadable ones are left out."""
        pipe = self._redis.pipeline(transaction=False)
        for p in range(partitions):
            pipe.get(replace(self._keys, partition=p).head)
        counts: set[int] = set()
        for raw in await self._execute(pipe):
            with contextlib.suppress(HeadUnreadable):
                counts |= set(parse_head(raw, self._keys.shard).partitions) if raw is not None else set()
        return counts

    @property
    def _salt_mark(self) -> bytes:
        return tombstone(b"", self._salt)

    def with_tombstones(self, writes: Writes, step: Step) -> Writes:
        """Return the writes with tombstones in place of the states of the gone, and their keys deleted elsewhere."""
        deleted = [key for key, value in writes.states.items() if step.is_gone(value)]
        if not deleted:
            return writes
        names = frozenset(deleted)
        return Writes(
            states={key: value for key, value in writes.states.items() if key not in names},
            held=writes.held,
            created=[key for key in writes.created if key not in names],
            earlier={key: at for key, at in writes.earlier.items() if key not in names},
            due={key: at for key, at in writes.due.items() if key not in names},
            idle=[key for key in writes.idle if key not in names],
            deleted=deleted,
            tombstones=dict(self._closed(key, writes.states[key], step) for key in deleted),
        )

    async def load(
        self,
        head: bytes,
        keys: Sequence[bytes],
        horizon: int | None,
        limit: int,
        hold: Callable[[bytes], Held | None] | None = None,
    ) -> Loaded:
        """Load states by key and up to `limit` customers due before `horizon`: one atomic call under the expected head.

        `hold`: opens large states of customers that come often; those held open already aren't loaded again. Raises
        ShardLost where the head is another, ShardQuarantined where a part of the shard has vanished.
        """
        held = {key: state for key in keys if (state := self._held.take(key))} if hold and len(self._held) else {}
        asked = [key for key in keys if key not in held] if held else keys
        pipe = self._redis.pipeline(transaction=True)
        self._ask(pipe)
        if asked:
            pipe.hmget(self._keys.states, cast("list[str]", asked))
        if horizon is not None:
            pipe.evalsha(self._sha[DUE], 2, self._keys.due, self._keys.states, str(horizon), str(min(limit, MAX_SLICE)))
        answers = await self._execute(pipe)
        self._compare(answers[0], head)
        values = cast("list[bytes | None]", answers[1]) if asked else []
        erased = await self._fill_in_erased(head, asked, values) if self._any_erased else frozenset()
        if horizon is None:
            await self._fill_in_pieces(head, asked, values)
            return Loaded(
                self._held.opened(keys, dict(zip(asked, values, strict=True)), held, hold, erased), [], erased
            )
        names, states, after = answers[-1]
        names, scores = names[0::2], names[1::2]
        if hold and len(self._held):
            held |= {name: state for name in names if (state := self._held.take(name))}
        others = [i for i, name in enumerate(names) if name not in held]
        found = [*values, *(states[i] for i in others)]
        await self._fill_in_pieces(head, [*asked, *(names[i] for i in others)], found)
        known = dict(zip(asked, found, strict=False))
        fired = {names[i]: value for i, value in zip(others, found[len(values) :], strict=True)} | held
        return Loaded(
            self._held.opened(keys, known, held, hold, erased),
            [DueEntry(int(float(at)), name, fired[name]) for name, at in zip(names, scores, strict=True)],
            erased,
            int(float(after[1])) if after else None,
        )

    async def _fill_in_pieces(self, head: bytes, keys: Sequence[bytes], values: list[bytes | None]) -> None:
        """Put together the states that lie in pieces. A request of its own, under the same head, as for the erased."""
        divided = dict[int, Ends]()
        for index, value in enumerate(values):
            self._divided.pop(keys[index], None)
            if (ends := ends_of(value)) is not None:
                divided[index] = self._divided[keys[index]] = ends
        if not divided:
            return
        fields = [name for index, ends in divided.items() for name in ends.fields(keys[index])]
        pipe = self._redis.pipeline(transaction=True)
        self._ask(pipe)
        pipe.hmget(self._keys.pieces, cast("list[str]", fields))
        counted, pieces = await self._execute(pipe)
        self._compare(counted, head)
        rest = iter(pieces)
        for index, ends in divided.items():
            values[index] = whole_or_lost(keys[index], ends, list(islice(rest, ends.pieces)), self._keys.shard)

    async def _fill_in_erased(self, head: bytes, keys: Sequence[bytes], values: list[bytes | None]) -> frozenset[bytes]:
        """Fill in the tombstones of keys without a state; return those keys.

        A request of its own, under the same head as the states: if Redis was set back in between, an erased customer
        would seem new, and the move that begins a second chain be published before any commit is refused. Raises as
        `load` does.
        """
        absent = [index for index, value in enumerate(values) if value is None]
        if not absent:
            return frozenset()
        found = await self._tombstones(head, [tombstone(keys[index], self._salt) for index in absent])
        for index, value in zip(absent, found, strict=True):
            values[index] = None if value is None else self._opened(keys[index], value)
        return frozenset(keys[index] for index in absent if values[index] is not None)

    async def _tombstones(self, head: bytes, names: Sequence[bytes]) -> list[bytes | None]:
        pipe = self._redis.pipeline(transaction=True)
        self._ask(pipe)
        pipe.hmget(self._keys.tombstones, cast("list[str]", names))
        counted, found = await self._execute(pipe)
        self._compare(counted, head)
        return cast("list[bytes | None]", found)

    async def former_tombstones(self, head: bytes | None, writes: Writes) -> dict[bytes, bytes]:
        """Return the tombstones that these writes will replace, by hash. Raises as `load` does."""
        names = list(writes.tombstones)
        if head is None or not names or not self._any_erased:
            return {}
        found = await self._tombstones(head, names)
        return {name: value for name, value in zip(names, found, strict=True) if value is not None}

    async def left_behind(
        self, head: bytes | None, writes: Writes, remnants: Mapping[bytes, Remnant], step: Step
    ) -> LeftBehind:
        """Return what goes to the topic of tombstones: those of these writes, and remnants of the living.

        Raises as `load` does.
        """
        now, known = dict(writes.tombstones), dict[bytes, bytes]()
        for key, remnant in remnants.items():
            name, value = self._closed(key, remnant.now, step)
            now.setdefault(name, value)  # of one who is gone there is a tombstone
            if remnant.before is not None:
                known |= [self._closed(key, remnant.before, step)]
        # Redis decides where it has one: a torn turn's outputs may be in the state that the step began with.
        return LeftBehind(now, known | await self.former_tombstones(head, Writes(tombstones=now)))

    def _closed(self, key: bytes, value: bytes, step: Step) -> tuple[bytes, bytes]:
        return stored_remains(value, key, self._salt, step.rank(value))

    def _opened(self, key: bytes, stored: bytes) -> bytes:
        try:
            return opened_remains(stored, key, self._salt)
        except StateUnreadable as error:
            raise ShardQuarantined(
                "state_format", f"a tombstone of {self._keys.shard} can't be read: {error}."
            ) from None

    async def load_slice(self, head: bytes, after: str, limit: int) -> tuple[list[tuple[bytes, bytes]], int, bytes]:
        """Load the next customers after `after`, in the order of their bytes.

        Return (customers with their states, the number of customers found, the last one). Those without a state are
        counted only. `after` "": from the first. Raises as `load` does.
        """
        # Two requests, each with the head: only the owner writes. In one script they cost more than twice as much.
        bound = b"(" + after.encode() if after else b"-"
        pipe = self._redis.pipeline(transaction=True)
        self._ask(pipe)
        pipe.zrange(self._keys.customers, cast("str", bound), "+", bylex=True, offset=0, num=limit)
        found, names = await self._execute(pipe)
        self._compare(found, head)
        if not names:
            return [], 0, b""
        pipe = self._redis.pipeline(transaction=True)
        self._ask(pipe)
        pipe.hmget(self._keys.states, names)
        found, values = await self._execute(pipe)
        self._compare(found, head)
        await self._fill_in_pieces(head, names, values)
        return [(n, v) for n, v in zip(names, values, strict=True) if v is not None], len(names), names[-1]

    async def commit(self, expected: bytes | None, head: bytes, writes: Writes) -> bytes:
        """Compare the head, write, and set the head, atomically. Return the new head's bytes, now with counts.

        `head`: without counts. Raises ShardLost where Redis holds another head than `expected`, ShardQuarantined where
        a part of the shard has vanished.
        """
        divided = PieceWrites.of(writes.held, (*writes.states, *writes.deleted), self._divided)
        states = [part for row in (writes.states | divided.states).items() for part in row]
        created = [part for key in writes.created for part in (b"0", key)]
        earlier = [part for key, at in writes.earlier.items() for part in (at, key)]
        due = [part for key, at in writes.due.items() for part in (at, key)]
        back = [tombstone(key, self._salt) for key in writes.created] if self._any_erased else []
        tombstones = [part for row in writes.tombstones.items() for part in row]
        if tombstones:
            self._any_erased = True
            tombstones += [SALT_FIELD, self._salt_mark]
        put = [part for row in divided.put.items() for part in row]
        lists: list[Sequence[bytes | int]] = [
            states, created, earlier, due, writes.idle, writes.deleted, back, tombstones, put, divided.deleted,
        ]  # fmt: skip
        counted = self._counted(expected)
        then = b"" if counted is None else b"%d,%d,%d,%d,%d" % counted
        arguments: list[bytes | int] = [expected or b"", head, then, *(len(part) for part in lists)]
        for part in lists:
            arguments += part
        sent = cast("list[str]", arguments)  # redis-py takes bytes and numbers too, its annotations only str
        done = await self._redis.evalsha(self._sha[COMMIT], 6, *self._keys.all(), *sent)
        if isinstance(done, list):
            self._check_counts(counted, done)
        if not isinstance(done, bytes):
            raise ShardLost("redis_head", "Redis holds another head than this owner wrote last.")
        divided.note(self._divided)
        self.keep(writes.held)
        return head.removesuffix(UNCOUNTED) + done

    def keep(self, held: Mapping[bytes, Held]) -> None:
        """Hold these states open, which are as Redis has them now."""
        self._held.keep_all(held)

    async def committed(self, head: bytes) -> bytes | None:
        """Return the bytes of this head in Redis, with its counts, after a commit whose outcome is unknown.

        None: Redis holds another head, so the commit failed. `head`: without counts.
        """
        found = cast("bytes | None", await self._redis.get(self._keys.head))
        return found if found is not None and found.startswith(head.removesuffix(UNCOUNTED)) else None

    async def start_anew(self, head: bytes, states: Mapping[bytes, bytes]) -> None:
        """Put these states, and nothing else, under this head, which comes last (`segstream rebuild`).

        Without a head no worker can own the shard. `head`: without counts.
        """
        pipe = self._redis.pipeline(transaction=True)
        pipe.delete(*self._keys.all())
        keys = list(states)
        for begin in range(0, len(keys), MAX_SLICE):
            await pipe.execute()
            rows = {key: states[key] for key in keys[begin : begin + MAX_SLICE]}
            pipe.hset(self._keys.states, items=[part for row in rows.items() for part in row])
            pipe.zadd(self._keys.customers, dict.fromkeys(rows, 0))
        pipe.set(self._keys.head, with_stored(head, Stored(len(keys), len(keys), 0, 0)))
        await pipe.execute()

    def _ask(self, pipe: Pipeline) -> None:
        """Ask for the head and the counts: one request, for `_compare`."""
        pipe.evalsha(self._sha[HEAD], 6, *self._keys.all())

    async def _execute(self, pipe: Pipeline) -> list[Any]:  # each answer has another type
        try:
            return await pipe.execute()
        except NoScriptError:
            raise ShardLost("redis_restarted", "Redis has lost the scripts: it was restarted.") from None

    def _compare(self, found: Sequence[Any], head: bytes) -> None:
        """Compare (head, counts) with the expected head. Raises ShardLost, ShardQuarantined."""
        if found[0] != head:
            raise ShardLost("redis_head", "Redis holds another head than this owner wrote last.")
        self._check_counts(stored_of(head), found[1:])

    @staticmethod
    def _counted(expected: bytes | None) -> Stored | None:
        """Return what a commit must find. None: the head is of a version that doesn't count."""
        return Stored(0, 0, 0, 0, 0) if expected is None else stored_of(expected)

    def _check_counts(self, counted: Stored | None, found: Sequence[int]) -> None:
        try:
            check_stored(counted, found, self._keys.shard)
        except ShardLostInPart as error:
            raise ShardQuarantined(error.reason, str(error)) from None
