"""The orders of a demo, by time: CDNOW's, a simulated shop's or the user's own; and the instant of the training."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from segmentation.event_text import iso
from stream.demo.worth import OrderLog
from stream.errors import SegstreamError
from stream.orders.files import CDNOW_CURRENCY, cdnow_path, read_orders
from stream.orders.rows import parse_at
from stream.orders.simulate import simulate
from stream.orders.sorting import in_time_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stream.orders.rows import OrderRow

CDNOW: Final = "cdnow"
SIMULATE: Final = "simulate"
_CDNOW_TRAIN_AT: Final = parse_at("1997-10-01")
_CDNOW_UNTIL: Final = parse_at("1998-07-01")
_SIMULATED_SINCE: Final = parse_at("2022-01-03")
_SIMULATED_SEED: Final = 1
# With this, 50,000 orders take some 600 days, so that orders also leave the window of a year.
_ORDERS_PER_NEWCOMER: Final = 15
_SIMULATED_HISTORY: Final = 0.4  # of the orders
_FILE_HISTORY: Final = 0.6  # of the time from the first to the last row


class DemoError(SegstreamError):
    """The demo can't continue; none of its processes is left running."""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """A request for a demo. `source`: cdnow, simulate or a file; instants in ms, None: the source's default."""

    source: str = CDNOW
    orders: int = 50_000  # of a simulated shop
    train_at_ms: int | None = None
    until_ms: int | None = None
    currency: str = "USD"  # of a file's rows that name none


class SplitRows:
    """Rows by time that are taken in two parts: those before an instant, then the rest."""

    def __init__(self, rows: Iterable[OrderRow]) -> None:
        self._rows = iter(rows)
        self._ahead: OrderRow | None = None

    def before(self, at_ms: int | None) -> Iterator[OrderRow]:
        """Yield the rows dated before `at_ms`; None: all rows left. The first later row is kept for the next call.

        >>> from stream.orders.rows import placed
        >>> rows = SplitRows(placed(str(at), "c", at, 1, "USD") for at in (1, 2, 3))
        >>> [row.at_ms for row in rows.before(2)], [row.at_ms for row in rows.before(None)]
        ([1], [2, 3])
        """
        while (row := self._ahead or next(self._rows, None)) is not None:
            if at_ms is not None and row.at_ms >= at_ms:
                self._ahead = row
                return
            self._ahead = None
            yield row


@dataclass(frozen=True, slots=True)
class DemoOrders:
    """The orders of a source: `total` rows from `first_ms` to `last_ms`. `left_out` counts other rows by reason.

    `log` notes the rows that have been taken.
    """

    name: str
    rows: SplitRows
    total: int
    first_ms: int
    last_ms: int
    train_at_ms: int
    until_ms: int | None
    currency: str
    left_out: Counter[str]
    log: OrderLog

    @property
    def end_ms(self) -> int:
        """The instant at which the replay ends."""
        return self.last_ms if self.until_ms is None else self.until_ms


@dataclass(slots=True)
class _SourceFacts:
    """The facts about a source that are collected while its rows are read."""

    first_ms: int | None = None
    last_ms: int = 0
    currencies: Counter[str] = field(default_factory=Counter)

    def through(self, rows: Iterable[OrderRow]) -> Iterator[OrderRow]:
        for row in rows:
            self.first_ms = row.at_ms if self.first_ms is None else min(self.first_ms, row.at_ms)
            self.last_ms = max(self.last_ms, row.at_ms)
            self.currencies[row.currency] += 1
            yield row


@contextmanager
def opened(request: DemoRequest, reading: Callable[[int], None] | None = None) -> Iterator[DemoOrders]:
    """Read the source and choose the dates. `reading` gets the number of rows read so far, now and then.

    Raises DemoError, OrderFileError.
    """
    left_out: Counter[str] = Counter()
    seen = _SourceFacts()
    with in_time_order(seen.through(_rows(request, left_out)), left_out=left_out, reading=reading) as ordered:
        if seen.first_ms is None:
            raise DemoError(
                f"{request.source} has no usable order.", hint=f"Rows left out, by reason: {dict(left_out)}."
            )
        train_at_ms, until_ms = _dates(request, seen.first_ms, seen.last_ms)
        # A deployment has one currency; orders in another become dead letters. So take the file's most frequent one.
        currency = seen.currencies.most_common(1)[0][0]
        log = OrderLog(train_at_ms)
        rows = SplitRows(log.noted(ordered))
        yield DemoOrders(
            _name(request),
            rows,
            ordered.total,
            seen.first_ms,
            seen.last_ms,
            train_at_ms,
            until_ms,
            currency,
            left_out,
            log,
        )


def _name(request: DemoRequest) -> str:
    return {CDNOW: "CDNOW", SIMULATE: "a simulated shop"}.get(request.source, Path(request.source).name)


def _rows(request: DemoRequest, left_out: Counter[str]) -> Iterator[OrderRow]:
    if request.source == CDNOW:
        return read_orders(cdnow_path(), currency=CDNOW_CURRENCY, counts=left_out)
    if request.source == SIMULATE:
        return islice(_simulated(request), request.orders)
    return read_orders(Path(request.source).expanduser(), currency=request.currency, counts=left_out)


def _simulated(request: DemoRequest) -> Iterator[OrderRow]:
    newcomers = max(request.orders // _ORDERS_PER_NEWCOMER, 1)
    return simulate(_SIMULATED_SEED, newcomers, _SIMULATED_SINCE, currency=request.currency)


def _dates(request: DemoRequest, first_ms: int, last_ms: int) -> tuple[int, int | None]:
    """Return when to train and when to end. Raises DemoError without orders before the training or time after it."""
    train_at_ms, until_ms = request.train_at_ms, request.until_ms
    if request.source == CDNOW:
        train_at_ms = _CDNOW_TRAIN_AT if train_at_ms is None else train_at_ms
        until_ms = _CDNOW_UNTIL if until_ms is None else until_ms
    elif train_at_ms is None and request.source == SIMULATE:
        at = max(int(request.orders * _SIMULATED_HISTORY), 1)
        # The simulation has a fixed seed: run again, it yields the same orders.
        train_at_ms = next(islice(_simulated(request), at, None)).at_ms
    elif train_at_ms is None:
        train_at_ms = first_ms + int((last_ms - first_ms) * _FILE_HISTORY)
    assert train_at_ms is not None, "each source has a default"
    end_ms = last_ms + 1 if until_ms is None else until_ms
    if not first_ms < train_at_ms < end_ms:
        raise DemoError(
            f"the model would be trained at {iso(train_at_ms)}, but the orders are from {iso(first_ms)} to "
            f"{iso(end_ms)}.",
            hint="Choose --train-at and --until so that there are orders before the training and some time after it.",
        )
    return train_at_ms, until_ms
