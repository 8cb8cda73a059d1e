"""The files of an export: customers as rows of CSV or Parquet, page by page."""

from __future__ import annotations

import csv
import io
from contextlib import contextmanager
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import msgspec

from segmentation.event_text import iso
from segmentation.money import UNITS, format_units
from segmentation.output_events import OutlookFigures
from stream.orders.rows import parse_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from segmentation.life_figures import LifeAt

# The columns, and what is in them. "money" is in ten-thousandths, "time" in ms since 1970.
COLUMNS: Final = {
    "customer_id": "text",
    "recency_days": "fraction",
    "frequency": "count",
    "monetary": "money",
    "segment": "text",
    "sequence": "count",
    "incomplete": "truth",
    "first_order_at": "time",
    "last_order_at": "time",
    "life_orders": "count",
    "purchase_days": "count",
    "life_monetary": "money",
    "mean_order_value": "money",
    "mean_gap_days": "fraction",
    "typical_gap_days": "fraction",
    "life_partial": "truth",
    "chance_90d": "fraction",
    "orders_90d": "fraction",
    "spend_90d": "money",
    "usual_gap_days": "fraction",
    "silence_in_gaps": "fraction",
}
_MONEY_DIGITS: Final = 19  # of 64 bits
# A cell that begins with one of these is a formula to Excel, LibreOffice or Google Sheets, the full-width ones too.
_FORMULA_SIGNS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")


class CustomerRow(msgspec.Struct, frozen=True, gc=False):
    """A customer. `recency_days`: None without an order; `segment`: None if none was ever published.

    `outlook`: None without an order that stands, or if the active model has none.
    """

    customer_id: str
    recency_days: float | None
    frequency: int
    monetary_units: int
    segment: str | None
    sequence: int
    incomplete: bool
    life: LifeAt
    outlook: OutlookFigures | None = None

    def cells(self) -> tuple[Any, ...]:
        """Return a value for each of COLUMNS; None: there is none."""
        life, stands, gaps, outlook = self.life.life, self.life.life.orders > 0, self.life.gaps, self.outlook
        return (
            self.customer_id,
            self.recency_days,
            self.frequency,
            self.monetary_units,
            self.segment,
            self.sequence,
            self.incomplete,
            life.first if stands else None,
            self.life.last if stands else None,
            life.orders,
            life.days,
            life.money,
            self.life.mean_order,
            gaps and gaps.mean,
            gaps and gaps.typical,
            self.life.partial,
            *(
                (None,) * 5
                if outlook is None
                else (
                    outlook.chance_90d,
                    outlook.orders_90d,
                    parse_signed(outlook.spend_90d),
                    outlook.usual_gap_days,
                    outlook.silence_in_gaps,
                )
            ),
        )


class RowWriter(Protocol):
    """A function that writes customers, page by page."""

    def __call__(self, rows: Sequence[CustomerRow]) -> None:
        """Write a page of customers after the earlier ones."""


def no_formula(text: str) -> str:
    """Return a text that a spreadsheet doesn't take for a formula: an apostrophe goes before the signs that begin one.

    Only for texts: a negative amount is a number, and stays.

    >>> no_formula("=HYPERLINK(1)"), no_formula("a=b")
    ("'=HYPERLINK(1)", 'a=b')
    """
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text


@contextmanager
def _csv(file: IO[bytes], raw: bool) -> Iterator[RowWriter]:
    text_of: Callable[[str], str] = str if raw else no_formula
    lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        written: dict[str, Callable[..., object]] = {
            "text": text_of,
            "fraction": repr,
            "count": int,
            "money": format_units,
            "truth": {False: "false", True: "true"}.__getitem__,
            "time": iso,
        }
        writers = [written[content] for content in COLUMNS.values()]

        def write(rows: Sequence[CustomerRow]) -> None:
            writer.writerows(
                ["" if cell is None else text(cell) for text, cell in zip(writers, row.cells(), strict=True)]
                for row in rows
            )

        yield write
    finally:
        lines.detach()  # which flushes, and leaves the file open


@contextmanager
def _parquet(file: IO[bytes], raw: bool) -> Iterator[RowWriter]:
    del raw  # no program takes a cell of Parquet for a formula
    # Imported here: the import takes half a second, and only Parquet needs it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "fraction": pa.float64(),
        "count": pa.int64(),
        "money": pa.decimal128(_MONEY_DIGITS, 4),
        "truth": pa.bool_(),
        "time": pa.timestamp("ms", tz="UTC"),
    }
    schema = pa.schema([(name, types[content]) for name, content in COLUMNS.items()])

    def column(place: int, cells: Sequence[tuple[Any, ...]], content: str) -> pa.Array:
        values = [row[place] for row in cells]
        if content == "money":
            values = [value if value is None else Decimal(value) / UNITS for value in values]
        return pa.array(values, types[content])

    with pq.ParquetWriter(file, schema) as writer:

        def write(rows: Sequence[CustomerRow]) -> None:
            cells = [row.cells() for row in rows]
            arrays = [column(place, cells, content) for place, content in enumerate(COLUMNS.values())]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

        yield write


WRITERS: Final = {".csv": _csv, ".parquet": _parquet}
