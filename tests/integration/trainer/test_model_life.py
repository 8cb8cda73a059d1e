"""`segtrainer list`, `promote` and `rollback` on a real Kafka: their records, and two of them at once."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from bench.harness.model import bench_model
from segmentation.events import decode
from stream.kafka import topics
from stream.kafka.clients import read_topic
from stream.models.feed import ModelFeed
from stream.models.topic import published as published_for_commands
from stream.settings import DeploymentSettings
from tests.support.command_line import environment
from tests.support.engine.real_worker import processes, settled, store_heads
from trainer import cli
from trainer.errors import PublishConflict, PublishError, TrainerError
from trainer.registry import publish
from trainer.registry.contents import Signature, contents, rollback_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segmentation.model import SegmentModel
    from stream.settings import Settings as WorkerSettings

pytestmark = pytest.mark.usefixtures("quiet")
PARTITIONS = 2
NOW = 1_300_000_000_000
ROUNDS = int(os.environ.get("EXAMPLES", "12"))
ME = Signature("ada", "2011-12-10T00:00:00Z", "spring sale")


def model(margin: float) -> SegmentModel:
    return bench_model().model_copy(update={"margin": margin})


A, B, C = model(0.11), model(0.12), model(0.13)


@pytest.fixture
def worker(settings_for: Callable[..., WorkerSettings]) -> WorkerSettings:
    made = settings_for(time="event", partitions=PARTITIONS)
    asyncio.run(topics.create(made))
    return made


@pytest.fixture
def mine(worker: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> DeploymentSettings:
    """Return the trainer's settings, which the environment has too."""
    for name, value in environment(worker).items():
        monkeypatch.setenv(name, value)
    return DeploymentSettings()


def add(settings: DeploymentSettings, *models: SegmentModel, activate: bool = False) -> list[publish.PublicationResult]:
    return [publish.publish(settings, m, activate=activate, event_time=True, now_ms=NOW) for m in models]


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def records(settings: WorkerSettings, topic: str) -> list[Any]:
    return asyncio.run(read_topic(settings, topic))


def controls(settings: WorkerSettings) -> list[list[tuple[int, str]]]:
    """Return (activation, version) of the control events of each partition of the orders."""
    found: list[list[tuple[int, str]]] = [[] for _ in range(PARTITIONS)]
    for record in sorted(records(settings, settings.orders_topic), key=lambda r: (r.partition, r.offset)):
        event: Any = decode(record.value)
        found[record.partition].append((event.activation, event.version))
    return found


def test_a_promotion_is_one_record_and_a_control_on_every_partition(
    mine: DeploymentSettings, worker: WorkerSettings
) -> None:
    add(mine, A, B)
    answer = run("promote", A.version, "--reason", "spring sale", "--by", "ada")
    active = records(worker, worker.models_topic)[-1]
    assert (active.key, active.offset) == (b"active", answer["activation"])
    headers = dict(active.headers)
    assert (headers["by"], headers["reason"]) == (b"ada", b"spring sale")
    assert headers["at"].endswith(b"Z")
    assert controls(worker) == [[(answer["activation"], A.version)]] * PARTITIONS


