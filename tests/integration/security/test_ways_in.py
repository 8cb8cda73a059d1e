"""Every process through each way into Kafka and Redis; the ACLs without which a process ends, and what it says."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engine.toy_engine import eventually
from tests.support.secured.programs import ENDED_BY_SIGNAL, Running, run, running
from tests.support.secured.rules import documented, grant, redis_users, revoke, set_redis_users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.secured.rules import KafkaRule
    from tests.support.secured.servers import SecuredServers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet"), pytest.mark.timeout(240)]

# The line of each process that says that it works.
WORKS = {
    "segstream worker": "owned from offset",
    "segstream dispatch": "owned from offset",
    "segstream adapters": "adapters of orders-unkeyed",
    "segtrainer schedule": "the next training is planned",
}
USERS = dict(zip(WORKS, ("worker", "dispatcher", "adapters", "trainer"), strict=True))


def works(process: Running, words: str) -> None:
    def said() -> bool:
        assert process.process.poll() is None, process.lines()
        return any(words in line for line in process.lines())

    asyncio.run(eventually(said, 90, f"{words!r} of {process.log.name}"))


@pytest.mark.parametrize("way", ["plain", "scram256", "oauth", "oauth_command", "certificate"])
def test_every_process_works_through_each_way(secured: SecuredServers, tmp_path: Path, way: str) -> None:
    with ExitStack() as stack:
        processes = {
            line: stack.enter_context(running(secured.settings(user, way), line, tmp_path / f"{user}.log"))
            for line, user in USERS.items()
        }
        for line, process in processes.items():
            works(process, WORKS[line])
        run(secured.settings("reader", way), "segstream status")
        run(secured.settings("trainer", way), "segtrainer list")
        for process in processes.values():
            code, lines = process.stop()
            assert (code, lines[-1]) == (0, ENDED_BY_SIGNAL[process.program]), lines


# By user: which of its permissions is taken away, and what its process then says. (One that only an output needs is
# missed at the first output.)
DENIED = [
    ("segstream worker", "Read topic orders", "use the topic orders."),
    ("segstream worker", "Read topic segment-models", "use the topic segment-models."),
    ("segstream worker", "Read topic segment-rates", "use the topic segment-rates."),
    ("segstream worker", "Read group segstream", "use the consumer group segstream."),
    ("segstream worker", "Write transactional-id segstream-orders-*", "use the transactional id segstream-orders-"),
    ("segstream dispatch", "Read group segstream-campaigns", "use the consumer group segstream-campaigns."),
    ("segstream adapters", "Read topic orders-unkeyed", "use the topic orders-unkeyed."),
    ("segstream adapters", "Read group segstream-adapters", "use the consumer group segstream-adapters."),
]


@pytest.fixture
def without(secured: SecuredServers, request: pytest.FixtureRequest) -> Iterator[KafkaRule]:
    """Take one documented permission away for the test."""
    line, name, _ = request.param
    [rule] = [r for r in documented() if r.principal == f"User:{USERS[line]}" and str(r) == name]
    asyncio.run(revoke(secured.administrator(), rule))
    yield rule
    asyncio.run(grant(secured.administrator(), [rule]))


@pytest.mark.parametrize(("without", "denied"), [(row, row) for row in DENIED], indirect=["without"], ids=str)
def test_without_a_permission_the_process_ends_and_names_it(
    secured: SecuredServers, tmp_path: Path, without: KafkaRule, denied: tuple[str, str, str]
) -> None:
    line, name, words = denied
    assert str(without) == name
    with running(secured.settings(USERS[line]), line, tmp_path / "stderr.log") as process:
        code, lines = process.ended(90)
    assert code == 1
    assert lines[-1].startswith(f"segstream: Kafka doesn't let user '{USERS[line]}' (SEGSTREAM_KAFKA_SASL_USERNAME)")
    assert words in lines[-1]
    assert "docs/security.md" in lines[-1]


@pytest.mark.parametrize("command", ["get", "evalsha"])
def test_without_a_command_of_redis_the_worker_ends_and_names_it(
    secured: SecuredServers, tmp_path: Path, command: str
) -> None:
    rules = redis_users()["worker"]
    set_redis_users(secured.redis, {"worker": [rule for rule in rules if rule != f"+{command}"]})
    try:
        with running(secured.settings("worker"), "segstream worker", tmp_path / "stderr.log") as process:
            code, lines = process.ended(90)
    finally:
        set_redis_users(secured.redis, {"worker": rules})
    assert code == 1
    assert f"'{command}'" in lines[-1]
    assert "SEGSTREAM_REDIS_URL" in lines[-1]
