"""The end of the former shards: how errors of several shards come out of one command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from stream.errors import ShardQuarantined
from stream.kafka.refusals import KafkaDenied
from stream.kafka.streams import streams_of
from stream.reshard import sealing
from stream.reshard.sealing import AT_ONCE, Sealer
from stream.settings import Settings
from stream.storage.client import connect
from stream.worker.steps import scoring_step

SETTINGS = Settings(partitions=3 * AT_ONCE)


@asynccontextmanager
async def a_sealer() -> AsyncIterator[Sealer]:
    redis = connect(SETTINGS)
    try:
        yield Sealer(SETTINGS, streams_of(SETTINGS, "scoring"), scoring_step(SETTINGS), redis, 48)
    finally:
        await redis.aclose()


async def test_a_refusal_ends_the_command_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def refused(context: Any, *_: object) -> None:
        asked.append(context.partition)
        raise TopicAuthorizationFailedError("segstream-scoring-heads")

    monkeypatch.setattr(sealing, "take_over", refused)
    async with a_sealer() as sealer:
        with pytest.raises(KafkaDenied, match="segstream-scoring-heads"):
            await asyncio.wait_for(sealer.look(), 5)
    assert len(asked) == len(set(asked)), "asked again"


async def test_the_first_error_ends_the_other_shards_too(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = set[int](), set[int]()

    async def take_over(context: Any, *_: object) -> None:
        begun.add(context.partition)
        try:
            await asyncio.sleep(0 if context.partition == 2 else 60)
        finally:
            ended.add(context.partition)
        raise ShardQuarantined("state_format", "unreadable")

    monkeypatch.setattr(sealing, "take_over", take_over)
    async with a_sealer() as sealer:
        with pytest.raises(ShardQuarantined, match="unreadable"):
            await asyncio.wait_for(sealer.look(), 5)
    assert set(range(AT_ONCE)) <= begun == ended
    assert len(begun) < SETTINGS.partitions
