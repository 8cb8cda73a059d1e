"""The wall clock, read in one place. Everything else is handed a function that tells the time."""

from __future__ import annotations

import time


def now_ms() -> int:
    """The wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000
