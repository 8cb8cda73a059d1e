"""A membership whose permission is taken away while a shard waits to be confirmed."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError, TopicAuthorizationFailedError

from stream.kafka.membership import GroupMembership
from stream.kafka.refusals import KafkaDenied
from stream.settings import Settings


class FailingConsumer:
    """A consumer whose commit fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def committed(self, _: object) -> int:
        return 7

    async def commit(self, _: object) -> None:
        raise self._error


def member(monkeypatch: pytest.MonkeyPatch, error: Exception) -> GroupMembership:
    def made(**_: Any) -> FailingConsumer:
        return FailingConsumer(error)

    monkeypatch.setattr("stream.kafka.membership.AIOKafkaConsumer", made)
    membership = GroupMembership(Settings(), "orders", "segstream")
    membership.assigned = frozenset({0})
    return membership


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TopicAuthorizationFailedError({"orders"}), "the topic orders."),
        (GroupAuthorizationFailedError("segstream"), "the consumer group segstream."),
    ],
)
async def test_a_denial_is_raised(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    with pytest.raises(KafkaDenied, match=words):
        await member(monkeypatch, error).confirm(0)


async def test_a_broker_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await member(monkeypatch, KafkaConnectionError("away")).confirm(0)
