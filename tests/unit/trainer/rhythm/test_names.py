"""Ids and names of the recipe rhythm: by definition, and lasting."""

from __future__ import annotations

import numpy as np

from segmentation.campaign_rules import default_rules, parse_rules
from segmentation.model import CLOCK_FEATURES, Feature, Segment, SegmentModel
from segmentation.model_parts import Stage
from tests.support.data.clock_models import clock_model
from trainer.rhythm.names import KIND_NAMES, STAGE_NAMES, name_all
from trainer.training.naming import Lineage

FEATURES = tuple(Feature(name=name, transform="log1p", mean=2.0, scale=0.8) for name in CLOCK_FEATURES)
FOUR = np.array([[0.0, -0.7, -0.6], [0.0, 0.8, 0.9], [0.0, -0.5, 1.0], [0.0, 0.9, -0.5]])


def test_names_follow_definitions() -> None:
    kinds, stages = name_all(FOUR, FEATURES, Lineage())
    assert [kind.name for kind in kinds] == ["Steady", "Champions", "Big Spenders", "Loyal"]
    assert [kind.id for kind in kinds] == [4, 1, 3, 2]
    assert {stage: called.name for stage, called in stages.items()} == {s: name for s, (name, _) in STAGE_NAMES.items()}
    assert sorted(called.id for called in stages.values()) == [5, 6, 7, 8, 9, 10]


def test_a_second_kind_of_one_definition_is_described() -> None:
    kinds, _ = name_all(np.array([[0.0, 0.4, 0.5], [0.0, 1.8, 0.9], [0.0, -0.9, -0.8]]), FEATURES, Lineage())
    assert [kind.name for kind in kinds] == ["9.18 orders a year of 10", "Champions", "Steady"]
    assert kinds[0].action == kinds[1].action


def test_where_all_orders_are_of_one_value_nobody_spends_more() -> None:
    kinds, _ = name_all(np.array([[0.0, -0.9, 0.0], [0.0, 0.9, 1e-12]]), FEATURES, Lineage())
    assert [kind.name for kind in kinds] == ["Steady", "Loyal"]


def test_one_kind_is_steady() -> None:
    [kind], _ = name_all(np.zeros((1, 3)), FEATURES, Lineage())
    assert kind.name == "Steady"


def test_no_action_on_rhythm_gives_money_away() -> None:
    early: tuple[Stage, ...] = ("new", "young", "quiet", "at risk")
    on_rhythm = [*KIND_NAMES.values(), *(STAGE_NAMES[stage] for stage in early)]
    assert not [
        action for _, action in on_rhythm if "%" in action or "discount" in action or "voucher" in action.lower()
    ]


def test_ids_last_by_stage_and_by_place() -> None:
    active = clock_model()
    lineage = Lineage(active, 7, highest_id=20)
    before = np.array([segment.centroid for segment in active.segments if segment.stage == "steady"])
    moved = before[::-1] + 0.05
    kinds, stages = name_all(moved, active.features, lineage)
    assert [kind.id for kind in kinds] == [6, 2, 1]
    assert {stage: called.id for stage, called in stages.items()} == {
        segment.stage: segment.id for segment in active.segments if segment.stage != "steady"
    }
    # A fourth kind gets an id that no model has had.
    kinds, _ = name_all(np.vstack([moved, [[0.0, -1.5, 3.0]]]), active.features, lineage)
    assert [(kind.id, kind.name) for kind in kinds][-1] == (21, "Big Spenders")


def test_a_kind_that_its_name_does_not_fit_any_more_is_another_segment() -> None:
    """Each move comes from where the one before led, by name: so the name of an id never changes."""
    active = clock_model(kinds=2)
    lineage = Lineage(active, 7, highest_id=9)
    near, clearly = (np.array([[0.0, 1.0, 1.0], [0.0, pace, -0.8]]) for pace in (-0.1, -0.6))
    kinds, _ = name_all(near, active.features, lineage)
    assert (kinds[1].id, kinds[1].name) == (2, "Loyal")  # still near the border: no renaming
    kinds, _ = name_all(clearly, active.features, lineage)
    assert (kinds[1].id, kinds[1].name) == (10, "Steady")
    # The ids of names that change places go with the names.
    kinds, _ = name_all(np.array([[0.0, 0.9, -0.9], [0.0, 0.9, 0.9]]), active.features, lineage)
    assert [(kind.id, kind.name) for kind in kinds] == [(2, "Loyal"), (1, "Champions")]


def test_a_described_kind_keeps_its_name_while_its_figures_drift() -> None:
    two = np.array([[0.0, 0.4, 0.5], [0.0, 1.8, 0.9]])
    kinds, stages = name_all(two, FEATURES, Lineage())
    segments = [
        Segment(id=one.id, name=one.name, action="", centroid=tuple(centroid), stage="steady")
        for one, centroid in zip(kinds, two.tolist(), strict=True)
    ]
    others = [
        Segment(id=one.id, name=one.name, action="", centroid=(0.0, 0.0, 0.0), stage=stage)
        for stage, one in stages.items()
    ]
    active = clock_model().model_copy(update={"segments": tuple(segments + others), "features": FEATURES})
    again, _ = name_all(two + 0.1, FEATURES, Lineage(active, 1, highest_id=20))
    assert [(kind.id, kind.name) for kind in again] == [(kind.id, kind.name) for kind in kinds]


def test_a_model_by_centroids_hands_its_ids_on_by_name() -> None:
    segments = tuple(
        Segment(id=number, name=name, action="", centroid=(2.0 * number, 0.0, 0.0))
        for number, name in ((3, "Champions"), (5, "Lost"), (9, "Hibernating"))
    )
    by_window = tuple(
        Feature(name=name, transform="log1p", mean=1.0, scale=1.0) for name in ("recency_days", "frequency", "monetary")
    )
    active = SegmentModel(
        parent=None,
        features=(by_window[0], by_window[1], by_window[2]),
        segments=segments,
        training=clock_model().training,
    )
    kinds, stages = name_all(FOUR, FEATURES, Lineage(active, 1, highest_id=9))
    assert kinds[1].id == 3
    assert stages["lost"].id == 5
    fresh = [kind.id for kind in kinds if kind.name != "Champions"]
    fresh += [called.id for stage, called in stages.items() if stage != "lost"]
    assert sorted(fresh) == [10, 11, 12, 13, 14, 15, 16, 17]


def test_the_built_in_rules_have_the_action_of_each_name() -> None:
    rules = parse_rules(default_rules()).rules
    for name, action in (*STAGE_NAMES.values(), *KIND_NAMES.values()):
        actions = [rule.then.action for rule in rules if rule.when.to is None or name in rule.when.to]
        assert (action in actions) == (name != "Steady"), name