def test_in_wall_time_nothing_is_sent_among_the_orders(
    mine: DeploymentSettings, worker: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(mine, A, B)
    monkeypatch.setenv("SEGSTREAM_TIME", "wall")
    run("promote", A.version)
    run("promote", B.version)
    run("rollback")
    assert controls(worker) == [[], []]


def test_a_promotion_takes_the_mark_off_the_candidate(mine: DeploymentSettings) -> None:
    add(mine, A, B)
    assert run("list")["candidate"] == B.version
    run("promote", A.version)
    assert run("list")["candidate"] == B.version
    run("promote", B.version)
    assert run("list")["candidate"] is None


def test_a_model_is_written_once_whatever_becomes_of_it(mine: DeploymentSettings, worker: WorkerSettings) -> None:
    add(mine, A)
    add(mine, A, activate=True)
    add(mine, B, activate=True)
    run("promote", A.version)
    keys = [record.key for record in records(worker, worker.models_topic)]
    assert [key for key in keys if key not in {b"active", b"candidate"}] == [A.version.encode(), B.version.encode()]


def test_rollbacks_go_further_and_further_back(mine: DeploymentSettings, worker: WorkerSettings) -> None:
    numbers = [done.number or 0 for done in add(mine, A, B, C, activate=True)]
    for expected in (B, A):
        answer = run("rollback", "--reason", "it mailed everybody")
        assert answer["version"] == expected.version
        numbers.append(answer["activation"])
    assert numbers == sorted(set(numbers))
    assert [version for _, version in controls(worker)[0]] == [m.version for m in (A, B, C, B, A)]
    with pytest.raises(PublishError, match="no model to roll back to"):
        publish.roll_back(mine, None, ME)
    # A promotion starts another path.
    run("promote", C.version)
    assert run("rollback")["version"] == A.version


def test_a_rollback_names_the_models_that_it_can_go_back_to(mine: DeploymentSettings) -> None:
    add(mine, A, B, C, activate=True)
    add(mine, model(0.9))
    assert run("rollback", A.version)["version"] == A.version
    with pytest.raises(PublishError, match="no model to roll back to"):
        publish.roll_back(mine, None, ME)
    run("promote", B.version)
    with pytest.raises(
        PublishError, match=rf"can't be rolled back to from .*possible: {A.version}.*promote {model(0.9).version}"
    ):
        publish.roll_back(mine, model(0.9).version, ME)
    with pytest.raises(PublishError, match="can't be rolled back to"):
        publish.roll_back(mine, B.version, ME)


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_an_unknown_version_is_answered_with_the_known_ones(mine: DeploymentSettings, command: str) -> None:
    add(mine, A, B, activate=True)
    result = CliRunner().invoke(cli.app, [command, "0123456789abcdef"])
    assert result.exit_code == 1
    assert isinstance(result.exception, TrainerError)
    assert f"no model '0123456789abcdef' on the models topic; there are: {A.version}, {B.version}" in str(
        result.exception
    )
    assert run("list")["active"] == B.version


def test_the_active_model_is_not_activated_again(mine: DeploymentSettings) -> None:
    add(mine, A, activate=True)
    with pytest.raises(PublishError, match="is active already"):
        publish.promote(mine, A.version, ME)


def test_on_an_empty_topic(mine: DeploymentSettings) -> None:
    assert run("list") == {"active": None, "candidate": None, "versions": [], "activations": []}
    with pytest.raises(PublishError, match="there are: none"):
        publish.promote(mine, A.version, ME)
    with pytest.raises(PublishError, match="no model to roll back to: the active model is none"):
        publish.roll_back(mine, None, ME)
    # The barriers of refused changes are invisible.
    assert add(mine, A, activate=True)[0].version == A.version


def test_the_caller_may_name_the_expected_active_model(
    mine: DeploymentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(mine, A, B)
    assert run("promote", A.version, "--expect-active", "none")["version"] == A.version
    monkeypatch.setattr("sys.argv", ["segtrainer", "promote", B.version, "--expect-active", "none"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert run("promote", B.version, "--expect-active", A.version)["version"] == B.version


def test_the_list_shows_who_when_and_why(mine: DeploymentSettings) -> None:
    add(mine, A, activate=True)
    add(mine, B)
    run("promote", B.version, "--by", "ada", "--reason", "clearer names")
    run("rollback", "--by", "bob", "--reason", "too many moves")
    add(mine, C)
    answer = run("list")
    a, b, c = answer["versions"]
    assert [(row["version"], row["mark"]) for row in (a, b, c)] == [
        (A.version, "active"),
        (B.version, ""),
        (C.version, "candidate"),
    ]
    assert (a["by"], a["reason"], a["rollback"]) == ("bob", "too many moves", True)
    assert (b["by"], b["reason"], b["rollback"]) == ("ada", "clearer names", False)
    assert (c["by"], c["activation"]) == ("segtrainer", None)
    assert [(past["version"], past["by"]) for past in answer["activations"]] == [
        (A.version, "segtrainer"),
        (B.version, "ada"),
        (A.version, "bob"),
    ]
    assert (a["k"], a["customers"]) == (A.training.k, A.training.customers)
    table = CliRunner().invoke(cli.app, ["list"])
    assert table.exit_code == 0
    for text in (A.version, "too many moves", "candidate"):
        assert text in table.stdout


@pytest.mark.parametrize("text", ["two\nlines", "x" * 501])
def test_a_reason_is_one_line(mine: DeploymentSettings, text: str) -> None:
    del mine
    assert CliRunner().invoke(cli.app, ["promote", A.version, "--reason", text]).exit_code == 2


def test_a_training_on_another_parent_is_reported_and_not_published(mine: DeploymentSettings) -> None:
    add(mine, A, activate=True)
    lineage = publish.read_lineage(mine)
    add(mine, B, activate=True)
    with pytest.raises(PublishConflict, match=f"another model became active meanwhile: {B.version}"):
        publish.publish(mine, C, activate=True, event_time=True, now_ms=NOW, expected=lineage)
    assert C.version not in publish.read_models(mine).versions
    # As a candidate it replaces nothing.
    publish.publish(mine, C, activate=False, event_time=True, now_ms=NOW, expected=lineage)


def test_new_segments_never_share_an_id_with_another_model_s(mine: DeploymentSettings) -> None:
    def with_new(margin: float) -> SegmentModel:
        first, *rest = A.segments
        return model(margin).model_copy(update={"segments": (first.model_copy(update={"id": 60}), *rest)})

    add(mine, A, activate=True)
    lineage = publish.read_lineage(mine)
    add(mine, with_new(0.5))
    with pytest.raises(PublishConflict, match="its new segments have the same ids as those"):
        publish.publish(mine, with_new(0.6), activate=False, event_time=True, now_ms=NOW, expected=lineage)
    # Publishing the same model again is no conflict.
    publish.publish(mine, with_new(0.5), activate=False, event_time=True, now_ms=NOW, expected=lineage)


def test_the_writer_that_began_later_takes_precedence(
    mine: DeploymentSettings, worker: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(mine, A, B, C)
    add(mine, A, activate=True)
    real, others = publish._write_change, [C.version]

    async def overtaken(*arguments: Any) -> int:
        """Run the other change between the check of the first one and its first record."""
        if others:
            await asyncio.to_thread(publish.promote, mine, others.pop(), ME)
        return await real(*arguments)

    monkeypatch.setattr(publish, "_write_change", overtaken)
    with pytest.raises(PublishConflict, match="began after this one, and takes precedence"):
        publish.promote(mine, B.version, ME)
    assert [version for _, version in controls(worker)[0]] == [A.version, C.version]
    assert run("list")["active"] == C.version


def test_a_writer_that_read_before_another_ended_is_refused(
    mine: DeploymentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(mine, A, B, C)
    add(mine, A, activate=True)
    real = publish._commit

    async def late(settings: DeploymentSettings, *arguments: Any) -> publish.PublicationResult:
        with monkeypatch.context() as inner:
            inner.setattr(publish, "_commit", real)
            await asyncio.to_thread(publish.promote, settings, C.version, ME)
        return await real(settings, *arguments)

    monkeypatch.setattr(publish, "_commit", late)
    with pytest.raises(PublishConflict, match=f"another model became active meanwhile: {C.version}"):
        publish.promote(mine, B.version, ME)


@pytest.mark.slow
def test_of_two_promotions_at_once_one_wins_and_the_other_hears_it(
    mine: DeploymentSettings, worker: WorkerSettings
) -> None:
    add(mine, A, B, C)
    add(mine, A, activate=True)
    active, won = A.version, []
    for _ in range(ROUNDS):
        answers: list[tuple[str, str | None]] = []
        start = threading.Barrier(2)

        def promoted(version: str) -> None:
            start.wait()  # noqa: B023  # joined within the round
            try:
                publish.promote(mine, version, ME, expected=active)  # noqa: B023  # as above
                answers.append(("won", version))  # noqa: B023  # as above
            except PublishConflict:
                answers.append(("heard", version))  # noqa: B023  # as above

        rivals = [threading.Thread(target=promoted, args=(m.version,)) for m in (A, B, C) if m.version != active]
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join(60)
        assert sorted(outcome for outcome, _ in answers) == ["heard", "won"]
        now = publish.read_models(mine).active
        assert now is not None
        assert ("won", now.version) in answers
        active = now.version
        won.append((now.activation, now.version))
    assert [starts[1:] for starts in controls(worker)] == [won] * PARTITIONS


async def test_a_worker_takes_up_a_promotion_and_a_rollback(
    settings_for: Callable[..., WorkerSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = settings_for(partitions=PARTITIONS)
    await topics.create(worker)
    for name in ("kafka_bootstrap_servers", "group", "orders_topic", "models_topic", "reports_topic", "partitions"):
        monkeypatch.setenv(f"SEGSTREAM_{name.upper()}", str(getattr(worker, name)))
    mine = DeploymentSettings(redis_url=worker.redis_url)
    [one, _] = await asyncio.to_thread(add, mine, A, B, activate=True)
    assert one.number is not None
    feed = (
        b'{"type":"order.placed","id":"e-1","order_id":"o-1","customer_id":"c-1",'
        b'"time":"2026-11-01T00:00:00Z","amount":"10.00","currency":"USD"}'
    )
    async with AIOKafkaProducer(**worker.kafka_client()) as producer:
        await producer.send_and_wait(worker.orders_topic, feed, key=b"c-1")
    with processes(worker, tmp_path, "worker"):
        for change, wanted in ((publish.roll_back, A.version), (publish.promote, B.version)):
            done = await asyncio.to_thread(change, mine, wanted, ME)
            assert done.number is not None
            await settled(worker, activation=done.number)
            heads = store_heads(worker, worker.orders_topic)
            assert {(head.activation, head.version) for head in heads} == {(done.number, wanted)}


def _compacted(found: list[Any]) -> list[Any]:
    """Return the records of a topic after compaction: the last of each key, without tombstones."""
    last = {record.key: record for record in found}
    return [record for record in found if last[record.key] is record and record.value is not None]


def test_compaction_takes_nothing_that_counts(mine: DeploymentSettings, worker: WorkerSettings) -> None:
    add(mine, A, B, C, activate=True)
    publish.roll_back(mine, None, ME)
    add(mine, model(0.7), C)
    publish.promote(mine, C.version, ME)
    everything = records(worker, worker.models_topic)
    left = _compacted(everything)
    assert len(left) == 5  # four models and one activation; the candidate was promoted
    before, after = contents(everything), contents(left)
    assert after.history == before.history
    assert [past.version for past in rollback_path(after.history)] == [A.version, B.version, C.version]
    assert after.versions.keys() == before.versions.keys()
    assert after.candidate is before.candidate is None
    # The same for workers.
    feed = ModelFeed(worker, lambda model, names: (model, names))
    for record in left:
        feed.take(record.key, record.value, record.offset)
    feed.caught_up.set()
    assert (feed.latest().number, feed.latest().version) == (before.history[-1].activation, C.version)
    for_commands = published_for_commands(left)
    assert for_commands.active == C


def test_a_pointer_written_by_hand_counts_too(mine: DeploymentSettings, worker: WorkerSettings) -> None:
    add(mine, A, B, activate=True)

    async def by_hand(value: bytes) -> None:
        async with AIOKafkaProducer(**worker.kafka_client()) as producer:
            await producer.send_and_wait(worker.models_topic, value, key=b"active", partition=0)

    for value in (
        b'{"version":"%s"}' % A.version.encode(),
        b'{"version":"%s","before":"nothing"}' % B.version.encode(),
    ):
        asyncio.run(by_hand(value))
    assert [past.version for past in publish.read_models(mine).history] == [A.version, B.version, A.version, B.version]
    assert run("list")["active"] == B.version
    assert run("rollback")["version"] == A.version
