"""A Redis in memory: the commands that the engine uses, each atomic, and its scripts run by a real Lua 5.1."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from lupa.lua51 import LuaRuntime
from redis.exceptions import NoScriptError, ResponseError

Data = dict[bytes, Any]  # bytes, a hash (dict of bytes) or a sorted set (dict of floats), by key

_INFINITE: Final = {b"-inf": float("-inf"), b"+inf": float("inf")}


@cache
def _lua() -> Any:
    return LuaRuntime(encoding=None, unpack_returned_tuples=False)


@cache
def _compiled(script: str) -> Any:
    """Compile a script to a function, once for all runs of this process."""
    return _lua().eval(b"function(KEYS, ARGV, redis) " + script.encode() + b" end")


@cache
def _method(name: bytes) -> str:
    return "_" + name.decode().lower().replace(" ", "_")


def digest_of(script: str) -> str:
    return hashlib.sha1(script.encode()).hexdigest()


def copied(data: Data) -> Data:
    """Copy the content of a server."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}


def _score(value: bytes) -> tuple[float, bool]:
    """Return (a bound, whether it is excluded)."""
    excluded = value.startswith(b"(")
    text = value[1:] if excluded else value
    return _INFINITE[text] if text in _INFINITE else float(text), excluded


def _number(score: float) -> bytes:
    return b"%d" % score if score == int(score) else repr(score).encode()


class SimulatedRedisServer:
    """One server. Commands take bytes and return what Redis' protocol would."""

    def __init__(self, data: Data | None = None) -> None:
        self.data: Data = data or {}
        self.scripts: dict[str, str] = {}
        self.on_write: Callable[[], None] = lambda: None  # called after a script that has written
        self._changed = False

    def run(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """Run commands, nothing between them (MULTI)."""
        return [self.command(command[0], *command[1:]) for command in commands]

    def command(self, name: bytes, *arguments: bytes) -> Any:
        return getattr(self, _method(name))(*arguments)

    def _get(self, key: bytes) -> bytes | None:
        value: bytes | None = self.data.get(key)
        return value

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes | None:
        if b"NX" in options and key in self.data:
            return None
        self._changed = True
        self.data[key] = value
        return b"OK"

    def _exists(self, *keys: bytes) -> int:
        return sum(key in self.data for key in keys)

    def _del(self, *keys: bytes) -> int:
        self._changed = True
        return sum(self.data.pop(key, None) is not None for key in keys)

    def _hash(self, key: bytes) -> dict[bytes, Any]:
        found: dict[bytes, Any] = self.data.get(key, {})
        return found

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        return self._hash(key).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        found = self._hash(key)
        return [found.get(field) for field in fields]

    def _hgetall(self, key: bytes) -> dict[bytes, bytes]:
        return dict(self._hash(key))

    def _hlen(self, key: bytes) -> int:
        return len(self._hash(key))

    _zcard = _hlen

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        found = self.data.setdefault(key, {})
        before = len(found)
        found.update(zip(pairs[0::2], pairs[1::2], strict=True))
        return len(found) - before

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        found = self._hash(key)
        gone = sum(found.pop(field, None) is not None for field in fields)
        if not found:
            self.data.pop(key, None)
        return gone

    _zrem = _hdel

    def _zadd(self, key: bytes, *arguments: bytes) -> int:
        earlier = arguments[0] == b"LT"
        pairs = arguments[1:] if earlier else arguments
        found = self.data.setdefault(key, {})
        before = len(found)
        for text, member in zip(pairs[0::2], pairs[1::2], strict=True):
            score = float(text)
            if not earlier or member not in found or score < found[member]:
                found[member] = score
        return len(found) - before

    def _zscore(self, key: bytes, member: bytes) -> bytes | None:
        found = self._hash(key)
        return _number(found[member]) if member in found else None

    def _zrange(self, key: bytes, low: bytes, high: bytes, *options: bytes) -> list[bytes]:
        rows = sorted((score, member) for member, score in self._hash(key).items())
        offset, count = 0, len(rows)
        if b"LIMIT" in options:
            at = options.index(b"LIMIT")
            offset, count = int(options[at + 1]), int(options[at + 2])
        if b"BYLEX" in options:
            names = [member for _, member in rows]
            start = 0 if low == b"-" else bisect_left(names, low[1:]) + (low[:1] == b"(" and low[1:] in names)
            return names[start:][offset : offset + count]
        if b"BYSCORE" in options:
            (a, above), (b, below) = _score(low), _score(high)
            rows = [
                row for row in rows if (row[0] > a if above else row[0] >= a) and (row[0] < b if below else row[0] <= b)
            ]
        chosen = rows[offset : offset + count]
        if b"WITHSCORES" in options:
            return [part for score, member in chosen for part in (member, _number(score))]
        return [member for _, member in chosen]

    def _script_load(self, script: bytes) -> str:
        digest = digest_of(script.decode())
        self.scripts[digest] = script.decode()
        return digest

    def _evalsha(self, digest: bytes, count: bytes, *rest: bytes) -> Any:
        script = self.scripts.get(digest.decode())
        if script is None:
            raise NoScriptError("NOSCRIPT No matching script.")
        lua, keys = _lua(), int(count)
        _at_work.append(self)
        try:
            answer = _compiled(script)(lua.table_from(rest[:keys]), lua.table_from(rest[keys:]), _redis())
        finally:
            _at_work.pop()
        if self._changed:
            self._changed = False
            self.on_write()
        return _from_table(answer)


# The server whose script runs. Lua must not refer to a server itself: no collector sees such a cycle.
_at_work: list[SimulatedRedisServer] = []


@cache
def _redis() -> Any:
    return _lua().table_from({b"call": _call, b"error_reply": _error_reply})


def _call(name: bytes, *arguments: Any) -> Any:
    texts = [a if type(a) is bytes else _number(a) for a in arguments]
    answer = _at_work[-1].command(name, *texts)
    if answer is None:
        return False
    if isinstance(answer, list):
        return _lua().table_from([False if part is None else part for part in answer])
    return answer


def _error_reply(text: bytes) -> Any:
    return _lua().table_from({b"err": text})


def _from_table(answer: Any) -> Any:
    """Return a script's result as Redis does: numbers without fractions, nil for false."""
    if answer is None or answer is False:
        return None
    if isinstance(answer, float):
        return int(answer)
    if isinstance(answer, bytes | int):
        return answer
    if error := answer[b"err"]:
        raise ResponseError(error.decode())
    return [_from_table(answer[at]) for at in range(1, len(answer) + 1)]
