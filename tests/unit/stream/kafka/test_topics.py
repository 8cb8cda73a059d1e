from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.testing import CliRunner

from stream.commands import topics as topics_commands
from stream.kafka import topics
from stream.kafka.topics import Problem, TopicSpec
from stream.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


def _by_name(settings: Settings) -> dict[str, TopicSpec]:
    return {spec.name: spec for spec in topics.specs(settings)}


def test_every_topic_of_the_settings_has_a_spec() -> None:
    settings = Settings(group="g")
    named = {getattr(settings, field) for field in Settings.model_fields if field.endswith("_topic")}
    derived = {
        "orders-dead-letters",
        "segment-changes-dead-letters",
        "campaign-actions-dead-letters",
        "campaign-actions-redeliveries",
        "g-scoring-heads",
        "g-campaigns-heads",
        "g-deliveries",
        "g-redrives",
        "g-reshards",
        "g-tombstones",
    }
    assert set(_by_name(settings)) == named | derived


def test_partitions_agree_wherever_a_shard_keeps_its_number() -> None:
    specs = _by_name(Settings(partitions=6))
    named = {"segment-models", "segment-rates", "segment-reports"}
    single = named | {"segstream-redrives", "segstream-reshards", "segstream-deliveries"}
    assert {spec.name for spec in specs.values() if spec.partitions != 6} == single
    assert {specs[name].partitions for name in single} == {1}


def test_a_dead_letter_may_be_larger_than_its_record() -> None:
    specs = _by_name(Settings(max_event_bytes=2_000_000))
    assert specs["orders"].config["max.message.bytes"] == "2000000"
    for name in ("orders-dead-letters", "segment-changes-dead-letters"):
        assert specs[name].config["max.message.bytes"] == "2065536"


def test_records_that_states_and_histories_are_made_of_are_never_deleted() -> None:
    ends = ("-dead-letters", "-redeliveries", "campaign-deliveries")
    for spec in topics.specs(Settings()):
        kept_forever = spec.config.get("retention.ms") == "-1" or spec.config["cleanup.policy"] == "compact"
        assert kept_forever != spec.name.endswith(ends), spec.name


def test_the_inputs_and_the_rates_have_the_broker_s_clock() -> None:
    stamped = {s.name for s in topics.specs(Settings()) if s.config.get("message.timestamp.type") == "LogAppendTime"}
    assert stamped == {"orders", "orders-unkeyed", "customer-profiles", "segment-rates"}


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, "1"), (2, "2"), (3, "2")])
def test_min_insync_replicas_follow_the_replicas(replicas: int, in_sync: str) -> None:
    for spec in topics.specs(Settings(replication_factor=replicas)):
        assert (spec.replication_factor, spec.config["min.insync.replicas"]) == (replicas, in_sync)


async def test_create_makes_every_topic_as_its_spec_says_and_only_once(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(partitions=3)
    specs = topics.specs(settings)
    missing = await topics.check(settings)
    assert [(p.topic, p.setting) for p in missing] == [(spec.name, "missing") for spec in specs]
    assert set(await topics.create(settings)) == {spec.name for spec in specs}
    assert await topics.check(settings) == []
    assert await topics.create(settings) == []


async def test_check_names_what_differs(settings: Settings) -> None:
    other = settings.model_copy(update={"partitions": 5, "max_event_bytes": 500_000})
    problems = await topics.check(other)
    assert Problem(settings.orders_topic, "partitions", "5", "4") in problems
    assert Problem(settings.orders_topic, "max.message.bytes", "500000", "1048576") in problems
    # Once for each topic that has them: all but those of one partition have the partitions, seven the limit.
    assert [p.setting for p in problems].count("partitions") == 14
    assert [p.setting for p in problems].count("max.message.bytes") == 7
    assert len(problems) == 21


async def test_a_broker_that_does_not_answer_is_named() -> None:
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(topics.TopicsError, match=r"127\.0\.0\.1:1.*SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS"):
        await topics.check(settings)


async def test_a_topic_that_the_broker_refuses_is_named(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(replication_factor=3)
    with pytest.raises(topics.TopicsError, match=r"can't be created: .*replication factor"):
        await topics.create(settings)


def test_the_commands_end_with_1_while_something_is_wrong(
    settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(partitions=2)
    monkeypatch.setattr("stream.settings.load_settings", lambda: settings)
    runner = CliRunner()
    before = runner.invoke(topics_commands.app, ["check", "--json"])
    assert before.exit_code == 1
    problems = [msgspec.json.decode(line, type=Problem) for line in before.stdout.splitlines()]
    count = len(topics.specs(settings))
    assert [p.setting for p in problems] == ["missing"] * count
    created = runner.invoke(topics_commands.app, ["create"])
    assert (created.exit_code, created.stdout.count("created ")) == (0, count)
    after = runner.invoke(topics_commands.app, ["check"])
    assert (after.exit_code, after.stdout) == (0, f"{count} topics are configured as required\n")
