"""The tail of a state's bytes: what doesn't fit into the header and the rows of 22 bytes. Most customers have none.

First a byte of flags, then the parts that it names, in this order, as varints:

- wide: how many; of each, its row, key and amount, where these don't fit into the row
- foreign: how many; of each, its row, currency, what was paid, and the rate
- folded: orders, money, first, last minus first; how many purchase days, the first one, and the others (`_days`)
- links: how many ids, each with its length, in UTF-8; how many merges, of each its instant, source and target among the
  ids, and stamp; how many hand-overs, of each 48 bits
- revisions: of each row 0 for none, else the revision minus the row's time, zigzagged, and 1 more

Revisions come last, so that a plain new order appends its own.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from segmentation.entries import NEVER, NONE, UNREVISED, Entry, Foreign
from segmentation.life import NOTHING_FOLDED, Folded
from segmentation.links import NO_LINKS, Edge, Links, Received, members_of
from segmentation.meaning import has_revisions
from segmentation.varints import VarintReader, put, put_signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

KEY_LIMIT: Final = 2**48 - 1  # a key from here on is wide
AMOUNT_LIMIT: Final = 2**32 - 1  # the amount in a row of a wide amount
FINE: Final = 2**31  # set in a row's amount that is in ten-thousandths; else it is in hundredths
COARSE: Final = 100  # ten-thousandths in a hundredth


class TailError(ValueError):
    """These bytes aren't the tail of a state."""


# The flags. Plain integers: those of an IntFlag cost ten times as much, and every order that leaves reads a tail.
_WIDE: Final = 1
_FOREIGN: Final = 2
_FOLDED: Final = 4
_PARTIAL: Final = 8  # what is folded isn't the whole life before the cut
_BITMAP: Final = 16  # the purchase days lie in a bitmap
_REVISIONS: Final = 32
_LINKS: Final = 64
_ALL: Final = 127


class Tail(NamedTuple):
    """The additions of a tail to the rows of a state."""

    wide: dict[int, tuple[int, int]]  # row -> key, amount
    foreign: dict[int, Foreign]  # by row
    folded: Folded
    links: Links
    revisions: list[int]  # of all rows; empty: none has one


NO_TAIL: Final = Tail({}, {}, NOTHING_FOLDED, NO_LINKS, [])


def row_amount(amount: int) -> int:
    """Return how an amount lies in a row; AMOUNT_LIMIT: it doesn't fit."""
    if amount % COARSE == 0 and amount < FINE * COARSE:
        return amount // COARSE
    return amount | FINE if amount < FINE - 1 else AMOUNT_LIMIT


