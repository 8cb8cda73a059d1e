"""Amounts: exact both ways, and nothing but plain decimal text is taken."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.money import LONGEST, UNITS, AmountError, TooManyDecimalsError, format_units, parse_units


@given(st.integers(-(2**63), 2**63))
def test_text_says_exactly_the_units(units: int) -> None:
    text = format_units(units)
    assert Decimal(text) * UNITS == units
    _, _, fraction = text.partition(".")
    assert 2 <= len(fraction) <= 4
    assert len(fraction) == 2 or not fraction.endswith("0")
    if units >= 0:
        assert parse_units(text) == units


@given(st.decimals(0, 10**15, places=4), st.integers(0, 4))
def test_units_are_the_decimals(value: Decimal, places: int) -> None:
    text = f"{value:.{places}f}"
    assert parse_units(text) == Decimal(text) * UNITS


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("0", 0),
        ("0.0", 0),
        ("00012.50", 125_000),
        ("12.5", 125_000),
        ("123.45", 1_234_500),
        ("0.0001", 1),
        ("7.1234", 71_234),
    ],
)
def test_amounts(text: str, units: int) -> None:
    assert parse_units(text) == units


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "12.", ".5", "-1", "+1", "1e3", "1E3", "NaN", "inf", "Infinity", "1_000", "1,50", " 1", "1 ", "1\n",
        "0x10", "1.2.3", "1.-5", "١٢", "²", "\uff11\uff12", "1.٣", "1" * (LONGEST + 1), "9" * 100_000, "1\0",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(AmountError, match="expected decimal text") as caught:
        parse_units(text)
    assert not isinstance(caught.value, TooManyDecimalsError)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["1.00000", "0.12345", "1.0000000001"])
def test_too_many_decimals(text: str) -> None:
    with pytest.raises(TooManyDecimalsError, match="round it first"):
        parse_units(text)
