"""The histories of customers: what each did, in the order of time, as entries of their states."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from segmentation.entries import CANCELLED, PLACED, REFUNDED, UNREVISED, Entry, hash_id, key_of
from segmentation.links import Edge, ids_that_stay

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stream.orders.rows import OrderRow

Histories = dict[bytes, list[Entry]]  # by customer: each entry once, in time order

_KINDS: Final = {"placed": PLACED, "refunded": REFUNDED, "cancelled": CANCELLED}
_SPACES: Final = {name: b"%d" % kind for name, kind in _KINDS.items()}


class OrderFacts(NamedTuple):
    """Facts of all rows of a file, to be known before they are sorted into histories. Instants in ms."""

    rows: int
    first_ms: int | None
    last_ms: int | None
    stays: Mapping[bytes, bytes]  # the id that stays, of each id that was merged
    other_currencies: Mapping[str, int]  # rows by currency: they are left out


class Share(NamedTuple):
    """One of the equal shares of all customers, by a hash of their ids."""

    number: int = 0
    of: int = 1

    def has(self, customer: bytes) -> bool:
        """Return whether a customer belongs to this share.

        >>> sum(Share(number, 2).has(b"ada") for number in range(2))
        1
        """
        return self.of == 1 or crc32(customer) % self.of == self.number


def facts_of(rows: Iterable[OrderRow], currency: str) -> OrderFacts:
    """Go once through the rows, in any order."""
    count, first, last = 0, None, None
    merges: list[Edge] = []
    others: Counter[str] = Counter()
    for row in rows:
        count += 1
        at = row.at_ms
        if last is None or at > last:
            last = at
        if first is None or at < first:
            first = at
        if row.kind == "merged":
            merges.append(Edge(at, row.customer_id, row.merged_into or ""))
        elif row.currency != currency:
            others[row.currency] += 1
    return OrderFacts(count, first, last, ids_that_stay(merges), others)


def histories_of(
    rows: Iterable[OrderRow], facts: OrderFacts, currency: str, until_ms: int, share: Share | None = None
) -> Histories:
    """Sort the rows before an instant into the histories of a share's customers.

    Two ids that are one person, by a merge at any time, are one customer all the time. Rows in another currency than
    `currency` are left out. Equal refunds at one instant are numbered, as `segstream replay` does.
    """
    found: Histories = {}
    repeats: Counter[tuple[bytes, str]] = Counter()
    share, stays = share or Share(), facts.stays
    for row in rows:
        if row.at_ms >= until_ms or row.kind == "merged" or row.currency != currency:
            continue
        customer = row.customer_id.encode()
        customer = stays.get(customer, customer)
        if not share.has(customer):
            continue
        event_id = row.event_id
        if row.kind == "refunded":
            repeats[customer, event_id] += 1
            if (times := repeats[customer, event_id]) > 1:
                event_id = f"{event_id}#{times}"
        entry = entry_of(row, event_id)
        if customer in found:
            found[customer].append(entry)
        else:
            found[customer] = [entry]
    for customer, own in found.items():
        # As a replay sends them: by time, those of one instant in the file's order.
        found[customer] = sorted(dict.fromkeys(own), key=_time)
    return found


def _time(entry: Entry) -> int:
    return entry.key >> 3


def entry_of(row: OrderRow, event_id: str) -> Entry:
    """Return the entry that a row's event becomes: the same as by way of `to_event` and `to_entry`."""
    return Entry(
        key_of(row.at_ms, _KINDS[row.kind]),
        hash_id(b"o", row.order_id) if row.order_id is not None else 0,
        row.amount_units,
        hash_id(_SPACES[row.kind], event_id),
        UNREVISED if row.updated_at_ms is None else row.updated_at_ms,
    )
