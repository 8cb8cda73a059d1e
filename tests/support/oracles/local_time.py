"""Local time by brute force: the end of quiet hours is looked for minute by minute, as a clock on the wall would."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

MINUTE_MS: Final = 60_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST: Final = 3 * 24 * 60  # minutes: no hours, and no clock change within them, last so long


def utc(ms: int) -> datetime:
    """Return an instant in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)


def ms_at(text: str) -> int:
    """Return an instant given as ISO 8601 with its zone, in ms since 1970."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


def on_the_wall(ms: int, zone: str) -> datetime:
    """Return what clocks of the zone show at an instant."""
    return utc(ms).astimezone(ZoneInfo(zone))


def day_there(ms: int, zone: str) -> date:
    """Return the calendar day in the zone."""
    return on_the_wall(ms, zone).date()


def is_quiet(ms: int, begin: int, end: int, zone: str) -> bool:
    """Return whether an instant lies in hours that begin and end at these minutes of the local day."""
    shown = on_the_wall(ms, zone)
    return shown.hour * 60 + shown.minute in _minutes(begin, end)


@lru_cache(maxsize=1_000)
def _minutes(begin: int, end: int) -> frozenset[int]:
    """Return the minutes of a day from `begin` until before `end`, over midnight if need be."""
    found, minute = set[int](), begin
    while minute != end:
        found.add(minute)
        minute = (minute + 1) % 1440
    return frozenset(found)


@lru_cache(maxsize=100_000)
def first_loud(ms: int, begin: int, end: int, zone: str) -> int:
    """Return the first instant from `ms` on outside of the hours: `ms` itself, or the beginning of a later minute."""
    at = ms
    for _ in range(_LONGEST):
        if not is_quiet(at, begin, end, zone):
            return at
        at = at - at % MINUTE_MS + MINUTE_MS
    raise AssertionError(f"quiet for three days from {utc(ms)} in {zone}")
