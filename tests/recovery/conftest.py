"""The suite kills servers, so it has its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.recovery.rig.servers import RigServers

PLACES = 3


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RigServers]:
    """Kafka, two Valkeys, and wires for three workers. A test must leave them healed."""
    with RigServers(tmp_path_factory.mktemp("recovery"), PLACES) as made:
        yield made


@pytest.fixture(scope="session")
def seed() -> int:
    """SEED=… repeats a failure."""
    return int(os.environ.get("SEED", "1"))
