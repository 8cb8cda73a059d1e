"""Rates that a load writes, skips and refuses; records of the topic."""

from __future__ import annotations

from typing import NamedTuple

from segmentation.rates import KnownRate, NewRate, Rates
from stream.rates.load import compared
from stream.rates.topic import BARRIER, rate_key, rate_value, rates_of


class RateRecord(NamedTuple):
    key: bytes | None
    value: bytes | None
    offset: int = 0
    timestamp: int = 7


def test_rates_are_compared_with_what_is_there() -> None:
    known = Rates("EUR").plus([NewRate("USD", 1, KnownRate(10, 5)), NewRate("USD", 2, KnownRate(11, 5))])
    new, same, others = compared({"USD": {1: 10, 2: 12, 3: 13}, "JPY": {1: 10}}, known)
    assert new == [NewRate("JPY", 1, KnownRate(10, 0)), NewRate("USD", 3, KnownRate(13, 0))]
    assert same == 1
    assert others == [(NewRate("USD", 2, KnownRate(12, 0)), KnownRate(11, 5))]


def test_records_that_are_no_rates_in_this_currency_are_left_out() -> None:
    good = RateRecord(rate_key("EUR", "USD", 20_000), rate_value(865_300_000_000))
    others = [
        RateRecord(rate_key("GBP", "USD", 20_000), rate_value(1)),
        RateRecord(BARRIER, b""),
        RateRecord(None, b"{}"),
        RateRecord(b"USD/EUR/soon", rate_value(1)),
        RateRecord(b"USD/EUR/2026-11-27", b"0.9"),
        RateRecord(b"USD/EUR/2026-11-27", b'{"rate": "0"}'),
        RateRecord(b"USD/EUR/2026-11-27", None),
        RateRecord(b"\xff/EUR/2026-11-27", rate_value(1)),
    ]
    assert rates_of("EUR", [*others, good]) == [NewRate("USD", 20_000, KnownRate(865_300_000_000, 7))]
