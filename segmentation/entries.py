"""The entries of a customer's state: events as numbers.

A state is the *set* of the customer's events. Merging an event resolves nothing; which orders are cancelled, replaced
or refunded is worked out when the set is read (segmentation/meaning.py). So neither order of arrival nor repetition can
matter.

Times are int64 milliseconds since 1970 UTC, amounts int64 ten-thousandths of the currency's unit.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NONE: Final = -(2**63)  # "no such time": earlier than any
NEVER: Final = 2**63 - 1  # "no such time": later than any
MONEY_LIMIT: Final = 2**63 - 1  # sums saturate here
HASH_BITS: Final = 48
_HASH_MASK: Final = 2**HASH_BITS - 1
UNREVISED: Final = -1  # the content of an order that names no revision
RATE_SCALE: Final = 10**12
DAY_MS: Final = 86_400_000
# A hundred years after the last order silence stands still: up to here one millisecond outweighs all rounding of z_r,
# for every λ. So it is part of the decision, not a cut of convenience.
HORIZON_MS: Final = 36_525 * DAY_MS


class Kind(IntEnum):
    """The kind of an entry. The numbers are part of the layout: at one instant entries sort by them."""

    PLACED = 0
    REFUNDED = 1
    CANCELLED = 2
    ANCHOR = 3  # the last order that stood when the cut passed it: final
    ERASED = 4


# Plain integers for the loops: comparing an IntEnum member costs three times as much.
PLACED, REFUNDED, CANCELLED, ANCHOR, ERASED = (int(kind) for kind in Kind)


class Foreign(NamedTuple):
    """An amount in another currency than the deployment's, and the rate of its day."""

    currency: int  # currency_number of the code
    paid: int  # ten-thousandths of that currency's unit
    rate: int  # units of the deployment's currency for one unit of it, in 1 / RATE_SCALE


class Entry(NamedTuple):
    """One event, or the anchor. Entries sort as tuples, and lie in the bytes in that order.

    >>> entry(Kind.PLACED, "e1", 1000, order="o1", amount=125_000).time
    1000
    """

    key: int  # time * 8 + kind
    order: int  # hash of the order's id; 0: names none
    amount: int  # ten-thousandths of the deployment's currency, never negative; 0 for a cancellation
    event: int  # hash of kind and event id
    revision: int = UNREVISED  # of an order's content: of several the greatest counts
    foreign: Foreign | tuple[()] = ()  # what was paid, where that was in another currency

    @property
    def time(self) -> int:
        """Milliseconds since 1970 UTC."""
        return self.key >> 3  # not by way of time_of: every event is asked

    @property
    def kind(self) -> int:
        """A number of Kind."""
        return self.key & 7

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sort key of placements in time, whether anchored or not."""
        return self.key >> 3, *self[1:]

    @property
    def precedence(self) -> tuple[Any, ...]:
        """Sort key of the contents of one event, or of one order: the greatest counts."""
        return self.revision, self.key >> 3, *self[1:]


class Rules(NamedTuple):
    """The settings that the bytes of a state depend on."""

    window: int = 365 * DAY_MS  # ms that an order counts
    grace: int = 7 * DAY_MS  # ms that a cancellation, an erasure or a second content of an id may come late
    cap: int = 16_384  # most entries kept for one customer


def key_of(time: int, kind: int) -> int:
    """Make the key of an entry: by time (ms), then by kind.

    >>> key = key_of(1000, Kind.ANCHOR)
    >>> time_of(key), Kind(kind_of(key)).name
    (1000, 'ANCHOR')
    """
    return time << 3 | kind


def keys_of(times: NDArray[np.int64], kind: int) -> NDArray[np.int64]:
    """Return the keys of entries of one kind, by times (ms), same shape."""
    return times << 3 | kind


def time_of(key: int) -> int:
    """Return the time (ms since 1970 UTC) in an entry's key."""
    return key >> 3


def times_of(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the times (ms since 1970 UTC) in keys of entries, same shape."""
    return keys >> 3


def kinds_of(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the kinds in keys of entries, same shape."""
    return keys & 7


def kind_of(key: int) -> int:
    """Return the kind in an entry's key, a number of Kind."""
    return key & 7


def hash_id(space: bytes, name: str) -> int:
    """Hash to 48 bits: the low ones of BLAKE2b-64 over a name space and an id; never 0, which means "none".

    >>> hex(hash_id(b"o", "o1"))
    '0xbd5918241889'
    """
    return narrowed(int.from_bytes(blake2b(space + name.encode(), digest_size=8).digest(), "little"))


def narrowed(hash64: int) -> int:
    """Return the 48 bits that stand for a hash of 64."""
    return hash64 & _HASH_MASK or 1


def entry(
    kind: Kind, event_id: str, time: int, *, order: str | None = None, amount: int = 0, revision: int = UNREVISED
) -> Entry:
    """Make the entry of an event. An erasure is its time alone, so that its repetitions are one entry."""
    if kind == ERASED:
        return Entry(key_of(time, ERASED), 0, 0, 0)
    names = hash_id(b"o", order) if order else 0, hash_id(b"%d" % kind, event_id)
    return Entry(key_of(time, kind), names[0], amount, names[1], revision)


def after(time: int) -> int:
    """Return the least key of a later entry: an entry's time is above `time` iff its key is at least this."""
    return (time + 1) << 3
