"""Local time: a zone by its name, the hours in which nothing is sent, and calendar days. Clock changes included."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from segmentation.event_text import instant

# Names of files beside the zones: that of the machine, an unset one, and a rule for others.
NO_ZONES: Final = frozenset({"localtime", "Factory", "posixrules"})
_MINUTE_MS: Final = 60_000
_DAY_MINUTES: Final = 1_440
_STEP_MS: Final = 6 * 3_600_000  # no zone changes its clocks twice within this time
_LONGEST_STEPS: Final = 20  # quiet hours are shorter than a day, clock changes than that too


class DailyHours(NamedTuple):
    """A part of each local day, in minutes since midnight: from `begin` up to `end`, over midnight where it lies after.

    `begin` differs from `end`.
    """

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """Return whether a minute of the day lies in it.

        >>> DailyHours(21 * 60, 8 * 60).holds(7 * 60 + 59), DailyHours(21 * 60, 8 * 60).holds(8 * 60)
        (True, False)
        """
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@lru_cache(maxsize=1_024)
def zone_named(name: str) -> ZoneInfo | None:
    """Return a time zone by its IANA name; None: there is none of that name.

    >>> zone_named("Europe/Berlin"), zone_named("Berlin")
    (zoneinfo.ZoneInfo(key='Europe/Berlin'), None)
    """
    try:
        return None if name in NO_ZONES else ZoneInfo(name)
    except (ValueError, KeyError, OSError):  # a path, an unknown name, a folder of names like "Europe"
        return None


def local_day(at_ms: int, zone: ZoneInfo) -> date:
    """Return the calendar day of an instant in a zone."""
    return instant(at_ms).astimezone(zone).date()


def quiet_until(at_ms: int, hours: DailyHours, zone: ZoneInfo) -> int | None:
    """Return the first instant from `at_ms` on that lies outside of the hours; None: `at_ms` itself does.

    Local time decides. Where clocks are set forward over the end of the hours, they end with the change; where they
    are set back over it, the hours that come twice are quiet twice.
    """
    at = at_ms
    for _ in range(_LONGEST_STEPS):
        offset, minute = _offset_ms(at, zone), _minute(at, zone)
        if not hours.holds(minute):
            return None if at == at_ms else at
        change = _clock_change(at, zone, offset)
        local = at + offset
        end = local - local % _MINUTE_MS + (hours.end - minute) % _DAY_MINUTES * _MINUTE_MS - offset
        at = end if change is None or end < change else change
    return at


def _offset_ms(at_ms: int, zone: ZoneInfo) -> int:
    offset = instant(at_ms).astimezone(zone).utcoffset()
    assert offset is not None  # the instant has a zone
    return int(offset.total_seconds()) * 1000


def _minute(at_ms: int, zone: ZoneInfo) -> int:
    local = instant(at_ms).astimezone(zone)
    return local.hour * 60 + local.minute


def _clock_change(at_ms: int, zone: ZoneInfo, offset: int) -> int | None:
    """Return the next instant at which the zone's clocks are changed, where that comes within the longest hours."""
    low = at_ms
    while low < at_ms + _DAY_MINUTES * _MINUTE_MS:
        high = low + _STEP_MS
        if _offset_ms(high, zone) != offset:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset_ms(middle, zone) == offset else (low, middle)
            return high
        low = high
    return None
