"""The errors that are translated as Kafka's or Redis's, and those that aren't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError
from pydantic import SecretStr

from stream.kafka.clients import KafkaUnreachable, _connected
from stream.settings import Settings
from stream.storage.client import RedisUnreachable, redis_client

if TYPE_CHECKING:
    from collections.abc import Callable


class Client:
    """Stands in for a consumer or producer; `start` may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.stopped = error, False

    async def start(self) -> None:
        if self.error:
            raise self.error

    async def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError(), KafkaConnectionError("refused")])
async def test_any_error_in_connecting_is_kafka_s(error: Exception) -> None:
    client: Any = Client(error)
    with pytest.raises(KafkaUnreachable, match=r"Kafka at 127\.0\.0\.1:9092: .*segstream local up"):
        async with _connected(Settings(), client):
            pass
    assert client.stopped


@pytest.mark.parametrize("make", [TimeoutError, lambda: KafkaError("closed")])
async def test_an_error_that_kafka_raises_later_is_kafka_s_too(make: Callable[[], Exception]) -> None:
    client: Any = Client()
    with pytest.raises(KafkaUnreachable):
        async with _connected(Settings(), client):
            raise make()
    assert client.stopped


@pytest.mark.parametrize("error", [BrokenPipeError(), PermissionError(), FileNotFoundError()])
async def test_the_block_s_own_errors_stay_what_they_are(error: OSError) -> None:
    client: Any = Client()
    with pytest.raises(type(error)):
        async with _connected(Settings(), client):
            raise error
    assert client.stopped


@pytest.mark.parametrize("url", ["nonsense", "redis://:se/cret@127.0.0.1", "redis://a..b:6379/0"])
def test_an_invalid_redis_url_is_reported_without_its_password(url: str) -> None:
    settings = Settings(redis_url=SecretStr(url))
    with (
        pytest.raises(RedisUnreachable, match="SEGSTREAM_REDIS_URL isn't a Redis URL") as caught,
        redis_client(settings),
    ):
        pass
    assert url not in str(caught.value)
    assert "se" not in str(caught.value).replace("SEGSTREAM", "")
