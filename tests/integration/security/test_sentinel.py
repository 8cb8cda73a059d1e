"""A fail-over by a real Sentinel under a real worker: the takeover finds the new primary."""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import RedisError

from segmentation.events import Amount, OrderPlaced
from stream.local.machine import HOST, free_port
from stream.local.valkey_server import ValkeyServer, _binary
from stream.storage.client import redis_client
from tests.support.command_line import run
from tests.support.engine.real_worker import processes
from tests.support.engine.toy_engine import eventually
from tests.support.orders import send_events
from tests.support.secured.programs import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
MASTER, PASSWORD, SENTINELS = "shop", "redis-password", "sentinel-password"


@contextmanager
def sentinel(folder: Path, primary: ValkeyServer) -> Iterator[int]:
    """Run a Sentinel that watches the primary; yield its port."""
    port = free_port()
    folder.mkdir()
    config = folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind {HOST}\ndir {folder}\nrequirepass {SENTINELS}\n"
        f"sentinel monitor {MASTER} {HOST} {primary.port} 1\nsentinel auth-pass {MASTER} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 10000\n"
    )
    process = subprocess.Popen([_binary(), config, "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def replicated(folder: Path) -> Iterator[tuple[ValkeyServer, ValkeyServer, int]]:
    """Run a primary, a replica that is in step, and a Sentinel that knows both; yield them and the Sentinel's port."""
    with ExitStack() as stack:
        password = {"masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
        primary = ValkeyServer(folder / "primary", port=None, report=print, overrides=password)
        stack.callback(primary.stop)
        primary.start()
        replica = ValkeyServer(
            folder / "replica", port=None, report=print, overrides=password | {"replicaof": f"{HOST} {primary.port}"}
        )
        stack.callback(replica.stop)
        replica.start()
        for server in (primary, replica):  # the probe of a start has no password
            with Redis.from_url(server.url) as redis:
                redis.config_set("requirepass", PASSWORD)
        port = stack.enter_context(sentinel(folder / "sentinel", primary))
        with Redis(host=HOST, port=port, password=SENTINELS, decode_responses=True) as asked:

            async def in_step() -> bool:
                found = asked.sentinel_slaves(MASTER)
                return bool(found) and found[0]["master-link-status"] == "ok"

            asyncio.run(eventually(in_step, 60, "a replica in step"))
        yield primary, replica, port


def states(redis: Redis) -> int:
    return sum(int(redis.hlen(name)) for name in redis.scan_iter(match="*:states", count=1_000))


def by_sentinel(settings: Settings) -> int:
    with redis_client(settings) as redis:
        return states(redis)


def known(server: ValkeyServer) -> int:
    try:
        with Redis.from_url(f"redis://:{PASSWORD}@{server.address}/0") as redis:
            return states(redis)
    except RedisError:  # a Sentinel that promotes a server closes its connections
        return 0


def placed(customers: range) -> list[OrderPlaced]:
    return [
        OrderPlaced(
            id=f"o{n}",
            order_id=f"o{n}",
            customer_id=f"c{n}",
            occurred_at=datetime.now(UTC),
            amount=Amount("5.00", "USD"),
        )
        for n in customers
    ]


def test_a_worker_follows_the_sentinels_to_the_new_primary(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    with replicated(tmp_path / "redis") as (primary, replica, port):
        settings = settings_for(
            redis_url=f"redis://:{PASSWORD}@nowhere.invalid:1/0",
            redis_sentinels=f"{HOST}:1,{HOST}:{port}",
            redis_sentinel_master=MASTER,
            redis_sentinel_password=SENTINELS,
            redis_timeout_s=3,
            partitions=2,
        )
        run(settings, "topics", "create")
        for wrong, words in (
            ({"redis_sentinel_master": "unknown"}, "SEGSTREAM_REDIS_SENTINEL_MASTER"),
            ({"redis_sentinel_password": "wrong"}, "SEGSTREAM_REDIS_SENTINEL_PASSWORD"),
            ({"redis_url": "redis://:wrong@nowhere.invalid/0"}, "SEGSTREAM_REDIS_URL"),
        ):
            values = settings_for(**wrong).model_dump(include=set(wrong))
            line = refused(settings.model_copy(update=values), "segstream forecast")
            assert words in line
            assert "wrong" not in line
        with processes(settings, tmp_path / "logs", "worker"):
            asyncio.run(send_events(settings, *placed(range(50))))
            asyncio.run(eventually(lambda: by_sentinel(settings) == 50, 60, "the states before"))
            primary.kill()
            asyncio.run(send_events(settings, *placed(range(50, 100))))
            began = time.monotonic()
            asyncio.run(eventually(lambda: known(replica) == 100, 90, "the states in the new primary"))
            assert time.monotonic() - began < 60
            run(settings, "status")
