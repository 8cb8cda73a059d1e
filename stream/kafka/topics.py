"""The topics of a deployment: their specifications, creation and check."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError, for_code

from segmentation.entries import DAY_MS
from stream.errors import SegstreamError
from stream.kafka.aiokafka_internals import ConfigResource, ConfigResourceType
from stream.kafka.refusals import explained

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from stream.settings import Settings

DEAD_LETTER_ROOM_BYTES = 65_536
_MINUTE_MS = 60_000
_VISIBLE_TIMEOUT_S = 30.0
_POLL_S = 0.05
_LONGEST_LAG_MS = 2**63 - 1  # Kafka's "without limit" of max.compaction.lag.ms

# Every record is kept: orders rebuild the states, moves are their history. Retention goes by record timestamps, which
# in a replay lie long ago. Both limits are set, because a broker may have other defaults.
_FOREVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
# The latest record of each key is kept.
_COMPACTED = {"cleanup.policy": "compact"}
# A takeover reads a shard's heads topic from its start, and every turn adds a record. So the part that can't be
# compacted yet (the active segment) is kept small (1 MiB is Kafka's minimum) and young, and compaction starts at a
# tenth of dirt.
_HEADS = {
    **_COMPACTED,
    "segment.bytes": "1048576",
    "segment.ms": str(10 * _MINUTE_MS),
    "min.cleanable.dirty.ratio": "0.1",
    # Turns are atomic: a reader that starts late needs no more time to see a deletion than this.
    "delete.retention.ms": str(60 * _MINUTE_MS),
}
# Of interest for as long as somebody asks whether a message arrived; the actions themselves stay.
_OUTCOMES = {"cleanup.policy": "delete", "retention.ms": str(90 * DAY_MS), "retention.bytes": "-1"}


class TopicsError(SegstreamError):
    """The brokers can't be reached, or refuse to create or describe a topic."""


@dataclass(frozen=True)
class TopicSpec:
    """The specification of a topic. `config`: the settings that matter, in Kafka's names and units."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


class Problem(msgspec.Struct, frozen=True):
    """A difference between a topic and its specification. `setting`: "missing", "partitions", or Kafka's name of it."""

    topic: str
    setting: str
    expected: str
    found: str

    def __str__(self) -> str:
        """Return one line, with what to do.

        >>> str(Problem("orders", "partitions", "8", "6")).partition(": set ")[2]
        'SEGSTREAM_PARTITIONS=6 if that was always so; else run segstream reshard --partitions 6.'
        """
        if self.setting == "missing":
            return f"{self.topic}: missing: run segstream topics create."
        found = f"{self.topic}: {self.setting} is {self.found}, expected {self.expected}"
        if self.setting == "partitions":
            count = self.found
            return (
                f"{found}: set SEGSTREAM_PARTITIONS={count} if that was always so; "
                f"else run segstream reshard --partitions {count}."
            )
        return (
            f"{found}: kafka-configs.sh --alter --entity-type topics --entity-name {self.topic} "
            f"--add-config {self.setting}={self.expected}"
        )


