"""The bytes of a customer's state, read by these functions alone (docs/explanation/state-format.md, section 5).

Layout, version 1: little-endian, no padding, every field on its own boundary. A header of 72 bytes (HEADER, HEAD), then
32 bytes an entry (ENTRY, ROW) in sorted order. The header's figures hold from the last change up to, not including,
`next_change`. As columns, headers and entries go by the names of their fields.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.backfills import SLOTS
from segmentation.entries import ERASED, NEVER, NONE, Entry, kind_of, times_of
from segmentation.step import StateUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

VERSION: Final = 1
HEADER, ENTRY = struct.Struct("<BBHIqIIqqqqqq"), struct.Struct("<qQqQ")
HEAD: Final = np.dtype(
    [
        ("version", "u1"),
        ("flags", "u1"),
        ("segment", "<u2"),
        ("sequence", "<u4"),
        ("moved_at", "<i8"),
        ("n", "<u4"),
        ("frequency", "<u4"),
        ("monetary", "<i8"),
        ("last", "<i8"),
        ("first", "<i8"),
        ("newest", "<i8"),
        ("next_change", "<i8"),
        ("cut", "<i8"),
    ]
)
ROW: Final = np.dtype([("key", "<i8"), ("order", "<u8"), ("amount", "<i8"), ("event", "<u8")])
FLAGS: Final = SLOTS << 1 | 1  # the highest value of flags; bit 0: capped; bits 1 to 6: the backfill that mutes
SEGMENT: Final = slice(2, 4)  # the bytes of the announced segment
_ANNOUNCED: Final = struct.Struct("<HIq")  # offsets 2 to 15: the scorer's
_FIGURES, _FIGURES_AT = struct.Struct("<Iqq"), 20  # frequency, monetary, last
_FIRST, _NO_ORDER = slice(40, 48), struct.pack("<q", NEVER)
_TIME: Final = struct.Struct("<q")
_NEXT_CHANGE_AT, _CUT_AT = 56, 64


class StateFormatError(StateUnreadable):
    """These bytes aren't a state of this version: written by another program, or torn."""


@dataclass(frozen=True, slots=True)
class CustomerState:
    """Header and entries. The header's figures hold from the last change up to, not including, `next_change`."""

    frequency: int = 0  # standing orders in the window
    monetary: int = 0  # ten-thousandths, net of refunds
    last: int = NONE  # time of the last order that stands, in the window or not
    first: int = NEVER  # time of the first order ever seen, standing or not
    newest: int = NONE  # time of the newest entry
    next_change: int = NEVER  # the earliest instant at which time alone can change these bytes
    cut: int = NONE  # events up to here no longer count, and entries up to here are only the remnant
    capped: bool = False  # the cap put the cut where it is: the window is incomplete, and there is no remnant
    muted: int = 0  # the slot of the backfill that mutes this customer; 0: none
    entries: tuple[Entry, ...] = ()
    segment: int = 0  # the scorer's three, passed through unchanged; 0: never announced
    sequence: int = 0
    moved_at: int = NONE


def pack(state: CustomerState) -> bytes:
    """Write a state as bytes: 72, and 32 more per entry."""
    s = state
    figures = (s.frequency, s.monetary, s.last, s.first, s.newest, s.next_change, s.cut)
    head = HEADER.pack(VERSION, s.capped | s.muted << 1, s.segment, s.sequence, s.moved_at, len(s.entries), *figures)
    return head + pack_entries(s.entries)


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """Write sorted entries as bytes, 32 each."""
    return b"".join([ENTRY.pack(*e) for e in entries])


def unpack(value: bytes) -> CustomerState:
    """Read a state from bytes. Raises StateFormatError for another version, an unknown flag or a torn value."""
    if len(value) < HEADER.size or value[0] != VERSION or value[1] > FLAGS:
        raise StateFormatError(_refusal(value))
    head = HEADER.unpack_from(value)
    if len(value) != HEADER.size + head[5] * ENTRY.size:
        raise StateFormatError(_refusal(value))
    _, flags, segment, sequence, moved_at, _, frequency, monetary, last, first, newest, next_change, cut = head
    return CustomerState(
        frequency=frequency,
        monetary=monetary,
        last=last,
        first=first,
        newest=newest,
        next_change=next_change,
        cut=cut,
        capped=bool(flags & 1),
        muted=flags >> 1,
        entries=tuple([Entry._make(row) for row in ENTRY.iter_unpack(value[HEADER.size :])]),
        segment=segment,
        sequence=sequence,
        moved_at=moved_at,
    )


def _refusal(value: bytes) -> str:
    return (
        f"{len(value)} bytes that begin with {value[:24].hex()} aren't a customer's state: expected version {VERSION}, "
        f"flags up to {FLAGS} and {HEADER.size} + {ENTRY.size} n bytes. "
        "Rebuild the states, or run the version that wrote them."
    )


EMPTY: Final = pack(CustomerState())


