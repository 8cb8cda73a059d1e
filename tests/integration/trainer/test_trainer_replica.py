"""Training from a real replica: in sync, without its primary, and while it isn't ready."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from stream.local.machine import free_port
from stream.local.valkey_server import ValkeyServer
from stream.settings import DeploymentSettings
from tests.support.command_line import environment
from tests.support.data.redis_customers import Entries, fill, order, segtrainer
from trainer.errors import SnapshotError
from trainer.snapshot.redis import take

if TYPE_CHECKING:
    from pathlib import Path

    from stream.settings import Settings

HOST = "127.0.0.1"
T0 = 1_300_000_000_000
CLOCK = T0 + 300 * DAY_MS
# A primary waits 5 s for more replicas before it sends its data.
AT_ONCE = {"repl-diskless-sync-delay": "0"}


def customers(number: int = 300) -> Entries:
    rng = np.random.default_rng(5)
    days = rng.integers(0, 300, (number, 3)).cumsum(axis=1) % 300
    found = {
        f"c{i:03}".encode(): [
            order(f"{i}-{j}", T0 + int(day) * DAY_MS, float(rng.integers(5, 900)))
            for j, day in enumerate(sorted(row[: 1 + i % 3]))
        ]
        for i, row in enumerate(days)
    }
    found[b"last"] = [order("last", CLOCK, 30.0)]
    return found


@pytest.fixture
def worker(settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Create a deployment in event time with customers in the suite's Redis, and set its environment."""
    made = settings_for(time="event", partitions=3)
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    fill(made, customers())
    return made


@pytest.fixture
def valkeys(tmp_path: Path) -> Iterator[list[ValkeyServer]]:
    """Prepare two servers of the test's own, the second to be a replica."""
    made = [ValkeyServer(tmp_path / name, port=None, report=print, overrides=AT_ONCE) for name in ("one", "two")]
    yield made
    for server in made:
        server.kill()


