"""A shard in Redis: its head, states and due index. One atomic load, one atomic commit; no decision is taken here.

Every commit compares the head with the one that this owner wrote last. It is refused where another owner wrote since,
or Redis was restored or flushed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from segmentation.step import DueEntry
from stream.errors import ShardLost, ShardQuarantined
from stream.storage.keys import SALT_FIELD, ShardKeys, tombstone

if TYPE_CHECKING:
    from redis.asyncio.client import Pipeline

# Lua's unpack takes fewer than 8,000 values. The arguments are checked before the first write, because Redis doesn't
# undo the writes of a script that fails.
COMMIT: Final = """
local head, states, due, customers, tombstones = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local counts = {}
local want = 10
for i = 1, 8 do
  counts[i] = tonumber(ARGV[2 + i])
  if counts[i] == nil then return redis.error_reply('ERR segstream: a count is missing') end
  want = want + counts[i]
end
if #ARGV ~= want then return redis.error_reply('ERR segstream: ' .. #ARGV .. ' arguments, not ' .. want) end
local now = redis.call('GET', head)
if (now or '') ~= ARGV[1] then return 0 end
local at = 11
local function each(n, f)
  local stop = at + n
  while at < stop do
    local last = math.min(at + 5999, stop - 1)
    f(at, last)
    at = last + 1
  end
