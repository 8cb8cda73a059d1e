from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation.entries import DAY_MS
from stream.orders.rows import OrderRow, parse_at
from stream.replay.preconditions import ReplayError
from stream.replay.publisher import replay
from stream.replay.rate import ReplayRate
from stream.replay.timeline import Advance, timeline
from stream.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

STEP = 89 * DAY_MS
NOON = DAY_MS // 2


def _rows(*at: int) -> list[OrderRow]:
    return [OrderRow("placed", str(n), "c", ms, 0, "USD", str(n)) for n, ms in enumerate(at)]


def _sent(
    rows: Sequence[OrderRow],
    *,
    clock_ms: int | None = None,
    from_ms: int | None = None,
    until_ms: int | None = None,
    clocks: bool = True,
) -> list[int | Advance]:
    items = timeline(rows, step_ms=STEP, clock_ms=clock_ms, from_ms=from_ms, until_ms=until_ms, clocks=clocks)
    return [item if isinstance(item, Advance) else item.at_ms for item in items]


def test_each_day_with_rows_begins_with_an_advance_and_the_last_row_ends_with_one() -> None:
    rows = _rows(NOON, NOON + 1, DAY_MS, 3 * DAY_MS + NOON)
    assert _sent(rows) == [
        *(Advance(0), NOON, NOON + 1),
        *(Advance(DAY_MS), DAY_MS),
        *(Advance(3 * DAY_MS), 3 * DAY_MS + NOON, Advance(3 * DAY_MS + NOON)),
    ]


def test_until_is_the_first_instant_that_is_not_sent() -> None:
    rows = _rows(NOON, NOON + 1, NOON + 2)
    assert _sent(rows, until_ms=NOON + 1) == [Advance(0), NOON, Advance(NOON + 1)]
    assert _sent(rows, until_ms=DAY_MS) == [Advance(0), NOON, NOON + 1, NOON + 2, Advance(DAY_MS)]
    assert _sent([], until_ms=DAY_MS) == [Advance(DAY_MS)]
    assert _sent([]) == []


def test_from_is_the_first_instant_that_is_sent() -> None:
    rows = _rows(NOON, NOON + 1, DAY_MS)
    assert _sent(rows, from_ms=NOON + 1) == [Advance(NOON + 1), NOON + 1, Advance(DAY_MS), DAY_MS]


def test_gaps_are_crossed_in_steps_that_a_shard_accepts() -> None:
    far = 200 * DAY_MS
    assert _sent(_rows(NOON, far), until_ms=far + STEP) == [
        *(Advance(0), NOON),
        *(Advance(STEP), Advance(2 * STEP), Advance(far), far),
        Advance(far + STEP),
    ]


def test_clocks_far_behind_are_advanced_to_the_first_instant() -> None:
    far = 200 * DAY_MS
    steps = [Advance(7 + STEP, catches_up=True), Advance(7 + 2 * STEP, catches_up=True)]
    assert _sent(_rows(far + NOON), clock_ms=7) == [*steps, Advance(far), far + NOON, Advance(far + NOON)]
    assert _sent(_rows(far + NOON), clock_ms=7, from_ms=far)[:4] == [*steps, Advance(far), far + NOON]
    assert _sent([], clock_ms=7, until_ms=far) == [*steps, Advance(far)]
    # No steps are needed: exactly a step behind, and past the first instant.
    for clock_ms in (far - STEP, far, far + NOON + 1, far * 9):
        assert _sent(_rows(far + NOON), clock_ms=clock_ms) == _sent(_rows(far + NOON))


def test_wall_time_needs_no_clock() -> None:
    assert _sent(_rows(NOON, 500 * DAY_MS), until_ms=400 * DAY_MS, from_ms=1, clocks=False) == [NOON]


@given(
    st.lists(st.integers(0, 2_000 * DAY_MS)).map(sorted),
    st.none() | st.integers(0, 2_000 * DAY_MS),
    st.none() | st.integers(0, 2_000 * DAY_MS),
    st.none() | st.integers(0, 2_000 * DAY_MS),
)
def test_no_row_and_no_advance_is_too_far_ahead_and_no_row_is_lost(
    at: list[int], clock_ms: int | None, from_ms: int | None, until_ms: int | None
) -> None:
    items = _sent(_rows(*at), clock_ms=clock_ms, from_ms=from_ms, until_ms=until_ms)
    instants = [item.to_ms if isinstance(item, Advance) else item for item in items]
    wanted = [ms for ms in at if (from_ms is None or ms >= from_ms) and (until_ms is None or ms < until_ms)]
    assert [item for item in items if not isinstance(item, Advance)] == wanted
    assert all(a <= b for a, b in pairwise(instants))
    # A partition that gets rows gets at worst all of them: its clock may jump by a day more than a step.
    known = clock_ms
    for ms in instants:
        assert known is None or ms - known <= STEP + DAY_MS
        known = ms if known is None else max(known, ms)
    # A partition without rows has its clock from the advances alone.
    clocks = [item.to_ms for item in items if isinstance(item, Advance)]
    assert all(b - a <= STEP for a, b in pairwise(clocks if clock_ms is None else [clock_ms, *clocks]))
    if until_ms is not None and (from_ms is None or until_ms >= from_ms):
        assert clocks[-1] == until_ms


async def test_the_rate_is_the_file_s_own_times_the_speed() -> None:
    stop, now_s = asyncio.Event(), 77.0
    assert ReplayRate(None, stop).ahead_s(5_000) == 0
    rate = ReplayRate(1_000.0, stop, clock_s=lambda: now_s)
    assert rate.ahead_s(5_000) == 0  # the first goes at once
    assert rate.ahead_s(10_005_000) == 10
    now_s += 4
    assert rate.ahead_s(10_005_000) == 6
    stop.set()
    async with asyncio.timeout(1):
        await rate.wait(10_005_000)
    assert rate.stopped


async def test_a_clock_in_the_future_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ReplayError, match="lies in the future"):
        await replay(Settings(), [], until_ms=parse_at("9000-01-01"))
