"""The status of a shard: its reason is shown only as long as it holds."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from redis.exceptions import RedisError

from stream.status.board import StatusBoard
from stream.storage.heads import first_head


class Nowhere:
    """A Redis that can't be reached."""

    async def hset(self, *_: Any) -> int:
        raise RedisError


async def test_a_reason_is_shown_only_while_it_holds() -> None:
    board = StatusBoard(cast("Any", Nowhere()), "g", "orders", "me", lambda: 1_000)
    shard: Any = SimpleNamespace(partition=3)
    head = first_head("cluster", (4, 4), 0)
    assert not await board.put(shard, "waiting for model", head, reason="model_unknown", detail="v1")
    status = board.shards[3]
    assert (status.state, status.reason, status.detail) == ("waiting for model", "model_unknown", "v1")
    board.note(shard, head)
    assert (status.state, status.reason, status.detail) == ("running", "", "")


class Noted:
    """A Redis that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    async def hset(self, _: str, partition: str, text: bytes) -> int:
        self.rows[partition] = json.loads(text)
        return 1


async def test_warnings_of_all_shards_and_of_one_are_shown_until_they_end() -> None:
    redis = Noted()
    board = StatusBoard(cast("Any", redis), "g", "orders", "me", lambda: 1_000)
    for partition in (0, 1):
        await board.put(cast("Any", SimpleNamespace(partition=partition)), "running")
    board.warn("all", "all.")
    board.warn(1, "one.")
    await board.refresh()
    assert [redis.rows[p]["warning"] for p in "01"] == ["all.", "all. one."]
    assert board.warnings == ["all.", "one."]
    board.warn("all", "")
    await board.refresh()
    assert [redis.rows[p]["warning"] for p in "01"] == ["", "one."]
    assert board.warnings == ["one."]
