"""Files of rates: the European Central Bank's, and plain ones; days without a line filled. Exact: no float takes part.

The bank's has one line a day: `Date,USD,JPY,...`, each the units of that currency for one euro, and N/A for none. A
plain one has the columns day, currency and rate: units of the deployment's currency for one unit of the other.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from segmentation.entries import RATE_SCALE
from segmentation.rates import LARGEST_RATE, RateError, day_number, parse_rate
from stream.errors import SegstreamError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

EURO: Final = "EUR"
FILL_DAYS: Final = 7  # a line holds for so many days after its own at most: over Christmas there are four without one
_NONE: Final = ("", "N/A")
_PLAIN: Final = ("day", "currency", "rate")
_LONGEST_LINE: Final = 65_536  # characters

DayRates = dict[str, dict[int, int]]  # currency -> day since 1970 -> rate in 1 / RATE_SCALE


class RateFileError(SegstreamError):
    """The file doesn't hold rates, or not those that are needed."""


@dataclass(frozen=True, slots=True)
class RateRequest:
    """The rates that are wanted of a file."""

    base: str  # the deployment's currency
    currencies: tuple[str, ...]
    since: int | None = None  # days since 1970; None: from the file's first line on
    until: int | None = None  # the last line of the file holds up to this day; None: for its own day
    next_day: bool = False  # a line holds from the day after its own


def read_rates_file(path: Path, request: RateRequest) -> DayRates:
    """Return the rates of each currency by the day that they hold for. Raises RateFileError.

    A day without a line has the rate of the last line before, where that is no more than FILL_DAYS older.
    """
    with _lines(path) as lines:
        reader = csv.reader(_bounded(path, lines))
        header = [name.strip() for name in next(reader, [])]
        small = [name.lower() for name in header]
        if small[:1] == ["date"]:
            found = _of_the_bank(path, header, reader, request)
        elif all(name in small for name in _PLAIN):
            found = _of_plain_lines(path, small, reader, request)
        else:
            raise RateFileError(
                f"{path}: the first line is {','.join(header)[:80]!r}, expected Date,USD,… or {','.join(_PLAIN)}.",
                hint="Give the European Central Bank's eurofxref-hist.csv, or a file with those three columns.",
            )
    if missing := [currency for currency in request.currencies if not found.get(currency)]:
        raise RateFileError(
            f"{path} has no rate of {', '.join(missing)}.",
            hint="Give a file with a column, or lines, of each of SEGSTREAM_OTHER_CURRENCIES; --currency chooses some.",
        )
    return {currency: _filled(found[currency], request) for currency in request.currencies}


def _of_the_bank(path: Path, header: list[str], rows: Iterable[list[str]], request: RateRequest) -> DayRates:
    """Read one line a day, and compute the rates in the base from those of the euro."""
    wanted = {*request.currencies, request.base} - {EURO}
    at = {name: header.index(name) for name in wanted if name in header}
    if request.base != EURO and request.base not in at:
        raise RateFileError(
            f"{path} has no column {request.base}, which is SEGSTREAM_CURRENCY.", hint="Give a file that has it."
        )
    found: DayRates = {}
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        day = _day(path, number, row[0])
        cells = {name: row[i].strip() if i < len(row) else "" for name, i in at.items()}
        per_euro = {name: _per_euro(path, number, text) for name, text in cells.items() if text not in _NONE}
        per_euro[EURO] = Fraction(1)
        if request.base not in per_euro:
            continue
        for currency in request.currencies:
            if currency in per_euro:
                rate = round(per_euro[request.base] / per_euro[currency] * RATE_SCALE)  # half to even
                _put(path, number, found, currency, day, rate)
    return found


def _of_plain_lines(path: Path, header: list[str], rows: Iterable[list[str]], request: RateRequest) -> DayRates:
    day_at, currency_at, rate_at = (header.index(name) for name in _PLAIN)
    found: DayRates = {}
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [*row, *[""] * len(header)]
        currency = cells[currency_at].strip().upper()
        if currency in request.currencies:
            try:
                rate = parse_rate(cells[rate_at].strip())
            except RateError as error:
                raise _unusable(path, number, f"{error}") from None
            _put(path, number, found, currency, _day(path, number, cells[day_at]), rate)
    return found


def _put(path: Path, number: int, found: DayRates, currency: str, day: int, rate: int) -> None:
    if not 0 < rate <= LARGEST_RATE:
        raise _unusable(path, number, f"a rate of {currency} beyond what twelve decimals and six digits hold")
    if found.setdefault(currency, {}).setdefault(day, rate) != rate:
        raise _unusable(path, number, f"a second rate of {currency} for one day")


def _per_euro(path: Path, number: int, text: str) -> Fraction:
    try:
        return Fraction(parse_rate(text), RATE_SCALE)
    except RateError as error:
        raise _unusable(path, number, str(error)) from None


def _day(path: Path, number: int, text: str) -> int:
    """Read 2026-11-27, or 27 November 2026 as the bank's file of a single day has it."""
    text = text.strip()
    try:
        return day_number(text)
    except ValueError:
        pass
    try:
        return day_number(datetime.strptime(text, "%d %B %Y").replace(tzinfo=UTC).date().isoformat())
    except ValueError:
        raise _unusable(path, number, f"{text[:40]!r} isn't a day like 2026-11-27") from None


def _unusable(path: Path, number: int, what: str) -> RateFileError:
    return RateFileError(f"{path}, line {number}: {what}.", hint="Nothing was loaded. Correct the file.")


def _filled(lines: Mapping[int, int], request: RateRequest) -> dict[int, int]:
    """Return the rate of each day that a line holds for: up to the next line, and the last one up to `until`."""
    ahead = 1 if request.next_day else 0
    days = sorted(lines)
    filled: dict[int, int] = {}
    for line, following in zip(days, [*days[1:], None], strict=True):
        first = line + ahead
        last = following + ahead - 1 if following is not None else max(first, request.until or first)
        for day in range(first, min(last, first + FILL_DAYS) + 1):
            if request.since is None or day >= request.since:
                filled[day] = lines[line]
    return filled


@contextmanager
def _lines(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file, plain, gzipped, or alone in a zip archive as the bank publishes it. Raises RateFileError."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
                if len(names) != 1:
                    raise RateFileError(f"{path} holds {len(names)} CSV files.", hint="Give one that holds one.")
                with archive.open(names[0]) as raw:
                    yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        elif path.suffix.lower() == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as text:
                assert isinstance(text, io.TextIOWrapper)
                yield text
        else:
            with path.open(encoding="utf-8-sig", newline="") as plain:
                yield plain
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zipfile.BadZipFile) as error:
        message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RateFileError(f"{path}: {message}.", hint="Give a file of rates that can be read to its end.") from error


def _bounded(path: Path, lines: io.TextIOWrapper) -> Iterator[str]:
    while line := lines.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise RateFileError(f"{path}: a line is too long.", hint="Give a file with one line a day.")
        yield line
