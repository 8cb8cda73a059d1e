"""Snapshots from a file of orders: the columns of whole lives, against plain Python over its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segmentation.entries import DAY_MS, Rules
from segmentation.event_text import instant
from segmentation.rates import ONE_CURRENCY, Conversion
from segmentation.rfm import CustomerState, pack, settle
from stream.orders.rows import parse_at
from stream.settings import Settings
from tests.support.oracles.lifetimes import lifetimes, retail_bookings
from trainer.errors import SnapshotError
from trainer.run import Job, accepted_dates, conversion_of, run
from trainer.snapshot.orders import rates_in_file, read_book, take_from_book, take_from_file
from trainer.snapshot.purchase_days import DaysSample
from trainer.training.plan import TrainingPlan


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


MIXED = """order_id,customer_id,ordered_at,amount,currency,kind
1,a,2026-01-02,100,USD,
2,a,2026-01-03,10,,
3,b,2026-01-05,100,USD,
3,b,2026-01-20,100,USD,refund
4,b,2026-02-20,7,USD,
5,c,2026-01-02,5,JPY,
"""
BANK = """Date,USD,GBP
2026-01-01,1.25,0.8
2026-01-05,1.28,0.8
2026-01-19,1.6,0.8
"""


def test_other_currencies_are_converted_by_the_rate_of_their_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, rates = tmp_path / "orders.csv", tmp_path / "rates.csv"
    path.write_text(MIXED, "utf-8")
    rates.write_text(BANK, "utf-8")
    conversion = Conversion(["USD"], rates_in_file(rates, "GBP", ["USD"]))
    found = take_from_file(path, parse_at("2026-03-01"), Rules(365 * DAY_MS, 7 * DAY_MS), "GBP", conversion)
    # 0.64 pounds a dollar on the 2nd (the line of the 1st), 0.625 on the 5th; the refund counts at its order's rate.
    names = [name.decode() for name in found.customers]
    assert list(zip(names, found.monetary.tolist(), strict=True)) == [("a", 74.0), ("b", 0.0)]
    assert "1 row left out for want of a rate: USD of 2026-02-20." in caplog.text
    assert "--rates FILE" in caplog.text


AHEAD = """order_id,customer_id,ordered_at,amount,currency,kind,merged_into
1,a,2026-01-02,100,,,
2,b,2036-01-03,10,,,
3,a,2026-01-04,10,,,
4,a,1970-01-01,10,,,
,b,2036-01-05,,,merge,a
5,c,2026-01-03,10,JPY,,
"""


def test_rows_with_dates_that_shards_refuse_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(AHEAD, "utf-8")
    caplog.set_level("INFO")
    dates = accepted_dates(Settings(), parse_at("2026-02-01"))
    book = read_book(path, Rules(), "GBP", dates=dates)
    found = take_from_book(book, path, None)
    assert (found.as_of_ms, found.customers) == (parse_at("2026-01-04"), (b"a",))
    assert "rows left out: date 1, dated_ahead 2, unknown_currency 1" in caplog.text
    assert dates.latest_ms == parse_at("2026-02-01") + 300_000  # the tolerance of the settings


def test_a_run_says_once_how_many_customers_it_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(ROWS, "utf-8")
    caplog.set_level("INFO")
    book = read_book(path, Rules(), "GBP")
    take_from_book(book, path, None)
    book.as_of(parse_at("2026-01-03"))  # as the judgements by the past do
    assert [text for text in caplog.messages if text.startswith("customers as of")] == [
        "customers as of 2026-01-05T00:00:00.000Z: 3; left out without an order that stands: 0"
    ]


def test_a_file_in_another_currency_names_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("order_id,customer_id,ordered_at,amount,currency\n1,a,2026-01-02,100,JPY\n", "utf-8")
    with pytest.raises(SnapshotError, match=r"unknown_currency 1\. This deployment takes GBP: set SEGSTREAM_CURRENCY"):
        read_book(path, Rules(), "GBP")


def test_an_instant_to_come_is_refused_before_anything_is_read() -> None:
    now = parse_at("2026-02-01")
    job = Job(as_of_ms=now + DAY_MS, file=Path("none.csv"), dry_run=True, without_kafka=True)
    with pytest.raises(SnapshotError, match=r"--as-of 2026-02-02T00:00:00.000Z is in the future; it is 2026-02-01"):
        run(Settings(), TrainingPlan(), job, now_ms=now, clock_s=lambda: 0.0, progress=lambda *_: None)


def test_a_file_of_rates_that_lacks_a_currency_is_refused(tmp_path: Path) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text(BANK, "utf-8")
    with pytest.raises(SnapshotError, match="has no rate of JPY"):
        rates_in_file(rates, "GBP", ["JPY", "USD"])


def test_a_file_of_rates_needs_other_currencies_and_without_kafka_there_are_none() -> None:
    one, several = Settings(currency="GBP"), Settings(currency="GBP", other_currencies="USD")
    job = Job(file=Path("orders.csv"), dry_run=True, without_kafka=True)
    assert conversion_of(one, job) is ONE_CURRENCY
    assert conversion_of(several, job).rates is not None
    with pytest.raises(SnapshotError, match="no other currency is set"):
        conversion_of(one, replace(job, rates=Path("rates.csv")))
