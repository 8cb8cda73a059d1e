"""A whole training: known segments are found, unusable input is refused with a sentence, any threads give the same."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from segmentation.model import FEATURES
from tests.support.data.datasets import KNOWN, following, known_segments, trained_on, unsegmented_customers
from tests.support.paths import ROOT
from trainer.errors import FitError
from trainer.outcome import TrainingOutcome
from trainer.snapshot.redis import CustomerSnapshot
from trainer.training.compare import compare
from trainer.training.fit import cluster, coordinates, fit_features, nearest
from trainer.training.measure import stability
from trainer.training.naming import Lineage
from trainer.training.plan import TrainingPlan, of_recipe
from trainer.training.quality import only

QUICK = TrainingPlan(ks=(3, 4, 5), rounds=4, starts=5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_known_segments_are_found_again_with_their_number(seed: int) -> None:
    snapshot, truth = known_segments(seed)
    result = trained_on(snapshot, replace(TrainingPlan(), ks=(2, 3, 4, 5, 6, 7, 8), rounds=5))
    assert result.trained is not None
    assert result.trained.model.training.k == len(KNOWN)
    assert adjusted_rand_score(truth, result.trained.labels) >= 0.95
    [chosen] = [fit for fit in result.outcome.fits if fit.chosen]
    assert (chosen.k, result.outcome.chosen) == (len(KNOWN), 2)
    assert chosen.stability is not None
    assert chosen.stability > 0.95


def test_the_outcome_adds_up_and_survives_its_file() -> None:
    snapshot, _ = known_segments(4)
    result = trained_on(snapshot, QUICK)
    outcome, trained = result.outcome, result.trained
    assert trained is not None
    assert TrainingOutcome.from_json(outcome.to_json()) == outcome
    assert sum(s.customers for s in outcome.segments) == outcome.quality.customers == 600
    assert sum(s.share for s in outcome.segments) == pytest.approx(1.0)
    assert sum(s.money for s in outcome.segments) == pytest.approx(snapshot.monetary.sum())
    assert sum(s.money_share or 0.0 for s in outcome.segments) == pytest.approx(1.0)
    assert outcome.sample is not None
    assert outcome.projection is not None
    assert outcome.sample.segment == tuple(trained.labels.tolist())
    assert [feature.name for feature in outcome.sample.features] == list(FEATURES)
    assert outcome.sample.features[2].values == pytest.approx(snapshot.monetary, abs=1e-6)
    for i, segment in enumerate(outcome.segments):
        inside = trained.labels == i
        assert segment.monetary is not None
        assert segment.monetary.median == np.median(snapshot.monetary[inside])
        # A centroid is drawn in the middle of its customers.
        drawn = [np.mean(np.array(axis)[inside]) for axis in (outcome.sample.x, outcome.sample.y)]
        assert drawn == pytest.approx(outcome.projection.centroids[i], abs=1e-5)
    assert 0.5 < sum(outcome.projection.explained) <= 1.0
    assert (outcome.decision.verdict, outcome.comparison) == ("dry-run", None)


def test_the_comparison_is_what_the_two_models_say_of_everyone() -> None:
    snapshot, _ = known_segments(5)
    first = trained_on(snapshot, replace(QUICK, ks=(5,), least_stability=-1))
    lineage = following(first, Lineage(), 1)
    second = trained_on(snapshot, replace(QUICK, ks=(3,), margin=0.0), lineage)
    assert first.trained is not None
    assert second.trained is not None
    comparison = second.outcome.comparison
    assert comparison is not None
    old, new = first.trained.model, second.trained.model
    before, after = (
        first.trained.labels,
        nearest(coordinates(snapshot, new.features), tuple(s.centroid for s in new.segments)),
    )
    moves = np.zeros((5, 3), dtype=int)
    np.add.at(moves, (before, after), 1)
    assert comparison.moves == tuple(map(tuple, moves.tolist()))
    ids = np.array([s.id for s in old.segments]), np.array([s.id for s in new.segments])
    assert comparison.moved == comparison.moved_without_margin == np.mean(ids[0][before] != ids[1][after])
    assert sum(map(sum, comparison.money)) == pytest.approx(snapshot.monetary.sum())
    assert [b.customers for b in comparison.before] == np.bincount(before, minlength=5).tolist()
    assert comparison.moved > QUICK.most_moved
    assert not second.may_activate
    # A wide margin keeps every customer whose segment still exists.
    wide = compare(snapshot, new.model_copy(update={"margin": 1e9}), lineage)
    assert wide is not None
    dissolved = [b for b in wide.before if b.id not in ids[1]]
    assert wide.moved == pytest.approx(sum(b.customers for b in dissolved) / 600)


def test_the_margin_keeps_who_is_hardly_nearer_to_another() -> None:
    first = trained_on(unsegmented_customers(1), replace(QUICK, ks=(4,)), force=True)
    snapshot, lineage = unsegmented_customers(2), following(first, Lineage(), 1)
    second = trained_on(snapshot, replace(QUICK, ks=(4,)), lineage, force=True)
    assert second.trained is not None
    with_margin = second.outcome.comparison
    without = compare(snapshot, second.trained.model.model_copy(update={"margin": 0.0}), lineage)
    assert with_margin is not None
    assert without is not None
    assert 0.0 < with_margin.moved < with_margin.moved_without_margin == without.moved == without.moved_without_margin


def test_an_optimum_as_good_as_another_is_kept() -> None:
    z = np.random.default_rng(3).normal(size=(400, 3))
    found = [cluster(z, 6, seed, 1) for seed in range(8)]
    for one in found:
        again = cluster(z, 6, 99, 1, warm=np.array(one.centroids))
        random = cluster(z, 6, 99, 1)
        kept = one.inertia <= random.inertia * 1.02
        assert again.warm == kept
        assert again.inertia == pytest.approx(one.inertia if kept else random.inertia)
    assert len({round(one.inertia, 6) for one in found}) > 1


def test_stability_distinguishes_segments_from_cuts_through_one_group() -> None:
    z = np.random.default_rng(4).normal(size=(500, 3))
    cut = stability(z, cluster(z, 7, 1, 5).labels, 7, seed=1, rounds=6)
    snapshot, _ = known_segments(14)
    known = coordinates(snapshot, fit_features(snapshot, "yeo-johnson"))
    found = stability(known, cluster(known, 4, 1, 5).labels, 4, seed=1, rounds=6)
    assert cut is not None
    assert found is not None
    assert cut < 0.8
    assert found > 0.95
    assert stability(z, np.zeros(500, dtype=np.int64), 3, seed=1, rounds=0) is None


def test_the_same_customers_again_move_nobody() -> None:
    snapshot, _ = known_segments(6)
    first = trained_on(snapshot, QUICK)
    again = trained_on(snapshot, replace(QUICK, seed=7), following(first, Lineage(), 1))
    assert again.outcome.comparison is not None
    assert again.outcome.comparison.moved == 0.0
    assert again.may_activate
    assert all(segment.lasting for segment in again.outcome.segments)


def changed(name: str, value: float, *, where: slice = slice(None)) -> CustomerSnapshot:
    snapshot, _ = known_segments(7, each=75)
    snapshot.column(name)[where] = value
    return snapshot


def of(customers: int) -> CustomerSnapshot:
    whole, _ = known_segments(8)
    return only(whole, np.arange(len(whole.customers)) < customers)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("snapshot", "message"),
    [
        (of(0), "0 customers have an order"),
        (of(1), "1 customers have an order"),
        (of(199), "199 customers have an order that stands, expected at least 200"),
        (
            changed("monetary", float("nan"), where=slice(3, 5)),
            r"monetary isn't a finite number for 2 of 300.*b'000003'",
        ),
        (changed("recency_days", float("inf"), where=slice(9, 10)), "recency_days isn't a finite number for 1 of 300"),
        (changed("monetary", -5.0), "monetary is -5 for all 300"),
        (changed("frequency", 1.0), "frequency is 1 for all 300"),
    ],
)
def test_what_cannot_be_trained_on_is_said_in_a_sentence(snapshot: CustomerSnapshot, message: str, force: bool) -> None:
    with pytest.raises(FitError, match=message):
        trained_on(snapshot, QUICK, force=force)


def test_all_negative_money_is_said_too() -> None:
    snapshot = changed("monetary", 0.0)
    snapshot.monetary[:] = -np.arange(1.0, 301.0)
    with pytest.raises(FitError, match="monetary hardly differs between customers after log1p"):
        trained_on(snapshot, QUICK)


def test_equal_customers_are_said_to_be() -> None:
    snapshot = changed("monetary", 0.0)
    for name in FEATURES:
        snapshot.column(name)[:] = 1 + np.arange(300) % 2
    with pytest.raises(FitError, match="only 2 customers differ"):
        trained_on(snapshot, QUICK)


def test_whoever_has_no_order_in_the_window_is_scored_but_not_fitted() -> None:
    """Of an old shop they are most: the segments are those of the others, and they go to the nearest."""
    snapshot, truth = known_segments(4)
    fresh = trained_on(snapshot, QUICK)
    silent, n = 3, len(snapshot.customers)
    old = replace(
        snapshot,
        customers=tuple(f"{i:06}".encode() for i in range((1 + silent) * n)),
        recency_days=np.concatenate([snapshot.recency_days, *[400.0 + np.arange(n)] * silent]),
        frequency=np.concatenate([snapshot.frequency, np.zeros(silent * n)]),
        monetary=np.concatenate([snapshot.monetary, np.zeros(silent * n)]),
    )
    result = trained_on(old, QUICK)
    assert fresh.trained is not None
    assert result.trained is not None
    assert [s.centroid for s in result.trained.model.segments] == [s.centroid for s in fresh.trained.model.segments]
    assert result.trained.labels[:n].tolist() == fresh.trained.labels.tolist()
    assert (result.outcome.quality.customers, result.outcome.quality.not_fitted) == ((1 + silent) * n, silent * n)
    assert sum(segment.customers for segment in result.outcome.segments) == (1 + silent) * n
    # All of them lie in one, which has most customers then; the gates look at those who were fitted.
    assert max(result.trained.model.training.shares.values()) > QUICK.largest_share
    assert result.outcome.decision.verdict == "dry-run"
    everyone = trained_on(old, replace(QUICK, fitted="all"))
    assert everyone.trained is not None
    assert (
        adjusted_rand_score(truth, everyone.trained.labels[:n]) < 0.9 < adjusted_rand_score(truth, fresh.trained.labels)
    )

    few = replace(old, frequency=np.where(np.arange((1 + silent) * n) < 150, old.frequency, 0.0))
    with pytest.raises(FitError, match="150 customers have an order in the window, expected at least 200"):
        trained_on(few, QUICK)


def test_one_giant_does_not_get_a_segment_of_its_own() -> None:
    snapshot = changed("monetary", 1e12, where=slice(0, 1))
    snapshot.frequency[0] = 1e6
    raw = trained_on(snapshot, replace(QUICK, transforms=("identity",)))
    assert raw.trained is None
    assert raw.outcome.decision.verdict == "refused"
    assert raw.outcome.version is None
    assert all("smallest share" in why for why in raw.outcome.decision.why[1:])
    forced = trained_on(snapshot, replace(QUICK, transforms=("identity",)), force=True)
    assert forced.trained is not None
    assert forced.trained.model.training.forced
    # Transformed, the giant is one of many.
    bent = trained_on(snapshot, QUICK)
    assert bent.trained is not None
    assert min(bent.trained.model.training.shares.values()) > 0.02


def test_a_few_net_refunds_do_not_bend_everybody_elses_money() -> None:
    """Yeo-Johnson bends negatives by the power 2 - λ: five negative balances made λ 0.7 and z 20 (docs/adr/0016)."""
    snapshot, _ = known_segments(9)
    snapshot.monetary[:5] = (-840.0, -1591.0, -1165.0, -451.0, -208.0)
    result = trained_on(snapshot, TrainingPlan(ks=(4,), rounds=4))
    assert result.trained is not None
    assert [f.transform for f in result.trained.model.features] == ["yeo-johnson", "yeo-johnson", "log1p"]
    assert result.outcome.quality.negative_money == 5
    assert np.abs(coordinates(snapshot, result.trained.model.features)).max() < 6.0


def test_the_tutorial_leaves_outliers_out_of_the_fit_and_scores_them_all_the_same() -> None:
    snapshot, _ = known_segments(10)
    snapshot.monetary[:3] = 90_000.0
    result = trained_on(snapshot, of_recipe("tutorial"))
    assert result.trained is not None
    assert result.outcome.quality.not_fitted >= 3
    assert len(result.trained.labels) == 600
    model = result.trained.model
    nearest_all = nearest(coordinates(snapshot, model.features), tuple(s.centroid for s in model.segments))
    assert np.array_equal(result.trained.labels, nearest_all)
    assert model.training.feature_means["monetary"] == pytest.approx(snapshot.monetary.mean())


_VERSION = """
import sys
sys.path.insert(0, ".")
from dataclasses import replace
from tests.support.data.datasets import known_segments, trained_on
from trainer.training.plan import TrainingPlan
snapshot, _ = known_segments(11, each=800)
result = trained_on(snapshot, TrainingPlan(ks=(3, 4), rounds=3))
print(result.outcome.version, *(f"{fit.silhouette!r} {fit.stability!r}" for fit in result.outcome.fits))
"""


def test_the_same_version_on_one_thread_and_on_two() -> None:
    versions = set()
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", _VERSION], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        versions.add(done.stdout.strip())
    assert len(versions) == 1
    assert len(versions.pop().split()[0]) == 16


def test_another_seed_may_find_another_but_an_equal_one_never_does() -> None:
    snapshot, _ = known_segments(12)
    versions = {trained_on(snapshot, replace(QUICK, seed=seed)).outcome.version for seed in (1, 1, 2)}
    assert len(versions) == 2
