"""Each undocumented part of redis-py and hiredis that is used, the version in which it was read, and that it works."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from importlib.metadata import version
from inspect import getmembers, isfunction
from typing import Any, NamedTuple, cast

import hiredis
import pytest
import redis
from pydantic import SecretStr
from redis.exceptions import RedisError

from stream.settings import Settings
from stream.storage import redis_internals as internals
from stream.storage.client import connect
from tests.support.paths import ROOT

INTERNALS = "stream/storage/redis_internals.py"
PUBLIC = {
    "redis", "redis.asyncio", "redis.asyncio.client", "redis.asyncio.lock", "redis.asyncio.retry", "redis.backoff",
    "redis.asyncio.sentinel", "redis.exceptions", "redis.lock", "redis.retry", "redis.sentinel",
}  # fmt: skip


class RedisTouch(NamedTuple):
    read_in: dict[str, str]  # distribution -> version
    names: Callable[[Any], dict[str, object]]  # path -> what it is in the installed version, of an engine's connection


# Read a function's counterpart in the new version before you change its line here.
TOUCHES: dict[str, RedisTouch] = {
    "pack_commands_in_c": RedisTouch(
        {"redis": "8.1.0", "hiredis": "3.5.0"},
        lambda connection: {
            "pack_command": redis_py_class(connection).pack_command,
            "hiredis.pack_command": hiredis.pack_command,
        },
    ),
    "translate_closed_transport": RedisTouch(
        {"redis": "8.1.0"},
        lambda connection: {"send_packed_command": redis_py_class(connection).send_packed_command},
    ),
    "url_options": RedisTouch({"redis": "8.1.0"}, lambda _: {"parse_url": redis.connection.parse_url}),
    "primary_async": RedisTouch(
        {"redis": "8.1.0"},
        lambda _: {
            "disconnect": redis.asyncio.sentinel.SentinelConnectionPool.disconnect,
            "aclose": redis.asyncio.sentinel.Sentinel.aclose,
        },
    ),
    "primary_sync": RedisTouch(
        {"redis": "8.1.0"},
        lambda _: {
            "disconnect": redis.sentinel.SentinelConnectionPool.disconnect,
            "sentinels": cast("Any", redis.sentinel.Sentinel)([("127.0.0.1", 1)]).sentinels,
        },
    ),
}


def redis_py_class(connection: object) -> Any:
    """Return the connection's class in redis-py, under those that were put over it."""
    return next(c for c in type(connection).__mro__ if c.__module__.startswith("redis."))


def a_connection(url: str = "redis://127.0.0.1:1/0") -> Any:
    return cast("Any", connect(Settings(redis_url=SecretStr(url))).connection_pool).make_connection()


def test_every_function_is_listed() -> None:
    here = {name for name, value in getmembers(internals, isfunction) if value.__module__ == internals.__name__}
    assert here == set(TOUCHES)


def test_the_installed_versions_are_those_that_were_read() -> None:
    read = {name for touch in TOUCHES.values() for name in touch.read_in.items()}
    assert {(name, of) for name, of in read if version(name).split(".")[:2] != of.split(".")[:2]} == set()


@pytest.mark.parametrize("function", TOUCHES)
async def test_what_a_function_touches_exists(function: str) -> None:
    assert all(TOUCHES[function].names(a_connection()).values())


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for package in ("segmentation", "stream", "trainer", "examples"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_no_other_module_touches_one() -> None:
    imported = {
        path
        for path, tree in _modules()
        for name in _imported(tree)
        if name.split(".")[0] == "hiredis" or (name.split(".")[0] == "redis" and name not in PUBLIC)
    }
    reached = {
        path
        for path, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"connection_pool", "connection_class", "connection_kwargs"}
    }
    assert imported == reached == {INTERNALS}


def test_importing_changes_nothing() -> None:
    kinds = {type(node) for node in ast.parse((ROOT / INTERNALS).read_text("utf-8")).body}
    assert kinds <= {ast.Expr, ast.ImportFrom, ast.Import, ast.If, ast.FunctionDef}


# rediss:// and unix:// have connection classes of their own.
@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0", "unix:///nowhere"])
async def test_a_transport_closed_under_a_command_is_a_lost_connection(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop raises it when Redis fails over while a worker shows its status (SEED=2 FAULTS=60 of the storm)."""

    async def closed(*_: object, **__: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    connection = a_connection(url)
    monkeypatch.setattr(redis_py_class(connection), "send_packed_command", closed)
    with pytest.raises(RedisError, match="the connection was closed"):
        await connection.send_packed_command(b"PING")


@pytest.mark.parametrize(
    "command",
    [
        ("HSET", "key", b"field", b"\x00\r\n\xff", 7, -(2**63), 2.5, "\u00e9", ""),
        ("SCRIPT LOAD", b"return 1"),
        (b"EVALSHA", "0" * 40, 1, b"key", *(b"%d" % n for n in range(10_000))),
    ],
)
async def test_commands_are_packed_as_redis_py_packs_them(command: tuple[object, ...]) -> None:
    connection = a_connection()
    by_redis_py = redis_py_class(connection).pack_command(connection, *command)
    assert b"".join(connection.pack_command(*command)) == b"".join(by_redis_py)
