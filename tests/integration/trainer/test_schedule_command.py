"""`segtrainer schedule` as a process: it trains, serves HTTP, reports failures, and ends on a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from redis import Redis
from typer.testing import CliRunner

from stream.kafka import topics
from stream.local.machine import free_port
from stream.settings import DeploymentSettings
from tests.support.paths import ROOT
from trainer import cli
from trainer.lock import lock_key
from trainer.registry.publish import read_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.settings import Settings as WorkerSettings

YEARLY = ("--cron", "0 0 1 1 *")  # never while a test runs


def eventually(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it didn't come about"
        time.sleep(0.05)
    return found


@pytest.fixture
async def mine(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> DeploymentSettings:
    names = ("kafka_bootstrap_servers", "group", "orders_topic", "models_topic", "reports_topic", "partitions")
    for name in names:
        monkeypatch.setenv(f"SEGSTREAM_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("SEGSTREAM_REDIS_URL", settings.redis_url.get_secret_value())
    assert await topics.check(settings) == []
    return DeploymentSettings()


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Write a file of 90 customers of three clearly different kinds."""
    rng, rows = np.random.default_rng(1), ["order_id,customer_id,ordered_at,amount"]
    for customer in range(90):
        kind = customer % 3
        for n in range((1, 5, 20)[kind]):
            day = np.datetime64("2026-01-01") + (0, 60, 115)[kind] + n // 4 + rng.integers(3)
            rows.append(f"{customer}-{n},c{customer},{day},{(10, 60, 400)[kind] + rng.integers(5)}.50")
    path = tmp_path / "orders.csv"
    path.write_text("\n".join(rows))
    return path


@contextmanager
def scheduler(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "schedule.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.cli", "schedule", *YEARLY, *arguments], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def asked(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.URLError:
        return ""


def remembered(mine: DeploymentSettings) -> dict[str, Any]:
    with Redis.from_url(mine.redis_url.get_secret_value()) as redis:
        raw = redis.get(f"{{{mine.group}:training}}:last")
    return msgspec.json.decode(raw) if isinstance(raw, bytes) else {}


def test_the_first_model_is_trained_at_once_and_the_rest_is_reported(
    mine: DeploymentSettings, orders: Path, tmp_path: Path
) -> None:
    port = free_port()
    run = ("--from", str(orders), "--min-customers", "20", "--k", "3", "--activate", "--force")
    with scheduler(tmp_path, "--when-no-model", "--http-port", str(port), "--", *run) as process:
        eventually(lambda: "segstream_training_runs_total{" in asked(port, "/metrics"))
        text = asked(port, "/metrics")
        health = msgspec.json.decode(eventually(lambda: asked(port, "/health")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert 'segstream_training_runs_total{outcome="succeeded"} 1.0' in text, (tmp_path / "schedule.log").read_text()
    assert (health["healthy"], health["last_outcome"]) == (True, "succeeded")
    assert health["next_run"].endswith("-01-01T00:00:00+00:00")
    active = read_models(mine).active
    assert active is not None
    assert (active.signature.by, active.signature.reason) == ("schedule", "no model is active yet")
    assert remembered(mine)["outcome"] == "succeeded"
    # The next scheduler knows of it, and doesn't train again.
    with scheduler(tmp_path, "--when-no-model", "--http-port", str(port), "--", *run):
        eventually(lambda: '"healthy": true' in asked(port, "/health"))
        assert msgspec.json.decode(asked(port, "/health"))["last_outcome"] == "succeeded"
    assert len(read_models(mine).history) == 1


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_touches_nothing(
    mine: DeploymentSettings, orders: Path, tmp_path: Path
) -> None:
    heard = tmp_path / "heard"
    program = tmp_path / "notify"
    program.write_text(f'#!/bin/sh\necho "$1 $SEGTRAINER_EXIT_CODE $SEGTRAINER_ATTEMPT $SEGTRAINER_ERROR" >> {heard}\n')
    program.chmod(0o755)
    run = ("--from", str(orders), "--min-customers", "5000")
    with scheduler(tmp_path, "--when-no-model", "--on-failure", f"{program} training", "--", *run):
        [line] = eventually(lambda: heard.exists() and heard.read_text().splitlines())
        eventually(lambda: remembered(mine).get("outcome") == "failed")
    assert line.startswith("training 1 1 segtrainer: ")
    assert "5000" in line.replace(",", "")
    assert read_models(mine).versions == {}


@pytest.mark.slow
def test_asked_to_end_it_ends_its_run_too(mine: DeploymentSettings, tmp_path: Path) -> None:
    fifo = tmp_path / "orders.csv"
    os.mkfifo(fifo)  # a run that reads it waits forever
    with Redis.from_url(mine.redis_url.get_secret_value()) as redis:
        with scheduler(tmp_path, "--when-no-model", "--", "--from", str(fifo)) as process:
            eventually(lambda: redis.exists(lock_key(mine)))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert remembered(mine)["outcome"] == "stopped"
        assert not redis.exists(f"{{{mine.group}:training}}:turn")


def test_a_run_by_hand_meanwhile_is_refused(
    mine: DeploymentSettings, orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Redis.from_url(mine.redis_url.get_secret_value()) as redis:
        redis.set(lock_key(mine), "shop-1 42 x", ex=60)
    monkeypatch.setattr("sys.argv", ["segtrainer", "run", "--from", str(orders), "--min-customers", "20"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 4
    assert read_models(mine).versions == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cron", "61 * * * *"], "Bad minute"),
        (["--zone", "Berlin"], "no time zone 'Berlin'"),
        (["--on-failure", " "], "SEGSTREAM_SCHEDULE_ON_FAILURE=' ': Value error, expected a command"),
        (["--http-port", "70000"], "SEGSTREAM_SCHEDULE_HTTP_PORT"),
    ],
)
def test_unusable_settings_are_refused_at_once(mine: DeploymentSettings, arguments: list[str], message: str) -> None:
    del mine
    result = CliRunner().invoke(cli.app, ["schedule", *arguments])
    assert result.exit_code == 1
    assert message in str(result.exception)


@pytest.mark.parametrize("arguments", [["--", "--kk", "5"], ["--", "--seed", "many"], ["--retries", "-1"]])
def test_options_that_run_would_refuse_are_refused_at_the_start(mine: DeploymentSettings, arguments: list[str]) -> None:
    del mine
    assert CliRunner().invoke(cli.app, ["schedule", *arguments]).exit_code == 2
