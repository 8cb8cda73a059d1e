"""A Redis that evicts keys is refused when a worker starts, and shown in its status where it begins to later."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from stream.kafka import topics
from stream.local.valkey_server import ValkeyServer
from stream.settings import Settings
from stream.storage.client import connect, redis_client
from stream.storage.eviction import RedisEvicts, check_eviction, eviction_warning
from tests.support.command_line import environment
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Start a Redis that is set up as a cache."""
    folder = tmp_path_factory.mktemp("cache")
    overrides = {"maxmemory": "200mb", "maxmemory-policy": "allkeys-lru"}
    server = ValkeyServer(folder, port=None, report=print, overrides=overrides)
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("command", ["worker", pytest.param("dispatch", marks=pytest.mark.slow)])
async def test_a_cache_is_refused_in_one_line(
    settings_for: Callable[..., Settings], cache: ValkeyServer, command: str
) -> None:
    settings = settings_for(redis_url=cache.url, partitions=1)
    await topics.create(settings)
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "stream.cli", command],
        env=os.environ | environment(settings), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    *others, line = ended.stderr.splitlines()
    # The dispatcher says first, in one line too, that these tests' rules are of version 1.
    assert ["rules of version 1" in other for other in others] == ([True] if command == "dispatch" else [])
    assert f"Redis at {cache.address}: its maxmemory-policy is allkeys-lru" in line
    assert "SEGSTREAM_REDIS_EVICTION_ALLOWED" in line


@pytest.mark.parametrize(
    ("policy", "maxmemory", "refused"),
    [("allkeys-lru", 0, True), ("volatile-ttl", 10**8, True), ("noeviction", 10**8, False)],
)
def test_any_policy_that_evicts_is_refused(cache: ValkeyServer, policy: str, maxmemory: int, refused: bool) -> None:
    with Redis.from_url(cache.url) as redis:
        before = redis.config_get("maxmemory*")
        redis.config_set("maxmemory-policy", policy)
        redis.config_set("maxmemory", maxmemory)
    settings = Settings(redis_url=SecretStr(cache.url))
    try:
        with redis_client(settings) as client:
            if refused:
                with pytest.raises(RedisEvicts, match=policy):
                    check_eviction(settings, client)
            else:
                check_eviction(settings, client)
            check_eviction(settings.model_copy(update={"redis_eviction_allowed": True}), client)
    finally:
        with Redis.from_url(cache.url) as redis:
            for name in ("maxmemory", "maxmemory-policy"):
                redis.config_set(name, before[name])


def test_a_user_without_config_is_refused_too_and_one_without_info_is_warned(
    cache: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis.from_url(cache.url) as redis:
        redis.acl_setuser("managed", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config"])
        redis.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config", "-info"])
    for user, refused in (("managed", True), ("narrow", False)):
        url = cache.url.replace("redis://", f"redis://{user}:x@")
        settings = Settings(redis_url=SecretStr(url))
        with redis_client(settings) as client, caplog.at_level(logging.WARNING):
            if refused:
                with pytest.raises(RedisEvicts):
                    check_eviction(settings, client)
                assert not caplog.records
            else:
                check_eviction(settings, client)
                assert "doesn't tell its maxmemory-policy" in caplog.text


async def test_a_policy_that_is_changed_later_is_warned_of(cache: ValkeyServer, tmp_path: Path) -> None:
    redis = connect(Settings(redis_url=SecretStr(cache.url)))
    await redis.config_set("maxmemory-policy", "noeviction")
    assert await eviction_warning(redis, "") == ""
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    warning = await eviction_warning(redis, "")
    assert "allkeys-lru" in warning
    await redis.aclose()
    gone = connect(Settings(redis_url=SecretStr(f"unix://{tmp_path}/nobody.sock")))
    assert await eviction_warning(gone, warning) == warning
    await gone.aclose()
