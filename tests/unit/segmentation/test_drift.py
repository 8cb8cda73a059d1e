"""Drift: nothing at the training itself, much where the customers have changed, and each feature on its own."""

from __future__ import annotations

import numpy as np
import pytest

from segmentation.drift import SEGMENTS, Tally, drift_of
from segmentation.entries import DAY_MS
from segmentation.model import FEATURES, SegmentModel
from segmentation.rfm import EMPTY, Kind, Rules, absorb_bytes, entry
from tests.support.data.training import one_fit, train
from trainer.snapshot.redis import columns
from trainer.training.fit import histogram

RULES = Rules()
T0 = 1_600_000_000_000
AS_OF = T0 + 365 * DAY_MS


def a_population(seed: int, customers: int = 400, *, times: float = 1.0, latest: int = AS_OF) -> dict[bytes, bytes]:
    """Customers with orders up to an instant; their amounts `times` as high."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(customers):
        value = EMPTY
        for j, at in enumerate(np.sort(rng.integers(T0, latest, int(rng.geometric(0.3)))).tolist()):
            amount = int(rng.lognormal(4, 1) * 100 * times) * 100
            value, _ = absorb_bytes(
                value, entry(Kind.PLACED, f"{i}-{j}", at, order=f"{i}-{j}", amount=amount), at, RULES
            )
        found[b"c%04d" % i] = value
    return found


POPULATION = a_population(1)
MODEL = train(columns(POPULATION.items(), AS_OF, RULES), one_fit(k=4)).model


def lying(population: dict[bytes, bytes], at: int = AS_OF, model: SegmentModel = MODEL) -> Tally:
    tally, values = Tally(model, RULES), list(population.values())
    for begin in range(0, len(values), 150):
        tally.add(values[begin : begin + 150], at)
    return tally


def test_of_those_it_was_trained_on_nothing_has_drifted() -> None:
    drift = drift_of(lying(POPULATION))
    assert drift.customers == len(POPULATION)
    assert set(drift.indices) == {SEGMENTS, *FEATURES}
    assert all(index == pytest.approx(0, abs=1e-9) for index in drift.indices.values())
    assert drift.distance[0] == pytest.approx(drift.distance[1])
    assert all(was == pytest.approx(now) for was, now in (*drift.shares.values(), *drift.means.values()))


def test_of_others_like_them_hardly_anything() -> None:
    name, index = drift_of(lying(a_population(2, 4_000))).worst()
    assert index < 0.1, name


def test_silence_is_seen_in_recency_alone() -> None:
    drift = drift_of(lying(POPULATION, AS_OF + 90 * DAY_MS))
    assert drift.worst()[0] == "recency_days"
    assert drift.indices["recency_days"] > 0.25
    assert drift.means["recency_days"][1] == pytest.approx((drift.means["recency_days"][0] or 0) + 90)


def test_dearer_orders_are_seen_in_money_and_in_the_distance() -> None:
    drift = drift_of(lying(a_population(2, 1_000, times=4.0)))
    assert drift.worst()[0] == "monetary"
    assert drift.indices["monetary"] > 0.25 > drift.indices["frequency"]
    assert drift.distance[1] > 1.2 * (drift.distance[0] or 9)


def test_a_model_without_those_facts_is_compared_in_none() -> None:
    bare = MODEL.training.model_copy(update={"histograms": {}, "shares": {}, "distance": None})
    drift = drift_of(lying(POPULATION, model=MODEL.model_copy(update={"training": bare})))
    assert drift.indices == {}
    assert drift.distance[0] is None
    assert drift.worst() == (SEGMENTS, 0.0)


def test_of_nobody_there_is_no_drift() -> None:
    tally = Tally(MODEL, RULES)
    tally.add([], AS_OF)
    placed = absorb_bytes(EMPTY, entry(Kind.PLACED, "a", T0, order="a", amount=100), T0, RULES)[0]
    tally.add([absorb_bytes(placed, entry(Kind.CANCELLED, "b", T0 + 1, order="a"), T0 + 1, RULES)[0]], AS_OF)
    assert drift_of(tally).customers == 0
    assert drift_of(tally).indices == {}


@pytest.mark.parametrize("many", [1, 2, 7, 1_000])
def test_no_bin_of_a_histogram_is_empty(many: int) -> None:
    rng = np.random.default_rng(many)
    for column in (rng.geometric(0.6, many).astype(float), rng.random(many), np.full(many, 3.0)):
        found = histogram(column)
        assert min(found.shares) > 0
        assert sum(found.shares) == pytest.approx(1)
        assert len(found.shares) <= 10
