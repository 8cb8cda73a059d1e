"""Rates of other currencies: what a worker knows of them, and which record may use which.

A rate is the price of one unit of a currency on one UTC day, in the deployment's own currency. It is final: an order
that was converted with it can't be converted again. A record may use a rate that came well before it (`SETTLED_MS`),
by the clocks of the brokers. So a replay, which knows all rates from its start, decides as the first delivery did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, timedelta
from types import MappingProxyType
from typing import Final, NamedTuple

from segmentation.entries import DAY_MS, RATE_SCALE, Foreign
from segmentation.events import LARGEST_AMOUNT, Reason, RejectedEvent
from segmentation.meaning import converted
from segmentation.money import UNITS

# A record may use a rate once its own timestamp is later than the rate's by more than this: longer than brokers' clocks
# differ, and than a rate that is written needs until every reader sees it. (`segstream rates load` measures that.)
SETTLED_MS: Final = 5_000
LARGEST_RATE: Final = 10**6 * RATE_SCALE
RATE_DECIMALS: Final = 12  # of RATE_SCALE
_LETTERS: Final = 26
_A: Final = ord("A")
_CODE_LENGTH: Final = 3
_EPOCH: Final = date(1970, 1, 1)


class RateError(ValueError):
    """The text isn't a rate: decimal text above 0 with at most 12 decimals."""


class KnownRate(NamedTuple):
    """A rate as the topic has it."""

    rate: int  # units of the deployment's currency for one unit of the other, in 1 / RATE_SCALE
    at: int  # the broker's timestamp of its record, ms since 1970


class NewRate(NamedTuple):
    """A rate with its currency and its day."""

    currency: str
    day: int  # days since 1970
    known: KnownRate


class Rates:
    """All rates in one currency that were known at one moment. Immutable: `plus` makes another."""

    __slots__ = ("_days", "base")

    def __init__(self, base: str, days: Mapping[str, Mapping[int, KnownRate]] = MappingProxyType({})) -> None:
        """Keep the rates by currency and day. `base`: the deployment's currency."""
        self.base = base
        self._days = days

    def plus(self, new: Iterable[NewRate]) -> Rates:
        """Return these rates and others. Of two for a day the later one counts, as after a compaction of the topic."""
        days = dict(self._days)
        own: set[str] = set()
        for currency, day, known in new:
            if currency not in own:
                own.add(currency)
                days[currency] = dict(days.get(currency, {}))
            held = days[currency]
            assert isinstance(held, dict)
            held[day] = known
        return Rates(self.base, days)

    def of(self, currency: str, day: int) -> KnownRate | None:
        """Return the rate of a day (since 1970); None: it isn't known."""
        return self._days.get(currency, {}).get(day)

    def __iter__(self) -> Iterator[NewRate]:
        """Yield all rates, by currency and day."""
        for currency in sorted(self._days):
            for day, known in sorted(self._days[currency].items()):
                yield NewRate(currency, day, known)


UNCHECKED: Final = Rates("")  # one to one: where only the form of an event is checked, and no state comes of it


class Conversion(NamedTuple):
    """The way from other currencies into the deployment's own, at one moment.

    `others`: the codes that are taken; none: one currency.
    """

    others: Collection[str] = ()
    rates: Rates | None = None

    def foreign(self, units: int, currency: str, time: int, arrived: int) -> tuple[int, Foreign]:
        """Convert what was paid (ten-thousandths) at `time` (ms) by the rate of that UTC day.

        `arrived`: the broker's timestamp of the record. Raises RejectedEvent where no rate may be used.
        """
        if self.rates is None:
            raise ValueError(f"an amount in {currency}, but no rates were read")  # a mistake of the program
        rate = RATE_SCALE if self.rates is UNCHECKED else self._rate(self.rates, currency, time // DAY_MS, arrived)
        amount = converted(units, rate)
        if amount > LARGEST_AMOUNT:
            message = f"amount.value is {amount // UNITS} once it is converted, expected at most "
            raise RejectedEvent(Reason.AMOUNT_OUT_OF_RANGE, "amount.value", f"{message}{LARGEST_AMOUNT // UNITS}.")
        return amount, Foreign(currency_number(currency), units, rate)

    @staticmethod
    def _rate(rates: Rates, currency: str, day: int, arrived: int) -> int:
        known = rates.of(currency, day)
        if known is not None and known.at + SETTLED_MS < arrived:
            return known.rate
        why = "there was none" if known is None else "it was loaded too late for this record"
        message = f"no rate of {currency} for {day_text(day)}: {why}. Load the rates, then redrive this record."
        raise RejectedEvent(Reason.NO_RATE, "amount.currency", message)


ONE_CURRENCY: Final = Conversion()


def currency_number(code: str) -> int:
    """Return the number of a code of three capital letters, as digits to base 26.

    >>> currency_number("AAA"), currency_number("USD"), currency_number("ZZZ")
    (0, 13991, 17575)
    """
    number = 0
    for letter in code:
        number = number * _LETTERS + ord(letter) - _A
    return number


def currency_code(number: int) -> str:
    """Return the code of a number: the reverse of `currency_number`.

    >>> currency_code(13991)
    'USD'
    """
    letters = []
    for _ in range(_CODE_LENGTH):
        number, digit = divmod(number, _LETTERS)
        letters.append(chr(_A + digit))
    return "".join(reversed(letters))


def day_text(day: int) -> str:
    """Return a day (since 1970) in ISO 8601.

    >>> day_text(0)
    '1970-01-01'
    """
    return (_EPOCH + timedelta(days=day)).isoformat()


def day_number(text: str) -> int:
    """Return the days from 1970 to a day in ISO 8601. Raises ValueError.

    >>> day_number("1970-01-02")
    1
    """
    return (date.fromisoformat(text) - _EPOCH).days


def parse_rate(text: str) -> int:
    """Read decimal text as a rate in 1 / RATE_SCALE. Raises RateError.

    >>> parse_rate("0.8653")
    865300000000
    """
    whole, point, fraction = text.partition(".")
    digits = text.isascii() and whole.isdigit() and (fraction.isdigit() or not point)
    if digits and len(whole) <= RATE_DECIMALS and len(fraction) <= RATE_DECIMALS:
        rate = int(whole + fraction.ljust(RATE_DECIMALS, "0"))
        if 0 < rate <= LARGEST_RATE:
            return rate
    raise RateError(f"{text[:64]!r} isn't a rate: expected decimal text above 0, with at most {RATE_DECIMALS} decimals")


def format_rate(rate: int) -> str:
    """Write a rate as decimal text, exact.

    >>> format_rate(865_300_000_000), format_rate(RATE_SCALE)
    ('0.8653', '1')
    """
    whole, fraction = divmod(rate, RATE_SCALE)
    return f"{whole}.{fraction:0{RATE_DECIMALS}}".rstrip("0").rstrip(".")
