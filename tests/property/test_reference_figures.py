"""The recipes on real customers (Online Retail, gross of cancellations, as of 2011-12-10) against reference figures."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segmentation.entries import DAY_MS
from segmentation.model import FEATURES
from segmentation.rfm import CustomerState, Rules, absorb, pack
from stream.orders.rows import parse_at
from tests.support.data.datasets import retail_gross, trained_on
from trainer.errors import SnapshotError
from trainer.snapshot.orders import read_book, take_from_file
from trainer.snapshot.redis import columns
from trainer.training.plan import TrainingPlan, of_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.outcome import TrainingOutcome
    from trainer.snapshot.orders import OrderBook
    from trainer.snapshot.redis import CustomerSnapshot
    from trainer.training.recipe import RecipeName

RAW_TRIMMED = (0.558, 0.519, 0.507, 0.468, 0.430, 0.417, 0.419)  # k = 2 … 8
LOG1P = (0.433, 0.337, 0.336, 0.319, 0.315, 0.310, 0.302)
RULES = Rules(365 * DAY_MS, 7 * DAY_MS)


@pytest.fixture(scope="module")
def retail(test_data: Path) -> CustomerSnapshot:
    if not (test_data / "online_retail").is_dir():
        pytest.skip(f"{test_data} has no online_retail")
    return retail_gross(test_data)


@pytest.fixture(scope="module")
def orders(test_data: Path) -> Path:
    path = test_data / "online_retail" / "orders.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} isn't there")
    return path


@pytest.fixture(scope="module")
def book(orders: Path) -> OrderBook:
    return read_book(orders, RULES, "GBP")


def expect(outcome: TrainingOutcome, silhouettes: tuple[float, ...]) -> None:
    assert [fit.k for fit in outcome.fits] == list(range(2, 9))
    for fit, expected in zip(outcome.fits, silhouettes, strict=True):
        assert fit.silhouette == pytest.approx(expected, abs=0.02 if fit.k >= 7 else 0.005), fit.k


def test_the_tutorial(retail: CustomerSnapshot) -> None:
    outcome = trained_on(retail, of_recipe("tutorial")).outcome
    assert (outcome.quality.customers, outcome.quality.not_fitted) == (4_338, 64)
    expect(outcome, RAW_TRIMMED)
    assert outcome.chosen is not None
    assert outcome.fits[outcome.chosen].k == 4
    assert sum(segment.customers for segment in outcome.segments) == 4_338


@pytest.mark.parametrize(("recipe", "chosen"), [("textbook", 2), ("rfm", 3)])
def test_log1p(retail: CustomerSnapshot, recipe: RecipeName, chosen: int) -> None:
    outcome = trained_on(
        retail, replace(of_recipe(recipe), ks=tuple(range(2, 9)), transforms=("log1p",), rounds=0)
    ).outcome
    expect(outcome, LOG1P)
    # Of two segments the larger has 61.5 %, which the gates refuse.
    assert outcome.chosen is not None
    assert outcome.fits[outcome.chosen].k == chosen


def test_the_textbook_separates_a_handful_of_customers_which_the_gates_refuse(retail: CustomerSnapshot) -> None:
    textbook = trained_on(retail, of_recipe("textbook")).outcome
    assert textbook.chosen is not None
    chosen = textbook.fits[textbook.chosen]
    assert chosen.silhouette == max(fit.silhouette or -1.0 for fit in textbook.fits)
    assert chosen.largest_share is not None
    assert chosen.largest_share > 0.95
    gated = trained_on(retail, replace(TrainingPlan(), transforms=("identity",), rounds=2)).outcome
    assert gated.chosen is None
    assert gated.decision.verdict == "refused"
    assert len(gated.decision.why) == 1 + len(TrainingPlan().ks)


def test_five_segments_by_default_are_steady_and_pass(retail: CustomerSnapshot) -> None:
    outcome = trained_on(retail, replace(TrainingPlan(), ks=(5,))).outcome
    assert all(gate.passed for gate in outcome.decision.gates)
    assert [s.name for s in outcome.segments] == ["Champions", "Loyal", "Potential Loyalists", "At Risk", "Lost"]


def test_a_file_as_of_an_instant_is_what_absorbing_its_orders_one_by_one_gives(book: OrderBook) -> None:
    at = parse_at("2011-07-01")
    names = sorted(book.entries)[::40]
    states = []
    for name in names:
        state = CustomerState()
        for e in book.entries[name]:
            if e.time <= at:
                state, _ = absorb(state, e, e.time, RULES)
        if state.entries:
            states.append((name, pack(state)))
    one_by_one, whole = columns(states, at, RULES), book.as_of(at)
    where = {name: i for i, name in enumerate(whole.customers)}
    rows = [where[name] for name in one_by_one.customers]
    assert len(rows) > 50
    known = sum(own[0].time <= at for own in book.entries.values())
    assert len(whole.customers) + whole.left_out == known
    assert set(names) & set(whole.customers) == set(one_by_one.customers)
    for feature in FEATURES:
        assert np.array_equal(whole.column(feature)[rows], one_by_one.column(feature))


def test_the_file_as_of_the_end_in_a_window_without_end_is_the_golden_table(orders: Path, test_data: Path) -> None:
    at = parse_at("2011-12-10")
    whole = read_book(orders, Rules(3650 * DAY_MS, 7 * DAY_MS), "GBP").as_of(at)
    figures = {
        name.decode(): row
        for name, *row in zip(whole.customers, whole.recency_days, whole.frequency, whole.monetary, strict=True)
    }
    with gzip.open(test_data / "online_retail" / "rfm_customers.csv.gz", "rt", newline="") as lines:
        golden = list(csv.DictReader(lines))
    found = np.array([figures[row["customer_id"]] for row in golden])
    recency, frequency, net = (
        np.array([float(row[name]) for row in golden]) for name in ("recency_days", "frequency", "net")
    )
    # The table's recency is in calendar days; and it leaves out orders of amount zero.
    assert np.array_equal(np.ceil(found[:, 0]), recency)
    assert (found[:, 1] >= frequency).all()
    assert np.mean(found[:, 1] == frequency) > 0.99
    assert found[:, 2] == pytest.approx(net, abs=0.006)


def test_nothing_before_the_first_order_and_nothing_in_a_currency_of_others(orders: Path) -> None:
    with pytest.raises(SnapshotError, match=r"no customer with an order up to 2010-01-01.*last event is of 2011-12-09"):
        take_from_file(orders, parse_at("2010-01-01"), RULES, "GBP")
    with pytest.raises(SnapshotError, match="has no usable order"):
        take_from_file(orders, None, RULES, "USD")


def test_a_file_without_orders_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stock.csv"
    path.write_text("sku,count\n1,2\n")
    with pytest.raises(SnapshotError, match=r"stock\.csv: no column"):
        take_from_file(path, None, RULES, "GBP")


@pytest.mark.parametrize("amount", ["nan", "inf", "1e5", "-"])
def test_what_is_no_amount_is_left_out(tmp_path: Path, amount: str) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(f"order_id,customer_id,ordered_at,amount\n1,a,2011-01-01,{amount}\n2,b,2011-01-02,5.00\n")
    snapshot = take_from_file(path, None, RULES, "GBP")
    assert snapshot.customers == (b"b",)
