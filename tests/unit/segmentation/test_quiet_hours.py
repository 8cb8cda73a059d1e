"""Quiet hours: their end by search against a look at every minute, in many zones and around their clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segmentation.quiet_hours import DailyHours, local_day, quiet_until, zone_named
from tests.support.oracles.local_time import day_there, first_loud, ms_at, on_the_wall

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NIGHT = DailyHours(21 * 60, 8 * 60)
# North and south, half hours and quarters, changes at midnight, by half an hour, twice a year for Ramadan, and none.
ZONES = [
    "UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns", "America/Santiago",
    "America/Havana", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Beirut", "Africa/Casablanca", "Africa/Cairo",
    "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Kiritimati", "Pacific/Apia", "Antarctica/Troll", "Asia/Gaza",
]  # fmt: skip


def changes(zone: str, first: int, last: int) -> list[int]:
    """Return the instants at which a zone's clocks are changed, to the minute, in these years."""
    found, at = [], ms_at(f"{first}-01-01T00:00:00Z")
    end = ms_at(f"{last + 1}-01-01T00:00:00Z")
    while at < end:
        if on_the_wall(at, zone).utcoffset() != on_the_wall(at + 3 * HOUR_MS, zone).utcoffset():
            while on_the_wall(at, zone).utcoffset() == on_the_wall(at + 60_000, zone).utcoffset():
                at += 60_000
            found.append(at + 60_000)
        at += 3 * HOUR_MS
    return found


CHANGES = {zone: changes(zone, 2025, 2026) for zone in ZONES}


@st.composite
def instants(draw: st.DrawFn) -> tuple[str, int]:
    """Any zone; an instant of two years, mostly near a change of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    near, often = CHANGES[zone], draw(st.integers(0, 3)) > 0
    if near and often:
        change: int = draw(st.sampled_from(near))
        minutes: int = draw(st.integers(-26 * 60, 26 * 60))
        return zone, change + minutes * 60_000 + draw(st.sampled_from([0, 0, 1, 59_999]))
    return zone, draw(st.integers(ms_at("2025-01-01T00:00:00Z"), ms_at("2026-12-31T00:00:00Z")))


Minutes = st.integers(0, 1439) | st.sampled_from([0, 60, 90, 119, 120, 121, 150, 180, 1380, 1439])
Hours = st.tuples(Minutes, Minutes).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: DailyHours(*pair))


@settings(max_examples=150, deadline=None)
@given(instants(), Hours)
@example(("UTC", 0), DailyHours(0, 1439))
@example(("UTC", DAY_MS), DailyHours(1, 0))
def test_they_end_with_the_first_minute_that_is_outside(where: tuple[str, int], hours: DailyHours) -> None:
    zone, at = where
    expected = first_loud(at, hours.begin, hours.end, zone)
    assert quiet_until(at, hours, ZoneInfo(zone)) == (None if expected == at else expected)


def test_the_zones_change_their_clocks_in_every_way() -> None:
    """The property above means little unless clocks go forward and back, by less than an hour, and at midnight."""
    sizes = set()
    for zone, instants_ in CHANGES.items():
        for at in instants_:
            before, after = on_the_wall(at - 60_000, zone).utcoffset(), on_the_wall(at, zone).utcoffset()
            assert before is not None
            assert after is not None
            sizes.add((after - before) // timedelta(minutes=1))
    assert {-120, -60, -30, 30, 60, 120} <= sizes


@pytest.mark.parametrize(
    ("at", "hours", "zone", "until"),
    [
        ("2026-06-01T19:00:00Z", NIGHT, "Europe/Berlin", "2026-06-02T06:00:00Z"),  # 21:00 there
        ("2026-06-01T18:59:59.999Z", NIGHT, "Europe/Berlin", None),
        ("2026-06-02T05:59:59.999Z", NIGHT, "Europe/Berlin", "2026-06-02T06:00:00Z"),
        ("2026-06-02T06:00:00Z", NIGHT, "Europe/Berlin", None),
        # The nights of the changes: 08:00 is an hour sooner, or later.
        ("2026-03-28T20:30:00Z", NIGHT, "Europe/Berlin", "2026-03-29T06:00:00Z"),
        ("2026-10-24T20:30:00Z", NIGHT, "Europe/Berlin", "2026-10-25T07:00:00Z"),
        # 02:30 doesn't come on the day on which 03:00 follows 01:59.
        ("2026-03-29T00:30:00Z", DailyHours(60, 150), "Europe/Berlin", "2026-03-29T01:00:00Z"),
        # 02:30 comes twice on the day on which 02:00 follows 02:59: quiet up to it, then again.
        ("2026-10-25T00:00:00Z", DailyHours(60, 150), "Europe/Berlin", "2026-10-25T00:30:00Z"),
        ("2026-10-25T00:30:00Z", DailyHours(60, 150), "Europe/Berlin", None),
        ("2026-10-25T01:00:00Z", DailyHours(60, 150), "Europe/Berlin", "2026-10-25T01:30:00Z"),
        # Until 03:00: the first 02:59 is followed by 02:00, and that is quiet, too.
        ("2026-10-25T00:00:00Z", DailyHours(60, 180), "Europe/Berlin", "2026-10-25T02:00:00Z"),
        # A day that has no 00:00, in Cairo.
        ("2026-04-23T21:30:00Z", DailyHours(1380, 0), "Africa/Cairo", "2026-04-23T22:00:00Z"),
        # Half an hour, on Lord Howe.
        ("2026-04-04T14:30:00Z", DailyHours(0, 120), "Australia/Lord_Howe", "2026-04-04T15:30:00Z"),
    ],
)
def test_some_nights(at: str, hours: DailyHours, zone: str, until: str | None) -> None:
    assert quiet_until(ms_at(at), hours, ZoneInfo(zone)) == (None if until is None else ms_at(until))


@settings(max_examples=100, deadline=None)
@given(instants())
def test_a_day_is_the_one_on_the_calendar_there(where: tuple[str, int]) -> None:
    zone, at = where
    assert local_day(at, ZoneInfo(zone)) == day_there(at, zone)


@pytest.mark.parametrize(
    "name",
    [
        "Berlin", "europe/nowhere", "Europe", "Europe/", "", ".", "..", "/etc/localtime", "../../etc/passwd", "a\0b",
        "zone.tab", "tzdata.zi", "__init__", "Europe/__init__.py", "\ud800", "é", "x" * 300, "UTC+2", "GMT+0200",
        "localtime", "Factory", "posixrules",
    ],
)  # fmt: skip
def test_a_name_of_no_zone_is_none(name: str) -> None:
    assert zone_named(name) is None


@given(st.text(max_size=40))
def test_any_text_is_a_zone_or_none(name: str) -> None:
    zone = zone_named(name)
    assert zone is None or datetime(2026, 1, 1, tzinfo=UTC).astimezone(zone).tzinfo is zone


@pytest.mark.parametrize("zone", ZONES)
def test_a_zone_is_known_by_its_name(zone: str) -> None:
    assert zone_named(zone) == ZoneInfo(zone)
