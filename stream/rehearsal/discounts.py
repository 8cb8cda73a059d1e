"""Which campaign actions take something off the price, going by their words."""

from __future__ import annotations

import re
from typing import Final

_PERCENT: Final = r"(?<![\d.,])(\d{1,3}(?:[.,]\d+)?)\s*(?:%|per\s?cent\b)"
_CURRENCY: Final = r"(?:[€$£]|(?:EUR|USD|GBP|CHF|euros?|dollars?|pounds?)\b)"
_AMOUNT: Final = rf"(?:{_CURRENCY}\s*\d[\d.,]*|\d[\d.,]*\s*{_CURRENCY})"
_SAVE: Final = r"\b(?:save|saving)\s+(?:up\s+to\s+)?"
_AFTER: Final = r"\s*(?:off|less|cheaper)\b"


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# From the negation up to the end of this part of the sentence; the comma in 12,5 isn't one.
_NEGATED: Final = _words(r"\b(?:no|not|without|never|ohne|kein\w*)\s(?:(?![,;:.!?](?!\d)|\bbut\b).)*")
# The orders don't show what delivery costs.
_OFF_DELIVERY: Final = _words(r"\b(?:off|less|discount)\s+(?:(?:on|for|the|your)\s+)*(?:delivery|shipping|postage)\b")
_PERCENT_OFF: Final = _words(rf"{_PERCENT}{_AFTER}|{_SAVE}{_PERCENT}")
_NAMED: Final = _words(r"\b(?:discount|voucher|coupon|rebate|rabatt|gutschein|money off|price off)")
_PERCENT_BESIDE: Final = _words(rf"{_PERCENT}(?!\s*of\b)")
_AMOUNT_OFF: Final = _words(rf"{_AMOUNT}{_AFTER}|{_SAVE}{_AMOUNT}")


def discount_of(action: str, share: float) -> float | None:
    """Return the share of an order that an action takes off; None: it takes nothing off. `share`: where it names none.

    >>> discount_of("Win-back with 20 % off", 0.1), discount_of("5 € off", 0.1), discount_of("No discount", 0.1)
    (0.2, 0.1, None)
    """
    offered = _OFF_DELIVERY.sub("", _NEGATED.sub("", action))
    named = _PERCENT_OFF.search(offered)
    if named is None and _NAMED.search(offered):
        named = _PERCENT_BESIDE.search(offered)
    elif named is None and not _AMOUNT_OFF.search(offered):
        return None
    if named is None:
        return share
    percent = next(group for group in named.groups() if group is not None)
    return min(float(percent.replace(",", ".")) / 100, 1.0)
