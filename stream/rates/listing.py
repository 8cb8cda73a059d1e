"""The known rates: by currency, from which day to which, and the days between that have none."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import msgspec

from segmentation.rates import NewRate, day_text, format_rate

if TYPE_CHECKING:
    from segmentation.rates import Rates


class CurrencyRow(msgspec.Struct, frozen=True):
    """The rates of one currency. `holes`: the first and the last day of each stretch without a rate in between."""

    currency: str
    base: str
    days: int
    first_day: str
    last_day: str
    last_rate: str
    holes: list[tuple[str, str]]


def currency_rows(rates: Rates) -> list[CurrencyRow]:
    """Return a row for each currency.

    >>> from segmentation.rates import KnownRate, NewRate, Rates
    >>> known = KnownRate(865_300_000_000, 0)
    >>> currency_rows(Rates("EUR").plus(NewRate("USD", day, known) for day in (0, 1, 4)))[0].holes
    [('1970-01-03', '1970-01-04')]
    """
    return [_row(rates.base, currency, list(own)) for currency, own in groupby(rates, key=lambda rate: rate.currency)]


def _row(base: str, currency: str, own: list[NewRate]) -> CurrencyRow:
    holes = [
        (day_text(before.day + 1), day_text(after.day - 1))
        for before, after in pairwise(own)
        if after.day > before.day + 1
    ]
    first, last = own[0], own[-1]
    return CurrencyRow(
        currency, base, len(own), day_text(first.day), day_text(last.day), format_rate(last.known.rate), holes
    )
