from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import SecretStr
from redis import Redis
from typer.testing import CliRunner

from segmentation.entries import DAY_MS
from segmentation.event_text import iso
from segmentation.events import CONTROL_KEY, ModelActivated, decode
from segmentation.model import SegmentModel
from segmentation.rfm import Entry, Kind, Rules, entry, read, unpack
from stream.kafka import topics
from stream.settings import DeploymentSettings
from stream.storage.keys import ShardKeys
from stream.storage.reads import read_clock
from tests.support.command_line import environment
from tests.support.data.redis_customers import fill, head
from trainer import cli
from trainer.errors import GatesFailed, PublishError, SnapshotError, TrainerError
from trainer.registry.publish import publish, read_lineage, read_models
from trainer.snapshot.redis import take

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream.settings import Settings as WorkerSettings

T0 = 1_300_000_000_000
NOW = T0 + 400 * DAY_MS
CUSTOMERS = 240
PARTITIONS = 3


@dataclass(frozen=True)
class TrainerDeployment:
    """A deployment with customers in Redis, and the orders that their states are made of."""

    settings: DeploymentSettings
    worker: WorkerSettings
    entries: dict[bytes, list[Entry]]
    clock: int  # the highest shard clock


def _orders(seed: int) -> dict[bytes, list[Entry]]:
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(CUSTOMERS):
        times = np.sort(rng.integers(T0, NOW - DAY_MS, int(rng.geometric(0.3))))
        found[f"c{i:03}".encode()] = [
            entry(Kind.PLACED, f"{i}-{j}", int(t), order=f"{i}-{j}", amount=int(rng.lognormal(4, 1) * 100) * 100)
            for j, t in enumerate(times)
        ]
    # c000 has no order that stands; the only order of c001 left the window long ago.
    found[b"c000"] = [
        entry(Kind.PLACED, "x", T0 + 1000, order="x", amount=10_000),
        entry(Kind.CANCELLED, "y", T0 + 2000, order="x"),
    ]
    found[b"c001"] = [entry(Kind.PLACED, "z", T0 + 5000, order="z", amount=990_000)]
    return found


@pytest.fixture
def deployment(
    settings_for: Callable[..., WorkerSettings], monkeypatch: pytest.MonkeyPatch, quiet: None
) -> TrainerDeployment:
    """Create a deployment in event time, and set its environment."""
    del quiet
    worker = settings_for(time="event", partitions=PARTITIONS)
    asyncio.run(topics.create(worker))
    entries = _orders(1)
    clock = fill(worker, entries)
    for name, value in environment(worker).items():
        monkeypatch.setenv(name, value)
    return TrainerDeployment(DeploymentSettings(), worker, entries, clock)


def _records(deployment: TrainerDeployment, topic: str, partition: int = 0) -> list[Any]:
    """Return all committed records of a partition."""

    async def _read() -> list[Any]:
        tp = TopicPartition(topic, partition)
        async with AIOKafkaConsumer(**deployment.settings.kafka_client(), isolation_level="read_committed") as consumer:
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            end = (await consumer.end_offsets([tp]))[tp]
            found: list[Any] = []
            async with asyncio.timeout(20):
                while await consumer.position(tp) < end:
                    found += (await consumer.getmany(tp, timeout_ms=100)).get(tp, [])
            return found

    return asyncio.run(_read())


def _send(deployment: TrainerDeployment, key: bytes, value: bytes) -> None:
    async def _go() -> None:
        async with AIOKafkaProducer(**deployment.settings.kafka_client()) as producer:
            await producer.send_and_wait(deployment.settings.models_topic, value, key=key, partition=0)

    asyncio.run(_go())


# Two hundred random customers have no segments, so runs are forced; other tests check the gates.
FIVE = ("--k", "5", "--force")


