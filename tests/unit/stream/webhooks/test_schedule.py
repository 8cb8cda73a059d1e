from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.webhooks.schedule import (
    HOUR_MS,
    JITTER,
    LONGEST_RETRY_AFTER_MS,
    SECOND_MS,
    STANDARD_MS,
    asked_wait_ms,
    next_attempt_ms,
)


def test_the_standard_schedule_has_ten_attempts_in_75_hours() -> None:
    at, attempts = 0, 1
    while (due := next_attempt_ms(attempts, at, "any")) is not None:
        assert STANDARD_MS[attempts - 1] <= due - at <= STANDARD_MS[attempts - 1] * (1 + JITTER)
        at, attempts = due, attempts + 1
    assert attempts == 10
    assert sum(STANDARD_MS) == 75 * HOUR_MS + 35 * 60 * SECOND_MS + 5 * SECOND_MS


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 9), st.integers(0, 10**13), st.text())
def test_a_restart_computes_the_same_time(attempt: int, now_ms: int, of: str) -> None:
    assert next_attempt_ms(attempt, now_ms, of) == next_attempt_ms(attempt, now_ms, of)


def test_webhooks_that_failed_together_do_not_come_back_together() -> None:
    dues = {next_attempt_ms(2, 0, str(n)) for n in range(1_000)}
    assert len(dues) > 900


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**9))
def test_an_endpoint_may_ask_for_longer_and_never_for_shorter(asked_ms: int) -> None:
    due = next_attempt_ms(1, 0, "any", retry_after_ms=asked_ms)
    assert due is not None
    assert due >= max(STANDARD_MS[0], min(asked_ms, LONGEST_RETRY_AFTER_MS))
    assert due <= LONGEST_RETRY_AFTER_MS * (1 + JITTER)


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("0", 0),
        (" 30 ", 30_000),
        ("9" * 400, LONGEST_RETRY_AFTER_MS),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 30_000),
        ("Thu, 01 Jan 1970 00:00:30 -0000", 30_000),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER_MS),
        ("Mon, 01 Jan 1900 00:00:00 GMT", 0),
        ("Thu, 99 Jan 1970 00:00:30 GMT", None),
        ("Thu, 01 Jan 1970 00:00:30 +9999999999", None),
    ],
)
def test_the_header_retry_after(header: str | None, wait_ms: int | None) -> None:
    assert asked_wait_ms(header, 0) == wait_ms


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text())
def test_no_header_fails(header: str) -> None:
    wait_ms = asked_wait_ms(header, 0)
    assert wait_ms is None or 0 <= wait_ms <= LONGEST_RETRY_AFTER_MS
