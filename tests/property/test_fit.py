from __future__ import annotations

import csv
import gzip
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.preprocessing import PowerTransformer, StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from segmentation.entries import DAY_MS
from segmentation.model import FEATURES, SegmentModel
from segmentation.scorer import UNKNOWN, Scorer
from tests.support.data.training import one_fit, train
from trainer.errors import FitError
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training import measure
from trainer.training.fit import coordinates, fit_feature
from trainer.training.measure import rounded, silhouette
from trainer.training.naming import Lineage

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from segmentation.model import Transform
    from trainer.training.plan import TrainingPlan

AS_OF = 1_323_475_200_000
TRANSFORMS: tuple[Transform, ...] = ("identity", "log1p", "yeo-johnson")
EXAMPLES = int(os.environ.get("EXAMPLES", "12"))


def a_snapshot(seed: int, customers: int = 300, *, refunds: bool = True) -> CustomerSnapshot:
    """Customers of a shop: whole milliseconds of silence, counts, cents, some balances below zero."""
    rng = np.random.default_rng(seed)
    frequency = rng.poisson(rng.gamma(1.2, 3.0, customers)).astype(float)
    monetary = np.round(frequency * rng.lognormal(3.5, 0.8, customers), 2)
    if refunds:
        monetary[::29] = -np.round(rng.exponential(20.0, len(monetary[::29])), 2)
    return CustomerSnapshot(
        customers=tuple(b"%05d" % i for i in range(customers)),
        recency_days=rng.integers(0, 400 * DAY_MS, customers) / float(DAY_MS),
        frequency=frequency,
        monetary=monetary,
        as_of_ms=AS_OF,
        left_out=0,
    )


def raw(snapshot: CustomerSnapshot) -> NDArray[np.float64]:
    return np.stack([snapshot.column(name) for name in FEATURES], axis=1)


snapshots = st.builds(a_snapshot, st.integers(0, 2**32 - 1), st.integers(200, 500))
plans = st.builds(one_fit, k=st.integers(2, 9), transform=st.sampled_from(TRANSFORMS), seed=st.integers(0, 2**32 - 1))


@settings(max_examples=EXAMPLES, deadline=None)
@given(snapshots, plans)
def test_the_same_snapshot_gives_the_same_bytes_and_they_can_be_read(
    snapshot: CustomerSnapshot, plan: TrainingPlan
) -> None:
    one, two = train(snapshot, plan), train(snapshot, plan)
    assert one.model.to_json() == two.model.to_json()
    assert SegmentModel.from_json(one.model.to_json()) == one.model
    assert np.array_equal(one.labels, two.labels)


@settings(max_examples=EXAMPLES, deadline=None)
@given(snapshots, st.sampled_from(TRANSFORMS))
def test_z_is_what_scikit_learn_makes_of_the_customers(snapshot: CustomerSnapshot, kind: Transform) -> None:
    x = raw(snapshot)
    if kind == "yeo-johnson":
        expected = PowerTransformer("yeo-johnson", standardize=True).fit_transform(x)
    else:
        expected = StandardScaler().fit_transform(x if kind == "identity" else np.log1p(np.maximum(x, 0.0)))
    features = tuple(fit_feature(name, snapshot.column(name), kind) for name in FEATURES)
    assert np.abs(coordinates(snapshot, features) - expected).max() < 1e-9


@settings(max_examples=EXAMPLES, deadline=None)
@given(snapshots, plans)
def test_the_worker_puts_every_customer_where_k_means_did(snapshot: CustomerSnapshot, plan: TrainingPlan) -> None:
    model, labels = (trained := train(snapshot, plan)).model, trained.labels
    scorer = Scorer(model.model_copy(update={"margin": 0.0}))
    n = len(snapshot.customers)
    last = AS_OF - np.rint(snapshot.recency_days * DAY_MS).astype(np.int64)
    at, nobody = np.full(n, AS_OF), np.full(n, UNKNOWN)
    rest = scorer.rest(snapshot.frequency, snapshot.monetary)
    decided = scorer.decide(nobody, at, last, rest)
    # Nor does anyone move once there, unless on the border itself.
    assert np.array_equal(scorer.decide(decided, at, last, rest), decided)
    z = coordinates(snapshot, model.features)
    with threadpool_limits(limits=1):
        fresh = KMeans(n_clusters=plan.ks[0], n_init=10, random_state=plan.seed, tol=0.0).fit(z)
    centroid_of = {segment.centroid: index for index, segment in enumerate(model.segments)}
    rows = fresh.cluster_centers_.tolist()
    place = np.array([centroid_of[rounded(r), rounded(f), rounded(m)] for r, f, m in rows])
    predicted = place[fresh.predict(z)]
    assert np.array_equal(labels, predicted)
    # On a border to within rounding either side is right.
    distance = scorer.distances(at, last, rest)
    rows_ = np.arange(n)
    assert np.abs(distance[rows_, decided] - distance[rows_, predicted]).max() < 1e-9
    assert np.count_nonzero(decided != predicted) <= 1


@settings(max_examples=EXAMPLES, deadline=None)
@given(snapshots, st.integers(2, 8))
def test_a_retrain_on_the_same_customers_changes_nobodys_segment(snapshot: CustomerSnapshot, k: int) -> None:
    first = train(snapshot, one_fit(k=k))
    again = train(snapshot, one_fit(k=k, seed=42), Lineage(first.model, 1, highest_id=k))
    assert again.model.segments == first.model.segments
    assert again.model.parent == first.model.version
    assert np.array_equal(first.labels, again.labels)


