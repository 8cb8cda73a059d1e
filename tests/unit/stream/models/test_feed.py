"""The model feed of a worker whose permission to read the models is taken away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from stream.kafka.refusals import KafkaDenied
from stream.models import feed
from stream.settings import Settings


class DeniedConsumer:
    """A consumer that is denied its topic, and whose end then hangs, as aiokafka's may over TLS."""

    def __init__(self, **_: Any) -> None:
        self._topics = {Settings().models_topic}

    async def start(self) -> None:
        pass

    async def topics(self) -> set[str]:
        return self._topics

    def assign(self, _: object) -> None:
        pass

    async def seek_to_beginning(self, _: object) -> None:
        pass

    async def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(partitions, 0)

    async def getmany(self, *_: object, **__: object) -> None:
        raise TopicAuthorizationFailedError(*self._topics)

    async def stop(self) -> None:
        await asyncio.Event().wait()


async def test_a_denial_is_raised_though_the_consumer_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def allowed(*_: object) -> None:
        pass

    monkeypatch.setattr(feed, "AIOKafkaConsumer", DeniedConsumer)
    monkeypatch.setattr(feed, "raise_if_denied", allowed)
    monkeypatch.setattr(feed, "STOP_S", 0.01)
    models = feed.ModelFeed(Settings(), lambda *_: None)
    with pytest.raises(KafkaDenied, match=r"use the topic segment-models.*docs/security.md"):
        await asyncio.wait_for(models.run(), 10)
