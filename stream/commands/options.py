"""Options that several commands have, and what reads their values."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Annotated, Final

import typer

from segmentation.money import AmountError
from stream.orders.rows import parse_at, parse_signed

LONGEST_NAME: Final = 200  # of a back-fill: the ids of events have 256, and its own has a word before the name


def instant_of(text: str) -> int:
    """Read an instant as ms since 1970. Raises typer.BadParameter.

    >>> instant_of("1970-01-02")
    86400000
    """
    try:
        return parse_at(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} isn't an instant like 2011-12-10 or 2011-12-10T08:30:00Z: {error}"
        ) from None


def speed_of(text: str) -> float | None:
    """Read a pace: how many times the orders' own; None: as fast as it goes. Raises typer.BadParameter.

    >>> speed_of("2.5"), speed_of("max")
    (2.5, None)
    """
    with suppress(ValueError):
        if text == "max" or 0 < float(text) < math.inf:
            return None if text == "max" else float(text)
    raise typer.BadParameter(f"{text!r} is neither max nor a number above 0")


def amount_of(text: str) -> int:
    """Read an amount, perhaps below zero, as ten-thousandths. Raises typer.BadParameter.

    >>> amount_of("-12.5")
    -125000
    """
    try:
        return parse_signed(text)
    except AmountError as error:
        raise typer.BadParameter(str(error)) from None


def days_of(text: str) -> float:
    """Read a length of time in days. Raises typer.BadParameter.

    >>> days_of("0.5")
    0.5
    """
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:  # which NaN isn't
            return float(text)
    raise typer.BadParameter(f"{text!r} isn't a number of days, 0 or more")


def backfill_name_of(text: str) -> str:
    """Read the name of a back-fill. Raises typer.BadParameter.

    >>> backfill_name_of("2024-archive")
    '2024-archive'
    """
    if 1 <= len(text) <= LONGEST_NAME and text.isprintable():
        return text
    raise typer.BadParameter(f"{text[:LONGEST_NAME]!r} isn't a name of 1 to {LONGEST_NAME} printable characters")


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
# `parser` makes whole numbers of the text, so that these are what the options say: an instant in ms, an amount in ten-thousandths.
From = Annotated[
    int | None,
    typer.Option(
        "--from", parser=instant_of, metavar="TIME", help="Skip rows before this instant (ISO 8601; no zone: UTC)."
    ),
]
Until = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        help="Stop before the first row at or after this instant, and in event time set every partition's clock to it.",
    ),
]
AsOf = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        show_default="in event time each shard's own clock, in wall time now",
        help="Figures as of this instant, at most a grace before the shards' clocks.",
    ),
]
Speed = Annotated[
    float | None,
    typer.Option(
        parser=speed_of,
        metavar="X|max",
        show_default="max",
        help="Times the file's own pace; max: as fast as it goes.",
    ),
]
