"""Servers for the recovery tests alone, because these tests kill them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.recovery.rig.servers import RigServers

WORKERS = 4


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RigServers]:
    """Start Kafka, two Valkeys, and proxies for four workers. A test must leave them healed."""
    with RigServers(tmp_path_factory.mktemp("recovery"), WORKERS) as made:
        yield made


@pytest.fixture(scope="session")
def seed() -> int:
    """Return the seed of the faults. SEED=… repeats a failure."""
    return int(os.environ.get("SEED", "1"))
