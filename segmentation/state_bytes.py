"""The bytes of a customer's state, read by these functions alone (docs/explanation/state-format.md, section 5).

Layout, version 2: little-endian, no padding. A header of 94 bytes (HEADER, HEAD), then 22 bytes an entry (ROW_BYTES,
PACKED) in sorted order, then a tail where something doesn't fit into these (`segmentation.state_tail`). The header's
figures hold from the last change up to, not including, `next_change`. As columns, headers and entries go by the names
of their fields.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.backfills import SLOTS
from segmentation.entries import ERASED, NEVER, NONE, Entry, kind_of, times_of
from segmentation.life import MOST_DAYS, NO_LIFE, NOTHING_FOLDED, Folded, Life
from segmentation.links import NO_LINKS, Links
from segmentation.state_tail import (
    AMOUNT_LIMIT,
    COARSE,
    FINE,
    KEY_LIMIT,
    TailError,
    add_tail,
    amounts_of_rows,
    has_links,
    row_amount,
    write_tail,
)
from segmentation.step import StateUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

VERSION: Final = 2
HEADER, ROW = struct.Struct("<BBHIqIIqqqqqqIHqq"), struct.Struct("<IHIIHIH")
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
        ("life_orders", "<u4"),
        ("life_days", "<u2"),
        ("life_money", "<i8"),
        ("life_first", "<i8"),
    ]
)
# Numbers of 48 bits lie in two parts, the low 32 bits first.
PACKED: Final = np.dtype(
    [
        ("key_low", "<u4"),
        ("key_high", "<u2"),
        ("amount", "<u4"),
        ("order_low", "<u4"),
        ("order_high", "<u2"),
        ("event_low", "<u4"),
        ("event_high", "<u2"),
    ]
)
COLUMNS: Final = np.dtype([("key", "<i8"), ("order", "<u8"), ("amount", "<i8"), ("event", "<u8")])
FLAGS: Final = SLOTS << 1 | 1  # the highest value without a tail; bit 0: capped; bits 1 to 6: the backfill that mutes
TAIL: Final = 0x80  # the flag of a state with a tail
SEGMENT: Final = slice(2, 4)  # the bytes of the announced segment
ORDER_AT, EVENT_AT = slice(10, 16), slice(16, 22)  # the bytes of a row
_ANNOUNCED: Final = struct.Struct("<HIq")  # offsets 2 to 15: the scorer's
_FIGURES, _FIGURES_AT = struct.Struct("<Iqq"), 20  # frequency, monetary, last
_LIFE, _LIFE_AT = struct.Struct("<IHqq"), 72
_FIRST, _NO_ORDER = slice(40, 48), struct.pack("<q", NEVER)
_TIME, _COUNT = struct.Struct("<q"), struct.Struct("<I")
_COUNT_AT, _NEXT_CHANGE_AT, _CUT_AT = 16, 56, 64
_LOW: Final = 2**32 - 1


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
    life: Life = NO_LIFE  # up to the same instants as the other figures
    folded: Folded = NOTHING_FOLDED  # the part of it that lies at or before the cut
    links: Links = NO_LINKS  # the merges that the customer knows of
    segment: int = 0  # the scorer's three, passed through unchanged; 0: never announced
    sequence: int = 0
    moved_at: int = NONE

    @property
    def holds_anything(self) -> bool:
        """Whether there is anything of a customer in it, beside moves and merges: an erasure, or a cut alone.

        Refunds of orders that never came leave nothing else behind.
        """
        return bool(self.entries) or self.folded != NOTHING_FOLDED or self.first != NEVER or self.cut != NONE


def pack(state: CustomerState) -> bytes:
    """Write a state as bytes: 94, 22 more per entry, and a tail where these don't suffice."""
    tail = write_tail(state.entries, state.folded, state.links)
    return pack_header(state, len(state.entries), state.muted, tail=bool(tail)) + pack_entries(state.entries) + tail