def specs(settings: Settings) -> list[TopicSpec]:
    """Return the specification of each topic of the deployment.

    >>> from stream.settings import Settings
    >>> [spec.partitions for spec in specs(Settings(partitions=3)) if spec.name == "segment-models"]
    [1]
    """
    common = {
        # Acknowledged by two copies, where there are two: one broker may die without losing a turn.
        "min.insync.replicas": str(min(2, settings.replication_factor)),
        # A turn that Kafka has acknowledged must not be lost: better no leader than one without it.
        "unclean.leader.election.enable": "false",
    }

    def spec(name: str, config: dict[str, str], partitions: int = settings.partitions) -> TopicSpec:
        return TopicSpec(name, partitions, settings.replication_factor, common | config)

    inputs = _FOREVER | {
        # The broker's clock, which no producer can set: future-dated events are measured against it.
        "message.timestamp.type": "LogAppendTime",
        # Bounds a fetch, and so a worker's memory.
        "max.message.bytes": str(settings.max_event_bytes),
    }
    dead_letters = {
        "cleanup.policy": "delete",
        # Long enough to repair and redrive.
        "retention.ms": str(30 * DAY_MS),
        # The original record and the headers that say why it is here.
        "max.message.bytes": str(settings.max_event_bytes + DEAD_LETTER_ROOM_BYTES),
    }
    return [
        spec(settings.orders_topic, inputs),
        spec(settings.unkeyed_topic, inputs),
        # A shard's output goes to the partition of its input's number: the same count everywhere.
        spec(settings.orders_dead_letters_topic, dead_letters),
        spec(settings.changes_topic, _FOREVER),
        spec(settings.state_topic, _COMPACTED),
        spec(settings.changes_dead_letters_topic, dead_letters),
        spec(settings.actions_topic, _FOREVER),
        spec(settings.profiles_topic, inputs),
        spec(settings.deliveries_topic, _OUTCOMES),
        spec(settings.actions_dead_letters_topic, dead_letters),
        spec(settings.redeliveries_topic, dead_letters),
        # One partition: an activation's offset is its number, in one order of all activations.
        spec(settings.models_topic, _COMPACTED, partitions=1),
        # Apart from the models, because each worker reads that topic whole at its start.
        spec(settings.reports_topic, _COMPACTED, partitions=1),
        # LogAppendTime: whether an order may use a rate depends on which of the two came first, by the brokers' clocks.
        spec(settings.rates_topic, _COMPACTED | {"message.timestamp.type": "LogAppendTime"}, partitions=1),
        # One partition: the topic is small and read whole.
        spec(settings.redrives_topic, _COMPACTED, partitions=1),
        spec(settings.reshards_topic, _COMPACTED, partitions=1),
        # One partition, and compacted early: `segstream deliver` reads it whole at its start.
        spec(settings.positions_topic, _HEADS, partitions=1),
        spec(settings.tombstones_topic, _COMPACTED),
        spec(settings.heads_topic("scoring"), _HEADS),
        spec(settings.heads_topic("campaigns"), _HEADS),
    ]


async def create(settings: Settings) -> list[str]:
    """Create the missing topics, wait until they have leaders, and return their names.

    Existing topics stay as they are: `check` compares them. Raises TopicsError.
    """
    async with connected_admin(settings) as admin:
        existing = await described_topics(admin)
        missing = [spec for spec in specs(settings) if spec.name not in existing]
        if not missing:
            return []
        made = await _make(admin, missing)
        await await_leaders(admin, {spec.name: spec.partitions for spec in missing})
        return made


async def check(settings: Settings) -> list[Problem]:
    """Return the differences between the topics and their specifications. Raises TopicsError."""
    wanted = specs(settings)
    async with connected_admin(settings) as admin:
        existing = await described_topics(admin)
        there = [spec for spec in wanted if spec.name in existing]
        configs = await _configs(admin, there)
    problems = []
    for spec in wanted:
        if spec.name not in existing:
            problems.append(Problem(spec.name, "missing", "a topic", "none"))
            continue
        if (count := len(existing[spec.name])) != spec.partitions:
            problems.append(Problem(spec.name, "partitions", str(spec.partitions), str(count)))
        problems += differences(spec, configs[spec.name])
    return problems


class Retention(msgspec.Struct, frozen=True):
    """How long a topic keeps a record: Kafka's settings of the topic, as the broker has them. -1: without limit."""

    policy: str  # cleanup.policy
    retention_ms: int
    segment_ms: int  # the youngest file of a log is deleted with its youngest record, so a record may stay longer
    longest_uncompacted_ms: int

    def deletes_after_ms(self) -> int | None:
        """Return after how long a record is deleted by its age at the latest; None: without limit.

        >>> Retention("delete", 86_400_000, 3_600_000, -1).deletes_after_ms()
        90000000
        """
        ends = "delete" in self.policy and self.retention_ms >= 0
        return self.retention_ms + self.segment_ms if ends else None

    def compacts_after_ms(self) -> int | None:
        """Return after how long compaction removes a replaced record at the latest; None: without limit, or never."""
        ends = "compact" in self.policy and 0 <= self.longest_uncompacted_ms < _LONGEST_LAG_MS
        return self.longest_uncompacted_ms if ends else None


