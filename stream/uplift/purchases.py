"""The purchases of the customers who are compared, before and after an instant, from events or from rows of a file.

Orders are judged as by the scoring step: replaced, cancelled and repeated ones don't count, refunds are taken off.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from segmentation.entries import ERASED, NONE, Entry, Rules
from segmentation.events import (
    CONTROL_KEY,
    ClockAdvanced,
    CustomerMerged,
    EntryEvent,
    EventForwarded,
    RejectedEvent,
    decode,
    millis,
    to_entry,
)
from segmentation.meaning import counted, judge, sum_of
from segmentation.money import UNITS
from segmentation.rates import ONE_CURRENCY, Conversion
from stream.orders.rows import to_event

if TYPE_CHECKING:
    from collections.abc import Container

    from stream.orders.rows import OrderRow

_MERGE: Final = b'"customer.merged"'


class Purchased(NamedTuple):
    """A customer's purchases in a time. `spend`: in units of the currency, net of refunds."""

    orders: int
    spend: float


class PurchaseHistories:
    """The histories of the wanted customers, and which of them were merged or erased when."""

    def __init__(self, wanted: Container[str], currency: str, conversion: Conversion = ONE_CURRENCY) -> None:
        """`currency`: the deployment's; `conversion`: from others."""
        self._wanted = wanted
        self._currency = currency
        self._conversion = conversion
        self._entries: dict[str, set[Entry]] = {}
        self.merged: dict[str, int] = {}  # by id, either side: ms of the latest merge
        self.erased: dict[str, int] = {}  # ms of the latest erasure
        self.unusable: Counter[str] = Counter()  # events by the reason why they can't be used
        self.latest_ms = NONE  # of the events that were taken

    def take_record(self, record: Any) -> None:
        """Take a record of the topic of orders. Most are of other customers, and aren't even decoded."""
        key, value = record.key, record.value
        if value is None or not self._may_matter(key, value):
            return
        try:
            event = decode(value)
            if isinstance(event, EventForwarded):
                # The event of an id that was merged before the time that is read: it belongs to this customer.
                self._add(event.customer_id, event.event, event.arrived)
            elif isinstance(event, ClockAdvanced):
                self.latest_ms = max(self.latest_ms, millis(event.to))
            elif isinstance(event, CustomerMerged):
                self._merge(event.from_, event.into, millis(event.occurred_at))
            elif isinstance(event, EntryEvent) and event.customer_id.encode() == key:
                self._add(event.customer_id, event, record.timestamp)
        except RejectedEvent as why:
            self.unusable[why.reason.value] += 1

    def take_row(self, row: OrderRow) -> None:
        """Take a row of a file of orders."""
        self.latest_ms = max(self.latest_ms, row.at_ms)  # of all rows, where a topic's other customers aren't read
        if row.merged_into is not None:
            self._merge(row.customer_id, row.merged_into, row.at_ms)
            return
        event = to_event(row)
        assert not isinstance(event, CustomerMerged)
        try:
            self._add(row.customer_id, event, row.at_ms)
        except RejectedEvent as why:
            self.unusable[why.reason.value] += 1

    def until(self, customer: str, end_ms: int, days_ms: int, rules: Rules) -> Purchased:
        """Return what a customer has bought in a span of time up to an instant, by what is known of it then."""
        rows = sorted(e for e in self._entries.get(customer, ()) if e.time <= end_ms)
        if not rows:
            return Purchased(0, 0.0)
        counting = counted(*judge(rows, end_ms, rules), end_ms - days_ms, rules.grace)
        return Purchased(len(counting.orders), sum_of(counting) / UNITS)

    def _may_matter(self, key: bytes | None, value: bytes) -> bool:
        if key == CONTROL_KEY or _MERGE in value:
            return True
        try:
            return key is not None and key.decode() in self._wanted
        except UnicodeDecodeError:
            return False

    def _merge(self, source: str, target: str, at: int) -> None:
        for customer in (source, target):
            if customer in self._wanted:
                self.merged[customer] = max(at, self.merged.get(customer, at))

    def _add(self, customer: str, event: EntryEvent, arrived: int) -> None:
        if customer not in self._wanted:
            return
        entry = to_entry(event, self._currency, self._conversion, arrived)
        self.latest_ms = max(self.latest_ms, entry.time)
        if entry.kind == ERASED:
            self.erased[customer] = max(entry.time, self.erased.get(customer, entry.time))
        self._entries.setdefault(customer, set()).add(entry)
