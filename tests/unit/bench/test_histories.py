from __future__ import annotations

import pytest

from bench.studies.histories import COURSES, NOW_MS, Cost, History, history, records_of, table
from segmentation.rfm import CustomerState, Kind, absorb, entry, settle


@pytest.mark.parametrize(("course", "kept"), list(zip(COURSES, (309, 302, 309), strict=True)))
def test_a_history_grows_or_stays_as_its_course_says(course: History, kept: int) -> None:
    _, made = history("c", 300, course)
    state = settle(CustomerState(), made, NOW_MS, course.rules)
    assert len(state.entries) == 300
    for number in range(1, 10):
        at = NOW_MS + number * course.apart(300)
        name = f"c-more-{number}"
        state, _ = absorb(state, entry(Kind.PLACED, name, at, order=name), at, course.rules)
    assert len(state.entries) == kept  # with the last of those that have left


def test_each_turn_brings_one_order_of_each_customer() -> None:
    batches = records_of(["a", "b"], 10, COURSES[0])
    first, second = next(batches), next(batches)
    assert [record.key for record in first] == [b"a", b"b"]
    assert [record.offset for record in (*first, *second)] == [0, 1, 2, 3]
    assert b"a-more-1" in (first[0].value or b"")
    assert second[0].timestamp - first[0].timestamp == 60_000


def test_table_has_a_row_for_each_history() -> None:
    alone = Cost("at the cap", 16_384, 1, 200, 1_234.5, 3_000, 2_000, 0.0)
    text = table([alone, alone._replace(customers=4, cpu_us=700.4)], 4)
    assert "| at the cap | 16,384 | 1,234 | 3,000 | 2,000 | 700 | 3,000 | 2,000 |" in text
