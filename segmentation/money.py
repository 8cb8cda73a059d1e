"""Amounts of money: decimal text <-> whole ten-thousandths of the currency's unit. Exact: no float takes part."""

from __future__ import annotations

from typing import Final

UNITS: Final = 10_000  # in one unit of the currency
DECIMALS: Final = 4
LONGEST: Final = 64  # characters; int() refuses thousands of digits with an error of its own, and no order needs 65
_SCALE: Final = (10_000, 1_000, 100, 10, 1)  # by the number of decimals given


class AmountError(ValueError):
    """The text isn't an amount: digits, and at most four more after a point."""


class TooManyDecimalsError(AmountError):
    """An amount, but finer than a ten-thousandth. Rounding it would make the sums inexact."""


def parse_units(text: str) -> int:
    """Read decimal text as ten-thousandths. Raises AmountError.

    Digits, perhaps a point and one to four digits more; no sign, exponent, space, separator, NaN or infinity.

    >>> parse_units("12.5"), parse_units("3"), parse_units("0.0001")
    (125000, 30000, 1)
    """
    whole, point, fraction = text.partition(".")
    # isdigit alone would let "٣" and "²" in, and int() would take "1_000" and " 1".
    if text.isascii() and whole.isdigit() and (fraction.isdigit() or not point) and len(text) <= LONGEST:
        if len(fraction) <= DECIMALS:
            return int(whole + fraction) * _SCALE[len(fraction)]
        raise TooManyDecimalsError(
            f"{text!r} has {len(fraction)} decimals, expected at most {DECIMALS}: round it first"
        )
    raise AmountError(
        f"{text[:LONGEST]!r} isn't an amount: expected decimal text like '12.50', without sign or exponent"
    )


def format_units(units: int) -> str:
    """Write ten-thousandths as decimal text, exact, with two to four decimals; a minus where it is below zero.

    >>> format_units(125_000), format_units(1), format_units(-305_000)
    ('12.50', '0.0001', '-30.50')
    """
    whole, fraction = divmod(abs(units), UNITS)
    text = f"{whole}.{fraction // 100:02}" if fraction % 100 == 0 else f"{whole}.{fraction:04}".rstrip("0")
    return f"-{text}" if units < 0 else text
