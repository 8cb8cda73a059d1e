"""The customers as of one instant, from a file of orders instead of Redis, computed by the worker's state algebra.

The only module of the trainer that uses `stream`'s readers of files.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Final

import numpy as np

from segmentation.entries import NEVER, NONE
from segmentation.event_text import iso
from segmentation.events import CustomerMerged, Reason, RejectedEvent, to_entry
from segmentation.links import Edge, ids_that_stay
from segmentation.rates import ONE_CURRENCY, Conversion, KnownRate, NewRate, Rates
from segmentation.rfm import CustomerState, pack, settle
from stream.errors import SegstreamError
from stream.orders.files import read_orders
from stream.orders.rows import to_event
from stream.rates.files import RateRequest, read_rates_file
from trainer.errors import SnapshotError
from trainer.snapshot.redis import columns, log_customers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from segmentation.entries import Entry
    from segmentation.rfm import Rules
    from stream.orders.dates import AcceptedDates
    from trainer.snapshot.redis import CustomerSnapshot

log = logging.getLogger(__name__)

_DAYS_SHOWN: Final = 3


class OrderBook:
    """All orders of a file, by customer; gives snapshots as of any instant. `merges`: of two ids into one customer."""

    def __init__(
        self, entries: dict[bytes, list[Entry]], rules: Rules, left_out_rows: int, merges: Sequence[Edge] = ()
    ) -> None:
        self._merges = merges
        self.entries = {name: sorted(own) for name, own in sorted(entries.items())}
        self._rules = rules
        self.left_out_rows = left_out_rows

    @property
    def latest_ms(self) -> int:
        """The instant of the last event, ms since 1970. Raises SnapshotError where there is none."""
        latest = max((own[-1].time for own in self.entries.values()), default=None)
        if latest is None:
            raise SnapshotError("there is no usable order.", hint="docs/how-to/files.md says what is needed.")
        return latest

    @property
    def rules(self) -> Rules:
        """The rules of the states that snapshots are made of."""
        return self._rules

    def as_of(self, at_ms: int) -> CustomerSnapshot:
        """Return the customers as if exactly the events up to the instant had arrived, in order."""
        early = ((name, [e for e in own if e.time <= at_ms]) for name, own in self.entries.items())
        return self._columns(self._united(early, at_ms), at_ms)

    def histories(self, at_ms: int) -> dict[bytes, list[Entry]]:
        """Return all events by customer, those of ids that were merged by an instant as one customer's."""
        return dict(self._united(self.entries.items(), at_ms))

    def of(self, histories: Mapping[bytes, list[Entry]], at_ms: int) -> CustomerSnapshot:
        """Return the customers of some histories as if exactly their events up to the instant had arrived."""
        return self._columns(((name, [e for e in own if e.time <= at_ms]) for name, own in histories.items()), at_ms)

    def _columns(self, known: Iterable[tuple[bytes, list[Entry]]], at_ms: int) -> CustomerSnapshot:
        states = ((name, pack(settle(CustomerState(), own, at_ms, self._rules))) for name, own in known if own)
        return columns(states, at_ms, self._rules)

    def _united(self, known: Iterable[tuple[bytes, list[Entry]]], at_ms: int) -> Iterable[tuple[bytes, list[Entry]]]:
        """Return the entries with those of merged ids under the id that stays, by the merges up to an instant."""
        stays = ids_that_stay([edge for edge in self._merges if edge.at <= at_ms])
        if not stays:
            return known
        united: dict[bytes, set[Entry]] = {}
        for name, own in known:
            united.setdefault(stays.get(name, name), set()).update(own)
        return ((name, sorted(own)) for name, own in sorted(united.items()))


