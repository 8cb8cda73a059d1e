"""States of format 1 by example: read, put into the present format, refused where they are none."""

from __future__ import annotations

import struct

import pytest

from segmentation.entries import ERASED, NEVER, NONE, Kind, Rules, entry
from segmentation.life import Life
from segmentation.rfm import (
    EMPTY,
    StateFormatError,
    absorb_bytes,
    advance_bytes,
    announcement,
    append,
    headers,
    is_capped,
    is_erased,
    muted_by,
    unpack,
    with_announcement,
    with_mute,
)
from segmentation.scoring import ScoringStep
from segmentation.state_bytes import bare, life_in
from segmentation.state_former import current, entries_of, is_former, is_former_erased
from tests.support.oracles.batch import OracleEvent
from tests.support.oracles.former import former_bytes

RULES = Rules(window=100, grace=15, cap=1_000)
# As format 1 wrote it: one order of 12.50, dated 2023-11-14T22:13:20Z.
GOLDEN = bytes.fromhex(
    "0100000000000000 0000000000000080 0100000001000000 48e8010000000000 "
    "0068e5cf8b010000 0068e5cf8b010000 0068e5cf8b010000"
    "0094962793010000 0000000000000080 00402b7f5e0c0000 8918241859bd0a0c 48e8010000000000 bd9726c0e8148e45"
)
ORDER = OracleEvent(Kind.PLACED, "e1", 1_700_000_000_000, "o1", 125_000)


def placed(time: int, order: str, amount: int = 9) -> OracleEvent:
    return OracleEvent(Kind.PLACED, order, time, order, amount)


def test_golden_bytes() -> None:
    assert former_bytes([ORDER], ORDER.time, Rules()) == GOLDEN
    e = entry(Kind.PLACED, "e1", ORDER.time, order="o1", amount=125_000)
    assert current(GOLDEN, Rules()) == append(EMPTY, e, e.time, Rules())


def test_a_state_of_the_present_format_stays_as_it_is() -> None:
    value = current(GOLDEN, Rules())
    assert current(value, Rules()) is value
    assert (is_former(GOLDEN), is_former(value)) == (True, False)


def test_the_scorers_fields_and_the_flags_are_kept() -> None:
    value = with_mute(with_announcement(GOLDEN, 7, 3, 1_690_000_000_000), 5)
    value = value[:1] + bytes([value[1] | 1]) + value[2:]
    now = current(value, Rules())
    assert announcement(now) == (7, 3, 1_690_000_000_000)
    assert (muted_by(now), is_capped(now)) == (5, True)
    assert (muted_by(value), announcement(value)) == (5, (7, 3, 1_690_000_000_000))  # a takeover reads these before
    assert bare(value) == bare(now)


def test_a_life_that_was_cut_is_partial() -> None:
    value = former_bytes([placed(10, "a"), placed(40, "b", 5), placed(200, "c", 7)], 200, RULES)
    state = unpack(current(value, RULES))
    assert state.cut == 25
    assert not state.folded.whole
    assert (state.life.orders, state.life.money, state.life.first) == (3, 21, 10)
    late = unpack(
        current(
            former_bytes([placed(5, "z"), placed(10, "a"), placed(40, "b"), placed(400, "c", 7)], 400, RULES), RULES
        )
    )
    assert (late.life.orders, late.life.money, late.folded.whole) == (3, 25, False)  # the first one was forgotten


def test_a_life_within_the_window_is_whole() -> None:
    value = current(former_bytes([placed(10, "a"), placed(40, "b", 5)], 40, RULES), RULES)
    assert life_in(value) == Life(2, 1, 14, 10)
    assert unpack(value).folded.whole


def test_an_erasure_ends_what_was_forgotten() -> None:
    erased = OracleEvent(Kind.ERASED, "", 300)
    value = current(former_bytes([placed(10, "a"), erased, placed(310, "b", 5)], 310, RULES), RULES)
    assert unpack(value).folded.whole
    assert life_in(value) == Life(1, 1, 5, 310)


def test_tombstones() -> None:
    erased = former_bytes([placed(10, "a"), OracleEvent(Kind.ERASED, "", 30)], 40, RULES)
    assert is_former_erased(erased)
    assert is_erased(current(erased, RULES))
    assert not is_erased(erased)  # by the present layout it is something else
    assert not is_former_erased(with_announcement(erased, 3, 1, 20))  # the move that ends the chain is still to come
    assert not is_former_erased(former_bytes([placed(40, "b"), OracleEvent(Kind.ERASED, "", 30)], 40, RULES))
    assert [e.time for e in entries_of(erased) if e.kind == ERASED] == [30]
    numbered = with_announcement(erased, 0, 4, 35)
    back, _ = absorb_bytes(numbered, entry(Kind.PLACED, "b", 50, order="b", amount=5), 50, RULES)
    assert announcement(back) == (0, 4, 35)
    assert unpack(back).frequency == 1
    late, _ = absorb_bytes(numbered, entry(Kind.PLACED, "c", 30, order="c", amount=5), 60, RULES)
    assert late == current(numbered, RULES)


@pytest.mark.parametrize(
    "value",
    [b"\1", GOLDEN[:-1], GOLDEN + b"\0", GOLDEN[:72], b"\1\x80" + GOLDEN[2:], b"\1" * 100, b"\3" + GOLDEN[1:], b""],
)
def test_garbage_is_refused(value: bytes) -> None:
    with pytest.raises(StateFormatError):
        unpack(current(value, Rules()))
    with pytest.raises(StateFormatError):
        entries_of(value)
    with pytest.raises(StateFormatError):
        headers([advance_bytes(value, ORDER.time, Rules())])


def test_nothing_but_orders_ahead() -> None:
    value = current(former_bytes([placed(50, "a")], 20, RULES), RULES)
    assert (life_in(value).orders, unpack(value).next_change) == (0, 50)
    assert life_in(advance_bytes(value, 50, RULES)).orders == 1
    empty = struct.pack("<BBHIqIIqqqqqq", 1, 0, 2, 3, 50, 0, 0, 0, NONE, NEVER, NONE, NEVER, NONE)
    assert current(empty, RULES) == with_announcement(EMPTY, 2, 3, 50)  # known by its moves alone


def test_the_step_reads_both_formats(scoring_step: ScoringStep) -> None:
    assert scoring_step.current(GOLDEN) == current(GOLDEN, Rules())
    erased = former_bytes([placed(10, "a"), OracleEvent(Kind.ERASED, "", 30)], 40, Rules())
    assert scoring_step.is_gone(erased)
    assert not scoring_step.is_gone(GOLDEN)


@pytest.fixture
def scoring_step() -> ScoringStep:
    from stream.settings import Settings
    from stream.worker.steps import scoring_step

    step = scoring_step(Settings(_env_file=None))
    assert isinstance(step, ScoringStep)
    return step
