"""The secured servers, once for all tests of this folder."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stream.kafka import topics
from tests.support.secured.servers import SecuredServers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredServers]:
    """Start the servers, with the topics of a deployment of two partitions."""
    with SecuredServers(tmp_path_factory.mktemp("secured")) as servers:
        asyncio.run(topics.create(servers.administrator(partitions=2)))
        yield servers
