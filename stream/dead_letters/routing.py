"""Which dead letters go back, and where each of them goes: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from segmentation.events import CONTROL_KEY, Reason
from segmentation.partitioners import PARTITIONERS
from stream.dead_letters.records import StoredDeadLetter, sent_back_headers
from stream.settings import Settings

MAX_REDRIVES: Final = 8  # of one record: then it goes round in a circle
LEFT_REASONS: Final[Mapping[str, str]] = {
    "cut": "only their beginnings are here; the coordinates lead to the whole",
    "too_often": f"sent back {MAX_REDRIVES} times already",
    "too_large": "SEGSTREAM_MAX_EVENT_BYTES is too low for them",
    "no_way_back": "their headers name no partition that there is",
    "empty": "Kafka takes no record without key and value",
}
_RECORD_BYTES: Final = 128  # most that a record and its batch take besides key, value and headers
_HEADER_BYTES: Final = 12


class SentBack(NamedTuple):
    """A record on its way back."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    def size(self) -> int:
        """The most bytes that it takes in a topic."""
        size = _RECORD_BYTES + len(self.key or b"") + len(self.value or b"")
        return size + sum(len(name.encode()) + len(value or b"") + _HEADER_BYTES for name, value in self.headers)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are asked for."""

    reasons: frozenset[str]
    controls: bool = False

    def lanes(self) -> set[str]:
        """The names under which it keeps its marks."""
        return set(self.reasons) | ({f"{reason}/control" for reason in self.reasons} if self.controls else set())

    @staticmethod
    def lane(letter: StoredDeadLetter) -> str:
        """The one that a letter belongs to."""
        return f"{letter.reason}/control" if letter.key == CONTROL_KEY else letter.reason


def route(letter: StoredDeadLetter, settings: Settings) -> SentBack | str:
    """Where a letter goes, as what; or why it stays, a key of LEFT. Whether the partition exists isn't looked at."""
    if letter.cut:
        return "cut"
    if letter.redrives >= MAX_REDRIVES:
        return "too_often"
    if letter.key is None and not letter.value:
        return "empty"
    topic, partition = letter.topic, letter.partition
    if topic is None or partition is None:
        return "no_way_back"
    if topic == settings.orders_topic:
        partitioner = PARTITIONERS[settings.partitioner]
        if letter.reason == Reason.KEY_NOT_CUSTOMER:
            topic = settings.unkeyed_topic
        elif letter.reason == Reason.WRONG_PARTITION and partitioner and letter.key is not None:
            partition = partitioner(letter.key, settings.partitions)
    record = SentBack(topic, partition, letter.key, letter.value, sent_back_headers(letter))
    return "too_large" if record.size() > settings.max_event_bytes else record
