"""The engine's Redis client: what it raises where a connection goes."""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis.exceptions import RedisError

from stream.storage.client import connect


# rediss:// and unix:// have connection classes of their own.
@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0", "unix:///nowhere"])
async def test_a_transport_closed_under_a_command_is_a_lost_connection(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop tells it when Redis fails over while a worker shows its status (the recovery suite, SEED=2 FAULTS=60)."""

    async def closed(*_: object, **__: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    client = connect(url, 1)
    connection = cast("Any", client.connection_pool).make_connection()
    monkeypatch.setattr(type(connection).__mro__[1], "send_packed_command", closed)
    with pytest.raises(RedisError, match="the connection was closed"):
        await connection.send_packed_command(b"PING")
    await client.aclose()


@pytest.mark.parametrize(
    "command",
    [
        ("HSET", "key", b"field", b"\x00\r\n\xff", 7, -(2**63), 2.5, "\u00e9", ""),
        ("SCRIPT LOAD", b"return 1"),
        (b"EVALSHA", "0" * 40, 1, b"key", *(b"%d" % n for n in range(10_000))),
    ],
)
async def test_commands_are_packed_as_redis_py_packs_them(command: tuple[object, ...]) -> None:
    client = connect("redis://127.0.0.1:1/0", 1)
    connection = cast("Any", client.connection_pool).make_connection()
    by_redis_py = cast("Any", type(connection).__mro__[1]).pack_command(connection, *command)
    assert b"".join(connection.pack_command(*command)) == b"".join(by_redis_py)
    await client.aclose()
