"""Options that several commands have, and the parsers of their values."""

from __future__ import annotations

import math
from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Final

import typer

from segmentation.money import AmountError

LONGEST_ID: Final = (
    200  # of a backfill: event ids have 256 characters, and those of a backfill's events begin with a prefix
)


class FileFormat(StrEnum):
    """The kinds of rows in a file."""

    ORDERS = "orders"
    LINES = "lines"


def instant_of(text: str) -> int:
    """Return an instant as ms since 1970. Raises typer.BadParameter.

    >>> instant_of("1970-01-02")
    86400000
    """
    from stream.orders.rows import parse_at

    try:
        return parse_at(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} isn't an instant like 2011-12-10 or 2011-12-10T08:30:00Z: {error}"
        ) from None


def speed_of(text: str) -> float | None:
    """Return a speed as a multiple of the orders' own timing; None: as fast as possible. Raises typer.BadParameter.

    >>> speed_of("2.5"), speed_of("max")
    (2.5, None)
    """
    with suppress(ValueError):
        if text == "max" or 0 < float(text) < math.inf:
            return None if text == "max" else float(text)
    raise typer.BadParameter(f"{text!r} is neither max nor a number above 0")


def amount_of(text: str) -> int:
    """Return an amount, which may be negative, in ten-thousandths. Raises typer.BadParameter.

    >>> amount_of("-12.5")
    -125000
    """
    from stream.orders.rows import parse_signed

    try:
        return parse_signed(text)
    except AmountError as error:
        raise typer.BadParameter(str(error)) from None


def days_of(text: str) -> float:
    """Return a number of days. Raises typer.BadParameter.

    >>> days_of("0.5")
    0.5
    """
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:  # false for NaN
            return float(text)
    raise typer.BadParameter(f"{text!r} isn't a number of days, 0 or more")


def span_of(text: str) -> int:
    """Return a length of time in ms. Raises typer.BadParameter.

    >>> span_of("2d")
    172800000
    """
    from segmentation.durations import duration_ms

    try:
        return duration_ms(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None


def backfill_id_of(text: str) -> str:
    """Return the id of a backfill. Raises typer.BadParameter.

    >>> backfill_id_of("2024-archive")
    '2024-archive'
    """
    if 1 <= len(text) <= LONGEST_ID and text.isprintable():
        return text
    raise typer.BadParameter(f"{text[:LONGEST_ID]!r} isn't an id of 1 to {LONGEST_ID} printable characters")


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line on stdout.")]
HttpPort = Annotated[
    int | None, typer.Option(help="Port of /health and /metrics; 0: none.", show_default="SEGSTREAM_HTTP_PORT")
]
# `parser` returns whole numbers: instants are in ms, amounts in ten-thousandths.
From = Annotated[
    int | None,
    typer.Option(
        "--from",
        parser=instant_of,
        metavar="TIME",
        help="Skip rows before this instant (ISO 8601; UTC if it names no zone).",
    ),
]
Until = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        help="Stop before the first row at or after this instant; in event time also advance every partition's clock "
        "to it.",
    ),
]
Speed = Annotated[
    float | None,
    typer.Option(
        parser=speed_of,
        metavar="X|max",
        show_default="max",
        help="How many times faster than the orders' own timing; max: without waiting.",
    ),
]
Format = Annotated[
    FileFormat | None,
    typer.Option("--format", show_default="by the header", help="Content of a row: an order or an order line."),
]
