"""Large states in Redis: the states' hash holds the ends of one, a hash of pieces holds the rest.

So an order of a customer with 16,384 entries writes one or two pieces instead of 360 KB. Which states are divided, and
where, is decided by their owner; a reader puts together whatever it finds. Small states and campaign states are whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct, error
from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.pieces import PieceRun
from segmentation.step import StateUnreadable
from stream.errors import ShardQuarantined

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from segmentation.pieces import StateParts
    from segmentation.step import Held

MARK: Final = 0xD1  # the first byte of the ends of a divided state; a state begins with its version
_ENDS: Final = Struct("<BIIIIII")  # mark; of rows and revisions: first piece, pieces, bytes to skip (rows only); front
_ROW, _REVISION = b"r", b"v"


class Ends(NamedTuple):
    """A divided state without its pieces."""

    front: bytes
    rows: PieceRun
    middle: bytes
    revisions: PieceRun

    def encode(self) -> bytes:
        """Return the bytes in the states' hash."""
        rows, revisions = self.rows, self.revisions
        numbers = (rows.first, rows.pieces, rows.skip, revisions.first, revisions.pieces, len(self.front))
        return _ENDS.pack(MARK, *numbers) + self.front + self.middle

    @property
    def pieces(self) -> int:
        """How many pieces it has."""
        return self.rows.pieces + self.revisions.pieces

    def fields(self, customer: bytes) -> list[bytes]:
        """Return the fields of its pieces, in their order."""
        rows = [field_of(customer, _ROW, number) for number in self.rows.numbers()]
        return rows + [field_of(customer, _REVISION, number) for number in self.revisions.numbers()]

    def whole(self, pieces: Sequence[bytes | None]) -> bytes:
        """Return the state. `pieces`: in the order of `fields`. Raises StateUnreadable where one is missing."""
        if None in pieces or len(pieces) != self.pieces:
            raise StateUnreadable("a piece of a large state is missing")
        found = [piece for piece in pieces if piece is not None]
        rows, revisions = found[: self.rows.pieces], found[self.rows.pieces :]
        return self.front + b"".join(rows)[self.rows.skip :] + self.middle + b"".join(revisions)


def field_of(customer: bytes, kind: bytes, number: int) -> bytes:
    """Return the field of a piece in the hash of pieces.

    >>> field_of(b"c-42", b"r", 17)
    b'c-42:r17'
    """
    return b"%b:%b%d" % (customer, kind, number)


def ends_of(value: bytes | None) -> Ends | None:
    """Return the ends of a divided state; None: the state is whole, or there is none. Raises StateUnreadable."""
    if not value or value[0] != MARK:
        return None
    try:
        _, first, pieces, skip, other, revisions, front = _ENDS.unpack_from(value)
    except error:
        raise StateUnreadable(f"{value.hex()} begins like a large state, and isn't one") from None
    rest = value[_ENDS.size :]
    return Ends(rest[:front], PieceRun(first, pieces, skip), rest[front:], PieceRun(other, revisions, 0))


def whole_or_lost(customer: bytes, ends: Ends, pieces: Sequence[bytes | None], shard: str) -> bytes:
    """Return the state. Raises ShardQuarantined where a piece is missing. `shard`: its name in messages."""
    try:
        return ends.whole(pieces)
    except StateUnreadable as missing:
        raise ShardQuarantined(
            "redis_lost",
            f"{missing}: that of {customer.decode(errors='replace')!r} in {shard}.",
            hint="Restore a backup of Redis, or run `segstream rebuild`, which makes it anew from Kafka.",
        ) from None


@dataclass(slots=True)
class PieceWrites:
    """The writes that keep the pieces of some customers."""

    states: dict[bytes, bytes] = field(default_factory=dict)  # for the states' hash
    now: dict[bytes, Ends | None] = field(default_factory=dict)  # by customer; None: whole, or gone
    put: dict[bytes, bytes] = field(default_factory=dict)  # by field
    deleted: list[bytes] = field(default_factory=list)  # fields

    written: list[tuple[Held, bool]] = field(default_factory=list)  # states held open, and whether in parts

    @classmethod
    def of(cls, held: Mapping[bytes, Held], others: Iterable[bytes], known: Mapping[bytes, Ends]) -> PieceWrites:
        """Write the states held open that have changed, in parts where they can be divided.

        `others`: customers whose states are written whole, or deleted; `known`: what Redis holds of divided states.
        """
        writes = cls()
        for customer, state in held.items():
            if not state.dirty:
                continue
            parts, before = state.parts(), known.get(customer)
            if parts is not None:
                writes.add(customer, parts, before)
            else:
                writes.states[customer] = state.value()
                writes._drop(customer, before)
            writes.written.append((state, parts is not None))
        for customer in others if known else ():
            if (before := known.get(customer)) is not None:
                writes._drop(customer, before)
        return writes

    def note(self, known: dict[bytes, Ends]) -> None:
        """Note that all this is written. `known`: what Redis holds of divided states."""
        for customer, ends in self.now.items():
            if ends is None:
                known.pop(customer, None)
            else:
                known[customer] = ends
        for state, in_parts in self.written:
            state.stored(in_parts=in_parts)

    def add(self, customer: bytes, parts: StateParts, before: Ends | None) -> None:
        """Write a state in parts; `before`: what Redis holds of it."""
        now = self.now[customer] = Ends(parts.front, parts.rows, parts.middle, parts.revisions)
        self._put(customer, _ROW, parts.changed_rows)
        self._put(customer, _REVISION, parts.changed_revisions)
        self._delete(customer, before, now)
        self.states[customer] = now.encode()

    def _drop(self, customer: bytes, before: Ends | None) -> None:
        self.now[customer] = None
        self._delete(customer, before, None)

    def _delete(self, customer: bytes, before: Ends | None, now: Ends | None) -> None:
        if before is None or (now and (before.rows[:2], before.revisions[:2]) == (now.rows[:2], now.revisions[:2])):
            return
        kept = set(now.fields(customer)) if now else set()
        self.deleted += [name for name in before.fields(customer) if name not in kept]

    def _put(self, customer: bytes, kind: bytes, changed: Mapping[int, bytes]) -> None:
        for number, piece in changed.items():
            self.put[field_of(customer, kind, number)] = piece
