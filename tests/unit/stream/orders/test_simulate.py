from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import pytest

from stream.orders.rows import parse_at
from stream.orders.simulate import PurchaseModel, simulate

START = parse_at("2025-01-01")
WEEK = 7 * 86_400_000


def test_the_same_seed_gives_the_same_rows() -> None:
    one, same, other = (list(islice(simulate(seed, 500, START), 2_000)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_rows_are_sorted_by_time_and_every_event_has_its_own_id() -> None:
    rows = list(islice(simulate(3, 2_000, START, currency="EUR"), 20_000))
    assert rows[0].at_ms >= START
    assert all(a.at_ms <= b.at_ms for a, b in pairwise(rows))
    assert len({(row.kind, row.event_id) for row in rows}) == len(rows)
    assert {row.currency for row in rows} == {"EUR"}
    # Whole cents, as people pay.
    assert all(row.amount_units % 100 == 0 and row.amount_units > 0 for row in rows if row.kind == "placed")


def test_refunds_and_cancellations_follow_an_order_of_the_same_customer() -> None:
    rows = list(islice(simulate(4, 2_000, START), 20_000))
    orders = {}
    for row in rows:
        if row.kind == "placed":
            orders[row.order_id] = row
            continue
        order = orders[row.order_id]
        assert (row.customer_id, row.at_ms > order.at_ms) == (order.customer_id, True)
        assert row.amount_units <= order.amount_units
    kinds = Counter(row.kind for row in rows)
    assert 0.02 < kinds["refunded"] / kinds["placed"] < 0.04
    assert 0.005 < kinds["cancelled"] / kinds["placed"] < 0.015


def test_the_customers_behave_like_cdnow_s() -> None:
    # CDNOW's 39 weeks after a cohort of 12 weeks' joining: 1.0 repeat purchases a customer, 60 % buy once, 36 dollars.
    rows = [r for r in islice(simulate(5, 3_000, START), 30_000) if r.kind == "placed"]
    assert rows[-1].at_ms > START + 51 * WEEK
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.customer_id, row.at_ms)
    cohort = {name for name, at in first.items() if at < START + 12 * WEEK}
    assert 2_700 < len(cohort) < 3_300
    count = Counter(
        r.customer_id for r in rows if r.customer_id in cohort and r.at_ms < first[r.customer_id] + 39 * WEEK
    )
    assert 0.50 < sum(n == 1 for n in count.values()) / len(cohort) < 0.75
    assert 0.7 < sum(count.values()) / len(cohort) - 1 < 1.5
    assert 28 < sum(r.amount_units for r in rows) / len(rows) / 10_000 < 44


def test_there_is_no_end_even_if_every_customer_leaves() -> None:
    rows = simulate(6, 10, START, model=PurchaseModel(leave_a=1e6, leave_b=1e-6, refunded=0, cancelled=0))
    names = [row.customer_id for row in islice(rows, 1_000)]
    assert len(set(names)) == 1_000


def test_a_simulation_without_customers_is_refused() -> None:
    with pytest.raises(ValueError, match="customers is 0"):
        next(simulate(1, 0, START))
