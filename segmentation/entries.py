"""The entries of a customer's state, and what a set of them means at an instant.

A state is the *set* of the customer's events. Merging an event resolves nothing; which orders are cancelled, replaced
or refunded is worked out here, when the set is read. So neither order of arrival nor repetition can matter.

Times are int64 milliseconds since 1970 UTC, amounts int64 ten-thousandths of the currency's unit.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

NONE: Final = -(2**63)  # "no such time": earlier than any
NEVER: Final = 2**63 - 1  # "no such time": later than any
MONEY_LIMIT: Final = 2**63 - 1  # sums saturate here
DAY_MS: Final = 86_400_000


class Kind(IntEnum):
    """The kind of an entry. The numbers are part of the layout: at one instant entries sort by them."""

    PLACED = 0
    REFUNDED = 1
    CANCELLED = 2
    ANCHOR = 3  # the last order that stood when the cut passed it: final
    ERASED = 4


# Plain integers for the loops: comparing an IntEnum member costs three times as much.
PLACED, REFUNDED, CANCELLED, ANCHOR, ERASED = (int(kind) for kind in Kind)


class Entry(NamedTuple):
    """One event, or the anchor. Entries sort as tuples, and lie in the bytes in that order.

    >>> entry(Kind.PLACED, "e1", 1000, order="o1", amount=125_000).time
    1000
    """

    key: int  # time * 8 + kind
    order: int  # hash of the order's id; 0: names none
    amount: int  # ten-thousandths, never negative; 0 for a cancellation
    event: int  # hash of kind and event id

    @property
    def time(self) -> int:
        """Milliseconds since 1970 UTC."""
        return self.key >> 3  # not by way of time_of: every event is asked

    @property
    def kind(self) -> int:
        """A number of Kind."""
        return self.key & 7

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Sort key of placements in time, whether anchored or not."""
        return self.key >> 3, self.order, self.amount, self.event


class Rules(NamedTuple):
    """The settings that the bytes of a state depend on."""

    window: int = 365 * DAY_MS  # ms that an order counts
    grace: int = 7 * DAY_MS  # ms that a cancellation, an erasure or a second content of an id may come late
    cap: int = 16_384  # most entries kept for one customer


class Reading(NamedTuple):
    """The meaning of entries at an instant."""

    standing: list[Entry]  # orders that stand, newest first, the anchor among them
    frequency: int  # standing orders in the window
    monetary: int  # their amounts less the refunds that count, ten-thousandths, saturating


class Counted(NamedTuple):
    """The entries that make up frequency and monetary value at an instant."""

    orders: dict[int, Entry]  # by the hash of the order's id
    refunds: list[Entry]


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


def kind_of(key: int) -> int:
    """Return the kind in an entry's key, a number of Kind."""
    return key & 7


def hash64(space: bytes, name: str) -> int:
    """Hash to 64 bits: BLAKE2b over a name space and an id, little-endian; never 0, which means "none".

    >>> hex(hash64(b"o", "o1"))
    '0xc0abd5918241889'
    """
    return int.from_bytes(blake2b(space + name.encode(), digest_size=8).digest(), "little") or 1


def entry(kind: Kind, event_id: str, time: int, *, order: str | None = None, amount: int = 0) -> Entry:
    """Make the entry of an event. An erasure is its time alone, so that its repetitions are one entry."""
    if kind == ERASED:
        return Entry(key_of(time, ERASED), 0, 0, 0)
    return Entry(key_of(time, kind), hash64(b"o", order) if order else 0, amount, hash64(b"%d" % kind, event_id))


def after(time: int) -> int:
    """Return the least key of a later entry: an entry's time is above `time` iff its key is at least this."""
    return (time + 1) << 3


def read(rows: Sequence[Entry], t: int, cut: int, rules: Rules) -> Reading:
    """Return the meaning of sorted entries at `t`, where entries up to `cut` no longer count and later ones don't yet.

    1. Void: a later event of the same kind and id exists, less than a window after it. It has no effect whatever.
    2. Superseded: an order placed again, less than a window later. Of two at one instant the greater amount counts.
    3. Cancelled: a cancellation c of the order exists with placed - grace <= c < placed + window.
    4. An order stands if none of these holds. A refund counts with its order (see `counted`), or by itself if it names
       none.
    """
    standing, refunds = _judge(rows, t, rules)
    counting = counted(standing, refunds, max(t - rules.window, cut), rules.grace)
    monetary = sum([e.amount for e in counting.orders.values()]) - sum([e.amount for e in counting.refunds])
    return Reading(standing, len(counting.orders), saturated(monetary))


def read_counted(rows: Sequence[Entry], t: int, cut: int, rules: Rules) -> Counted:
    """Return the entries that make up the two figures of `read` at the same instant."""
    standing, refunds = _judge(rows, t, rules)
    return counted(standing, refunds, max(t - rules.window, cut), rules.grace)


def counted(standing: Sequence[Entry], refunds: Sequence[Entry], start: int, grace: int) -> Counted:
    """Pick what counts in a window that begins after `start`.

    A refund that names an order counts as long as that order does, unless dated more than `grace` before it. A refund
    that names none counts while it lies in the window itself.
    """
    least = after(start)
    orders = {e.order: e for e in standing if e.key >= least and e.key & 7 == PLACED}
    counting = []
    for e in refunds:
        order = orders.get(e.order)
        if e.key >= least if e.order == 0 else order is not None and e.time >= order.time - grace:
            counting.append(e)
    return Counted(orders, counting)


def saturated(units: int) -> int:
    """Limit a sum of money to 64 bits."""
    return max(-MONEY_LIMIT, min(units, MONEY_LIMIT))


def _judge(rows: Sequence[Entry], t: int, rules: Rules) -> tuple[list[Entry], list[Entry]]:
    """Find the orders that stand at `t` and the refunds that aren't void, newest first: rules 1 to 3 of `read`."""
    window, grace, _ = rules
    next_by_id: dict[int, int] = {}
    next_by_order: dict[int, int] = {}
    cancelled: dict[int, list[int]] = {}
    placed: list[Entry] = []
    refunds: list[Entry] = []
    # From the newest back, so that an entry that takes another's effect away comes before it (a cancellation may lie on
    # either side).
    for e in reversed(rows):
        time, kind = e.key >> 3, e.key & 7
        if time > t or kind == ERASED:
            continue
        if kind == ANCHOR:
            placed.append(e)
            continue
        void = next_by_id.get(e.event, NEVER) - time < window
        next_by_id[e.event] = time
        if void:
            continue
        if kind == PLACED:
            if next_by_order.get(e.order, NEVER) - time >= window:
                placed.append(e)
            next_by_order[e.order] = time
        elif kind == CANCELLED:
            cancelled.setdefault(e.order, []).append(time)
        else:
            refunds.append(e)
    if not cancelled:
        return placed, refunds

    def stands(p: Entry) -> bool:
        time = p.key >> 3
        return p.key & 7 == ANCHOR or not any(time - grace <= c < time + window for c in cancelled.get(p.order, ()))

    return [p for p in placed if stands(p)], refunds
