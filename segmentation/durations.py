"""Lengths of time as people write them: `30m`, `3h`, `7d`, `2w`."""

from __future__ import annotations

import re
from typing import Final

_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_TEXT: Final = re.compile(r"([1-9][0-9]{0,6})([mhdw])")
DURATION_PATTERN: Final = f"^{_TEXT.pattern}$"


def duration_ms(text: object) -> int:
    """Return a length of time in milliseconds. Raises ValueError.

    >>> duration_ms("2w") == 14 * duration_ms("1d")
    True
    """
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if not found:
        raise ValueError("expected a whole number and its unit: minutes 30m, hours 3h, days 7d, weeks 2w")
    return int(found[1]) * _MS[found[2]]


def duration_text(ms: int) -> str:
    """Return the text of a length of time, in days if they are whole, else in hours or minutes.

    >>> duration_text(duration_ms("36h")), duration_text(duration_ms("2w"))
    ('36h', '14d')
    """
    unit = next((unit for unit in "dh" if ms % _MS[unit] == 0), "m")
    return f"{ms // _MS[unit]}{unit}"