class HeaderFigures(NamedTuple):
    """The figures in a header; they hold up to its next change."""

    frequency: int  # standing orders in the window
    monetary: int  # ten-thousandths
    last: int  # ms of the last order that stands; NONE: there is none


def figures_in(value: bytes) -> HeaderFigures:
    """Return the figures in a state's header."""
    return HeaderFigures(*_FIGURES.unpack_from(value, _FIGURES_AT))


def next_change_of(value: bytes) -> int:
    """Return the earliest instant (ms) at which time alone can change a state."""
    at: int = _TIME.unpack_from(value, _NEXT_CHANGE_AT)[0]
    return at


def cut_of(value: bytes) -> int:
    """Return the cut of a state (ms): events up to here no longer count."""
    cut: int = _TIME.unpack_from(value, _CUT_AT)[0]
    return cut


def latest_key(value: bytes) -> int | None:
    """Return the key of a state's last entry; None: it has none."""
    if len(value) == HEADER.size:
        return None
    key: int = _TIME.unpack_from(value, len(value) - ENTRY.size)[0]
    return key


def times_in(value: bytes) -> NDArray[np.int64]:
    """Return the times (ms) of a state's entries, [n], ascending."""
    return times_of(np.frombuffer(value, ROW, offset=HEADER.size)["key"])


def announcement(value: bytes) -> tuple[int, int, int]:
    """Return the last published move: segment (0: none), the customer's sequence, ms of that move (NONE: none)."""
    segment, sequence, moved_at = _ANNOUNCED.unpack_from(value, 2)
    return segment, sequence, moved_at


def with_announcement(value: bytes, segment: int, sequence: int, moved_at: int) -> bytes:
    """Return the state with its last published move: segment (0: none), the customer's sequence, ms (NONE: none)."""
    return value[:2] + _ANNOUNCED.pack(segment, sequence, moved_at) + value[2 + _ANNOUNCED.size :]


def bare(value: bytes) -> bytes | None:
    """Return the state without any event, with its last published move alone; None: none was published."""
    announced = announcement(value)
    return with_announcement(EMPTY, *announced) if announced[1] else None


def muted_by(value: bytes) -> int:
    """Return the slot of the backfill that mutes the customer; 0: none."""
    return value[1] >> 1


def with_mute(value: bytes, slot: int) -> bytes:
    """Return the state muted by the backfill of this slot; 0: by none."""
    return value[:1] + bytes((value[1] & 1 | slot << 1,)) + value[2:]


def is_lost(value: bytes) -> bool:
    """Return whether a segment is known, but no order ever: all had left the log when the state was rebuilt."""
    return value[_FIRST] == _NO_ORDER and value[SEGMENT] != b"\0\0"


def is_silent(value: bytes) -> bool:
    """Return whether neither time nor a model may move the customer: it is muted, or has lost every order."""
    return muted_by(value) != 0 or is_lost(value)


def silent(head: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return `is_silent` for columns of headers, [customers]."""
    found: NDArray[np.bool_] = (head["flags"] >> 1 != 0) | ((head["first"] == NEVER) & (head["segment"] != 0))
    return found


def is_erased(value: bytes) -> bool:
    """Return whether a state holds an erasure and no segment, nothing else: it is no longer about a person."""
    return (
        len(value) == HEADER.size + ENTRY.size and kind_of(value[HEADER.size]) == ERASED and value[SEGMENT] == b"\0\0"
    )


def is_capped(value: bytes) -> bool:
    """Return whether the cap has put a state's cut where it is: then the window is incomplete."""
    return value[1] & 1 == 1


def headers(values: Sequence[bytes]) -> NDArray[np.void]:
    """Join the headers to columns, HEAD[len(values)], read-only. Raises StateFormatError if one isn't a state.

    At a clock t < next_change the columns are the figures at t; bring other states to t first (`rfm.advance_bytes`).
    """
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    if values and sizes.min() < HEADER.size:
        raise StateFormatError(_refusal(values[int(sizes.argmin())]))
    head = np.frombuffer(b"".join([v[: HEADER.size] for v in values]), HEAD)
    bad = (
        (head["version"] != VERSION)
        | (head["flags"] > FLAGS)
        | (sizes != HEADER.size + ENTRY.size * head["n"].astype(np.int64))
    )
    if bad.any():
        raise StateFormatError(_refusal(values[int(bad.argmax())]))
    return head


def rows(values: Sequence[bytes]) -> NDArray[np.void]:
    """Join the entries of all values, one after the other, to columns ROW[sum of n], read-only.

    The owner of each: `np.repeat(np.arange(len(values)), head["n"])`.
    """
    return np.frombuffer(b"".join([v[HEADER.size :] for v in values]), ROW)


def layout(n: int) -> np.dtype[np.void]:
    """Return the layout of states with n entries, for arrays of them: fields `head` (HEAD) and `rows` (ROW[n])."""
    return np.dtype([("head", HEAD), ("rows", ROW, (n,))])
