from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segmentation.campaigns import default_rules, parse_rules
from segmentation.life_conditions import KnownLife
from segmentation.model import FEATURES, Feature, Segment, SegmentModel, Training
from segmentation.output_events import Cause
from segmentation.scorer import standardise
from tests.support.rules import first_match
from trainer.training.naming import FIVE, MANY, Lineage, assign, lasting, match, name_segments, templates, untransformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segmentation.model import Transform

Centroid = tuple[float, float, float]
# recency, frequency, monetary: from the best to the worst.
SHOP = np.array([(8.0, 12.0, 3000.0), (20.0, 5.0, 900.0), (30.0, 2.0, 200.0), (90.0, 3.0, 400.0), (250.0, 1.0, 80.0)])


def features(kind: Transform = "identity", mean: float = 0.0, scale: float = 1.0) -> list[Feature]:
    return [
        Feature(name=name, transform=kind, mean=mean, scale=scale) for name in ("recency_days", "frequency", "monetary")
    ]


def published(segments: Sequence[Segment], of: Sequence[Feature]) -> SegmentModel:
    training = Training(
        as_of=datetime(2011, 12, 10, tzinfo=UTC),
        customers=1,
        k=len(segments),
        silhouette=None,
        inertia=None,
        shares={},
        feature_means={},
        seed=1,
    )
    one, two, three = of
    return SegmentModel(parent=None, features=(one, two, three), segments=tuple(segments), training=training)


def test_five_clusters_get_the_five_names_whatever_their_numbers() -> None:
    for order in permutations(range(5)):
        named = assign(np.log(SHOP[list(order)]))
        assert {order[cluster]: t.name for cluster, t in named.items()} == {
            0: "Champions",
            1: "Loyal",
            2: "Potential Loyalists",
            3: "At Risk",
            4: "Lost",
        }
        assert list(named.values()) == list(FIVE)


def test_of_two_inactive_clusters_the_poorer_is_lost_even_if_it_is_a_little_more_recent() -> None:
    """Real orders (CDNOW, 1997-10-01): two clusters of single orders, almost equal in recency, far apart in money."""
    z = np.array([[-1.56, 1.57, 1.56], [-1.44, 1.02, 0.33], [0.62, -0.8, -1.1], [0.14, 0.92, 0.44], [0.65, -0.8, 0.12]])
    assert {cluster: t.name for cluster, t in assign(z).items()}[2] == "Lost"


def test_the_five_carry_the_actions_of_the_textbook() -> None:
    assert [t.action for t in FIVE] == [
        "VIP offers and early access",
        "Points and premium products",
        "Onboarding",
        "Win-back with 20 % off",
        "Last-chance e-mail",
    ]


@pytest.mark.parametrize("k", range(2, 17))
def test_any_number_of_clusters_gets_as_many_names_and_numbers_only_at_the_end(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(20):
        named = [t.name for t in assign(rng.random((k, 3))).values()]
        assert len(set(named)) == k
        assert sum(name.startswith("Segment ") for name in named) == max(0, k - len(MANY))


def test_equal_clusters_are_named_apart() -> None:
    assert len({t.name for t in assign(np.ones((4, 3))).values()}) == 4


def test_every_name_has_a_campaign() -> None:
    rules = parse_rules(default_rules())
    life = KnownLife(1, 1, Decimal(10), 0, partial=False)
    causes = (Cause.ORDER, Cause.SILENCE, Cause.FIRST)
    for template in MANY:
        assert any(first_match(rules, None, template.name, cause, life) for cause in causes), template.name


def test_templates_are_sound() -> None:
    assert set(FIVE) <= set(MANY)
    assert len({t.name for t in MANY}) == len({(t.recency, t.frequency, t.monetary, t.name) for t in MANY}) == len(MANY)
    assert all(t.action and min(t.recency, t.frequency, t.monetary) >= 0 for t in MANY)
    assert all(max(t.recency, t.frequency, t.monetary) <= 1 for t in MANY)


def test_enough_templates_are_left_when_names_are_taken() -> None:
    assert len(templates(16, taken={t.name for t in MANY})) >= 16
    assert "Segment 1" not in [t.name for t in templates(16, taken={"Segment 1"})]


def test_matching_is_one_to_one_in_both_directions_of_size() -> None:
    old = SHOP / 100
    assert match(old[[3, 1]], old) == {0: 3, 1: 1}
    assert match(old, old[[3, 1]]) == {1: 1, 3: 0}


def test_matching_takes_the_best_of_all_pairs_together() -> None:
    # The nearest old cluster of the first is needed more by the second.
    new = np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0)])
    old = np.array([(0.9, 0.0, 0.0), (-2.0, 0.0, 0.0)])
    assert match(new, old) == {0: 1, 1: 0}