def pack_header(s: CustomerState, n: int, muted: int, *, tail: bool) -> bytes:
    """Write the header of a state with n entries."""
    figures = (s.frequency, s.monetary, s.last, s.first, s.newest, s.next_change, s.cut)
    life = (s.life.orders, min(s.life.days, MOST_DAYS), s.life.money, s.life.first)
    flags = s.capped | muted << 1 | (TAIL if tail else 0)
    return HEADER.pack(VERSION, flags, s.segment, s.sequence, s.moved_at, n, *figures, *life)


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """Write sorted entries as bytes, 22 each."""
    return b"".join([pack_entry(e) for e in entries])


def pack_entry(e: Entry) -> bytes:
    """Write an entry's row. What doesn't fit is in the tail."""
    key, order, amount, event, _, _ = e
    key = min(key, KEY_LIMIT)
    return ROW.pack(key & _LOW, key >> 32, row_amount(amount), order & _LOW, order >> 32, event & _LOW, event >> 32)


def unpack(value: bytes) -> CustomerState:
    """Read a state from bytes. Raises StateFormatError for another version, an unknown flag or a torn value."""
    if len(value) < HEADER.size or not _is_whole(value):
        raise StateFormatError(_refusal(value))
    (
        _, flags, segment, sequence, moved_at, n, frequency, monetary, last, first, newest, next_change, cut,
        orders, days, money, first_standing,
    ) = HEADER.unpack_from(value)  # fmt: skip
    rows_end = HEADER.size + n * ROW.size
    entries = [
        Entry(
            k | k_high << 32, o | o_high << 32, amount * COARSE if amount < FINE else amount & ~FINE, e | e_high << 32
        )
        for k, k_high, amount, o, o_high, e, e_high in ROW.iter_unpack(value[HEADER.size : rows_end])
    ]
    folded, links = NOTHING_FOLDED, NO_LINKS
    if flags & TAIL:
        try:
            entries, folded, links = add_tail(entries, value[rows_end:])
        except TailError:
            raise StateFormatError(_refusal(value)) from None
    return CustomerState(
        frequency=frequency,
        monetary=monetary,
        last=last,
        first=first,
        newest=newest,
        next_change=next_change,
        cut=cut,
        capped=bool(flags & 1),
        muted=(flags & FLAGS) >> 1,
        entries=tuple(entries),
        life=Life(orders, days, money, first_standing),
        folded=folded,
        links=links,
        segment=segment,
        sequence=sequence,
        moved_at=moved_at,
    )


def _is_whole(value: bytes) -> bool:
    """Return whether version, flags and length of a value with a whole header fit to one another."""
    rest = len(value) - HEADER.size - ROW.size * _COUNT.unpack_from(value, _COUNT_AT)[0]
    return value[0] == VERSION and value[1] & ~TAIL <= FLAGS and (rest > 0 if value[1] & TAIL else rest == 0)


