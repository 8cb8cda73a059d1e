"""The parts of a large state in Redis: a new order writes those that it changes, whatever the state's size.

A state's bytes are `front`, then its rows after the cut, then `middle`, then these rows' revisions (where any has one).
Rows and revisions lie in pieces. Rows have numbers that stay as long as none is put in or taken out before them, so
that a new order changes the last piece alone. Orders leave at the front: their rows are passed over, and a piece of
which nothing is left is deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from segmentation.state_bytes import ROW, pack_entries
from segmentation.state_tail import put_revision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segmentation.entries import Entry

ROWS: Final = 69  # of a piece: 1,518 bytes, so that Redis's allocator wastes little


class PieceRun(NamedTuple):
    """Pieces that belong one behind the other."""

    first: int  # the number of the first one
    pieces: int
    skip: int  # bytes at the beginning of the first one that no longer count

    def numbers(self) -> range:
        """Return the pieces' numbers."""
        return range(self.first, self.first + self.pieces)


NO_RUN: Final = PieceRun(0, 0, 0)


class StateParts(NamedTuple):
    """A state in parts, and those pieces of it that have changed since it was stored."""

    front: bytes
    rows: PieceRun
    middle: bytes
    revisions: PieceRun
    changed_rows: Mapping[int, bytes]
    changed_revisions: Mapping[int, bytes]


class Pieces:
    """Numbers the rows of one state, and remembers which pieces of them have changed."""

    __slots__ = ("_changed", "_last", "_partial", "_revised", "_start", "_stored_start")

    def __init__(self) -> None:
        self._start = 0  # number of the first row after the cut
        self._changed: int | None = 0  # the least number of a row that has changed since; None: none has
        self._stored_start = -1
        self._revised = False  # the rows' revisions are stored
        self._partial = (0, 0)  # the piece that was written without its first rows, and the number of its first row
        self._last: tuple[int, int, bytes] = (-1, 0, b"")  # rows [from, to) of the last piece, packed

    def inserted(self, position: int) -> None:
        """Note that a row was put in. `position`: among those after the cut."""
        at = self._start + position
        self._changed = at if self._changed is None else min(at, self._changed)
        if at < self._last[1]:
            self._last = (-1, 0, b"")

    def left(self, count: int) -> None:
        """Note that the first rows have gone."""
        self._start += count

    def parts(self, front: bytes, middle: bytes, entries: Sequence[Entry], first: int, *, revised: bool) -> StateParts:
        """Return the state's parts. `entries`: all, of which those from `first` on lie after the cut."""
        start, end = self._start, self._start + len(entries) - first
        numbers = range(start // ROWS, -(-end // ROWS)) if end > start else range(0)
        rows, revisions = dict[int, bytes](), dict[int, bytes]()
        if self._changed is not None:
            for number in range(max(self._changed, start) // ROWS, numbers.stop):
                rows[number] = self._packed(number, entries, first, end)
        if revised:
            rewritten = set(numbers if not self._revised else rows)
            if numbers and start != self._stored_start:
                rewritten.add(numbers.start)
            for number in rewritten:
                revisions[number] = _revisions(self._slice(number, entries, first, end))
        if numbers.start in rows:
            self._partial = (numbers.start, max(start, numbers.start * ROWS))
        written_from = self._partial[1] if self._partial[0] == numbers.start else numbers.start * ROWS
        skip = (start - written_from) * ROW.size if numbers else 0
        return StateParts(
            front,
            PieceRun(numbers.start, len(numbers), skip),
            middle,
            PieceRun(numbers.start, len(numbers), 0) if revised else NO_RUN,
            rows,
            revisions,
        )

    def stored(self, *, revised: bool) -> None:
        """Note that these parts are stored."""
        self._changed, self._stored_start, self._revised = None, self._start, revised

    def _slice(self, number: int, entries: Sequence[Entry], first: int, end: int) -> Sequence[Entry]:
        low, high = max(number * ROWS, self._start), min((number + 1) * ROWS, end)
        return entries[first + low - self._start : first + high - self._start]

    def _packed(self, number: int, entries: Sequence[Entry], first: int, end: int) -> bytes:
        """Return a piece's rows. Those of the last piece are kept, because each new order appends one."""
        low, high = max(number * ROWS, self._start), min((number + 1) * ROWS, end)
        known_from, known_to, known = self._last
        if known_from == low and low < known_to <= high:
            known += pack_entries(entries[first + known_to - self._start : first + high - self._start])
        else:
            known = pack_entries(self._slice(number, entries, first, end))
        self._last = (low, high, known)
        return known


def _revisions(entries: Sequence[Entry]) -> bytes:
    out = bytearray()
    for e in entries:
        put_revision(out, e)
    return bytes(out)
