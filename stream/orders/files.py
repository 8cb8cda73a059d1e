"""Read the orders of a file of any size, one row at a time, exactly. Unusable rows are left out, counted by reason."""

from __future__ import annotations

import csv
import gzip
import importlib.metadata
import io
import re
from collections import Counter
from contextlib import ExitStack, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from stream.errors import SegstreamError
from stream.orders.invoices import orders_of_lines
from stream.orders.rows import (
    LeftOutReason,
    OrderRow,
    RowLeftOut,
    cancelled,
    merged,
    placed,
    read_amount,
    read_at,
    refunded,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["FileFormat", "LeftOutReason", "OrderFileError", "OrderRow", "cdnow_path", "check_readable", "read_orders"]

FileFormat = Literal["orders", "lines"]
CDNOW_CURRENCY: Final = "USD"
_BATCH_ROWS: Final = 20_000
_CDNOW_FIELDS: Final = 4
# CDNOW's header, or a line where there is no header: columns separated by blanks, as in no other format.
_CDNOW_LINE: Final = re.compile(r"\s*(customer_id\s+date\b.*|\d+\s+\d{8}\s+\d+\s+\d*\.?\d+\s*)", re.DOTALL)
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_LONGEST_LINE: Final = 1_048_576  # characters; a file without line ends would fill the memory
_KINDS: Final = {"", "order", "refund", "cancellation", "merge"}


class OrderFileError(SegstreamError):
    """The file can't be read, or isn't a file of orders."""


class Column(NamedTuple):
    """A column of a format, with its possible names in lower case. An optional column is empty where it is missing."""

    names: tuple[str, ...]
    required: bool = True


_ORDERS: Final = (
    Column(("order_id",)),
    Column(("customer_id",)),
    Column(("ordered_at",)),
    Column(("amount",)),
    Column(("currency",), required=False),
    Column(("kind",), required=False),
    Column(("updated_at",), required=False),
    Column(("merged_into",), required=False),
)
_LINES: Final = (
    Column(("invoiceno", "invoice")),
    Column(("quantity",)),
    Column(("invoicedate",)),
    Column(("unitprice", "price")),
    Column(("customerid", "customer id")),
)
_FORMATS: Final[dict[FileFormat, tuple[Column, ...]]] = {"orders": _ORDERS, "lines": _LINES}
_MISSING: Final = -1  # the position of the empty text behind every row


class _Table(NamedTuple):
    """A file's header and rows: `rows(positions)` yields the texts at those positions of each row."""

    header: list[str]
    rows: Callable[[Sequence[int]], Iterator[tuple[str, ...]]]


def read_orders(
    path: Path,
    *,
    format: FileFormat | None = None,  # noqa: A002 - named as the command's option
    currency: str,
    counts: Counter[str] | None = None,
) -> Iterator[OrderRow]:
    """Yield the rows of a file in the file's order. Raises OrderFileError.

    `format` None: the header decides, and a .txt may also be in CDNOW's format. A .parquet file is read as Parquet, .gz
    is unpacked, anything else is text. `currency`: of rows that name none. `counts` (LeftOutReason -> rows of the file)
    grows with each row that is left out.
    """
    counts = Counter() if counts is None else counts
    with _errors_translated(path):
        yield from _rows(path, format, currency, counts)


def check_readable(path: Path) -> None:
    """Raise OrderFileError where a file doesn't exist or may not be read."""
    with _errors_translated(path), path.open("rb"):
        pass


def _rows(path: Path, chosen: FileFormat | None, currency: str, counts: Counter[str]) -> Iterator[OrderRow]:
    name = path.name.lower().removesuffix(".gz")
    if chosen is None and name.endswith(".txt") and _looks_like_cdnow(path):
        yield from _cdnow(path, currency, counts)
        return
    with _parquet(path) if name.endswith(".parquet") else _csv(path) as table:
        chosen = chosen or _recognised_format(table.header)
        rows = table.rows(_positions(path, table.header, chosen))
        yield from (orders_of_lines if chosen == "lines" else _orders)(rows, currency, counts)


def cdnow_path() -> Path:
    """Return the path of CDNOW_master.txt in the package `lifetimes`, which isn't imported. Raises OrderFileError."""
    try:
        files = importlib.metadata.files("lifetimes") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "CDNOW_master.txt":
            return Path(str(file.locate()))
    raise OrderFileError("CDNOW's orders aren't installed.", hint="Install them: pip install 'segstream[demo]'.")


@contextmanager
def _errors_translated(path: Path) -> Iterator[None]:
    """Raise OrderFileError for the errors of reading a file."""
    try:
        yield
    except (OSError, EOFError, csv.Error) as error:
        message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OrderFileError(
            f"{path}: {message}.", hint="Give a file of orders that can be read to its end."
        ) from error


def _recognised_format(header: Sequence[str]) -> FileFormat:
    """Return the format that lacks fewer of its required columns."""
    return "lines" if len(_missing_columns(header, _LINES)) < len(_missing_columns(header, _ORDERS)) else "orders"


def _missing_columns(header: Sequence[str], columns: Sequence[Column]) -> list[str]:
    return [c.names[0] for c in columns if c.required and not any(name in header for name in c.names)]


def _positions(path: Path, header: Sequence[str], chosen: FileFormat) -> list[int]:
    """Return the positions of a format's columns. Raises OrderFileError where a required one is missing."""
    columns = _FORMATS[chosen]
    if missing := _missing_columns(header, columns):
        raise OrderFileError(
            f"{path}: no column {', '.join(missing)}; the file has {', '.join(header) or 'no header'}.",
            hint=f"A file of {chosen} needs {', '.join(c.names[0] for c in columns if c.required)} (any case).",
        )
    found = ((name for name in c.names if name in header) for c in columns)
    return [header.index(name) if (name := next(names, None)) else _MISSING for names in found]


def _orders(rows: Iterator[tuple[str, ...]], currency: str, counts: Counter[str]) -> Iterator[OrderRow]:
    for fields in rows:
        try:
            row = _order(fields, currency)
        except RowLeftOut as why:
            counts[why.reason.value] += 1
            continue
        yield row


def _order(fields: tuple[str, ...], currency: str) -> OrderRow:
    """Read one order, refund, cancellation or merge. Raises RowLeftOut.

    A row of kind refund names its order, whatever the sign of its amount. A negative amount of any other kind is a
    refund that names no order, as shops write it: its `order_id` is the refund's own number.
    """
    order_id, customer_id, ordered_at, amount, code, kind, updated_at, into = (field.strip() for field in fields)
    kind = kind.lower()
    if kind not in _KINDS:
        raise RowLeftOut(LeftOutReason.KIND)
    if not customer_id:
        raise RowLeftOut(LeftOutReason.NO_CUSTOMER)
    at_ms = read_at(ordered_at)
    if kind == "merge":
        return merged(customer_id, into, at_ms, currency)
    units = 0 if kind == "cancellation" and not amount else read_amount(amount)
    code = code.upper() or currency
    if not _CURRENCY.fullmatch(code):
        raise RowLeftOut(LeftOutReason.CURRENCY)
    if kind == "refund" or units < 0:
        return refunded(order_id, customer_id, at_ms, abs(units), code, names_order=kind == "refund")
    if kind == "cancellation":
        return cancelled(order_id, customer_id, at_ms, code)
    return placed(order_id, customer_id, at_ms, units, code, read_at(updated_at) if updated_at else None)


def _looks_like_cdnow(path: Path) -> bool:
    """Return whether the first line that isn't blank is in CDNOW's format."""
    with _text(path) as lines:
        first = next((line for line in _bounded(path, lines) if line.strip()), "")
    return _CDNOW_LINE.fullmatch(first) is not None


def _cdnow(path: Path, currency: str, counts: Counter[str]) -> Iterator[OrderRow]:
    """Read customer, day (YYYYMMDD), number of CDs, dollars. The order's id is the number of its row in the file."""
    if currency != CDNOW_CURRENCY:
        raise OrderFileError(
            f"{path.name} is in {CDNOW_CURRENCY}, this deployment in {currency}.",
            hint=f"Set SEGSTREAM_CURRENCY={CDNOW_CURRENCY}.",
        )
    with _text(path) as lines:
        number = 0
        for line in _bounded(path, lines):
            fields = line.split()
            if not fields or fields[0] == "customer_id":
                continue
            number += 1
            # Missing fields of an incomplete line read as empty, and are refused as such.
            customer_id, date, _, dollars = (*fields, *[""] * _CDNOW_FIELDS)[:_CDNOW_FIELDS]
            try:
                row = placed(str(number), customer_id, read_at(date), read_amount(dollars), CDNOW_CURRENCY)
            except RowLeftOut as why:
                counts[why.reason.value] += 1
                continue
            yield row


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file, gzipped or not. Bytes that aren't UTF-8 are marked: in an id, the row is left out."""
    with ExitStack() as stack:
        raw: Any = stack.enter_context(path.open("rb"))
        if path.suffix.lower() == ".gz":
            raw = stack.enter_context(gzip.GzipFile(fileobj=raw))
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=""))


