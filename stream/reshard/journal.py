"""The journal of reshards: a compacted topic of the group that says where each shard was handed over.

`segstream reshard` goes on by it after a crash, and `segstream rebuild` reads the logs by it: the records before a
hand-over belong to the customers of another number of partitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiokafka import AIOKafkaProducer

from stream.errors import SegstreamError
from stream.kafka.clients import TopicUnusable, read_topic
from stream.reshard.placement import Inheritance, Sealed

if TYPE_CHECKING:
    from stream.settings import Settings


Part = TypeVar("Part")


class Phase(StrEnum):
    """How far a reshard has come, in Kafka."""

    SEALED = "sealed"  # no worker of the former count can publish any more
    COMMITTED = "committed"  # Kafka's part is done: Redis follows
    DONE = "done"


class StepHandover(msgspec.Struct, frozen=True):
    """The hand-over of one step: the last heads of its former shards, and what each new shard begins with."""

    sealed: list[Sealed]
    inherited: list[Inheritance]


class Reshard(msgspec.Struct, frozen=True):
    """One reshard of the group. `steps`: those that had been in use."""

    number: int
    former: int
    partitions: int
    phase: Phase
    steps: dict[str, StepHandover] = {}

    def at(self, phase: Phase) -> Reshard:
        """Return it in another phase."""
        return msgspec.structs.replace(self, phase=phase)


class JournalUnreadable(SegstreamError):
    """The journal holds something that no version of segstream wrote, or a part of it is missing."""


async def read_journal(settings: Settings) -> list[Reshard]:
    """Return all reshards of the group, the first one first. Raises KafkaUnreachable, JournalUnreadable."""
    try:
        records = await read_topic(settings, settings.reshards_topic)
    except TopicUnusable:
        return []  # a deployment of before, never resharded
    latest: dict[bytes, bytes] = {record.key: record.value for record in records if record.key is not None}
    numbers = sorted(int(key) for key, value in latest.items() if key.isdigit() and value is not None)
    return [_assembled(latest, number, settings.reshards_topic) for number in numbers]


def _assembled(latest: dict[bytes, bytes], number: int, topic: str) -> Reshard:
    try:
        whole = msgspec.json.decode(latest[b"%d" % number], type=Reshard)
        steps = {
            step: StepHandover(
                _parts(latest, f"{number}:{step}:sealed", whole.former, Sealed),
                _parts(latest, f"{number}:{step}:inherited", whole.partitions, Inheritance),
            )
            for step in whole.steps
        }
    except (KeyError, msgspec.DecodeError) as error:
        raise JournalUnreadable(
            f"reshard {number} in the topic {topic} is unreadable: {error!r}.",
            hint="Restore the topic from a backup: the logs from before the reshard can't be read without it.",
        ) from error
    return msgspec.structs.replace(whole, steps=steps)


def _parts(latest: dict[bytes, bytes], name: str, count: int, of: type[Part]) -> list[Part]:
    return [msgspec.json.decode(latest[f"{name}:{p}".encode()], type=of) for p in range(count)]


async def write_reshard(producer: AIOKafkaProducer, topic: str, reshard: Reshard) -> None:
    """Write a reshard into the journal, in one transaction.

    All shards' heads would be too large for one record: each has its own, and the last record makes them count.
    """
    rows: list[tuple[bytes, Any]] = []
    if reshard.phase is Phase.SEALED:
        for step, handover in reshard.steps.items():
            parts: tuple[tuple[str, Sequence[Any]], ...] = (
                ("sealed", handover.sealed),
                ("inherited", handover.inherited),
            )
            rows += [
                (f"{reshard.number}:{step}:{part}:{p}".encode(), row) for part, of in parts for p, row in enumerate(of)
            ]
    empty = {step: StepHandover([], []) for step in reshard.steps}
    rows.append((b"%d" % reshard.number, msgspec.structs.replace(reshard, steps=empty)))
    async with producer.transaction():
        sent = [await producer.send(topic, msgspec.json.encode(row), key=key, partition=0) for key, row in rows]
        for future in sent:
            await future