def test_the_facts_of_the_training_are_those_of_the_snapshot() -> None:
    snapshot = a_snapshot(1)
    trained = train(snapshot)
    facts = trained.model.training
    assert (facts.customers, facts.k, facts.seed) == (300, 5, 42)
    assert sum(facts.shares.values()) == pytest.approx(1.0)
    for index, segment in enumerate(trained.model.segments):
        assert facts.shares[segment.name] == pytest.approx(np.mean(trained.labels == index))
    assert facts.feature_means["monetary"] == pytest.approx(snapshot.monetary.mean())
    assert facts.as_of.timestamp() * 1000 == AS_OF
    assert [segment.id for segment in trained.model.segments] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("customers", "plan", "message"),
    [
        (199, one_fit(), "199 customers.*at least 200"),
        (7, one_fit(k=8, floor=2), "k=8, but only 7 customers differ"),
    ],
)
def test_too_few_customers_make_no_model(customers: int, plan: TrainingPlan, message: str) -> None:
    with pytest.raises(FitError, match=message):
        train(a_snapshot(3, customers), plan)


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_in_which_all_are_alike_makes_no_model(name: str) -> None:
    snapshot = a_snapshot(4)
    snapshot.column(name)[:] = 3.0
    with pytest.raises(FitError, match=f"{name} is 3 for all 300 customers"):
        train(snapshot)


def test_fewer_kinds_of_customers_than_segments_make_no_model() -> None:
    snapshot = a_snapshot(5)
    for name in FEATURES:
        snapshot.column(name)[:] = np.arange(300) % 3
    with pytest.raises(FitError, match=r"only 3 customers differ\. Give --k 3 or less"):
        train(snapshot, one_fit(k=4))


def test_clusters_too_close_to_be_distinguished_make_no_model() -> None:
    snapshot = a_snapshot(6)
    for name in FEATURES:
        snapshot.column(name)[:] = np.where(np.arange(300) < 150, 0.0, 1000.0)
    snapshot.recency_days[0] = 1e-4
    with pytest.raises(FitError, match=r"the centroids of .* are .* apart"):
        train(snapshot, one_fit(k=3, transform="identity"))


def test_the_silhouette_of_many_is_taken_on_a_sample_and_near_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 4_000)
    z = rng.normal(size=(4_000, 3)) * 0.3 + labels[:, None]
    assert measure.SILHOUETTE_SAMPLE == 20_000
    whole = silhouette(z, labels, 1)
    assert whole == silhouette(z, labels, 2)
    monkeypatch.setattr(measure, "SILHOUETTE_SAMPLE", 2_000)
    sampled = silhouette(z, labels, 1)
    assert sampled is not None
    assert whole is not None
    assert sampled == silhouette(z, labels, 1) != silhouette(z, labels, 2)
    assert sampled == pytest.approx(whole, abs=0.01)
    assert silhouette(z[:5], np.arange(5), 1) is None


# real orders: the reference figures of Online Retail (4,338 customers, as of 2011-12-10)


@pytest.fixture(scope="module")
def retail(test_data: Path) -> CustomerSnapshot:
    path = test_data / "online_retail" / "rfm_customers.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} isn't there")
    with gzip.open(path, "rt", newline="") as lines:
        rows = sorted(csv.DictReader(lines), key=lambda row: row["customer_id"])
    recency, frequency, monetary = (np.array([float(row[name]) for row in rows]) for name in FEATURES)
    return CustomerSnapshot(tuple(row["customer_id"].encode() for row in rows), recency, frequency, monetary, AS_OF, 0)


def _without_outliers(snapshot: CustomerSnapshot) -> CustomerSnapshot:
    x = raw(snapshot)
    keep = np.flatnonzero((np.abs((x - x.mean(0)) / x.std(0)) < 3).all(axis=1))
    recency, frequency, monetary = x[keep].T
    return CustomerSnapshot(tuple(snapshot.customers[i] for i in keep), recency, frequency, monetary, AS_OF, 0)


@pytest.mark.parametrize(("k", "expected"), [(2, 0.558), (3, 0.519), (4, 0.507)])
def test_the_textbook_recipe_gives_the_reference_silhouettes(retail: CustomerSnapshot, k: int, expected: float) -> None:
    kept = _without_outliers(retail)
    assert len(kept.customers) == 4_274
    assert train(kept, one_fit(k, "identity")).model.training.silhouette == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("k", "expected"), [(2, 0.433), (3, 0.337), (4, 0.336)])
def test_log1p_gives_the_reference_silhouettes(retail: CustomerSnapshot, k: int, expected: float) -> None:
    assert train(retail, one_fit(k, "log1p")).model.training.silhouette == pytest.approx(expected, abs=0.005)


def test_real_customers_get_the_five_names_and_nobody_is_left_out(retail: CustomerSnapshot) -> None:
    trained = train(retail)
    names = [segment.name for segment in trained.model.segments]
    assert names == ["Champions", "Loyal", "Potential Loyalists", "At Risk", "Lost"]
    medians = np.array([np.median(raw(retail)[trained.labels == i], axis=0) for i in range(5)])
    champions, lost = medians[0], medians[4]
    assert (champions[0], lost[0]) == (medians[:, 0].min(), medians[:, 0].max())
    assert (champions[1:] == medians[:, 1:].max(axis=0)).all()
    assert (lost[1:] == medians[:, 1:].min(axis=0)).all()
    assert min(trained.model.training.shares.values()) > 0.1