def test_a_cluster_that_lies_nearer_to_another_takes_no_name_from_afar() -> None:
    old = np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (9.0, 9.0, 9.0)])
    new = np.array([(0.1, 0.0, 0.0), (1.1, 0.0, 0.0), (1.4, 0.0, 0.0)])
    assert match(new, old) == {0: 0, 1: 1, 2: 2}
    assert lasting(new, old) == {0: 0, 1: 1}
    before = name_segments([tuple(row) for row in old.tolist()], features(), Lineage())
    lineage = Lineage(published(before, features()), 1, highest_id=3)
    after = name_segments([tuple(row) for row in new.tolist()], features(), lineage)
    assert [(s.id, s.name) for s in after[:2]] == [(s.id, s.name) for s in before[:2]]
    # The third is new, and doesn't get the name of the one that ends.
    assert after[2].id == 4
    assert after[2].name not in {s.name for s in before}
    assert after[2].id == 4


@pytest.mark.parametrize(
    ("kind", "lam"),
    [("identity", None), ("log1p", None), *[("yeo-johnson", lam) for lam in (-2.5, -0.3, 0.0, 0.4, 1.0, 2.0, 3.1)]],
)
def test_untransformed_is_the_inverse_of_the_scorers_transform(kind: Transform, lam: float | None) -> None:
    feature = Feature(name="monetary", transform=kind, lam=lam, mean=0.3, scale=0.7)
    x = np.array([0.0, 0.01, 1.0, 6.5] + ([-0.5, -4.0] if kind != "log1p" else []))
    assert untransformed(standardise(x, feature), feature) == pytest.approx(x, rel=1e-7, abs=1e-9)


def test_a_z_that_no_customer_has_stays_finite() -> None:
    feature = Feature(name="monetary", transform="yeo-johnson", lam=-0.5, mean=0.0, scale=1.0)
    assert np.isfinite(untransformed(np.array([-1024.0, 2.0, 1024.0]), feature)).all()


def test_without_an_active_model_ids_count_in_the_order_of_the_names() -> None:
    centroids = [tuple(row) for row in (SHOP / 100)[[4, 2, 0, 3, 1]].tolist()]
    segments = name_segments(centroids, features(), Lineage(highest_id=40))
    assert [(s.id, s.name) for s in segments] == [
        (5, "Lost"),
        (3, "Potential Loyalists"),
        (1, "Champions"),
        (4, "At Risk"),
        (2, "Loyal"),
    ]
    assert [s.centroid for s in segments] == centroids


def test_id_name_and_action_go_along_over_another_scale_and_another_order() -> None:
    was, now = features("log1p", mean=2.0, scale=1.5), features("identity", mean=50.0, scale=30.0)
    before = [
        Segment(id=id_, name=f"named {id_}", action=f"action {id_}", centroid=(z[0], z[1], z[2]))
        for id_, z in zip((11, 7, 3, 20, 5), ((np.log1p(SHOP) - 2.0) / 1.5).tolist(), strict=True)
    ]
    order = [3, 0, 4, 1, 2]
    drifted = (SHOP[order] * 1.03 - 50.0) / 30.0
    lineage = Lineage(published(before, was), activation=1, highest_id=20)
    after = name_segments([tuple(row) for row in drifted.tolist()], now, lineage)
    assert [(s.id, s.name, s.action) for s in after] == [
        (before[i].id, before[i].name, before[i].action) for i in order
    ]


def test_nearness_is_judged_on_the_new_scale() -> None:
    # The old model gives money a large weight and recency a small one; the new model the reverse.
    was, now = features(), features()
    was[0], was[2] = was[0].model_copy(update={"scale": 100.0}), was[2].model_copy(update={"scale": 10.0})
    now[2] = now[2].model_copy(update={"scale": 10_000.0})
    recent = Segment(id=1, name="recent", action="", centroid=(0.0, 0.0, 100.0))  # 0 days, 1,000
    silent = Segment(id=2, name="silent", action="", centroid=(0.1, 0.0, 0.0))  # 10 days, nothing
    lineage = Lineage(published([recent, silent], was), activation=1, highest_id=2)
    after = name_segments([(0.0, 0.0, 0.0), (10.0, 0.0, 0.1)], now, lineage)
    assert [s.name for s in after] == ["recent", "silent"]


def test_a_further_cluster_gets_a_free_name_and_an_id_never_used() -> None:
    five = (SHOP / 100).tolist()
    active = published(name_segments([tuple(row) for row in five], features(), Lineage()), features())
    sixth: Centroid = (1.5, 0.02, 9.0)
    after = name_segments([*(tuple(row) for row in five), sixth], features(), Lineage(active, 1, highest_id=9))
    assert [s.id for s in after] == [1, 2, 3, 4, 5, 10]
    assert after[5].name in {t.name for t in MANY} - {t.name for t in FIVE}


def test_fewer_clusters_keep_their_names() -> None:
    five = [tuple(row) for row in (SHOP / 100).tolist()]
    active = published(name_segments(five, features(), Lineage()), features())
    after = name_segments([five[4], five[0]], features(), Lineage(active, 1, highest_id=5))
    assert [(s.id, s.name) for s in after] == [(5, "Lost"), (1, "Champions")]


def test_features_stand_as_the_model_has_them() -> None:
    assert tuple(feature.name for feature in features()) == FEATURES
