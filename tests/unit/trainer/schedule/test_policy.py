from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import SettingsError
from trainer.schedule.policy import DueRun, LastRun, Policy, Schedule, begun, due, ended

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NIGHTLY = Schedule("0 3 * * *", "UTC")
T0 = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)
THREE = T0 + 15 * HOUR  # the next three o'clock


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


EXPRESSIONS = ["0 3 * * *", "30 2 * * *", "*/7 * * * *", "15 */3 * * 1-5", "0 0 1 * *", "59 1 * * SUN", "0 2,3 * * *"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.integers(at("2026-01-01T00:00"), at("2027-01-01T00:00"))
    | st.builds(
        lambda change, minutes: change + minutes * MINUTE + 1,
        st.sampled_from(
            [at("2026-03-29T01:00"), at("2026-10-25T01:00"), at("2026-03-08T07:00"), at("2026-11-01T06:00")]
        ),
        st.integers(-300, 300),
    ),
)
def test_forwards_and_backwards_agree(expression: str, zone: str, ms: int) -> None:
    schedule = Schedule(expression, zone)
    following, last = schedule.after(ms), schedule.latest(ms)
    assert last <= ms < following
    assert schedule.after(last) == following
    assert schedule.latest(following) == following
    assert schedule.latest(following - 1) == last