def _refusal(value: bytes) -> str:
    return (
        f"{len(value)} bytes that begin with {value[:24].hex()} aren't a customer's state: expected version {VERSION}, "
        f"flags up to {FLAGS | TAIL} and {HEADER.size} + {ROW.size} n bytes, or more with a tail. "
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


def has_tail(value: bytes) -> bool:
    """Return whether something in a state doesn't fit into header and rows."""
    return value[1] & TAIL != 0


def is_linked(value: bytes) -> bool:
    """Return whether the customer knows of merges."""
    return value[1] & TAIL != 0 and value[0] == VERSION and has_links(value[rows_end_of(value) :])


def life_in(value: bytes) -> Life:
    """Return the figures of the whole life in a state's header; they hold up to its next change."""
    return Life(*_LIFE.unpack_from(value, _LIFE_AT))


def latest_key(value: bytes) -> int | None:
    """Return the key of a state's last entry; None: it has none."""
    n = _COUNT.unpack_from(value, _COUNT_AT)[0]
    return int(rows([value])["key"][-1]) if n else None


def rows_end_of(value: bytes) -> int:
    """Return where a state's rows end and its tail begins."""
    return HEADER.size + ROW.size * int(_COUNT.unpack_from(value, _COUNT_AT)[0])


def times_in(value: bytes) -> NDArray[np.int64]:
    """Return the times (ms) of a state's entries, [n], ascending."""
    return times_of(rows([value])["key"])


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
    return (value[1] & FLAGS) >> 1


def with_mute(value: bytes, slot: int) -> bytes:
    """Return the state muted by the backfill of this slot; 0: by none."""
    return value[:1] + bytes((value[1] & (TAIL | 1) | slot << 1,)) + value[2:]


def is_lost(value: bytes) -> bool:
    """Return whether a segment is known, but no order ever: all had left the log when the state was rebuilt."""
    return value[_FIRST] == _NO_ORDER and value[SEGMENT] != b"\0\0"


def is_silent(value: bytes) -> bool:
    """Return whether neither time nor a model may move the customer: it is muted, or has lost every order."""
    return muted_by(value) != 0 or is_lost(value)


def silent(head: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return `is_silent` for columns of headers, [customers]."""
    found: NDArray[np.bool_] = (head["flags"] & (FLAGS - 1) != 0) | ((head["first"] == NEVER) & (head["segment"] != 0))
    return found


def is_erased(value: bytes) -> bool:
    """Return whether a state holds an erasure and no segment, nothing else: it is no longer about a person."""
    return len(value) == HEADER.size + ROW.size and kind_of(value[HEADER.size]) == ERASED and value[SEGMENT] == b"\0\0"


def is_gone(value: bytes) -> bool:
    """Return whether a state holds nothing but an erasure and merges: no order, no segment, no mute."""
    return is_erased(value) or (
        is_linked(value) and value[SEGMENT] == b"\0\0" and is_bare(value) and not muted_by(value)
    )


def is_bare(value: bytes) -> bool:
    """Return whether a state holds no order and nothing of one, whatever its segment."""
    s = unpack(value)
    return all(e.kind == ERASED for e in s.entries) and s.folded == NOTHING_FOLDED and s.first == NEVER


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
    rest = sizes - HEADER.size - ROW.size * head["n"].astype(np.int64)
    tails = head["flags"] & TAIL != 0
    bad = (head["version"] != VERSION) | np.where(tails, rest <= 0, rest != 0)
    if bad.any():
        raise StateFormatError(_refusal(values[int(bad.argmax())]))
    return head


def rows(values: Sequence[bytes]) -> NDArray[np.void]:
    """Join the entries of all values, one after the other, to columns COLUMNS[sum of n].

    The owner of each: `np.repeat(np.arange(len(values)), head["n"])`. Amounts are in the deployment's currency.
    """
    ends = [HEADER.size + ROW.size * _COUNT.unpack_from(v, _COUNT_AT)[0] for v in values]
    packed = np.frombuffer(b"".join([v[HEADER.size : end] for v, end in zip(values, ends, strict=True)]), PACKED)
    columns = np.empty(packed.size, COLUMNS)
    for name in ("key", "order", "event"):
        columns[name] = column(packed, name)
    columns["amount"] = amounts_of_rows(packed["amount"])
    if (packed["amount"] == AMOUNT_LIMIT).any() or (columns["key"] == KEY_LIMIT).any():
        _fill_in_wide(columns, values)
    return columns


def column(packed: NDArray[np.void], name: str) -> NDArray[np.int64]:
    """Return the key, order or event of rows, same shape."""
    numbers: NDArray[np.int64] = packed[f"{name}_low"] | packed[f"{name}_high"].astype(np.int64) << 32
    return numbers


def put_column(packed: NDArray[np.void], name: str, numbers: NDArray[np.int64]) -> None:
    """Write the key, order or event of rows, numbers of 48 bits, same shape."""
    packed[f"{name}_low"], packed[f"{name}_high"] = numbers & _LOW, numbers >> 32


def _fill_in_wide(columns: NDArray[np.void], values: Sequence[bytes]) -> None:
    at = 0
    for value in values:
        entries = unpack(value).entries if value[1] & TAIL else ()
        for i, e in enumerate(entries, start=at):
            columns["key"][i], columns["amount"][i] = e.key, e.amount
        at += _COUNT.unpack_from(value, _COUNT_AT)[0]


def layout(n: int) -> np.dtype[np.void]:
    """Return the layout of states with n entries and no tail, for arrays of them: `head` (HEAD), `rows` (PACKED[n])."""
    return np.dtype([("head", HEAD), ("rows", PACKED, (n,))])