end
each(counts[1], function(i, j) redis.call('HSET', states, unpack(ARGV, i, j)) end)
each(counts[2], function(i, j) redis.call('ZADD', customers, unpack(ARGV, i, j)) end)
each(counts[3], function(i, j) redis.call('ZADD', due, 'LT', unpack(ARGV, i, j)) end)
each(counts[4], function(i, j) redis.call('ZADD', due, unpack(ARGV, i, j)) end)
each(counts[5], function(i, j) redis.call('ZREM', due, unpack(ARGV, i, j)) end)
each(counts[6], function(i, j)
  redis.call('HDEL', states, unpack(ARGV, i, j))
  redis.call('ZREM', customers, unpack(ARGV, i, j))
  redis.call('ZREM', due, unpack(ARGV, i, j))
end)
each(counts[7], function(i, j) redis.call('HDEL', tombstones, unpack(ARGV, i, j)) end)
each(counts[8], function(i, j) redis.call('HSET', tombstones, unpack(ARGV, i, j)) end)
redis.call('SET', head, ARGV[2])
return 1
"""

DUE: Final = """
local found = redis.call('ZRANGE', KEYS[1], '-inf', '(' .. ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
local after = redis.call('ZRANGE', KEYS[1], ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
if #found == 0 then return {found, found, after} end
local names = {}
for i = 1, #found, 2 do names[#names + 1] = found[i] end
return {found, redis.call('HMGET', KEYS[2], unpack(names)), after}
"""

MAX_SLICE: Final = 5_000  # most due customers of a load, because of Lua's unpack


@dataclass(slots=True)
class Writes:
    """The writes of a commit, besides the head."""

    states: Mapping[bytes, bytes] = field(default_factory=dict)
    created: Sequence[bytes] = ()  # those of `states` that are new, or were erased before
    earlier: Mapping[bytes, int] = field(default_factory=dict)  # due times, only where absent or earlier
    due: Mapping[bytes, int] = field(default_factory=dict)
    idle: Sequence[bytes] = ()
    deleted: Sequence[bytes] = ()  # keys of erased customers: no trace of them stays
    tombstones: Mapping[bytes, bytes] = field(default_factory=dict)  # the rest of their states, by hash


@dataclass(frozen=True, slots=True)
class Loaded:
    """An atomic read of the shard."""

    values: list[bytes | None]
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
        """`redis`: shared by the shards of a worker. `salt`: hides the ids of erased customers."""
        self._redis = redis
        self._keys = keys
        self._salt = salt
        self._sha: dict[str, str] = {}
        self._any_erased = False

    async def read_head(self) -> bytes | None:
        """Read the head's bytes, and load the scripts, which a restarted server has forgotten.

        Raises ShardQuarantined where customers were erased under another salt: their late events would bring them back.
        """
        self._sha = {script: await self._redis.script_load(script) for script in (COMMIT, DUE)}
        mark = await self._redis.hget(self._keys.tombstones, cast("str", SALT_FIELD))
        self._any_erased = mark is not None
        if mark not in {None, self._salt_mark}:
            raise ShardQuarantined(
                "salt_changed",
                f"customers of {self._keys.shard} were erased under another salt than SEGSTREAM_ERASURE_SALT.",
                hint="Restore the salt: under another one, late events would bring erased customers back.",
            )
        return cast("bytes | None", await self._redis.get(self._keys.head))

    async def has_states(self) -> bool:
        """Return whether the shard has any customer, erased ones included."""
        return bool(await self._redis.exists(self._keys.states, self._keys.tombstones))

    @property
    def _salt_mark(self) -> bytes:
        return tombstone(b"", self._salt)

    def with_tombstones(self, writes: Writes, is_erased: Callable[[bytes], bool]) -> Writes:
        """Return the writes with tombstones in place of erased customers' states, and their keys deleted elsewhere."""
        deleted = [key for key, value in writes.states.items() if is_erased(value)]
        if not deleted:
            return writes
        names = frozenset(deleted)
        return Writes(
            states={key: value for key, value in writes.states.items() if key not in names},
            created=[key for key in writes.created if key not in names],
            earlier={key: at for key, at in writes.earlier.items() if key not in names},
            due={key: at for key, at in writes.due.items() if key not in names},
            idle=[key for key in writes.idle if key not in names],
            deleted=deleted,
            tombstones={tombstone(key, self._salt): writes.states[key] for key in deleted},
        )

    async def load(self, head: bytes, keys: Sequence[bytes], horizon: int | None, limit: int) -> Loaded:
        """Load states by key and up to `limit` customers due before `horizon`: one atomic call under the expected head.

        Raises ShardLost where the head is another.
        """
        pipe = self._redis.pipeline(transaction=True)
        pipe.get(self._keys.head)
        if keys:
            pipe.hmget(self._keys.states, cast("list[str]", keys))
        if horizon is not None:
            pipe.evalsha(self._sha[DUE], 2, self._keys.due, self._keys.states, str(horizon), str(min(limit, MAX_SLICE)))
        answers = await self._execute(pipe)
        self._compare(answers[0], head)
        values = cast("list[bytes | None]", answers[1]) if keys else []
        erased = await self._fill_in_erased(keys, values) if self._any_erased else frozenset()
        if horizon is None:
            return Loaded(values, [], erased)
        names, states, after = answers[-1]
        fired = [
            DueEntry(int(float(score)), name, value)
            for name, score, value in zip(names[0::2], names[1::2], states, strict=True)
        ]
        return Loaded(values, fired, erased, int(float(after[1])) if after else None)

    async def _fill_in_erased(self, keys: Sequence[bytes], values: list[bytes | None]) -> frozenset[bytes]:
        """Fill in the tombstones of keys without a state; return those keys.

        This isn't under the head of `load`, but a commit is refused where the head has changed since.
        """
        absent = [index for index, value in enumerate(values) if value is None]
        if not absent:
            return frozenset()
        names = [tombstone(keys[index], self._salt) for index in absent]
        found = cast("list[bytes | None]", await self._redis.hmget(self._keys.tombstones, names))
        for index, value in zip(absent, found, strict=True):
            values[index] = value
        return frozenset(keys[index] for index in absent if values[index] is not None)

    async def load_slice(self, head: bytes, after: str, limit: int) -> tuple[list[tuple[bytes, bytes]], int, bytes]:
        """Load the next customers after `after`, in the order of their bytes.

        Return (customers with their states, the number of customers found, the last one). Those without a state are
        counted only. `after` "": from the first. Raises ShardLost where the head is another.
        """
        # Two requests, each with the head: only the owner writes. In one script they cost more than twice as much.
        bound = b"(" + after.encode() if after else b"-"
        pipe = self._redis.pipeline(transaction=True)
        pipe.get(self._keys.head)
        pipe.zrange(self._keys.customers, cast("str", bound), "+", bylex=True, offset=0, num=limit)
        found, names = await self._execute(pipe)
        self._compare(found, head)
        if not names:
            return [], 0, b""
        pipe = self._redis.pipeline(transaction=True)
        pipe.get(self._keys.head)
        pipe.hmget(self._keys.states, names)
        found, values = await self._execute(pipe)
        self._compare(found, head)
        return [(n, v) for n, v in zip(names, values, strict=True) if v is not None], len(names), names[-1]

    async def commit(self, expected: bytes | None, head: bytes, writes: Writes) -> None:
        """Compare the head, write, and set the head, atomically. Raises ShardLost where the head is another."""
        states = [part for row in writes.states.items() for part in row]
        created = [part for key in writes.created for part in (b"0", key)]
        earlier = [part for key, at in writes.earlier.items() for part in (at, key)]
        due = [part for key, at in writes.due.items() for part in (at, key)]
        back = [tombstone(key, self._salt) for key in writes.created] if self._any_erased else []
        tombstones = [part for row in writes.tombstones.items() for part in row]
        if tombstones:
            self._any_erased = True
            tombstones += [SALT_FIELD, self._salt_mark]
        lists: list[Sequence[bytes | int]] = [
            states, created, earlier, due, writes.idle, writes.deleted, back, tombstones,
        ]  # fmt: skip
        arguments: list[bytes | int] = [expected or b"", head, *(len(part) for part in lists)]
        for part in lists:
            arguments += part
        sent = cast("list[str]", arguments)  # redis-py takes bytes and numbers too, its annotations only str
        done = await self._redis.evalsha(self._sha[COMMIT], 5, *self._keys.all(), *sent)
        if done != 1:
            raise ShardLost("redis_head", "Redis holds another head than this owner wrote last.")

    async def committed(self, head: bytes) -> bool:
        """Return whether Redis holds exactly this head: after a commit whose outcome is unknown."""
        return await self._redis.get(self._keys.head) == head

    async def seed(self, states: Mapping[bytes, bytes]) -> None:
        """Write states into a shard without a head, which no worker can own (`segstream rebuild`)."""
        keys = list(states)
        for begin in range(0, len(keys), MAX_SLICE):
            rows = {key: states[key] for key in keys[begin : begin + MAX_SLICE]}
            pipe = self._redis.pipeline(transaction=False)
            pipe.hset(self._keys.states, items=[part for row in rows.items() for part in row])
            pipe.zadd(self._keys.customers, dict.fromkeys(rows, 0))
            await pipe.execute()

    async def clear(self) -> None:
        """Delete the shard (`segstream rebuild`)."""
        await self._redis.delete(*self._keys.all())

    async def _execute(self, pipe: Pipeline) -> list[Any]:  # each answer has another type
        try:
            return await pipe.execute()
        except NoScriptError:
            raise ShardLost("redis_restarted", "Redis has lost the scripts: it was restarted.") from None

    def _compare(self, found: bytes | None, head: bytes) -> None:
        if found != head:
            raise ShardLost("redis_head", "Redis holds another head than this owner wrote last.")
