from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from bench.harness.model import bench_model
from bench.harness.worker_metrics import TurnHistogram
from bench.reports.time_report import time_problems, time_section
from bench.scenarios.due import at_rest, evenly
from bench.scenarios.moves_seen import DueWatch, LatencySpread, SeenMove
from bench.scenarios.rest import MOST_GB, Rest, too_much
from bench.scenarios.silence import Cohort, name_of, patterns, shifted
from segmentation.decisions import CompiledModel, ScoringContext, search
from segmentation.entries import Rules
from segmentation.forecast import moves_ahead
from segmentation.rfm import advance, announcement, pack, settle, unpack

RULES = Rules()
MADE = patterns(RULES)
BEGIN_MS = 1_790_000_000_123
COHORT = Cohort(8, np.arange(BEGIN_MS, BEGIN_MS + 4))


@pytest.mark.parametrize("pattern", MADE, ids=lambda p: f"{p.source} to {p.target}")
def test_shifted_states_are_canonical_and_due_at_the_chosen_instant(pattern: Any) -> None:
    due = np.array([BEGIN_MS, BEGIN_MS + 86_400_001, BEGIN_MS - 999_999_937])
    model = CompiledModel.of(bench_model(), "test", {})
    scoring = ScoringContext.of(model, 1, RULES)
    for at, value in zip(due.tolist(), shifted(pattern, due, np.arange(3)), strict=True):
        state = unpack(value)
        # The engine makes the same state from its entries, to the byte.
        assert pack(settle(state, state.entries, at - 1, RULES)) == value
        assert pack(advance(state, at, RULES)) == value
        found = search([value], [state.last + 1], scoring)
        assert found.due == found.wake == [at]
        (move,) = moves_ahead([(b"c", value)], at - 1, at + 1, scoring)
        assert (move.at, move.target) == (at, pattern.target_id)
        assert announcement(value)[1] == pattern.sequence - 1
        assert not list(moves_ahead([(b"c", value)], state.last + 1, at, scoring))


def test_shifted_states_differ_between_customers() -> None:
    at = np.full(1_000, BEGIN_MS)
    for pattern in MADE:
        assert len(set(shifted(pattern, at, np.arange(1_000)))) == 1_000


def test_patterns_move_between_different_segments() -> None:
    assert len({(p.source, p.target) for p in MADE}) >= 3


def test_due_instants_are_evenly_spaced_and_those_at_rest_are_far_off() -> None:
    cohort = evenly(0, BEGIN_MS, 3, 1_000)
    assert cohort.due_ms.tolist() == [*range(BEGIN_MS, BEGIN_MS + 3_000)]
    resting = at_rest(5, 100, BEGIN_MS).due_ms
    assert resting.min() >= BEGIN_MS + 3_600_000
    # No customer's last order is in the future.
    assert resting.max() - min(p.wait_ms for p in MADE) < BEGIN_MS


def _due(row: int, **changes: Any) -> SeenMove:
    number = COHORT.first + row
    pattern = MADE[number % len(MADE)]
    move = SeenMove(
        customer_id=name_of(number).decode(),
        sequence=pattern.sequence,
        cause="silence",
        occurred_at=datetime.fromtimestamp(0, UTC),
        causation_id=None,
        source=pattern.source,
        target=pattern.target,
    )
    at = np.datetime64(int(COHORT.due_ms[row]), "ms").item().replace(tzinfo=UTC)
    return msgspec.structs.replace(move, **({"occurred_at": at} | changes))


def _seen(*moves: SeenMove) -> DueWatch:
    seen = DueWatch(COHORT, MADE)
    for move in moves:
        seen.take(move, (BEGIN_MS + 500) / 1e3)
    return seen


def test_latency_of_a_due_customer_counts_from_its_own_instant() -> None:
    seen = _seen(*map(_due, range(4)))
    assert seen.all_seen()
    assert (seen.problems, seen.missing()) == ([], [])
    assert seen.due(BEGIN_MS / 1e3, BEGIN_MS / 1e3 + 1) == LatencySpread(4, 498.5, 500.0, 500.0)
    assert seen.due(0, BEGIN_MS / 1e3).count == 0


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 9},
        {"target": "Champions"},
        {"source": "Champions"},
        {"occurred_at": datetime.fromtimestamp(BEGIN_MS / 1e3 + 1, UTC)},
        {"occurred_at": datetime.fromtimestamp(BEGIN_MS / 1e3 + 0.001, UTC)},
        {"customer_id": "c0000000007"},
        {"cause": "order"},
    ],
)
def test_checks_see_a_move_that_is_wrong(change: dict[str, Any]) -> None:
    assert _seen(_due(0, **change)).problems


def test_checks_see_a_move_published_twice_and_one_never_published() -> None:
    seen = _seen(_due(0), _due(1), _due(0))
    assert len(seen.problems) == 1
    assert seen.missing() == ["2 due customers were never moved"]


def _rest(**changes: Any) -> Rest:
    figures: dict[str, Any] = dict.fromkeys(Rest.__dataclass_fields__, 0.0)
    return Rest(**(figures | {"customers": 1_000, "bytes_a_customer": 400.0, "seeding_s": 0.01} | changes))


@pytest.mark.parametrize(
    ("last", "available", "skipped"),
    [
        (_rest(), 32e9, False),
        (_rest(seeding_s=0.02), 32e9, True),
        (_rest(bytes_a_customer=MOST_GB * 1e9 / 9e6), 64e9, True),
        (_rest(), 7e9, True),
    ],
)
def test_sizes_that_need_too_much_are_skipped(last: Rest, available: int, *, skipped: bool) -> None:
    assert bool(too_much(last, 10_000_000, available)) == skipped


def test_turns_between_two_readings_are_their_difference() -> None:
    before, behind = TurnHistogram({0.1: 5, float("inf"): 5}, 0.2), TurnHistogram({0.1: 5, float("inf"): 7}, 1.2)
    assert behind.since(before).mean_ms == 500.0
    assert behind.since(before).bound_ms(0.99) is None
    assert behind.since(behind).mean_ms is None


def test_page_has_no_section_without_rows_and_lists_problems() -> None:
    assert time_section(None, apart=True) == ""
    assert time_section({"rows": []}, apart=True) == ""
    assert time_problems({"flood": {"checks": {"problems": ["2 orders have no move"]}}}) == [
        "flood: 2 orders have no move"
    ]
    assert time_problems({}) == []