def read_book(
    path: Path,
    rules: Rules,
    currency: str,
    conversion: Conversion = ONE_CURRENCY,
    dates: AcceptedDates | None = None,
) -> OrderBook:
    """Read a file of orders or invoice lines (docs/how-to/files.md). Raises SnapshotError.

    `currency`: of rows that name none. `conversion`: from others, by rates that all may use. `dates`: None accepts all.
    Rows that can't be used are left out and counted, as by `segstream replay`, and so are those in a currency that
    isn't converted.
    """
    counts: Counter[str] = Counter()
    entries: dict[bytes, list[Entry]] = {}
    merges: list[Edge] = []
    days_without = set[tuple[str, str]]()
    try:
        for row in read_orders(path, currency=currency, counts=counts):
            if dates is not None and (refusal := dates.refusal(row.at_ms)):
                counts[refusal.value] += 1
                continue
            event = to_event(row)
            if isinstance(event, CustomerMerged):
                merges.append(Edge(row.at_ms, event.from_, event.into))
                continue
            try:
                entry = to_entry(event, currency, conversion, arrived=NEVER)
            except RejectedEvent as error:
                counts[str(error.reason)] += 1
                if error.reason is Reason.NO_RATE:
                    days_without.add((row.currency, iso(row.at_ms)[:10]))
                continue
            entries.setdefault(row.customer_id.encode(), []).append(entry)
    except SegstreamError as error:
        raise SnapshotError(str(error)) from None
    if days_without:
        _warn_of_rates(path, counts[Reason.NO_RATE], sorted(days_without))
    left_out = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "none"
    if not entries:
        raise SnapshotError(
            f"{path} has no usable order; rows left out: {left_out}.",
            hint=_hint(counts, currency),
        )
    if counts:
        log.info("%s: rows left out: %s", path.name, left_out)
    return OrderBook(_without_repetitions(entries), rules, sum(counts.values()), merges)


def _hint(counts: Mapping[str, int], currency: str) -> str:
    """Return what to do about a file without a usable order."""
    if counts.get(Reason.UNKNOWN_CURRENCY):
        return (
            f"This deployment takes {currency}: set SEGSTREAM_CURRENCY if all orders are in another currency, or "
            "SEGSTREAM_OTHER_CURRENCIES."
        )
    return "docs/how-to/files.md says what is needed."


def _warn_of_rates(path: Path, rows: int, days: Sequence[tuple[str, str]]) -> None:
    named = ", ".join(f"{currency} of {day}" for currency, day in days[:_DAYS_SHOWN])
    more = f" and {len(days) - _DAYS_SHOWN:,} more" if len(days) > _DAYS_SHOWN else ""
    log.warning(
        "%s: %s left out for want of a rate: %s%s. Load the rates (`segstream rates load`), or give them with "
        "--rates FILE.",
        path.name,
        "1 row" if rows == 1 else f"{rows:,} rows",
        named,
        more,
    )


def rates_in_file(path: Path, base: str, currencies: Collection[str]) -> Rates:
    """Return the rates in a file (docs/how-to/currencies.md), each of which any row may use. Raises SnapshotError.

    Its last line holds for some days, as all others do where none follows.
    """
    request = RateRequest(base, tuple(sorted(currencies)), until=date.max.toordinal())
    try:
        found = read_rates_file(path, request)
    except SegstreamError as error:
        raise SnapshotError(str(error), hint=error.hint) from None
    return Rates(base).plus(
        NewRate(currency, day, KnownRate(rate, NONE)) for currency, days in found.items() for day, rate in days.items()
    )


def _without_repetitions(entries: dict[bytes, list[Entry]]) -> dict[bytes, list[Entry]]:
    """Drop repeated entries, as the worker does."""
    return {name: list(dict.fromkeys(own)) for name, own in entries.items()}


def take_from_file(
    path: Path, as_of_ms: int | None, rules: Rules, currency: str, conversion: Conversion = ONE_CURRENCY
) -> CustomerSnapshot:
    """Read the customers of a file as of an instant; None: of its last event. The rest is as in `read_book`."""
    return take_from_book(read_book(path, rules, currency, conversion), path, as_of_ms)


def take_from_book(book: OrderBook, path: Path, as_of_ms: int | None) -> CustomerSnapshot:
    """Return the customers of a file that was read, as of an instant; None: of its last event. Raises SnapshotError."""
    at = book.latest_ms if as_of_ms is None else as_of_ms
    snapshot = book.as_of(at)
    if not len(snapshot.customers):
        raise SnapshotError(
            f"{path} has no customer with an order up to {iso(at)}; its last event is of {iso(book.latest_ms)}.",
            hint="Give a later --as-of.",
        )
    assert np.all(snapshot.recency_days >= 0.0)
    log_customers(snapshot)
    return snapshot
