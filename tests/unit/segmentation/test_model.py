"""The model as plain data: round trip, version, and each reason to refuse one."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from segmentation.model import (
    Feature,
    Histogram,
    ModelError,
    Segment,
    SegmentModel,
    Training,
    read_pointer,
    read_version,
)
from segmentation.model_parts import OutlookModel
from tests.support.data.clock_models import RATES, clock_model

AS_OF = datetime(2011, 12, 10, 8, 30, tzinfo=UTC)


def a_model(**changes: Any) -> SegmentModel:
    content: dict[str, Any] = {
        "parent": None,
        "features": (
            Feature(name="recency_days", transform="yeo-johnson", lam=0.2, mean=4.5, scale=1.5),
            Feature(name="frequency", transform="log1p", mean=0.9, scale=0.5),
            Feature(name="monetary", transform="identity", mean=120.0, scale=80.0),
        ),
        "segments": (
            Segment(id=3, name="Champions", action="VIP offers", centroid=(-1.0, 1.5, 1.25)),
            Segment(id=1, name="Lost", action="last-chance e-mail", centroid=(1.0, -0.5, -0.5)),
            Segment(id=65_535, name="At Risk", action="win-back", centroid=(0.5, 0.5, 0.25)),
        ),
        "training": Training(
            as_of=AS_OF,
            customers=4338,
            k=3,
            silhouette=0.45,
            inertia=None,
            shares={"Champions": 0.3, "Lost": 0.4, "At Risk": 0.3},
            feature_means={"recency_days": 92.5},
            seed=42,
        ),
    }
    return SegmentModel(**content | changes)


def published(**changes: Any) -> dict[str, Any]:
    """The published JSON with some of its content changed and the version left out."""
    content: dict[str, Any] = json.loads(a_model().to_json()) | changes
    del content["version"]
    return content


def read(content: dict[str, Any]) -> SegmentModel:
    return SegmentModel.from_json(json.dumps(content | {"version": "0" * 16}).encode())


def test_round_trip() -> None:
    model = a_model()
    again = SegmentModel.from_json(model.to_json())
    assert again == model
    assert again.version == model.version
    assert again.to_json() == model.to_json()


def test_version_is_the_one_recorded() -> None:
    """Published models outlive releases: another canonical form would refuse every one of them."""
    assert a_model().version == "5ccbe45f5ba98e4c"


def test_later_facts_come_back_and_are_part_of_the_version() -> None:
    histogram = Histogram(edges=(1.0, 3.0), shares=(0.5, 0.25, 0.25))
    facts = a_model().training.model_copy(update={"histograms": {"frequency": histogram}, "distance": 0.0})
    model = a_model(training=facts)
    assert SegmentModel.from_json(model.to_json()) == model
    assert (
        len({model.version, a_model(training=facts.model_copy(update={"distance": 1.0})).version, a_model().version})
        == 3
    )


def test_facts_that_a_later_trainer_adds_are_kept_and_count() -> None:
    """Workers are upgraded one by one, and the trainer some day."""
    content = json.loads(a_model().to_json())
    del content["version"]
    content["training"]["window_days"] = 365
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    version = hashlib.sha256(canonical).hexdigest()[:16]
    found = SegmentModel.from_json(json.dumps(content | {"version": version}).encode())
    assert found.version == version != a_model().version
    assert json.loads(found.to_json())["training"]["window_days"] == 365
    with pytest.raises(ModelError, match="mode: Extra inputs are not permitted"):
        read(published(mode="new"))


@pytest.mark.parametrize(
    ("edges", "shares", "message"),
    [
        ((1.0, 3.0), (0.5, 0.5), "2 edges and 2 shares: give one share more than edges"),
        ((3.0, 3.0), (0.5, 0.25, 0.25), r"edges \(3.0, 3.0\) don't rise"),
        ((1.0,), (0.5, 1.5), "less than or equal to 1"),
    ],
)
def test_a_histogram_that_is_none_is_refused(edges: tuple[float, ...], shares: tuple[float, ...], message: str) -> None:
    content = published()
    content["training"]["histograms"] = {"frequency": {"edges": edges, "shares": shares}}
    with pytest.raises(ModelError, match=message):
        read(content)


def test_the_published_form_carries_the_version_and_sorted_keys() -> None:
    value = a_model().to_json()
    content = json.loads(value)
    assert content["version"] == a_model().version
    assert list(content) == sorted(content)
    assert b" " not in value.replace(b"VIP offers", b"").replace(b"last-chance e-mail", b"").replace(b"At Risk", b"")


@pytest.mark.parametrize("change", [{"parent": "0123456789abcdef"}, {"margin": 0.5}, {"margin": 0.25 + 2.0**-54}])
def test_other_content_is_another_version(change: dict[str, Any]) -> None:
    assert a_model(**change).version != a_model().version


def test_a_copy_has_its_own_version() -> None:
    model = a_model()
    before = model.version
    assert model.model_copy(update={"margin": 0.5}).version == a_model(margin=0.5).version != before


def test_one_instant_in_two_zones_is_one_version() -> None:
    east = a_model(training=a_model().training.model_dump() | {"as_of": AS_OF.astimezone(timezone(timedelta(hours=5)))})
    assert east.version == a_model().version


def test_whole_numbers_may_stand_for_floats() -> None:
    content = published(margin=1)
    version = a_model(margin=1.0).version
    assert SegmentModel.from_json(json.dumps(content | {"version": version}).encode()).margin == 1.0


def test_a_model_is_read_under_its_own_version_only() -> None:
    model = a_model()
    assert read_version(model.version.encode(), model.to_json()) == model
    for key in (b"0123456789abcdef", model.version.upper().encode(), b"\xff", b"", None):
        with pytest.raises(ModelError, match=r"the key is .* but the content's version is '5ccbe45f5ba98e4c'"):
            read_version(key, model.to_json())
    with pytest.raises(ModelError, match="expected UTF-8 JSON"):
        read_version(model.version.encode(), b"\xff\xfe")


@pytest.mark.parametrize("value", [b"", b"\xff", b'{"version":"\xff"}', b"[]", b"{}", b'{"version":1}', b"[" * 100_000])
def test_a_pointer_that_names_no_version_is_refused(value: bytes) -> None:
    with pytest.raises(ModelError, match="not a pointer to a model"):
        read_pointer(value)


def test_a_model_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        a_model().margin = 0.5  # type: ignore[misc]  # this is what must fail


def test_warnings_name_centroids_within_the_margin() -> None:
    assert a_model().warnings() == []
    # Lost and At Risk: 0.25 + 1 + 0.5625 = 1.8125 apart.
    (warning,) = a_model(margin=1.8125).warnings()
    assert "'Lost'" in warning
    assert "'At Risk'" in warning
    assert "1.81" in warning


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "expected UTF-8 JSON"),
        (b"{", "expected UTF-8 JSON"),
        (b"\xff\xfe{}", "expected UTF-8 JSON"),
        (b"\x80\x04pickle", "expected UTF-8 JSON"),
        (b"[" * 100_000, "expected UTF-8 JSON"),
        (b"1" * 10_000, "expected UTF-8 JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
        (b"{}", "version is missing"),
        (b'{"version":null}', "version is missing"),
        (b'{"version":"0"}', "parent: Field required; features: Field required"),
    ],
)
def test_what_is_no_model_is_refused(value: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SegmentModel.from_json(value)


@pytest.mark.parametrize("version", ["0" * 16, "", 7, a_model().version.upper() + " "])
def test_a_version_that_is_not_the_contents_is_refused(version: object) -> None:
    with pytest.raises(ModelError, match=f"version is .* but the content's is '{a_model().version}'"):
        SegmentModel.from_json(json.dumps(published() | {"version": version}).encode())


def test_changed_content_under_the_old_version_is_refused() -> None:
    with pytest.raises(ModelError, match="changed after the training"):
        SegmentModel.from_json(a_model().to_json().replace(b'"margin":0.25', b'"margin":0.2'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "format: Input should be 1 or 2, got 3"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"margin": -0.1}, "margin: .*greater than or equal to 0, got -0.1"),
        ({"margin": float("nan")}, "margin: .*finite"),
        ({"margin": float("inf")}, "margin: .*finite"),
        ({"margin": "0.25"}, "margin: .*valid number, got '0.25'"),
        ({"segments": []}, "segments: .*at least 2"),
        ({"features": []}, "features"),
    ],
)
def test_a_model_that_breaks_a_rule_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(published(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, r"features\.0\.scale: .*greater than 0, got 0"),
        ({"scale": -1.0}, "scale: .*greater than 0"),
        ({"scale": float("inf")}, "scale: .*finite"),
        ({"scale": float("nan")}, "scale: .*finite"),
        ({"mean": float("nan")}, "mean: .*finite"),
        ({"mean": float("-inf")}, "mean: .*finite"),
        ({"lam": float("inf")}, "lam: .*finite"),
        ({"lam": None}, "recency_days has transform yeo-johnson and lam None: give lam"),
        ({"transform": "log1p"}, "recency_days has transform log1p and lam 0.2"),
        ({"transform": "identity"}, "recency_days has transform identity and lam 0.2"),
        ({"transform": "sqrt"}, "transform: .*'identity', 'log1p' or 'yeo-johnson', got 'sqrt'"),
        ({"name": "monetary"}, "features stand as monetary, frequency, monetary: put them as recency_days"),
        ({"name": "age"}, "name: .*'recency_days'"),
    ],
)
def test_a_feature_that_breaks_a_rule_is_refused(change: dict[str, Any], message: str) -> None:
    content = published()
    content["features"][0] |= change
    with pytest.raises(ModelError, match=message):
        read(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 0}, r"segments\.1\.id: .*greater than or equal to 1, got 0"),
        ({"id": 65_536}, "id: .*less than or equal to 65535"),
        ({"id": 3}, "'Champions' and 'Lost' share the id 3"),
        ({"name": "Champions"}, "segments 3 and 1 share the name 'Champions'"),
        ({"name": ""}, "name: .*at least 1 character"),
        ({"name": "x" * 65}, "name: .*at most 64 characters"),
        ({"name": "\ud800"}, "Invalid JSON"),
        ({"centroid": [1.0, 2.0]}, "centroid.*2: Field required"),
        ({"centroid": [1025.0, 0.0, 0.0]}, r"centroid\.0: .*less than or equal to 1024"),
        ({"centroid": [0.0, -1025.0, 0.0]}, r"centroid\.1: .*greater than or equal to -1024"),
        ({"centroid": [0.0, 0.0, float("nan")]}, r"centroid\.2: .*finite"),
        ({"centroid": [-1.0, 1.5, 1.251]}, "'Champions' and 'Lost' are 1e-06 apart"),
        ({"centroid": [-1.0, 1.5, 1.25]}, "'Champions' and 'Lost' are 0 apart"),
    ],
)
def test_a_segment_that_breaks_a_rule_is_refused(change: dict[str, Any], message: str) -> None:
    content = published()
    content["segments"][1] |= change
    with pytest.raises(ModelError, match=message):
        read(content)


def test_centroids_further_apart_than_twins_are_taken() -> None:
    twins = (
        Segment(id=1, name="A", action="", centroid=(0.0, 0.0, 0.0)),
        Segment(id=2, name="B", action="", centroid=(0.0, 0.0, 0.00101)),
    )
    assert len(a_model(segments=twins).warnings()) == 1


def test_seventeen_segments_are_refused() -> None:
    segments = [{"id": i + 1, "name": f"S{i}", "action": "", "centroid": [float(i), 0.0, 0.0]} for i in range(17)]
    with pytest.raises(ModelError, match=r"segments: .*at most 16"):
        read(published(segments=segments))


@pytest.mark.parametrize("as_of", ["2011-12-10T08:30:00", "0001-01-01T00:00:00+14:00", "yesterday"])
def test_a_date_that_is_no_instant_is_refused(as_of: str) -> None:
    content = published()
    content["training"]["as_of"] = as_of
    with pytest.raises(ModelError, match=r"training\.as_of"):
        read(content)


def test_a_model_by_own_clock_makes_the_round_trip() -> None:
    model = clock_model()
    assert SegmentModel.from_json(model.to_json()) == model


def test_stages_and_clock_belong_to_format_2() -> None:
    model = clock_model()
    for changes, expected in (
        ({"clock": None}, "clock or outlook is missing"),
        ({"outlook": None}, "clock or outlook is missing"),
        ({"segments": model.segments[:-1]}, "0 segments of stage 'lost', expected one"),
        ({"segments": model.segments[3:]}, "0 segments of stage 'steady', expected one or more"),
        ({"format": 1, "features": a_model().features}, "give format 2"),
        ({"features": a_model().features}, "put them as silence_in_gaps, orders_per_year, order_value"),
        ({"clock": {"at_risk": 0.1, "lost": 0.2, "heavy": 1.0}}, "lost must be the smaller chance"),
        ({"clock": {"at_risk": 1.0, "lost": 0.2, "heavy": 1.0}}, "at_risk"),
    ):
        with pytest.raises(ValidationError, match=expected):
            clock_model(**changes)


def test_curves_begin_with_zero_and_rise() -> None:
    for curve in (((0.0, 0.1), (1.0, 1.0)), ((0.0, 0.0), (0.5, 0.5), (0.5, 0.6))):
        with pytest.raises(ValidationError, match=r"begin with \(0, 0\)"):
            OutlookModel(rates=RATES, chance_curve=curve)
