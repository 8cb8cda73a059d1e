"""redis-py's asynchronous client on the simulated server, as far as the engine uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import redis.exceptions

from tests.simulation.servers.redis_server import SimulatedRedisServer
from tests.simulation.virtual_loop import HOST
from tests.simulation.wire import Disconnected, SimulatedLink, SimulatedWire

REDIS: Final = "redis"


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class RedisPlace:
    """The address of Redis, and the server that answers there now. Old connections stay with the server before."""

    def __init__(self, server: SimulatedRedisServer) -> None:
        self.server = server


class _RedisCommands:
    """Commands as redis-py spells them."""

    def _run(self, *command: Any) -> Any:
        raise NotImplementedError

    def get(self, key: Any) -> Any:
        return self._run("GET", key)

    def set(self, key: Any, value: Any, *, nx: bool = False) -> Any:
        return self._run("SET", key, value, *(["NX"] if nx else []))

    def hget(self, key: Any, field: Any) -> Any:
        return self._run("HGET", key, field)

    def hmget(self, key: Any, fields: Sequence[Any]) -> Any:
        return self._run("HMGET", key, *fields)

    def hset(self, key: Any, field: Any = None, value: Any = None, *, items: Sequence[Any] = ()) -> Any:
        return self._run("HSET", key, *(items or (field, value)))

    def hdel(self, key: Any, *fields: Any) -> Any:
        return self._run("HDEL", key, *fields)

    def hlen(self, key: Any) -> Any:
        return self._run("HLEN", key)

    def zcard(self, key: Any) -> Any:
        return self._run("ZCARD", key)

    def zadd(self, key: Any, mapping: dict[Any, Any]) -> Any:
        return self._run("ZADD", key, *(part for member, score in mapping.items() for part in (score, member)))

    def zrange(self, key: Any, low: Any, high: Any, *, bylex: bool = False, offset: int = 0, num: int = -1) -> Any:
        assert bylex
        return self._run("ZRANGE", key, low, high, "BYLEX", "LIMIT", offset, num)

    def hgetall(self, key: Any) -> Any:
        return self._run("HGETALL", key)

    def exists(self, *keys: Any) -> Any:
        return self._run("EXISTS", *keys)

    def delete(self, *keys: Any) -> Any:
        return self._run("DEL", *keys)

    def script_load(self, script: str) -> Any:
        return self._run("SCRIPT LOAD", script)

    def evalsha(self, digest: Any, count: int, *rest: Any) -> Any:
        return self._run("EVALSHA", digest, count, *rest)


class SimulatedRedis(_RedisCommands):
    """The client of one process. It never retries, as the engine's own."""

    def __init__(self, place: RedisPlace, wire: SimulatedWire, timeout_s: float) -> None:
        self._place = place
        self._wire = wire
        self._timeout_s = timeout_s
        self._free: list[tuple[SimulatedLink, SimulatedRedisServer]] = []

    async def execute(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands together. Raises redis.exceptions.RedisError."""
        link, server = self._free.pop() if self._free else self._connect()
        if link.broken:
            link, server = self._connect()
        texts = [[part if type(part) is bytes else _text(part) for part in command] for command in commands]
        try:
            async with asyncio.timeout(self._timeout_s):
                answers: list[Any] = await self._wire.call(link, lambda: server.run(texts))
        except Disconnected:
            raise redis.exceptions.ConnectionError("the connection was closed") from None
        except TimeoutError:
            link.broken = True
            raise redis.exceptions.TimeoutError("no answer in time") from None
        except redis.exceptions.ResponseError:
            self._free.append((link, server))
            raise
        except BaseException:
            link.broken = True
            raise
        self._free.append((link, server))
        return answers

    def _connect(self) -> tuple[SimulatedLink, SimulatedRedisServer]:
        server = self._place.server
        return self._wire.link(HOST.get(), REDIS, server), server

    async def _run(self, *command: Any) -> Any:
        return (await self.execute([command]))[0]

    def pipeline(self, *, transaction: bool) -> SimulatedPipeline:
        return SimulatedPipeline(self)

    async def aclose(self) -> None: ...


class SimulatedPipeline(_RedisCommands):
    """Commands that are run together."""

    def __init__(self, client: SimulatedRedis) -> None:
        self._client = client
        self._commands: list[Sequence[Any]] = []

    def _run(self, *command: Any) -> None:
        self._commands.append(command)

    async def execute(self) -> list[Any]:
        return await self._client.execute(self._commands)
