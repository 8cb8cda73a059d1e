"""The restore of docs/how-to/back-up.md on a Valkey that keeps append-only files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from stream.local.valkey_server import ValkeyServer


@contextmanager
def valkey(folder: Path, appendonly: str) -> Iterator[Redis]:
    """Run a Valkey, and connect to it."""
    server = ValkeyServer(folder, port=None, report=print, overrides={"appendonly": appendonly})
    server.start()
    try:
        with Redis.from_url(server.url) as redis:
            yield redis
    finally:
        server.stop()


def wait(redis: Redis, *names: str) -> None:
    """Wait until all of these fields of INFO are 0."""
    deadline = time.monotonic() + 60
    while any(redis.info("persistence")[name] for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_snapshot_is_restored_where_there_are_append_only_files(tmp_path: Path) -> None:
    backup = tmp_path / "backup.rdb"
    with valkey(tmp_path, "yes") as redis:
        redis.set("state", "of the backup")
        redis.bgsave()
        wait(redis, "rdb_bgsave_in_progress")
        shutil.copy(tmp_path / "dump.rdb", backup)
        redis.flushall()

    shutil.rmtree(tmp_path / "appendonlydir")
    shutil.copy(backup, tmp_path / "dump.rdb")
    with valkey(tmp_path, "yes") as redis:
        assert redis.dbsize() == 0, "the page warns of this"

    shutil.rmtree(tmp_path / "appendonlydir")
    shutil.copy(backup, tmp_path / "dump.rdb")
    with valkey(tmp_path, "no") as redis:
        assert redis.get("state") == b"of the backup"
        redis.config_set("appendonly", "yes")
        wait(redis, "aof_rewrite_in_progress", "aof_rewrite_scheduled")
        redis.set("written", "after the restore")
    with valkey(tmp_path, "yes") as redis:
        assert redis.mget("state", "written") == [b"of the backup", b"after the restore"]
