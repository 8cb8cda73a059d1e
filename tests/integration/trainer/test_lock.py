"""The lock of trainings on a real Valkey: one training at a time, and only its holder renews and releases it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from stream.settings import DeploymentSettings
from trainer.errors import LockUnreachable, TrainingBusy
from trainer.lock import lock_key, training_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.settings import Settings as WorkerSettings


def _settings(worker: WorkerSettings) -> DeploymentSettings:
    return DeploymentSettings(redis_url=worker.redis_url, group=worker.group)


def test_two_trainings_exclude_each_other(settings_for: Callable[..., WorkerSettings]) -> None:
    mine = _settings(settings_for())
    with (
        training_lock(mine),
        pytest.raises(TrainingBusy, match=r"another training is under way: process \d+ on "),
        training_lock(mine),
    ):
        pass
    with training_lock(mine):
        pass


def test_the_lock_is_renewed_while_the_training_lasts_and_released_only_by_its_holder(
    settings_for: Callable[..., WorkerSettings],
) -> None:
    mine = _settings(settings_for())
    with Redis.from_url(mine.redis_url.get_secret_value()) as server:
        with training_lock(mine, renew_s=0.01):
            server.pexpire(lock_key(mine), 5_000)
            deadline = time.monotonic() + 10
            while int(server.pttl(lock_key(mine))) < 30_000:
                assert time.monotonic() < deadline
            server.set(lock_key(mine), "another 1 x")
        assert server.get(lock_key(mine)) == b"another 1 x"
        with pytest.raises(TrainingBusy, match="process 1 on another"), training_lock(mine):
            pass


def test_without_redis_nothing_is_trained() -> None:
    with (
        pytest.raises(LockUnreachable, match=r"Redis at 127\.0\.0\.1:1: .*Check SEGSTREAM_REDIS_URL"),
        training_lock(DeploymentSettings(redis_url="redis://:secret@127.0.0.1:1/0")),
    ):
        pass
    with (
        pytest.raises(LockUnreachable, match="isn't a Redis URL"),
        training_lock(DeploymentSettings(redis_url="nonsense")),
    ):
        pass