async def retention(settings: Settings, names: Sequence[str]) -> dict[str, Retention]:
    """Return how long those of these topics that exist keep their records, as the broker says. Raises TopicsError."""
    asked = dict.fromkeys(("cleanup.policy", "retention.ms", "segment.ms", "max.compaction.lag.ms"), "")
    async with connected_admin(settings) as admin:
        existing = await described_topics(admin)
        found = await _configs(admin, [TopicSpec(name, 0, 0, asked) for name in names if name in existing])
    return {
        name: Retention(
            config["cleanup.policy"],
            int(config["retention.ms"]),
            int(config["segment.ms"]),
            int(config["max.compaction.lag.ms"]),
        )
        for name, config in found.items()
    }


def differences(spec: TopicSpec, found: dict[str, str]) -> Iterable[Problem]:
    """Return the differences between a topic's settings (strings by Kafka's names) and its specification.

    >>> list(differences(TopicSpec("t", 1, 1, {"retention.ms": "-1"}), {"retention.ms": "1000"}))
    [Problem(topic='t', setting='retention.ms', expected='-1', found='1000')]
    """
    for setting, expected in spec.config.items():
        value = found.get(setting, "unknown to the broker")
        if value != expected:
            yield Problem(spec.name, setting, expected, value)


@asynccontextmanager
async def connected_admin(settings: Settings) -> AsyncIterator[Any]:
    """Connect an admin client, and translate Kafka's errors to TopicsError."""
    admin = AIOKafkaAdminClient(**settings.kafka_client())
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError, TimeoutError) as error:
        raise TopicsError(str(await explained(settings, error))) from error
    finally:
        await admin.close()


async def described_topics(admin: Any) -> dict[str, list[Any]]:
    """Return the partitions of every topic by name. All are requested, because naming a topic could create it."""
    return {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}


async def _make(admin: Any, missing: list[TopicSpec]) -> list[str]:
    response = await admin.create_topics(
        [NewTopic(s.name, s.partitions, s.replication_factor, topic_configs=s.config) for s in missing]
    )
    made = []
    for name, code, message in response.topic_errors:
        if code == 0:
            made.append(name)
        elif code == TopicAuthorizationFailedError.errno:
            raise TopicAuthorizationFailedError(name)
        elif code != TopicAlreadyExistsError.errno:  # another process was quicker
            raise TopicsError(
                f"the topic {name} can't be created: {message or for_code(code).__name__}.",
                hint="Create it by hand with the settings that `segstream topics check` names, or ask the operators.",
            )
    return made


async def await_leaders(admin: Any, partitions: dict[str, int]) -> None:
    """Wait until these topics have so many partitions, each with a leader. Raises TopicsError."""
    found = await admin.describe_topics(list(partitions))
    if denied := {topic["topic"] for topic in found if topic["error_code"] == TopicAuthorizationFailedError.errno}:
        raise TopicAuthorizationFailedError(denied)  # this user may create topics, but not see them
    deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
    while time.monotonic() < deadline:
        described = await described_topics(admin)
        waiting = [
            name
            for name, count in partitions.items()
            if len(ps := described.get(name, [])) < count or any(p["error_code"] for p in ps)
        ]
        if not waiting:
            return
        await asyncio.sleep(_POLL_S)
    raise TopicsError(
        f"{', '.join(waiting)}: created, but without leaders after {_VISIBLE_TIMEOUT_S:.0f} s.",
        hint="Look at the brokers' logs.",
    )


async def _configs(admin: Any, wanted: list[TopicSpec]) -> dict[str, dict[str, str]]:
    """Return the settings of each topic that its specification names, as strings."""
    if not wanted:
        return {}
    requests = [ConfigResource(ConfigResourceType.TOPIC, s.name, dict.fromkeys(s.config)) for s in wanted]
    found = {}
    for response in await admin.describe_configs(requests):
        for code, message, _, name, entries in response.resources:
            if code == TopicAuthorizationFailedError.errno:
                raise TopicAuthorizationFailedError(name)
            if code:
                raise TopicsError(
                    f"the settings of the topic {name} can't be read: {message or for_code(code).__name__}.",
                    hint="Look into the broker's log for the reason.",
                )
            # In every version of the protocol an entry begins with name and value.
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found
