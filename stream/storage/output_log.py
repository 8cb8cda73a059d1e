"""The outputs of a shard as they are read back from the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from segmentation.step import KafkaRecord
from stream.storage.heads import GROUP_HEADER, MARK_HEADER, NOTE_HEADER, Fingerprint

OURS: Final = frozenset({MARK_HEADER, NOTE_HEADER, GROUP_HEADER})


class LogRecord(KafkaRecord, Protocol):
    """A record as aiokafka reads it."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Names and values, in the producer's order."""


class OutputMark(NamedTuple):
    """The header of each output: its number S, and the N, T and M of its turn's head."""

    number: int
    offset: int
    clock: int
    activation: int
    version: str

    @classmethod
    def parse(cls, header: bytes) -> OutputMark:
        """Parse the header's value."""
        number, offset, clock, activation, version = header.split(b":", 4)
        return cls(int(number), int(offset), int(clock), int(activation), version.decode())


class LoggedOutput(NamedTuple):
    """An output as it is read back. `headers`: those of the step."""

    mark: OutputMark
    offset: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    note: bytes

    @classmethod
    def of(cls, record: LogRecord) -> LoggedOutput | None:
        """Return the output in a record; None for a foreign one: only the owner should write, but nobody stops others.

        A header's value may be None there.
        """
        ours = {name: value for name, value in record.headers if name in OURS}
        if record.key is None or MARK_HEADER not in ours:
            return None
        own = [header for header in record.headers if header[0] not in OURS]
        mark = OutputMark.parse(ours[MARK_HEADER])
        return cls(mark, record.offset, record.key, record.value or b"", own, ours[NOTE_HEADER])


@dataclass(slots=True)
class OutputPage:
    """A part of a shard's output log."""

    position: int  # the offset behind it
    outputs: list[LoggedOutput] = field(default_factory=list)
    foreign: str = ""  # a group that has written outputs in between; they are left out

    @property
    def notes(self) -> dict[bytes, bytes]:
        """The last note of each key."""
        return {output.key: output.note for output in self.outputs}

    @property
    def mark(self) -> OutputMark | None:
        """The mark of its last output, which is the highest; None: it has none."""
        return self.outputs[-1].mark if self.outputs else None

    @property
    def last(self) -> Fingerprint | None:
        """The fingerprint of its last output."""
        if not self.outputs:
            return None
        output = self.outputs[-1]
        return Fingerprint.of(output.offset, 0, output.key, output.value)

    def cut_behind(self, number: int) -> list[LoggedOutput]:
        """Let the page end behind output `number`, and return the outputs that come after it."""
        beyond = [output for output in self.outputs if output.mark.number > number]
        if beyond:
            self.outputs = self.outputs[: len(self.outputs) - len(beyond)]
            self.position = beyond[0].offset
        return beyond
