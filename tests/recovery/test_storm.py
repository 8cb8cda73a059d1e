"""Random faults in full flow. SEED, FAULTS and MINUTES choose the run. Seeds that found something stay here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.recovery.rig.dispatching import RULES
from tests.recovery.rig.faults import DENIALS, FAULTS
from tests.recovery.rig.servers import SECURED, RigServers
from tests.recovery.rig.storm import storm
from tests.recovery.rig.world import settings_on, world

MINUTES = float(os.environ["MINUTES"]) if os.environ.get("MINUTES") else None
COUNT = int(os.environ.get("FAULTS", "24"))
DISPATCHER = 3  # the index of its wires
SECURED_COUNT = 12  # with seed 1, one of them takes a permission away

pytestmark = [pytest.mark.recovery, pytest.mark.timeout(1_200 + 60 * (MINUTES or 0) + 15 * COUNT)]


async def test_every_move_is_published_once_through_a_storm(servers: RigServers, tmp_path: Path, seed: int) -> None:
    """Campaigns are decided on meanwhile, where the rights of this suite's users let them."""
    async with world(servers, tmp_path, seed, settings_on(servers, rules_file=RULES)) as made:
        made.fleet.dispatchers = frozenset() if servers.security else frozenset({DISPATCHER})
        report = await storm(made, seed, COUNT, MINUTES)
    print(f"\n{report}")
    assert report.moves > 100
    assert report.decisions > 100 or servers.security


@pytest.mark.skipif(SECURED, reason="the storm above is a secured one")
async def test_the_same_where_kafka_and_redis_are_secured(tmp_path: Path, seed: int) -> None:
    """TLS, SCRAM and ACLs in force, and permissions that are taken away for a while."""
    with RigServers(tmp_path / "servers", 3, secured=True) as servers:
        async with world(servers, tmp_path / "run", seed, settings_on(servers)) as made:
            report = await storm(made, seed, SECURED_COUNT, None)
    print(f"\n{report}")
    assert report.moves > 100


def test_names_of_faults_are_unique() -> None:
    names = [fault.name for fault in FAULTS + DENIALS]
    assert len(names) == len(set(names))