def _run(*arguments: str) -> dict[str, Any]:
    """Run and return its JSON, with the fields of decision and quality beside the others."""
    status = [] if "--candidate" in arguments else ["--activate"]
    result = CliRunner().invoke(cli.app, ["run", "--json", *FIVE, *status, *arguments])
    assert result.exit_code == 0, result.output
    outcome: dict[str, Any] = json.loads(result.stdout)
    beside: dict[str, Any] = outcome["decision"] | outcome["quality"]
    return outcome | beside


def _activations(deployment: TrainerDeployment) -> list[list[ModelActivated]]:
    found = []
    for partition in range(PARTITIONS):
        records = _records(deployment, deployment.settings.orders_topic, partition)
        assert {record.key for record in records} <= {CONTROL_KEY}
        events = [decode(record.value) for record in records]
        assert all(isinstance(event, ModelActivated) for event in events)
        found.append(cast("list[ModelActivated]", events))
    return found


def test_a_model_is_published_activated_and_started_on_every_shard(
    deployment: TrainerDeployment, tmp_path: Path
) -> None:
    outcome = _run("--out", str(tmp_path))
    version, active = _records(deployment, deployment.settings.models_topic)
    model = SegmentModel.from_json(version.value)
    assert version.key.decode() == model.version == outcome["version"]
    assert active.key == b"active"
    assert msgspec.json.decode(active.value)["version"] == model.version
    assert dict(active.headers)["by"] == b"segtrainer"
    assert outcome["activation"] == active.offset == version.offset + 1
    assert outcome["verdict"] == "active"
    for [event] in _activations(deployment):
        assert (event.activation, event.version) == (active.offset, model.version)
    assert (tmp_path / f"model-{model.version}.json").read_bytes() == version.value
    assert (outcome["customers"], outcome["left_out"]) == (CUSTOMERS - 1, 1)
    assert outcome["as_of"] == iso(deployment.clock)
    assert [s["name"] for s in outcome["segments"]] == ["Champions", "Loyal", "Potential Loyalists", "At Risk", "Lost"]
    assert sum(s["customers"] for s in outcome["segments"]) == CUSTOMERS - 1


def test_a_retrain_keeps_ids_and_names_and_counts_on(deployment: TrainerDeployment) -> None:
    first, second = _run(), _run("--seed", "7")
    assert second["parent"] == first["version"]
    assert second["activation"] > first["activation"]
    assert [(s["id"], s["name"]) for s in second["segments"]] == [(s["id"], s["name"]) for s in first["segments"]]
    lineage = read_lineage(deployment.settings)
    assert lineage.active is not None
    assert (lineage.active.version, lineage.activation) == (second["version"], second["activation"])
    assert read_models(deployment.settings).versions.keys() == {first["version"], second["version"]}
    for events in _activations(deployment):
        assert [event.activation for event in events] == [first["activation"], second["activation"]]


def test_a_candidate_is_published_but_starts_nowhere(deployment: TrainerDeployment) -> None:
    active = _run()
    candidate = _run("--candidate", "--k", "4")
    assert (candidate["verdict"], candidate["activation"]) == ("candidate", None)
    lineage = read_lineage(deployment.settings)
    assert lineage.activation == active["activation"]
    assert read_models(deployment.settings).versions.keys() == {active["version"], candidate["version"]}
    assert [len(events) for events in _activations(deployment)] == [1] * PARTITIONS


def test_a_candidate_that_is_active_already_stays_before_its_activation(deployment: TrainerDeployment) -> None:
    _run()
    model = read_lineage(deployment.settings).active
    assert model is not None
    published = publish(deployment.settings, model, activate=False, event_time=True, now_ms=NOW)
    assert (published.number, published.version) == (None, model.version)
    keys = [record.key for record in _records(deployment, deployment.settings.models_topic)]
    assert keys == [model.version.encode(), b"active", b"candidate"]


def test_a_dry_run_publishes_nothing(deployment: TrainerDeployment, tmp_path: Path) -> None:
    outcome = _run("--dry-run", "--out", str(tmp_path / "new"))
    assert (outcome["verdict"], outcome["activation"]) == ("dry-run", None)
    assert _records(deployment, deployment.settings.models_topic) == []
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {f"model-{outcome['version']}.json", "report.html", "report.md", "report.json"}
    assert _run("--dry-run")["version"] == outcome["version"]


