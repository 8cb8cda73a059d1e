"""`segtrainer report` on a real Kafka: the reports that runs keep, and the errors where there is none."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from typer.testing import CliRunner

from bench.harness.model import bench_model
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.settings import DeploymentSettings
from tests.support.command_line import environment
from trainer import cli
from trainer.errors import GatesFailed, TrainerError
from trainer.outcome import TrainingOutcome
from trainer.registry.publish import publish, read_models

if TYPE_CHECKING:
    from pathlib import Path

    from stream.settings import Settings as WorkerSettings

pytestmark = pytest.mark.usefixtures("quiet")
NOW = 1_300_000_000_000
CUSTOMERS = [f"ada.{number:02}@example.org" for number in range(90)]
FILES = {"report.html", "report.md", "report.json"}


@pytest.fixture
def worker(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    """Create the topics of a deployment, and set its environment."""
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert asyncio.run(topics.check(settings)) == []
    return settings


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Write a file of customers of three clearly different kinds."""
    rng, rows = np.random.default_rng(1), ["order_id,customer_id,ordered_at,amount"]
    for number, customer in enumerate(CUSTOMERS):
        kind = number % 3
        for order in range(1 + 4 * kind):
            day = 1 + int(rng.integers(0, 9)) + 9 * kind
            rows.append(
                f"{number}-{order},{customer},2011-0{3 + kind}-{day:02},{(1 + kind) * 20 + rng.uniform(0, 5):.2f}"
            )
    path = tmp_path / "orders.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def invoke(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=code != 0)
    assert result.exit_code == code, result.output
    return result


def train(orders: Path, *arguments: str, k: int = 3) -> dict[str, Any]:
    """Run once, and return its JSON."""
    chosen = ("--from", str(orders), "--min-customers", "20", "--k", str(k), "--force", "--json")
    outcome: dict[str, Any] = json.loads(invoke("run", *chosen, *arguments).stdout)
    return outcome


def failed(*arguments: str) -> str:
    """Return the error of a report that can't be shown."""
    error = invoke("report", *arguments, code=1).exception
    assert isinstance(error, TrainerError)
    return str(error)


def records(worker: WorkerSettings) -> list[Any]:
    return asyncio.run(read_topic(worker, worker.reports_topic))


def send(worker: WorkerSettings, key: str, value: bytes | None) -> None:
    async def go() -> None:
        async with AIOKafkaProducer(**worker.kafka_client()) as producer:
            await producer.send_and_wait(worker.reports_topic, value, key=key.encode(), partition=0)

    asyncio.run(go())


def test_the_page_comes_back_as_the_run_wrote_it(worker: WorkerSettings, orders: Path, tmp_path: Path) -> None:
    outcome = train(orders, "--activate", "--out", str(tmp_path / "run"))
    [record] = records(worker)
    assert record.key.decode() == outcome["version"]
    # As on any other machine: only Kafka is read.
    for asked in ((), (outcome["version"],), (outcome["version"][:5],)):
        answer = invoke("report", *asked, "--out", str(tmp_path / "again"))
        assert answer.stdout == f"{outcome['version']}: {tmp_path}/again/report.html, report.md and report.json\n"
        assert {path.name for path in (tmp_path / "again").iterdir()} == FILES
        for name in ("report.html", "report.md"):
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
        for name in FILES:
            (tmp_path / "again" / name).unlink()
    assert invoke("report").stdout == (tmp_path / "run" / "report.md").read_text()
    answer = invoke("report", "--json", "--out", str(tmp_path / "again"))
    assert json.loads(answer.stdout) == outcome | {"sample": None}
    assert (
        TrainingOutcome.from_json((tmp_path / "again" / "report.json").read_bytes()).to_json()
        == answer.stdout_bytes.strip()
    )


def test_no_customer_s_id_is_kept(worker: WorkerSettings, orders: Path) -> None:
    train(orders, "--activate")
    train(orders, "--candidate", k=2)
    assert len(records(worker)) == 2
    for record in records(worker):
        held = zlib.decompress(record.value) + record.key + repr(record.headers).encode()
        assert len(held) > 50_000
        assert b"example.org" in orders.read_bytes()
        assert b"example.org" not in held
        assert not [customer for customer in CUSTOMERS if customer.encode() in held]