def _bounded(path: Path, lines: io.TextIOWrapper) -> Iterator[str]:
    """Yield the remaining lines. Raises OrderFileError at one that is too long."""
    while line := lines.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE and not line.endswith(("\n", "\r")):
            raise OrderFileError(
                f"{path}: a line has more than {_LONGEST_LINE:,} characters.", hint="Give a file with one row a line."
            )
        yield line


@contextmanager
def _csv(path: Path) -> Iterator[_Table]:
    with _text(path) as lines:
        first = lines.readline(_LONGEST_LINE)
        delimiter = max(",;\t", key=first.count)
        header = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]

        def rows(positions: Sequence[int]) -> Iterator[tuple[str, ...]]:
            pick = itemgetter(*positions)
            width = len(header)
            for row in csv.reader(_bounded(path, lines), delimiter=delimiter):
                if row:
                    # A short row lacks its last columns. Behind them is the empty text that `_MISSING` refers to.
                    row.extend([""] * (width - len(row) + 1))
                    row[-1] = ""
                    yield pick(row)

        yield _Table(header, rows)


@contextmanager
def _parquet(path: Path) -> Iterator[_Table]:
    # Imported here: it takes half a second, and only Parquet files need it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names

            def rows(positions: Sequence[int]) -> Iterator[tuple[str, ...]]:
                chosen = [names[position] for position in positions if position != _MISSING]
                for batch in file.iter_batches(_BATCH_ROWS, columns=chosen):
                    empty = [""] * batch.num_rows
                    columns = [empty if p == _MISSING else _texts(batch.column(names[p])) for p in positions]
                    yield from zip(*columns, strict=True)

            yield _Table([name.strip().lower() for name in names], rows)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise OrderFileError(
            f"{path}: {error}.", hint="Give a Parquet file, or rename the file after its format."
        ) from error


def _texts(column: Any) -> list[str]:
    """Return a column as text: the shortest exact one, also for floats. Missing values are empty."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    return [text or "" for text in column.cast(pa.string()).to_pylist()]
