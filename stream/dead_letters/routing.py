"""The selection of the dead letters that are sent back, and the partition that each goes to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from segmentation.events import CONTROL_KEY, Reason
from segmentation.partitioners import PARTITIONERS
from stream.dead_letters.records import StoredDeadLetter, sent_back_headers
from stream.settings import Settings

MAX_REDRIVES: Final = 8  # of one record; after that it goes round in circles
LEFT_REASONS: Final[Mapping[str, str]] = {
    "cut": "only their beginnings are here; topic, partition and offset lead to the complete records",
    "too_often": f"sent back {MAX_REDRIVES} times already",
    "too_large": "SEGSTREAM_MAX_EVENT_BYTES is too low for them",
    "no_way_back": "their headers name no partition that exists",
    "empty": "Kafka takes no record without key and value",
}
_RECORD_BYTES: Final = 128  # most that a record and its batch take besides key, value and headers
_HEADER_BYTES: Final = 12


class SentBack(NamedTuple):
    """The record that is sent back for a dead letter."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    def size(self) -> int:
        """Return the largest number of bytes that it takes in a topic."""
        size = _RECORD_BYTES + len(self.key or b"") + len(self.value or b"")
        return size + sum(len(name.encode()) + len(value or b"") + _HEADER_BYTES for name, value in self.headers)


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters to be sent back: those of some reasons, with or without controls.

    Each reason is a queue, and its controls are another: how far a queue has been sent back is recorded by its name.
    """

    reasons: frozenset[str]
    controls: bool = False

    def queues(self) -> set[str]:
        """Return the names of the selected queues."""
        return set(self.reasons) | ({f"{reason}/control" for reason in self.reasons} if self.controls else set())

    @staticmethod
    def queue_of(dead_letter: StoredDeadLetter) -> str:
        """Return the name of the queue that a dead letter belongs to."""
        return f"{dead_letter.reason}/control" if dead_letter.key == CONTROL_KEY else dead_letter.reason


def route(dead_letter: StoredDeadLetter, settings: Settings) -> SentBack | str:
    """Return the record to send back; or why the dead letter stays, a key of LEFT_REASONS.

    The caller checks that the partition exists.
    """
    if dead_letter.cut:
        return "cut"
    if dead_letter.redrives >= MAX_REDRIVES:
        return "too_often"
    if dead_letter.key is None and not dead_letter.value:
        return "empty"
    topic, partition = dead_letter.topic, dead_letter.partition
    if topic is None or partition is None:
        return "no_way_back"
    if topic == settings.orders_topic:
        partitioner = PARTITIONERS[settings.partitioner]
        if dead_letter.reason == Reason.KEY_NOT_CUSTOMER:
            topic = settings.unkeyed_topic
        elif dead_letter.reason == Reason.WRONG_PARTITION and partitioner and dead_letter.key is not None:
            partition = partitioner(dead_letter.key, settings.partitions)
    record = SentBack(topic, partition, dead_letter.key, dead_letter.value, sent_back_headers(dead_letter))
    return "too_large" if record.size() > settings.max_event_bytes else record
