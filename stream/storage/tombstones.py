"""The records of the tombstones topic: each names its turn, so that nobody takes one that a torn turn has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from stream.storage.heads import KafkaHead, StoreHead

if TYPE_CHECKING:
    from stream.storage.output_log import LogRecord

PLACE_HEADER: Final = "segstream_place"
BEFORE_HEADER: Final = "segstream_before"


class TurnPlace(NamedTuple):
    """Where a turn's head stands. The places of a shard's heads only grow."""

    era: int
    offset: int  # N
    outputs: int  # S

    @classmethod
    def of(cls, head: KafkaHead | StoreHead) -> Self:
        """Return the place of a head."""
        return cls(head.era, head.offset, head.count)

    @classmethod
    def parse(cls, header: bytes) -> Self:
        """Parse the header's value.

        >>> TurnPlace.parse(TurnPlace(0, 7, 3).header())
        TurnPlace(era=0, offset=7, outputs=3)
        """
        era, offset, count = header.split(b":")
        return cls(int(era), int(offset), int(count))

    def header(self) -> bytes:
        """Return the header's value."""
        return b"%d:%d:%d" % self


BEGINNING: Final = TurnPlace(0, 0, 0)  # before a shard's first turn
AT_THE_END: Final = TurnPlace(2**63, 0, 0)  # after its last


def tombstone_headers(head: KafkaHead, before: bytes | None) -> list[tuple[str, bytes]]:
    """Return the headers of a tombstone that goes with this head.

    `before`: the customer's former tombstone. The topic is compacted: of both records only this one may be left.
    """
    place = (PLACE_HEADER, TurnPlace.of(head).header())
    return [place] if before is None else [place, (BEFORE_HEADER, before)]


def tombstone_as_of(record: LogRecord, place: TurnPlace) -> bytes | None:
    """Return the tombstone in a record that isn't empty as it was at a place; None: it came later.

    One without a place counts at once: a former version wrote it, or `segstream reshard` copied it.
    """
    headers = dict(record.headers)
    written = headers.get(PLACE_HEADER)
    if written is None or TurnPlace.parse(written) <= place:
        return record.value
    return headers.get(BEFORE_HEADER)
