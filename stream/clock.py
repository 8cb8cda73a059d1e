"""The wall clock, read in one place. Everything else gets the time, or a function that returns it, as an argument."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Return the wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000
