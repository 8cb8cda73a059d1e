"""Sum the lines of invoices to orders: many shops export a line for each article, and the stream takes orders."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from segmentation.money import UNITS
from stream.orders.rows import LeftOutReason, OrderRow, RowLeftOut, placed, read_amount, read_at, refunded

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

# Tills write at the same time, so the lines of two invoices may alternate: an invoice stays open until this many others
# have had a line since its own last one. The limit bounds the memory for files of any size.
OPEN_INVOICES: Final = 1_000
# A line of a closed invoice is noticed as long as its invoice is among the last ones closed, this many.
REMEMBERED_INVOICES: Final = 100_000


@dataclass(slots=True)
class _Invoice:
    at_ms: int  # of its earliest line
    lines: int = 0
    product: int = 0  # sum of quantity times price, in hundred-millionths: both factors are ten-thousandths


def orders_of_lines(
    lines: Iterable[tuple[str, ...]], currency: str, counts: Counter[str], *, open_invoices: int = OPEN_INVOICES
) -> Iterator[OrderRow]:
    """Yield one row for each invoice, the sum of its lines: (invoice, quantity, date, price of one, customer), as text.

    An invoice whose number starts with C is a refund that names no order. One whose number starts with A (an adjustment
    of bad debt) or that has no customer is left out, and so is any line that can't be read: `counts` grows with each
    line left out, by reason.
    """
    unfinished: OrderedDict[tuple[str, str], _Invoice] = OrderedDict()
    closed: OrderedDict[tuple[str, str], None] = OrderedDict()
    for number, quantity, date, price, customer in lines:
        key = number.strip(), customer.strip()
        if key in closed:
            counts[LeftOutReason.TORN_INVOICE.value] += 1
            continue
        try:
            at_ms, product = read_at(date.strip()), read_amount(quantity.strip()) * read_amount(price.strip())
        except RowLeftOut as why:
            counts[why.reason.value] += 1
            continue
        invoice = unfinished.get(key)
        if invoice is None:
            invoice = unfinished[key] = _Invoice(at_ms)
        else:
            unfinished.move_to_end(key)
        invoice.lines += 1
        invoice.at_ms = min(invoice.at_ms, at_ms)
        invoice.product += product
        if len(unfinished) > open_invoices:
            oldest, complete = unfinished.popitem(last=False)
            closed[oldest] = None
            if len(closed) > REMEMBERED_INVOICES:
                closed.popitem(last=False)
            yield from _summed(oldest, complete, currency, counts)
    for key, invoice in unfinished.items():
        yield from _summed(key, invoice, currency, counts)


def _summed(key: tuple[str, str], invoice: _Invoice, currency: str, counts: Counter[str]) -> Iterator[OrderRow]:
    """Yield the row of an invoice, or count its lines under the reason why there is none."""
    number, customer = key
    try:
        yield _row(number, customer, invoice, currency)
    except RowLeftOut as why:
        counts[why.reason.value] += invoice.lines


def _row(number: str, customer: str, invoice: _Invoice, currency: str) -> OrderRow:
    mark = number[:1].upper()
    if mark == "A":
        raise RowLeftOut(LeftOutReason.KIND)
    units, rest = divmod(invoice.product, UNITS)
    if rest:
        raise RowLeftOut(LeftOutReason.TOO_MANY_DECIMALS)
    if mark == "C" and units > 0:  # a refund that would take money from the customer
        raise RowLeftOut(LeftOutReason.AMOUNT)
    if mark == "C" or units < 0:
        return refunded(number, customer, invoice.at_ms, -units, currency, names_order=False)
    return placed(number, customer, invoice.at_ms, units, currency)
