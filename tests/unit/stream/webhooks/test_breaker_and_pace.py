from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.webhooks.breaker import Breaker, BreakerState
from stream.webhooks.pace import Pace


def open_breaker() -> Breaker:
    breaker = Breaker(failures=3, pause_ms=100, longest_ms=400)
    for _ in range(3):
        breaker.started(0)
        breaker.failed(0)
    return breaker


def test_failures_in_a_row_open_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(failures=3, pause_ms=100, longest_ms=400)
    for _ in range(10):
        breaker.failed(0)
        breaker.failed(0)
        breaker.succeeded()
    assert breaker.state(0) is BreakerState.CLOSED
    assert open_breaker().state(0) is BreakerState.OPEN


def test_a_single_probe_decides() -> None:
    breaker = open_breaker()
    assert [breaker.wait_ms(at) for at in (0, 40, 100)] == [100, 60, 0]
    breaker.started(100)
    assert breaker.wait_ms(10_000) is None, "a second one while the probe is under way"
    breaker.succeeded()
    assert breaker.wait_ms(101) == 0
    assert breaker.state(101) is BreakerState.CLOSED


def test_pauses_double_up_to_the_longest() -> None:
    breaker, at, pauses = open_breaker(), 0, []
    for _ in range(4):
        wait = breaker.wait_ms(at)
        assert wait is not None
        pauses.append(wait)
        at += wait
        breaker.started(at)
        breaker.failed(at)
    assert pauses == [100, 200, 400, 400]


def test_late_failures_of_before_do_not_lengthen_the_pause() -> None:
    breaker = open_breaker()
    for at in range(50):
        breaker.failed(at)
    assert breaker.wait_ms(50) == 50


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.floats(0.1, 1_000), st.lists(st.integers(0, 5_000), max_size=60))
def test_no_more_than_the_rate_in_any_span(rate: float, arrivals: list[int]) -> None:
    pace, now, sent = Pace(rate, 4), 0, []
    for step in arrivals:
        now += step
        now += pace.wait_ms(now)
        pace.started(now)
        sent.append(now)
    for first, start in enumerate(sent):
        for last in range(first + 1, len(sent)):
            assert last - first <= (sent[last] - start) * rate / 1_000 + 1 + 1e-6


def test_load_halves_what_is_under_way_and_successes_bring_it_back() -> None:
    pace = Pace(None, 8)
    for limit in (4, 2, 1, 1):
        pace.overloaded(0, hold=False, asked_ms=None)
        assert pace.limit == limit
    for _ in range(100):
        pace.succeeded()
    assert pace.limit == 8
    assert pace.wait_ms(0) == 0


def test_an_endpoint_that_asks_to_wait_gets_nothing_until_then() -> None:
    pace = Pace(None, 8)
    pace.overloaded(0, hold=True, asked_ms=5_000)
    assert pace.wait_ms(0) == 5_000
    pace.overloaded(0, hold=True, asked_ms=10**9)
    assert pace.wait_ms(0) == 3_600_000, "one answer mustn't stop an endpoint for days"


def test_waits_that_nobody_named_double_and_those_under_way_count_once() -> None:
    pace = Pace(None, 8)
    for _ in range(4):
        pace.overloaded(0, hold=True, asked_ms=None)
    assert pace.wait_ms(0) == 1_000
    pace.overloaded(1_000, hold=True, asked_ms=None)
    assert pace.wait_ms(1_000) == 2_000
    pace.succeeded()
    pace.overloaded(9_000, hold=True, asked_ms=None)
    assert pace.wait_ms(9_000) == 1_000