def test_in_wall_time_nothing_is_sent_among_the_orders(
    deployment: TrainerDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGSTREAM_TIME", "wall")
    outcome = _run("--as-of", iso(deployment.clock + DAY_MS))
    assert outcome["as_of"] == iso(deployment.clock + DAY_MS)
    assert read_lineage(deployment.settings).activation == outcome["activation"]
    assert [len(events) for events in _activations(deployment)] == [0] * PARTITIONS


def test_the_table_is_for_people(deployment: TrainerDeployment) -> None:
    result = CliRunner().invoke(cli.app, ["run", "--dry-run", *FIVE])
    assert result.exit_code == 0
    assert "Potential Loyalists" in result.stdout
    assert "Win-back with 20 % off" in result.stdout
    assert "239 customers, 1 left out" in result.stdout
    assert "INFO" not in result.stdout
    assert iso(deployment.clock) in result.stdout


@pytest.mark.parametrize("ahead_ms", [0, 1, 40 * DAY_MS])
def test_the_snapshot_is_every_customer_as_the_state_algebra_reads_them(
    deployment: TrainerDeployment, ahead_ms: int
) -> None:
    at = deployment.clock + ahead_ms
    snapshot = take(deployment.settings, at if ahead_ms else None, now_ms=NOW)
    assert (snapshot.as_of_ms, snapshot.left_out) == (at, 1)
    assert list(snapshot.customers) == sorted(set(deployment.entries) - {b"c000"})
    rules = Rules(365 * DAY_MS, 7 * DAY_MS)
    for i, customer in enumerate(snapshot.customers):
        reading = read(sorted(deployment.entries[customer]), at, -1, rules)
        figures = snapshot.recency_days[i], snapshot.frequency[i], snapshot.monetary[i]
        assert figures == ((at - reading.standing[0].time) / DAY_MS, reading.frequency, reading.monetary / 10_000)
        assert snapshot.life is not None
        orders = [e for e in reading.standing if e.kind == Kind.PLACED]  # no entry of these customers has been folded
        net = sum(e.amount for e in orders) - sum(e.amount for e in reading.refunds)
        assert [column[i] for column in snapshot.life] == [
            len(orders),
            len({e.time // DAY_MS for e in orders}),
            net / 10_000,
            min(e.time for e in orders),
        ]
    assert snapshot.frequency[0] == 0


def test_wall_time_reads_as_of_now_but_never_before_the_clocks(deployment: TrainerDeployment) -> None:
    wall = deployment.settings.model_copy(update={"time": "wall"})
    assert take(wall, None, now_ms=NOW).as_of_ms == NOW
    assert take(wall, None, now_ms=T0).as_of_ms == deployment.clock
    with pytest.raises(SnapshotError, match=r"can't be read as of .*: their states are already at .*--until"):
        take(wall, deployment.clock - 1, now_ms=NOW)


def test_a_clock_is_absent_before_the_first_record(deployment: TrainerDeployment) -> None:
    keys = ShardKeys("nobody", "orders", 0)
    with Redis.from_url(deployment.settings.redis_url.get_secret_value()) as redis:
        assert read_clock(redis, keys) is None
        redis.set(keys.head, head(-1, PARTITIONS))
        assert read_clock(redis, keys) is None
        redis.set(keys.head, head(0, PARTITIONS))
        assert read_clock(redis, keys) == 0
        redis.delete(keys.head)
    with pytest.raises(SnapshotError, match=r"no customers to train on.*segstream worker"):
        take(deployment.settings.model_copy(update={"group": "nobody"}), None, now_ms=NOW)


@pytest.mark.parametrize("key", ["head", "states"])
def test_an_unreadable_state_is_reported_and_not_trained_on(deployment: TrainerDeployment, key: str) -> None:
    keys = ShardKeys(deployment.settings.group, deployment.settings.orders_topic, 1)
    with Redis.from_url(deployment.settings.redis_url.get_secret_value()) as redis:
        if key == "head":
            redis.set(keys.head, b"{}")
        else:
            redis.hset(keys.states, "c001", "torn")
    with pytest.raises(SnapshotError, match="segstream rebuild"):
        take(deployment.settings, None, now_ms=NOW)


def test_a_broken_record_on_the_topic_is_skipped(deployment: TrainerDeployment) -> None:
    _send(deployment, b"broken", b"{}")
    _send(deployment, b"active", b'{"version":"0123456789abcdef"}')
    _send(deployment, b"active", b"no json")
    outcome = _run()
    assert outcome["parent"] is None
    assert outcome["activation"] > 3
    assert [s["id"] for s in outcome["segments"]] == [1, 2, 3, 4, 5]


def test_other_partition_counts_are_refused_before_anything_is_published(deployment: TrainerDeployment) -> None:
    _run("--candidate")
    [version, *_] = _records(deployment, deployment.settings.models_topic)
    resized = deployment.settings.model_copy(update={"partitions": PARTITIONS + 1})
    model = SegmentModel.from_json(version.value)
    with pytest.raises(PublishError, match="has 3 partitions, expected 4"):
        publish(resized, model, activate=True, event_time=True, now_ms=NOW)
    assert read_lineage(deployment.settings).activation is None


def test_a_publication_that_fails_in_the_middle_leaves_nothing(
    deployment: TrainerDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run("--candidate")
    [version, *_] = _records(deployment, deployment.settings.models_topic)
    real, sent = AIOKafkaProducer.send, []

    async def failing(self: Any, topic: str, *args: Any, **kwargs: Any) -> Any:
        sent.append(topic)
        if len(sent) == 5:
            raise OSError("the line is cut")
        return await real(self, topic, *args, **kwargs)

    with monkeypatch.context() as cut:
        cut.setattr(AIOKafkaProducer, "send", failing)
        with pytest.raises(PublishError, match="the line is cut"):
            publish(
                deployment.settings, SegmentModel.from_json(version.value), activate=True, event_time=True, now_ms=NOW
            )
    assert sent[3:] == [deployment.settings.orders_topic] * 2
    assert read_lineage(deployment.settings).activation is None
    assert [len(events) for events in _activations(deployment)] == [0] * PARTITIONS
    # The next one continues behind it.
    assert _run()["activation"] > 0


def test_each_failure_is_one_line_that_says_what_to_do(
    deployment: TrainerDeployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for variable, value, wanted in (
            ("SEGSTREAM_REDIS_URL", f"redis://:secret@127.0.0.1:{port}/0", "Check SEGSTREAM_REDIS_URL"),
            ("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{port}", "Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS"),
            ("SEGSTREAM_MODELS_TOPIC", "no-such-topic", "Run `segstream topics create`"),
            ("SEGSTREAM_PARTITIONS", "many", "SEGSTREAM_PARTITIONS='many'"),
        ):
            with monkeypatch.context() as there:
                there.setenv(variable, value)
                there.setenv("SEGSTREAM_LOG_LEVEL", "ERROR")
                there.setattr("sys.argv", ["segtrainer", "run"])
                with pytest.raises(SystemExit) as ended:
                    cli.main()
            assert ended.value.code == 1
            line = capsys.readouterr().err.splitlines()[-1]
            assert line.startswith("segtrainer: ")
            assert wanted in line
            assert "secret" not in line
    assert _records(deployment, deployment.settings.models_topic) == []


@pytest.mark.parametrize("arguments", [["--k", "1"], ["--transform", "sqrt"], ["--as-of", "yesterday"], ["--what"]])
def test_misuse_ends_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.app, ["run", *arguments]).exit_code == 2


@pytest.mark.parametrize("arguments", [["--candidate", "--activate"], ["--without-kafka"], ["--k", "5-3"]])
def test_options_that_exclude_each_other_end_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.app, ["run", *arguments]).exit_code == 2


def test_gates_that_none_passes_publish_nothing_and_end_with_1(deployment: TrainerDeployment, tmp_path: Path) -> None:
    arguments = ["run", "--json", "--k", "5,6", "--transform", "identity", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments, env={"SEGSTREAM_TRAINER_SMALLEST_SHARE": "0.3"})
    assert result.exit_code == 1
    assert isinstance(result.exception, GatesFailed)
    outcome = json.loads(result.stdout)
    assert (outcome["decision"]["verdict"], outcome["version"], outcome["segments"]) == ("refused", None, [])
    assert [gate["passed"] for gate in outcome["fits"][0]["gates"] if gate["name"] == "smallest share"] == [False]
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "report.json"}
    assert _records(deployment, deployment.settings.models_topic) == []


def test_a_model_that_moves_too_many_stays_a_candidate_unless_it_is_to_be_active(deployment: TrainerDeployment) -> None:
    first = _run()
    arguments = ["run", "--json", "--k", "2", "--force"]
    # Two segments instead of five: most customers of the three that end must move.
    second = json.loads(CliRunner().invoke(cli.app, arguments).stdout)
    assert second["decision"]["verdict"] == "candidate"
    assert "would move, above the limit of 20.0%" in second["decision"]["why"][-1]
    assert second["comparison"]["version"] == first["version"]
    assert read_lineage(deployment.settings).activation == first["activation"]
    third = json.loads(CliRunner().invoke(cli.app, [*arguments, "--activate"]).stdout)
    assert third["decision"]["verdict"] == "active"
    assert third["decision"]["why"][-1].startswith("Activated as requested, though ")


def test_a_replica_is_read_instead_where_one_is_named(
    deployment: TrainerDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = deployment.settings.redis_url.get_secret_value()
    monkeypatch.setenv("SEGSTREAM_REDIS_URL", "redis://127.0.0.1:1/0")
    assert CliRunner().invoke(cli.app, ["run", "--dry-run", *FIVE]).exit_code == 1
    monkeypatch.setenv("SEGSTREAM_TRAINER_REDIS_URL", replica)
    assert _run("--dry-run")["customers"] == CUSTOMERS - 1


def test_orders_of_a_file_need_neither_redis_nor_alone_kafka(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: None
) -> None:
    del quiet
    path = tmp_path / "orders.csv"
    with path.open("w") as out:
        out.write("order_id,customer_id,ordered_at,amount\n")
        for customer, own in _orders(2).items():
            for e in own:
                if e.kind == Kind.PLACED:
                    out.write(
                        f"{e.event},{customer.decode()},{iso(e.time)},{e.amount // 10_000}.{e.amount % 10_000:04}\n"
                    )
    monkeypatch.setenv("SEGSTREAM_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    outcome = _run("--from", str(path), "--dry-run", "--without-kafka", "--as-of", iso(NOW))
    assert (outcome["source"], outcome["customers"], outcome["as_of"]) == ("orders.csv", CUSTOMERS, iso(NOW))


def test_too_few_customers_end_with_1_and_publish_nothing(deployment: TrainerDeployment) -> None:
    result = CliRunner().invoke(cli.app, ["run", "--min-customers", "1000"])
    assert result.exit_code == 1
    assert isinstance(result.exception, TrainerError)
    assert _records(deployment, deployment.settings.models_topic) == []


def test_a_redis_url_that_is_none_is_reported() -> None:
    with pytest.raises(SnapshotError, match="SEGSTREAM_REDIS_URL isn't a Redis URL"):
        take(DeploymentSettings(redis_url=SecretStr("nonsense")), None, now_ms=NOW)


def test_states_here_are_what_the_engine_would_have_written(deployment: TrainerDeployment) -> None:
    keys = ShardKeys(deployment.settings.group, deployment.settings.orders_topic, 0)
    with Redis.from_url(deployment.settings.redis_url.get_secret_value()) as redis:
        value = cast("bytes", redis.hget(keys.states, "c003"))
    assert set(unpack(value).entries) <= set(deployment.entries[b"c003"])