def until(condition: Callable[[], Any], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def replication_info(redis: Redis) -> dict[str, Any]:
    found: dict[str, Any] = redis.info("replication")
    return found


def follow(redis: Redis, port: int) -> None:
    """Make a server a replica, and wait until it is in sync."""
    redis.replicaof(HOST, port)
    until(
        lambda: (
            replication_info(redis)["master_link_status"] == "up"
            and not replication_info(redis)["master_sync_in_progress"]
        )
    )


def reading(server: ValkeyServer, **others: Any) -> DeploymentSettings:
    return DeploymentSettings(redis_url=SecretStr(server.url), **others)


def test_a_replica_trains_the_same_model(
    worker: Settings,
    valkeys: list[ValkeyServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    replica = valkeys[1]
    replica.start()
    monkeypatch.setenv("SEGSTREAM_TRAINER_STABILITY_ROUNDS", "0")

    def train(**variables: str) -> tuple[str, str]:
        arguments = ("run", "--k", "4", "--force", "--dry-run", "--without-kafka", "--json")
        ended = segtrainer(monkeypatch, capsys, *arguments, **variables)
        assert ended.code == 0, ended.err
        found = json.loads(ended.out)
        return found["version"], found["as_of"]

    with Redis.from_url(replica.url) as redis, Redis.from_url(worker.redis_url.get_secret_value()) as primary:
        for name, value in AT_ONCE.items():
            primary.config_set(name, value)
        follow(redis, primary.connection_pool.connection_kwargs["port"])
        before = train()
        assert before[1] == iso(CLOCK)
        assert train(SEGSTREAM_TRAINER_REDIS_URL=replica.url) == before
        assert caplog.text == ""
        # Cut off, it stays at its own clock, whatever happens on the primary.
        redis.replicaof(HOST, free_port())
        fill(worker, {b"later": [order("later", CLOCK + DAY_MS, 30.0)]})
        assert train() != before
        assert train(SEGSTREAM_TRAINER_REDIS_URL=replica.url) == before
    assert re.search(
        r"is a replica, and lost its primary \d+ s ago: the customers are read as of .*, without later orders",
        caplog.text,
    )
    assert f"read as of {iso(CLOCK)}" in caplog.text


def test_in_wall_time_a_replica_stands_where_it_lost_its_primary(
    worker: Settings, valkeys: list[ValkeyServer], caplog: pytest.LogCaptureFixture
) -> None:
    primary, replica = valkeys
    for server in valkeys:
        server.start()
    fill(worker, customers(), url=primary.url)
    wall = reading(replica, time="wall")
    with Redis.from_url(replica.url) as redis:
        follow(redis, primary.port)
        now_ms = time.time_ns() // 1_000_000
        assert take(wall, None, now_ms=now_ms).as_of_ms == now_ms
        assert "is a replica" not in caplog.text
        assert "the last event in Redis at " in caplog.text
        primary.stop()
        lost_ms = time.time_ns() // 1_000_000
        # Then INFO reports 2 s or more, however long the stop itself took.
        until(lambda: replication_info(redis).get("master_link_down_since_seconds", -1) >= 2)
    later_ms = time.time_ns() // 1_000_000
    assert now_ms - 1000 <= take(wall, None, now_ms=later_ms).as_of_ms <= later_ms - 2000
    assert "lost its primary" in caplog.text
    assert take(wall, lost_ms + DAY_MS, now_ms=lost_ms).as_of_ms == lost_ms + DAY_MS
    assert take(reading(replica), None, now_ms=lost_ms).as_of_ms == CLOCK


@pytest.mark.usefixtures("worker")
def test_a_replica_without_data_is_reported(valkeys: list[ValkeyServer]) -> None:
    replica = valkeys[1]
    replica.start()
    with Redis.from_url(replica.url) as redis:
        redis.replicaof(HOST, free_port())
        with pytest.raises(SnapshotError, match=r"it is a replica, and has no link .* Wait until it is in sync"):
            take(reading(replica), None, now_ms=CLOCK)
        redis.config_set("replica-serve-stale-data", "no")
        with pytest.raises(
            SnapshotError, match="a replica without its primary: restore the link, or read from another"
        ):
            take(reading(replica), None, now_ms=CLOCK)


@pytest.mark.usefixtures("worker")
def test_a_replica_that_is_loading_is_reported(valkeys: list[ValkeyServer]) -> None:
    primary, replica = valkeys
    for server in valkeys:
        server.start()
    with Redis.from_url(primary.url) as redis:
        redis.mset({f"filler:{i}": os.urandom(2000) for i in range(200)})
    # Without the client's retries, which would wait until it has loaded.
    with Redis.from_url(replica.url, retry=Retry(NoBackoff(), 0)) as redis:
        # A slow disk: 30 ms a key, of incompressible bytes, since it handles clients after each kilobyte.
        redis.config_set("key-load-delay", 30_000)
        redis.config_set("loading-process-events-interval-bytes", 1024)
        redis.replicaof(HOST, primary.port)
        until(lambda: _loads(redis))
        with pytest.raises(SnapshotError, match=r"Redis at 127.0.0.1:\d+: .*loading.* wait until it has"):
            take(reading(replica), None, now_ms=CLOCK)


def _loads(redis: Redis) -> bool:
    try:
        redis.get("filler:1")
    except BusyLoadingError:
        return True
    return False


def test_a_redis_that_keeps_its_info_to_itself_is_read_as_a_primary(
    worker: Settings, valkeys: list[ValkeyServer]
) -> None:
    hosted = valkeys[0]
    hosted.start()
    fill(worker, customers(), url=hosted.url)
    with Redis.from_url(hosted.url) as redis:
        redis.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-info")
    url = SecretStr(hosted.url.replace("redis://", "redis://reader:secret@"))
    with Redis.from_url(url.get_secret_value()) as redis, pytest.raises(Exception, match="permission"):
        redis.info("replication")
    assert take(DeploymentSettings(redis_url=url), None, now_ms=CLOCK).as_of_ms == CLOCK


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Undo the command line's changes to the logging."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
