"""The status of a shard: its reason is shown only as long as it holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from redis.exceptions import RedisError

from stream.engine.status_board import StatusBoard
from stream.storage.heads import first_head


class Nowhere:
    """A Redis that can't be reached."""

    async def hset(self, *_: Any) -> int:
        raise RedisError


async def test_a_reason_is_shown_only_while_it_holds() -> None:
    board = StatusBoard(cast("Any", Nowhere()), "g", "orders", "me", lambda: 1_000)
    shard: Any = SimpleNamespace(partition=3)
    owned: Any = SimpleNamespace(head=first_head("cluster", (4, 4), 0))
    assert not await board.put(shard, "waiting for model", owned, reason="model_unknown", detail="v1")
    status = board.shards[3]
    assert (status.state, status.reason, status.detail) == ("waiting for model", "model_unknown", "v1")
    board.note(shard, owned)
    assert (status.state, status.reason, status.detail) == ("running", "", "")
