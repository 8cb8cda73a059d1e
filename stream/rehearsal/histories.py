"""The histories of customers: what each did, in the order of time, as entries of their states."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from segmentation.entries import CANCELLED, NEVER, NONE, PLACED, REFUNDED, UNREVISED, Entry, hash_id, key_of
from segmentation.links import Edge, ids_that_stay
from stream.orders.rows import LeftOutReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from stream.orders.rows import OrderRow

Histories = dict[bytes, list[Entry]]  # by customer: each entry once, in time order

IN_CURRENCY: Final = "in "  # and the currency: why a row is left out that is in another one

_KINDS: Final = {"placed": PLACED, "refunded": REFUNDED, "cancelled": CANCELLED}
_SPACES: Final = {name: b"%d" % kind for name, kind in _KINDS.items()}


class OrderFacts(NamedTuple):
    """Facts of all rows of a file. Instants in ms."""

    rows: int  # orders, refunds and cancellations that can be used
    first_ms: int  # NEVER: of none
    last_ms: int  # NONE: of none
    stays: Mapping[bytes, bytes]  # the id that stays, of each id that was merged
    left_out: Mapping[str, int]  # rows in another currency, or dated ahead


NO_ORDERS: Final = OrderFacts(0, NEVER, NONE, {}, {})


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


def read_histories(
    read: Callable[[], Iterable[OrderRow]], currency: str, until_ms: int, share: Share | None = None
) -> tuple[Histories, OrderFacts]:
    """Return the histories of a share's customers, by the rows before an instant, and facts of all rows.

    `read` gives the rows, in any order. Where some are merges it is called again: two ids that are one person are one
    customer all the time. Rows in another currency are left out. Equal refunds at one instant are numbered, as
    `segstream replay` does.
    """
    histories, facts = _read(read(), currency, until_ms, share or Share(), {})
    if facts.stays:
        histories, facts = _read(read(), currency, until_ms, share or Share(), facts.stays)
    for customer, own in histories.items():
        # As a replay sends them: by time, those of one instant in the file's order.
        histories[customer] = sorted(dict.fromkeys(own), key=_time)
    return histories, facts


def _read(
    rows: Iterable[OrderRow], currency: str, until_ms: int, share: Share, stays: Mapping[bytes, bytes]
) -> tuple[Histories, OrderFacts]:
    count, first, last = 0, NEVER, NONE
    found: Histories = {}
    merges: list[Edge] = []
    left_out: Counter[str] = Counter()
    repeats: Counter[tuple[bytes, str]] = Counter()
    for row in rows:
        at = row.at_ms
        if at >= until_ms:
            left_out[LeftOutReason.DATED_AHEAD.value] += 1
            continue
        if row.kind == "merged":
            merges.append(Edge(at, row.customer_id, row.merged_into or ""))
            continue
        if row.currency != currency:
            left_out[f"{IN_CURRENCY}{row.currency}"] += 1
            continue
        count += 1
        last = max(last, at)
        first = min(first, at)
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
    return found, OrderFacts(count, first, last, ids_that_stay(merges), left_out)


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
