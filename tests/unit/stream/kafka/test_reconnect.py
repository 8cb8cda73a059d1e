from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from stream.kafka import reconnect


@pytest.mark.parametrize("name", ["client", "_client"])
async def test_only_a_connection_that_cannot_be_made_is_waited_behind(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[object | None] = [None, "made", None]
    waited: list[float] = []

    async def connect(node: int, *, group: str) -> object | None:
        assert (node, group) == (1, "a")
        return connections.pop()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    inner = SimpleNamespace(_get_conn=connect)
    reconnect.calm(SimpleNamespace(**{name: inner}))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert [await inner._get_conn(1, group="a") for _ in range(3)] == [None, "made", None]
    assert waited == [reconnect.PAUSE_S, reconnect.PAUSE_S]
