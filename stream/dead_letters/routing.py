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
ENDPOINT_HEADER: Final = "segstream_endpoint"  # of an action that is sent to one endpoint again: its name
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
    """The dead letters to be sent back: those of some reasons, with or without controls; or those of an endpoint.

    Each reason is a queue, and its controls are another: how far a queue has been sent back is recorded by its name.
    What an endpoint never took is a queue too. `since_ms`: those that became dead letters from then on, also if they
    have been sent back already.
    """

    reasons: frozenset[str]
    controls: bool = False
    endpoint: str | None = None
    since_ms: int | None = None

    def takes(self, queue: str, offset: int, stored_ms: int, mark: int) -> bool:
        """Return whether a dead letter of a queue is sent back. `mark`: up to where the queue was, so far."""
        new = offset >= mark if self.since_ms is None else stored_ms >= self.since_ms
        return queue in self.queues() and new

    def queues(self) -> set[str]:
        """Return the names of the selected queues."""
        if self.endpoint is not None:
            return {f"{Reason.UNDELIVERED}/{self.endpoint}"}
        return set(self.reasons) | ({f"{reason}/control" for reason in self.reasons} if self.controls else set())

    @staticmethod
    def queue_of(dead_letter: StoredDeadLetter) -> str:
        """Return the name of the queue that a dead letter belongs to."""
        if dead_letter.reason == Reason.UNDELIVERED:
            return f"{dead_letter.reason}/{dead_letter.field}"
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
    headers = sent_back_headers(dead_letter)
    if dead_letter.reason == Reason.UNDELIVERED:
        # Not back to the topic of actions: all other endpoints, and your own consumers, would get it again.
        topic = settings.redeliveries_topic
        headers = [header for header in headers if header[0] != ENDPOINT_HEADER]
        headers.append((ENDPOINT_HEADER, (dead_letter.field or "").encode()))
    record = SentBack(topic, partition, dead_letter.key, dead_letter.value, headers)
    return "too_large" if record.size() > settings.max_event_bytes else record
