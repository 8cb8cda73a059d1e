"""Prospects of segments agree with the scorer, one customer at a time, and with what customers did."""

from __future__ import annotations

import numpy as np
import pytest

from segmentation.entries import DAY_MS, Entry, Kind
from segmentation.outlook_figures import outlook_columns
from segmentation.rfm import Rules, entry
from segmentation.scorer import UNKNOWN
from tests.support.data.clock_models import clock_model
from tests.support.data.datasets import unsegmented_customers
from tests.support.data.training import train
from trainer.outcome import Correlation, SegmentBorder
from trainer.prospects.borders import SILENT_DAYS, borders
from trainer.prospects.expected import forecasts, pasts
from trainer.prospects.foresee import correlations, past_model
from trainer.prospects.seen import SeenCustomers
from trainer.snapshot.orders import OrderBook
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.fit import TrainedModel
from trainer.training.outlook_fit import purchases_of

RULES = Rules()
TODAY = 15_000 * DAY_MS
MODEL = clock_model()


def book(customers: int = 400, seed: int = 5) -> OrderBook:
    """Return orders of customers with rhythms of their own, each at noon and for 30.00, some of whom stop."""
    rng = np.random.default_rng(seed)
    entries: dict[bytes, list[Entry]] = {}
    for number in range(customers):
        gap = float(rng.choice([7.0, 30.0, 90.0]))
        day, left = 14_200 + int(rng.integers(0, 750)), bool(rng.random() < 0.4)
        days: set[int] = set()
        while day < 15_000 and len(days) < (int(rng.integers(1, 12)) if left else 200):
            days.add(day)
            day += max(1, round(gap * float(rng.gamma(4.0, 0.25))))
        name = b"c%04d" % number
        entries[name] = [
            entry(Kind.PLACED, f"{number}-{d}", d * DAY_MS + DAY_MS // 2, order=f"{number}-{d}", amount=300_000)
            for d in sorted(days)
        ]
    return OrderBook(entries, RULES, 0)


BOOK = book()


def trained_at(at_ms: int) -> tuple[CustomerSnapshot, TrainedModel]:
    """Return the customers as of an instant, in the segments of a given model by own clock."""
    found = BOOK.as_of(at_ms)
    empty = TrainedModel(MODEL, np.zeros(len(found.customers), dtype=np.int64))
    seen = SeenCustomers.of(found, empty)
    nobody = np.full(len(seen.labels), UNKNOWN)
    labels = seen.scorer.decide(nobody, np.zeros_like(seen.last_ms), seen.last_ms, seen.rest)
    return found, TrainedModel(MODEL, labels)


def test_forecasts_are_sums_of_the_outlook() -> None:
    snapshot, trained = trained_at(TODAY)
    assert MODEL.outlook is not None
    columns = outlook_columns(MODEL.outlook, purchases_of(snapshot))
    found = forecasts(snapshot, trained)
    known = [forecast for forecast in found if forecast is not None]
    assert len(known) >= 6
    assert sum(one.ordering for one in known) == pytest.approx(columns.chance_90d.sum())
    assert sum(one.orders for one in known) == pytest.approx(columns.orders_90d.sum())
    assert sum(one.spend or 0.0 for one in known) == pytest.approx(columns.spend_90d.sum())
    for index, one in enumerate(found):
        inside = trained.labels == index
        assert (one is None) == (not inside.any())
        if one is not None:
            assert one.silence_in_gaps == pytest.approx(np.median(columns.silence_in_gaps[inside]))


def test_pasts_are_what_the_customers_of_90_days_ago_did_since() -> None:
    snapshot, _ = trained_at(TODAY)
    earlier, then = trained_at(TODAY - 90 * DAY_MS)
    later = dict(zip(snapshot.customers, purchases_of(snapshot).repeats.tolist(), strict=True))
    orders = np.array(
        [
            later[name] - before
            for name, before in zip(earlier.customers, purchases_of(earlier).repeats.tolist(), strict=True)
        ]
    )
    found = pasts(snapshot, MODEL)
    assert sum(past is not None for past in found) >= 3
    for index, past in enumerate(found):
        inside = orders[then.labels == index]
        if past is None:
            assert len(inside) < 30
        else:
            assert (past.customers, past.ordered, past.orders) == (len(inside), (inside > 0).sum(), inside.sum())


def test_a_model_by_centres_has_no_past() -> None:
    snapshot = unsegmented_customers(3)
    trained = train(snapshot)
    assert set(pasts(snapshot, trained.model)) == {None}
    assert set(forecasts(snapshot, trained)) == {None}


@pytest.mark.parametrize("by_own_clock", [False, True])
def test_borders_are_those_of_the_scorer(by_own_clock: bool) -> None:
    if by_own_clock:
        snapshot, trained = trained_at(TODAY)
    else:
        snapshot = unsegmented_customers(3)
        trained = train(snapshot)
    seen = SeenCustomers.of(snapshot, trained)
    model, rows = trained.model, np.arange(len(trained.labels))
    found = borders(seen)
    later = seen.later(SILENT_DAYS)
    if by_own_clock:
        assert (later != trained.labels).any()
    now = np.zeros_like(seen.last_ms)
    # Had they been in any other segment before, would they be there still?
    stays = np.stack(
        [seen.scorer.decide(np.full(len(rows), k), now, seen.last_ms, seen.rest) == k for k in range(len(found))]
    )
    stays[trained.labels, rows] = False
    for index, border in enumerate(found):
        inside = trained.labels == index
        assert border.leaving == int((later[inside] != index).sum())
        if model.segments[index].stage in (None, "steady"):
            deciding = [k for k, s in enumerate(model.segments) if s.stage in (None, "steady")]
            near = stays[deciding][:, inside].any(axis=0)
            assert border.near == int(near.sum())
            assert (border.near_to is None) == (border.near == 0)
        else:
            assert isinstance(border, SegmentBorder)
            assert border.near is None


def test_ranks_go_together_whatever_the_scale() -> None:
    x = np.array([1.0, 5.0, 2.0, 9.0])
    (found,) = correlations({"a": x, "b": np.exp(x)})
    assert found == Correlation(one="a", other="b", rank=1.0)
    (flat,) = correlations({"a": x, "b": np.ones(4)})
    assert flat.rank is None


def test_a_past_model_says_its_own_training() -> None:
    snapshot = unsegmented_customers(3)
    model = train(snapshot).model
    past = past_model(model)
    assert past.customers == len(snapshot.customers)
    assert [s.name for s in past.segments] == [s.name for s in model.segments]
    assert sum(s.share for s in past.segments) == pytest.approx(1.0)