def amounts_of_rows(packed: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the amounts of rows in ten-thousandths, [n]; of wide ones a number without meaning."""
    whole = packed.astype(np.int64)
    return np.where(whole & FINE, whole & ~FINE, whole * COARSE)


def is_wide(key: int, amount: int) -> bool:
    """Return whether a row has no room for one of these."""
    return key >= KEY_LIMIT or (amount >= FINE - 1 and row_amount(amount) == AMOUNT_LIMIT)


def is_beyond_row(e: Entry) -> bool:
    """Return whether the tail names an entry's row, because something else than a revision doesn't fit into it."""
    return is_wide(e.key, e.amount) or e.foreign != ()


def write_tail(entries: Sequence[Entry], folded: Folded, links: Links = NO_LINKS) -> bytes:
    """Return the tail of a state; empty where it needs none."""
    wide = [(i, e.key, e.amount) for i, e in enumerate(entries) if is_wide(e.key, e.amount)]
    foreign = [(i, *e.foreign) for i, e in enumerate(entries) if e.foreign]
    revised = has_revisions(entries)
    if not (wide or foreign or revised or folded != NOTHING_FOLDED or links != NO_LINKS):
        return b""
    has, out = 0, bytearray(1)
    for part, rows in ((_WIDE, wide), (_FOREIGN, foreign)):
        if rows:
            has |= part
            _put_rows(out, rows)
    if folded != NOTHING_FOLDED:
        has |= _FOLDED | _put_folded(out, folded)
    if links != NO_LINKS:
        has |= _LINKS
        _put_links(out, links)
    if revised:
        has |= _REVISIONS
        for e in entries:
            put_revision(out, e)
    out[0] = has
    return bytes(out)


def begin_tail(folded: Folded, before: Sequence[Entry], *, revised: bool) -> bytes:
    """Return the tail of a state, without wide and foreign rows, up to the revisions of the rows after these."""
    if not revised and folded == NOTHING_FOLDED:
        return b""
    out, has = bytearray(1), _REVISIONS if revised else 0
    if folded != NOTHING_FOLDED:
        has |= _FOLDED | _put_folded(out, folded)
    for e in before if revised else ():
        put_revision(out, e)
    out[0] = has
    return bytes(out)


def _put_rows(out: bytearray, rows: Sequence[Sequence[int]]) -> None:
    put(out, len(rows))
    for row in rows:
        for number in row:
            put(out, number)


def with_foreign(tail: bytes, row: int, foreign: Foreign) -> bytes | None:
    """Return a tail with what was paid of a row behind all others.

    None: it has wide rows, which come first, or isn't a tail.
    """
    has, count, begin, end = tail[0] if tail else 0, 0, 1, 1
    if has & _WIDE:
        return None
    if has & _FOREIGN:
        # Each number ends with a byte below 128: the count, and four of each row.
        ends = np.flatnonzero(np.frombuffer(tail, np.uint8) < 0x80)
        ends = ends[ends > 0]
        if not len(ends):
            return None
        reader = VarintReader(tail, 1)
        try:
            count, begin = reader.number(), reader.at
        except ValueError:
            return None
        if len(ends) <= 4 * count:
            return None
        end = int(ends[4 * count]) + 1
    out = bytearray([has | _FOREIGN])
    put(out, count + 1)
    out += tail[begin:end]
    for number in (row, *foreign):
        put(out, number)
    return bytes(out + tail[end:])


def put_revision(out: bytearray, e: Entry) -> None:
    """Append the revision of a row."""
    if e.revision == UNREVISED:
        out.append(0)
        return
    ahead = e.revision - e.time
    put(out, (ahead << 1 if ahead >= 0 else ~ahead << 1 | 1) + 1)


def has_links(tail: bytes) -> bool:
    """Return whether there are merges in a tail."""
    return bool(tail) and tail[0] & _LINKS != 0


def takes_revisions(tail: bytes) -> bool:
    """Return whether each new row needs a revision at the end of the tail."""
    return bool(tail) and tail[0] & _REVISIONS != 0


def row_has_revision(tail: bytes, row: int, n: int, e: Entry) -> bool:
    """Return whether a row of n has the revision of an entry, and no foreign amount. It may say no without reading all.

    The revisions are the last n numbers of a tail; each ends with a byte below 128.
    """
    if not tail or tail[0] & (_FOREIGN | _REVISIONS) == 0:
        return e.revision == UNREVISED
    if tail[0] & _FOREIGN:
        return False
    ends = np.flatnonzero(np.frombuffer(tail, np.uint8) < 0x80)
    before, own = row - n - 1, row - n
    if len(ends) < -own:
        return False
    start = int(ends[before]) + 1 if len(ends) >= -before else 1
    number = bytearray()
    put_revision(number, e)
    return tail[start : int(ends[own]) + 1] == number


def folded_alone(data: bytes) -> Folded | None:
    """Return what is folded by a tail that adds nothing to the times of its rows; None: it may. Raises TailError."""
    if not data or data[0] & (_WIDE | _FOREIGN) or data[0] > _ALL:
        return None
    return _read_folded(VarintReader(data, 1), data[0]) if data[0] & _FOLDED else NOTHING_FOLDED


def read_tail(data: bytes, times: Sequence[int]) -> Tail:
    """Read a tail. `times`: those of the rows, in ms (for revisions). Raises TailError."""
    if not data:
        return NO_TAIL
    if data[0] > _ALL:
        raise TailError(f"a tail with the flags {data[0]}")
    has, reader = data[0], VarintReader(data, 1)
    try:
        number = reader.number
        wide = {number(): (number(), number()) for _ in range(number())} if has & _WIDE else {}
        foreign = {number(): Foreign(number(), number(), number()) for _ in range(number())} if has & _FOREIGN else {}
        folded = _read_folded(reader, has) if has & _FOLDED else NOTHING_FOLDED
        links = _read_links(reader) if has & _LINKS else NO_LINKS
        revisions = []
        if has & _REVISIONS:
            times = [wide[i][0] >> 3 if i in wide else time for i, time in enumerate(times)]
            revisions = [_revision(number(), time) for time in times]
    except (IndexError, ValueError) as error:
        raise TailError(str(error)) from None
    rows = range(len(times))
    if reader.at != len(data) or not all(i in rows for i in (*wide, *foreign)):
        raise TailError("a tail that doesn't belong to its rows")
    return Tail(wide, foreign, folded, links, revisions)


def add_tail(entries: Sequence[Entry], data: bytes) -> tuple[list[Entry], Folded, Links]:
    """Return the entries with what a tail adds to them, what is folded, and the merges. Raises TailError."""
    tail = read_tail(data, [e.time for e in entries])
    whole = list(entries)
    for i, (key, amount) in tail.wide.items():
        whole[i] = whole[i]._replace(key=key, amount=amount)
    for i, foreign in tail.foreign.items():
        whole[i] = whole[i]._replace(foreign=foreign)
    if tail.revisions:
        whole = [e._replace(revision=revision) for e, revision in zip(whole, tail.revisions, strict=True)]
    return whole, tail.folded, tail.links


def _revision(number: int, time: int) -> int:
    if not number:
        return UNREVISED
    number -= 1
    return time + (~(number >> 1) if number & 1 else number >> 1)


def _put_folded(out: bytearray, folded: Folded) -> int:
    put(out, folded.orders)
    put_signed(out, folded.money)
    if folded.orders:
        put(out, folded.first)
        put(out, folded.last - folded.first)
    gaps, bitmap = _days(folded.days)
    put(out, len(folded.days))
    if folded.days:
        put(out, folded.days[0])
    short = len(bitmap) < len(gaps)
    out += bitmap if short else gaps
    return (_BITMAP if short else 0) | (0 if folded.whole else _PARTIAL)


def _put_links(out: bytearray, links: Links) -> None:
    names = sorted(members_of(links.edges))
    put(out, len(names))
    for name in names:
        text = name.encode()
        put(out, len(text))
        out += text
    _put_rows(out, [(e.at, names.index(e.source), names.index(e.target), e.learned) for e in links.edges])
    _put_rows(out, links.received)


def _read_links(reader: VarintReader) -> Links:
    number = reader.number
    names = [reader.take(number()).decode() for _ in range(number())]
    edges = [Edge(number(), names[number()], names[number()], number()) for _ in range(number())]
    return Links(tuple(edges), tuple([Received(number(), number()) for _ in range(number())]))


@lru_cache(maxsize=64)
def _days(days: tuple[int, ...]) -> tuple[bytes, bytes]:
    """Return the purchase days after the first one in two ways: as gaps between them, and as one bit a day."""
    gaps = bytearray()
    bits = 0
    for before, day in pairwise(days):
        put(gaps, day - before)
        bits |= 1 << day - days[0] - 1
    return bytes(gaps), bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _read_folded(reader: VarintReader, has: int) -> Folded:
    orders, money, first, last = reader.number(), reader.signed(), NEVER, NONE
    if orders:
        first = reader.number()
        last = first + reader.number()
    days: list[int] = []
    if count := reader.number():
        day = reader.number()
        rest = _read_bitmap(reader, day, count - 1) if has & _BITMAP else reader.numbers(count - 1)
        days = [day, *rest] if has & _BITMAP else list(accumulate(rest, initial=day))
    return Folded(orders, money, first, last, tuple(days), whole=not has & _PARTIAL)


def _read_bitmap(reader: VarintReader, first: int, count: int) -> list[int]:
    """Read so many days after the first one."""
    days: list[int] = []
    base = first + 1
    while len(days) < count:
        byte = reader.take(1)[0]
        days += [base + bit for bit in range(8) if byte >> bit & 1]
        base += 8
    if len(days) > count:
        raise TailError("a bitmap with more days than it counts")
    return days