def test_each_published_model_has_its_own_and_a_later_run_s_counts(worker: WorkerSettings, orders: Path) -> None:
    active = train(orders, "--activate")
    candidate = train(orders, "--candidate", k=2)
    assert json.loads(invoke("report", "--json").stdout)["version"] == active["version"]
    assert "published as a candidate" in invoke("report", candidate["version"]).stdout.lower()
    again = train(orders, "--activate", k=2)
    assert again["version"] == candidate["version"]
    assert [record.key.decode() for record in records(worker)] == [m["version"] for m in (active, candidate, again)]
    decision = json.loads(invoke("report", candidate["version"], "--json").stdout)["decision"]
    assert (decision["verdict"], decision["activation"]) == ("active", again["decision"]["activation"])
    assert decision["activation"] == read_models(DeploymentSettings()).history[-1].activation


def test_a_run_that_publishes_nothing_keeps_no_report(
    worker: WorkerSettings, orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(orders, "--dry-run")
    train(orders, "--dry-run", "--without-kafka")
    monkeypatch.setenv("SEGSTREAM_TRAINER_SMALLEST_SHARE", "0.45")
    arguments = ("--from", str(orders), "--min-customers", "20", "--k", "3")
    assert isinstance(invoke("run", *arguments, code=1).exception, GatesFailed)
    assert records(worker) == []
    assert failed() == (
        "no model is active, and no VERSION was given. "
        "No reports are kept; `segtrainer run` keeps the report of each model that it publishes."
    )


def test_a_missing_report_is_answered_with_the_kept_ones(worker: WorkerSettings, orders: Path) -> None:
    kept = train(orders, "--activate")["version"]
    publish(DeploymentSettings(), bench_model(), activate=True, event_time=False, now_ms=NOW)
    other = bench_model().version
    assert failed("xyz") == f"no model has a version that begins with 'xyz'. Reports are kept of {kept}."
    assert failed().startswith(f"no report of model {other} is kept: reports weren't kept yet when")
    assert failed(other).endswith(f"Reports are kept of {kept}.")
    # An unreadable report doesn't affect others.
    send(worker, other, b"\x78\x9c torn")
    assert failed(other).startswith(f"the record of model {other} isn't a report that this segtrainer reads: Error")
    assert invoke("report", kept).stdout.startswith("# Customer segments")
    # After a tombstone it is deleted.
    send(worker, kept, None)
    assert failed(kept).startswith(f"no report of model {kept} is kept")


def test_without_the_topic_the_model_is_still_published(
    worker: WorkerSettings,
    orders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    absent = f"{worker.reports_topic}-absent"
    monkeypatch.setenv("SEGSTREAM_REPORTS_TOPIC", absent)
    version = train(orders, "--activate")["version"]
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        f"model {version} is published, but its report isn't kept: no topic {absent}. Run `segstream topics create`. "
        "With --out DIR a run writes it to files too."
    )
    assert (now := read_models(DeploymentSettings()).active) is not None
    assert now.version == version
    assert failed() == f"no topic {absent}. Run `segstream topics create`."
    # The topic isn't created either, even by a broker that creates topics.
    problems = asyncio.run(topics.check(worker.model_copy(update={"reports_topic": absent})))
    assert [(problem.topic, problem.setting) for problem in problems] == [(absent, "missing")]
    caplog.clear()
    train(orders, "--candidate", "--out", str(tmp_path / "run"), k=2)
    assert f"It is only in {tmp_path}/run." in caplog.text
    assert (tmp_path / "run" / "report.html").exists()


def test_a_report_that_kafka_refuses_is_logged_and_the_model_is_still_published(
    worker: WorkerSettings, orders: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = f"{worker.reports_topic}-narrow"

    async def make() -> None:
        admin = AIOKafkaAdminClient(**worker.kafka_client())
        await admin.start()
        await admin.create_topics([NewTopic(narrow, 1, 1, topic_configs={"max.message.bytes": "1000"})])
        await admin.close()

    asyncio.run(make())
    monkeypatch.setenv("SEGSTREAM_REPORTS_TOPIC", narrow)
    version = train(orders, "--activate")["version"]
    assert f"model {version} is published, but its report isn't kept: Kafka at " in caplog.text
    assert "MessageSizeTooLargeError" in caplog.text
    assert (now := read_models(DeploymentSettings()).active) is not None
    assert now.version == version


def test_a_kafka_that_is_not_there_is_named(worker: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    del worker
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{unused.getsockname()[1]}")
        assert "Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS" in failed()
