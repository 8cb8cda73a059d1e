"""Shops to judge models on: two real ones and three simulated ones, each with an instant of training and an end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.studies.simulated_shops import SHOPS, ShopNature, simulate_shop
from segmentation.entries import DAY_MS, PLACED, Entry
from segmentation.events import CustomerMerged, to_entry
from segmentation.outlook import expected_gap
from segmentation.rfm import Rules
from stream.orders.files import cdnow_path, read_orders
from stream.orders.rows import OrderRow, parse_at, to_event
from stream.orders.sorting import in_time_order
from trainer.snapshot.orders import OrderBook
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.outlook_fit import fit_outlook, log_gaps_of, purchases_of


class ShopLog(NamedTuple):
    """Rows in time order; the model is trained at `start_ms`, and moves count from there to `end_ms`."""

    title: str
    rows: list[OrderRow]
    currency: str
    start_ms: int
    end_ms: int


def shops(data: Path | None) -> dict[str, Callable[[], ShopLog]]:
    """Return how to read each shop: CDNOW, Online Retail where `data` has it, and the simulated ones."""
    found = {"CDNOW": lambda: _from_file("CDNOW", cdnow_path(), "USD", ("1997-10-01", "1998-07-01"))}
    if data is not None:
        path = data / "online_retail" / "orders.csv.gz"
        found["Online Retail"] = lambda: _from_file("Online Retail", path, "GBP", ("2011-06-01", "2011-12-09"))
    return found | {nature.title: partial(_simulated, nature) for nature in SHOPS}


def _from_file(title: str, path: Path, currency: str, span: tuple[str, str]) -> ShopLog:
    with in_time_order(read_orders(path, currency=currency)) as ordered:
        return ShopLog(title, list(ordered), currency, parse_at(span[0]), parse_at(span[1]))


def _simulated(nature: ShopNature) -> ShopLog:
    shop = simulate_shop(nature)
    return ShopLog(nature.title, shop.rows, "USD", shop.end_ms - 365 * DAY_MS, shop.end_ms)


def book_of(log: ShopLog) -> OrderBook:
    """Return the orders of a shop by customer, for snapshots as of any instant."""
    entries: dict[bytes, list[Entry]] = {}
    for row in log.rows:
        event = to_event(row)
        assert not isinstance(event, CustomerMerged), f"{row.event_id}: the shops merge no ids"
        entries.setdefault(row.customer_id.encode(), []).append(to_entry(event, log.currency))
    return OrderBook(entries, Rules(), 0)


def usual_gaps(book: OrderBook, snapshot: CustomerSnapshot, later: CustomerSnapshot) -> dict[str, float]:
    """Return the usual gap in days of each customer, fitted as of a snapshot, from its orders up to a later one."""
    days = (
        sorted({e.time // DAY_MS for e in book.entries[name] if e.kind == PLACED and e.time <= snapshot.as_of_ms})
        for name in snapshot.customers
    )
    fit = fit_outlook(purchases_of(snapshot), log_gaps_of(days))
    gaps = expected_gap(fit.rates, purchases_of(later)).tolist()
    return {name.decode(): gap for name, gap in zip(later.customers, gaps, strict=True)}
