"""Fixtures of all tests: one real Kafka and Valkey a session, separate settings for each test, the real orders."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stream.kafka import topics
from stream.local.jars import KAFKA_VERSIONS
from stream.local.stack import LocalStack
from stream.settings import Settings
from stream.settings_sources import PREFIX
from tests.support.paths import EVERY_MOVE, TEST_DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Paths of this machine. All other variables are removed, so that tests don't depend on the environment.
_OF_THE_MACHINE = {"SEGSTREAM_CACHE_DIR", "SEGSTREAM_LOCAL_KAFKA_VERSION", "SEGSTREAM_TEST_DATA"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Mark tests by their fixtures, so that none can lack the marker.
    for item in items:
        if isinstance(item, pytest.Function) and {"stack", "newest_stack", "secured"} & set(item.fixturenames):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX) and name not in _OF_THE_MACHINE:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Start the session's Kafka and Valkey. A test that kills or suspends one must leave it running."""
    with LocalStack(tmp_path_factory.mktemp("stack"), report=print) as servers:
        yield servers


@pytest.fixture(scope="session")
def newest_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Start a Kafka of the newest version that the local stack has, and a Valkey."""
    with LocalStack(tmp_path_factory.mktemp("newest"), report=print, kafka_version=KAFKA_VERSIONS[-1]) as servers:
        yield servers


@pytest.fixture
def settings_for(stack: LocalStack) -> Callable[..., Settings]:
    """Return a maker of settings for the session's servers, with a group and topics that no other test has."""
    return _maker(stack)


@pytest.fixture
def settings_for_newest(newest_stack: LocalStack) -> Callable[..., Settings]:
    """Return a maker of settings for the newest Kafka."""
    return _maker(newest_stack)


def _maker(stack: LocalStack) -> Callable[..., Settings]:
    def make(**overrides: Any) -> Settings:
        mark = uuid.uuid4().hex[:12]
        base = Settings()
        named = {field: f"{getattr(base, field)}-{mark}" for field in Settings.model_fields if field.endswith("_topic")}
        chosen: dict[str, Any] = {
            "kafka_bootstrap_servers": stack.endpoints.kafka,
            "redis_url": stack.endpoints.redis,
            "group": f"group-{mark}",
            "partitions": 4,
            "rules_file": EVERY_MOVE,
            **named,
        }
        return Settings(**(chosen | overrides))

    return make


@pytest.fixture
async def settings(settings_for: Callable[..., Settings]) -> Settings:
    """Return settings of this test alone, with its topics created."""
    made = settings_for()
    await topics.create(made)
    return made


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real orders with their golden figures (SEGSTREAM_TEST_DATA). Skip where there is none."""
    if not TEST_DATA.is_dir():
        pytest.skip(f"no real orders at {TEST_DATA}: set SEGSTREAM_TEST_DATA")
    return TEST_DATA


@pytest.fixture
def quiet() -> Iterator[None]:
    """Restore the logging that `segtrainer`, run in this process, changes."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)
