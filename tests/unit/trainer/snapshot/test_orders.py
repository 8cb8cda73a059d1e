"""Snapshots from a file of orders: the columns of whole lives, against plain Python over its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segmentation.entries import DAY_MS, Rules
from segmentation.event_text import instant
from segmentation.rfm import CustomerState, pack, settle
from stream.orders.rows import parse_at
from tests.support.oracles.lifetimes import lifetimes, retail_bookings
from trainer.snapshot.orders import read_book, take_from_file
from trainer.snapshot.purchase_days import DaysSample

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_gives_whole_lives_beyond_the_window(test_data: Path) -> None:
    path = test_data / "online_retail" / "orders.csv.gz"
    bookings = retail_bookings(path)
    expected = lifetimes(bookings)
    for window_days in (30, 365):
        snapshot = take_from_file(path, parse_at("2012-06-10"), Rules(window_days * DAY_MS, 7 * DAY_MS), "GBP")
        assert [name.decode() for name in snapshot.customers] == sorted(expected)
        assert snapshot.life is not None
        rows = zip(*(column.tolist() for column in snapshot.life), strict=True)
        assert [(row[0], row[1], round(row[2], 4), row[3]) for row in rows] == [
            (life.orders, life.purchase_days, float(life.monetary), life.first_order_at.timestamp() * 1000)
            for _, life in sorted(expected.items())
        ]
        begin = instant(parse_at("2012-06-10") - window_days * DAY_MS)
        recent = {booking.customer for booking in bookings if booking.is_order and booking.at > begin}
        assert np.count_nonzero(snapshot.frequency) == len(recent)


ROWS = """order_id,customer_id,ordered_at,amount,kind,merged_into
1,guest,2026-01-01,10,,
2,account,2026-01-02,20,,
3,guest,2026-01-03,30,,
2,guest,2026-01-04,,cancellation,
4,other,2026-01-05,40,,
,guest,2026-01-06,,merge,account
,account,2026-01-08,,merge,other
,other,2026-01-09,,merge,guest
"""


def test_merged_ids_are_one_customer_from_the_merge_on(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(ROWS, "utf-8")

    def customers(day: str) -> list[tuple[str, int, float]]:
        found = take_from_file(path, parse_at(day), Rules(365 * DAY_MS, 7 * DAY_MS), "GBP")
        names = [name.decode() for name in found.customers]
        return list(zip(names, found.frequency.tolist(), found.monetary.tolist(), strict=True))

    # An id's cancellation of an order that came under the other id counts as soon as they are one.
    assert customers("2026-01-05") == [("account", 1, 20.0), ("guest", 2, 40.0), ("other", 1, 40.0)]
    assert customers("2026-01-07") == [("account", 2, 40.0), ("other", 1, 40.0)]
    assert customers("2026-01-08") == [("other", 3, 80.0)]
    assert customers("2026-01-09") == [("guest", 3, 80.0)]


def test_purchase_days_are_of_the_same_customers_from_any_number_of_partitions(test_data: Path) -> None:
    rules = Rules(90 * DAY_MS, 7 * DAY_MS)
    at = parse_at("2011-12-10")
    book = read_book(test_data / "online_retail" / "orders.csv.gz", rules, "GBP")
    snapshot = book.as_of(at)
    assert snapshot.days is not None
    assert snapshot.life is not None
    assert snapshot.days.rows.tolist() == list(range(len(snapshot.customers)))
    assert [len(days) for days in snapshot.days.days] == snapshot.life.purchase_days.tolist()

    names = [name for name in snapshot.customers if name != b"12346"]
    rows = [(name, pack(settle(CustomerState(), book.entries[name], at, rules))) for name in names]
    drawn = []
    for parts in (1, 7):
        sample = DaysSample(at, rules, most=100)
        for part in range(parts):
            sample.add(rows[part::parts])
        drawn.append(sample.of(names))
    assert drawn[0].rows.tolist() == drawn[1].rows.tolist()
    assert len(drawn[0].rows) == 100
    assert drawn[0].days == drawn[1].days
    of_all = dict(zip(snapshot.customers, snapshot.days.days, strict=True))
    assert [of_all[names[row]] for row in drawn[0].rows.tolist()] == list(drawn[0].days)