def test_an_hour_that_is_skipped_is_made_up_for_and_one_that_comes_twice_is_not() -> None:
    berlin = Schedule("30 2 * * *", "Europe/Berlin")
    spring = berlin.after(at("2026-03-28T12:00"))
    assert spring == at("2026-03-29T01:00")  # 03:00 there, as the gap ends
    assert berlin.after(spring) == at("2026-03-30T00:30")
    autumn = berlin.after(at("2026-10-24T12:00"))
    assert autumn == at("2026-10-25T00:30")
    assert berlin.after(autumn) == at("2026-10-26T01:30")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("0 3 * *", "expected minute, hour"),
        ("0 0 3 * * *", "expected minute, hour"),
        ("61 3 * * *", "Bad minute"),
        ("0 3 31 2 *", "Bad day-of-month"),
        ("@daily", "expected minute, hour"),
        ("", "expected minute, hour"),
    ],
)
def test_an_expression_that_is_none_is_reported(expression: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Schedule(expression, "UTC")


@pytest.mark.parametrize("zone", ["Berlin", "", "../etc/passwd", "Europe"])
def test_a_zone_that_is_none_is_reported(zone: str) -> None:
    with pytest.raises(SettingsError, match="no time zone"):
        Schedule("0 3 * * *", zone)


def test_nothing_is_due_before_the_first_instant() -> None:
    fresh = LastRun(instant_ms=T0)
    assert due(NIGHTLY, Policy(), fresh, THREE - 1) is None
    found = due(NIGHTLY, Policy(), fresh, THREE)
    assert found == DueRun("scheduled", THREE, "scheduled: 2026-03-02T03:00:00+00:00")


def test_whatever_was_missed_is_caught_up_once() -> None:
    late = THREE + 10 * DAY + 5 * HOUR
    found = due(NIGHTLY, Policy(), LastRun(instant_ms=T0), late)
    assert found is not None
    assert (found.reason, found.instant_ms) == ("missed", THREE + 10 * DAY)
    after = ended(begun(LastRun(instant_ms=T0), found, late), "succeeded", late + MINUTE, exit_code=0)
    assert due(NIGHTLY, Policy(), after, late + 2 * MINUTE) is None
    assert due(NIGHTLY, Policy(), after, THREE + 11 * DAY) is not None


@given(st.text(max_size=5), st.integers(0, 100_000), st.integers(0, 400))
def test_jitter_is_of_the_group_and_the_instant_and_ends_before_the_next(group: str, jitter_s: int, day: int) -> None:
    policy = Policy(group, jitter_s)
    instant = THREE + day * DAY
    start = policy.start(NIGHTLY, instant)
    assert instant <= start <= instant + min(jitter_s * 1000, DAY - 1)
    assert start == Policy(group, jitter_s).start(NIGHTLY, instant)
    last = LastRun(instant_ms=instant - DAY)
    assert due(NIGHTLY, policy, last, start) is not None
    assert start == instant or due(NIGHTLY, policy, last, start - 1) is None


def test_jitter_spreads() -> None:
    starts = {Policy(f"g{n}", 3600).start(NIGHTLY, THREE) for n in range(100)}
    assert len(starts) == 100
    assert max(starts) - min(starts) > HOUR / 2


def test_a_failure_is_tried_again_so_often_and_no_more() -> None:
    policy = Policy(retries=2, retry_s=600)
    now, last, attempts = THREE, LastRun(instant_ms=T0), []
    while now < THREE + DAY:
        if found := due(NIGHTLY, policy, last, now):
            attempts.append((found.reason, (now - THREE) // MINUTE))
            last = ended(begun(last, found, now), "failed", now, exit_code=1)
        now += MINUTE
    assert attempts == [("scheduled", 0), ("retry", 10), ("retry", 20)]
    # The next instant starts with its first attempt.
    found = due(NIGHTLY, policy, last, now)
    assert found is not None
    assert begun(last, found, now).attempt == 1


def test_no_retries_means_none() -> None:
    last = ended(begun(LastRun(instant_ms=T0), DueRun("scheduled", THREE, ""), THREE), "failed", THREE, exit_code=1)
    assert due(NIGHTLY, Policy(retries=0), last, THREE + 2 * HOUR) is None


def test_a_run_whose_scheduler_dies_counts_as_an_attempt() -> None:
    policy = Policy(retries=1, retry_s=600)
    died = begun(LastRun(instant_ms=T0), DueRun("scheduled", THREE, ""), THREE)
    assert due(NIGHTLY, policy, died, THREE + 9 * MINUTE) is None
    found = due(NIGHTLY, policy, died, THREE + 10 * MINUTE)
    assert found is not None
    again = begun(died, found, THREE + 10 * MINUTE)
    assert again.attempt == 2
    assert due(NIGHTLY, policy, again, THREE + 10 * HOUR) is None


def test_a_run_that_was_stopped_begins_again_at_once_and_costs_no_attempt() -> None:
    last = LastRun(instant_ms=T0)
    for _ in range(10):
        running = begun(last, due(NIGHTLY, Policy(retries=0), last, THREE) or pytest.fail("nothing is due"), THREE)
        assert running.attempt == 1
        last = ended(running, "stopped", THREE, exit_code=None)
    assert last.last_success_ms is None


def test_durations_and_successes_are_kept() -> None:
    running = begun(LastRun(instant_ms=T0), DueRun("scheduled", THREE, ""), THREE)
    good = ended(running, "succeeded", THREE + 1500, exit_code=0)
    assert (good.duration_s, good.last_success_ms, good.attempt) == (1.5, THREE + 1500, 0)
    bad = ended(begun(good, DueRun("scheduled", THREE + DAY, ""), THREE + DAY), "failed", THREE + DAY, exit_code=1)
    assert (bad.last_success_ms, bad.exit_code) == (THREE + 1500, 1)
    assert timedelta(milliseconds=bad.instant_ms - good.instant_ms) == timedelta(days=1)


def test_that_a_run_was_asked_for_is_known_until_the_schedule_s_next() -> None:
    policy, asked = Policy(retries=1, retry_s=600), DueRun("asked", T0, "drift")
    failed = ended(begun(LastRun(instant_ms=T0), asked, T0), "failed", T0, exit_code=1)
    retry = due(NIGHTLY, policy, failed, T0 + 10 * MINUTE)
    assert retry is not None
    again = begun(failed, retry, T0 + 10 * MINUTE)
    assert (retry.reason, again.asked) == ("retry", True)
    assert ended(again, "succeeded", T0 + 11 * MINUTE, exit_code=0).asked
    stopped = ended(begun(LastRun(instant_ms=T0), asked, T0), "stopped", T0, exit_code=None)
    resumed = due(NIGHTLY, policy, stopped, T0 + MINUTE)
    assert resumed is not None
    assert begun(stopped, resumed, T0 + MINUTE).asked
    nightly = due(NIGHTLY, policy, stopped, THREE)
    assert nightly is not None
    assert not begun(stopped, nightly, THREE).asked
