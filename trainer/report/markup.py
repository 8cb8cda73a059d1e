"""HTML and SVG as text that is escaped unless it is marked as markup, and numbers formatted for people."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID: Final = frozenset({"br", "meta", "wbr"})
# Between a number and its unit: a line doesn't break there.
NARROW: Final = "\N{NO-BREAK SPACE}"
MINUS: Final = "\N{MINUS SIGN}"
_LARGE: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Markup(str):
    """Text that is HTML already; `tag` and `joined` escape any other str."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: object) -> Markup:
    """Return an element. In names of attributes a trailing _ is dropped and other _ become -; None omits an attribute.

    >>> tag("p", "a < b", tag("b", "!"), class_="x")
    '<p class="x">a &lt; b<b>!</b></p>'
    """
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{text}>")
    return Markup(f"<{name}{text}>{joined(children)}</{name}>")


def joined(children: Iterable[str]) -> Markup:
    """Return texts and elements one after the other; all but Markup is escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def coordinate(value: float) -> str:
    """Format a coordinate of a chart, to a tenth.

    >>> coordinate(12.04), coordinate(-0.01), coordinate(3.25)
    ('12', '0', '3.2')
    """
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def count(value: int) -> str:
    """Format a count.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,}"


def percent(share: float, digits: int = 1) -> str:
    r"""Format a share as a percentage; a small share is shown as less than the last digit, not as zero.

    >>> percent(-0.0001).replace(NARROW, " ")
    '0.0 %'
    >>> percent(0.1234).replace(NARROW, " "), percent(0.0001).replace(NARROW, " "), percent(0.0), percent(1.0)[:3]
    ('12.3 %', '< 0.1 %', '0\xa0%', '100')
    """
    least = 10.0 ** -(digits + 2)
    if 0.0 < share < least:
        return f"<{NARROW}{100 * least:.{digits}f}{NARROW}%"
    if share in {0.0, 1.0}:
        return f"{share:.0%}".replace("%", f"{NARROW}%")
    return f"{decimal(100 * share, digits)}{NARROW}%"


def short(value: float) -> str:
    """Format a number for an axis.

    >>> [short(x) for x in (0.0, 0.25, 7.0, 1500.0, 280206.02, 2e6)]
    ['0', '0.25', '7', '1.5k', '280k', '2M']
    >>> short(-40.0) == MINUS + "40"
    True
    """
    for size, letter in _LARGE:
        if abs(value) >= size:
            return _three(value / size) + letter
    return _three(value)


def decimal(value: float, digits: int = 2) -> str:
    """Format a measure with so many digits after the point.

    >>> decimal(0.55812, 3), decimal(12345.678)
    ('0.558', '12,345.68')
    """
    text = f"{value:,.{digits}f}"
    # A value that rounds to zero has no sign.
    return text.removeprefix("-") if not float(text.replace(",", "")) else text.replace("-", MINUS)


def amount(value: float) -> str:
    """Format money, in whole units from a hundred up.

    >>> amount(280206.02), amount(12.5), amount(0.0)
    ('280,206', '12.50', '0')
    """
    return decimal(value, 0 if abs(value) >= 100 or value == 0.0 else 2)


def money(value: float, currency: str | None) -> str:
    """Format money with its currency, where that is known.

    >>> money(1234.5, "GBP").replace(NARROW, " "), money(1234.5, None)
    ('1,234 GBP', '1,234')
    """
    return amount(value) if currency is None else f"{amount(value)}{NARROW}{currency}"


def _three(value: float) -> str:
    if value == 0.0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def _attribute(value: object) -> str:
    return coordinate(value) if isinstance(value, float) else str(value)
