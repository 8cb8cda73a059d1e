"""The report's charts: positions of their parts, and colours that everyone can distinguish."""

from __future__ import annotations

import re
from importlib import resources
from itertools import combinations, pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.data import report_cases as cases
from trainer.outcome import Sample, SampledFeature, TrainingOutcome
from trainer.report import customer_charts as charts
from trainer.report import worth_charts
from trainer.report.cluster_charts import curves, plane, silhouettes
from trainer.report.render import html
from trainer.report.svg import Kind, Scale, shortened, spread_out, text_width

finite = st.floats(-1e6, 1e6)


def sample(outcome: TrainingOutcome) -> Sample:
    assert outcome.sample is not None
    return outcome.sample


def feature(outcome: TrainingOutcome, name: str) -> SampledFeature:
    return next(f for f in sample(outcome).features if f.name == name)


@given(finite, st.floats(1e-3, 1e6), st.sampled_from(["linear", "log"]))
def test_ticks_lie_within_and_apart(low: float, span: float, kind: Kind) -> None:
    scale = Scale(low, low + span, 0.0, 320.0, kind)
    ticks = scale.ticks()
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    places = [scale.at(tick) for tick in ticks]
    assert all(b - a >= 40.0 for a, b in pairwise(places))


@given(finite, finite, st.sampled_from(["linear", "log"]))
def test_a_scale_keeps_the_order_and_stays_inside(one: float, other: float, kind: Kind) -> None:
    scale = Scale(-1e3, 1e5, 10.0, 300.0, kind)
    low, high = sorted((one, other))
    assert 10.0 <= scale.at(low) <= scale.at(high) <= 300.0


@given(st.lists(st.floats(0.0, 300.0), min_size=1, max_size=16))
def test_labels_are_pushed_apart_within_the_picture(wanted: list[float]) -> None:
    placed = spread_out(wanted, 15.0, 0.0, 300.0)
    assert all(b - a >= 15.0 - 1e-6 for a, b in pairwise(sorted(placed)))
    assert min(placed) >= 0.0 - 1e-6
    assert max(placed) <= 300.0


@pytest.mark.parametrize("k", [2, 5, 9])
def test_every_curve_marks_the_chosen_k(k: int) -> None:
    for chart in curves(cases.outcome(k)):
        ring = re.search(r'<circle cx="([\d.]+)"[^>]*class="ring', chart.svg)
        tick = re.search(rf'<text x="([\d.]+)" y="215" class="num" text-anchor="middle">{k}<', chart.svg)
        line = re.search(r'<path d="M([\d.]+) [\d.]+L([\d.]+) [\d.]+" class="choice"', chart.svg)
        assert ring
        assert tick
        assert line
        assert line[1] == line[2] == ring[1]
        assert float(ring[1]) == pytest.approx(float(tick[1]), abs=0.2)
        assert f"chosen: k\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{k}" in chart.svg
        assert chart.svg.count("(chosen)") == 1


def test_a_measure_that_no_fit_has_is_left_out() -> None:
    outcome = cases.outcome()
    without = msgspec.structs.replace(
        outcome, fits=tuple(msgspec.structs.replace(fit, stability=None, gates=()) for fit in outcome.fits)
    )
    assert [chart.title for chart in curves(without)] == ["Elbow", "Silhouette"]
    assert not any("Hollow" in chart.caption for chart in curves(without))


def test_box_plots_describe_the_medians() -> None:
    outcome = cases.outcome()
    days = np.array(feature(outcome, "recency_days").values)
    chart = charts.box_plots(outcome, sample(outcome))[0]
    assert f"All customers: median {np.median(days):,.0f} d" in chart.svg
    champions = days[np.array(sample(outcome).segment) == 0]
    assert f"Champions: median {np.median(champions):,.0f} d" in chart.svg
    assert chart.svg.count('class="box') == 6


def test_distributions_show_the_skewness_before_and_after() -> None:
    outcome = cases.outcome()
    chart = charts.distributions(outcome, sample(outcome))[2]
    before = charts.skew(np.array(feature(outcome, "monetary").values))
    after = charts.skew(np.array(feature(outcome, "monetary").z))
    assert chart.caption.startswith(f"Skewness {before:.2f} before, {after:.2f} after".replace("-", "\N{MINUS SIGN}"))


def test_the_plane_names_every_segment_at_its_centroid() -> None:
    outcome = cases.outcome(9)
    assert outcome.projection is not None
    chart = plane(outcome, sample(outcome), outcome.projection)
    for segment in outcome.segments:
        assert re.search(rf'class="at c\d" text-anchor="middle">{segment.name}<', chart.svg)
    assert chart.svg.count("mark centre") == 9
    assert "more recent order, more orders, more money →" in chart.svg


def test_the_calibration_draws_each_group_where_it_lies() -> None:
    later = cases.LATER
    chart = worth_charts.calibration(later)
    assert chart is not None
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart.svg)
    assert len(found) == len(later.calibration)
    diagonal = re.search(r'<path d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" class="limit"', chart.svg)
    assert diagonal
    left, bottom, right, top = map(float, diagonal.groups())
    for (x, y), group in zip(found, later.calibration, strict=True):
        expected, ordered = (float(x) - left) / (right - left), (bottom - float(y)) / (bottom - top)
        assert (ordered > expected) == (group.ordered > group.chance)


def test_the_trend_begins_a_new_segment_where_it_began() -> None:
    outcome = cases.outcome(3, foreseen=True)
    chart = worth_charts.trend(outcome)
    assert chart is not None
    assert chart.svg.count("<circle") == 3 + 4 + 4
    assert worth_charts.trend(cases.outcome(3)) is None


def test_who_will_order_is_drawn_beside_who_did() -> None:
    chart = worth_charts.ordering(cases.outcome(4, foreseen=True))
    assert chart is not None
    assert (chart.svg.count('class="bar c'), chart.svg.count('class="bar pale c')) == (4, 4)
    assert worth_charts.ordering(cases.outcome(4)) is None


def test_the_silhouettes_mark_the_mean() -> None:
    outcome = cases.outcome()
    chart = silhouettes(outcome, sample(outcome))
    assert chart is not None
    values = np.array(sample(outcome).silhouette)
    assert f"the mean of all ({values.mean():.2f})" in chart.caption
    assert f"{100 * np.mean(values < 0):.1f}\N{NO-BREAK SPACE}%" in chart.caption


def test_missing_parts_of_an_outcome_are_left_out() -> None:
    outcome = cases.outcome(compared=False)
    bare = msgspec.structs.replace(
        outcome,
        sample=msgspec.structs.replace(sample(outcome), silhouette=None),
        projection=None,
        segments=tuple(msgspec.structs.replace(s, money_share=None, silhouette=None) for s in outcome.segments),
    )
    page = html(bare)
    assert "of the money" not in page
    assert 'id="plane' not in page
    assert 'id="silhouettes' not in page


def test_a_segment_without_sampled_customers_has_a_row_and_no_box() -> None:
    outcome = cases.outcome(3)
    others = msgspec.structs.replace(
        sample(outcome), segment=tuple(1 if of == 2 else of for of in sample(outcome).segment)
    )
    drawn = charts.box_plots(outcome, others)[0].svg
    assert drawn.count('class="box') == 3
    assert "Big Spenders" in drawn
    html(msgspec.structs.replace(outcome, sample=others))


def test_customers_all_alike_in_a_feature_can_be_drawn() -> None:
    outcome = cases.outcome(2)
    alike = tuple(
        msgspec.structs.replace(f, values=(1.0,) * len(f.values)) if f.name == "frequency" else f
        for f in sample(outcome).features
    )
    html(msgspec.structs.replace(outcome, sample=msgspec.structs.replace(sample(outcome), features=alike)))


@given(st.text(max_size=80))
def test_a_cut_name_has_room(name: str) -> None:
    assert text_width(shortened(name, 120.0)) <= 121.0


CSS = resources.files("trainer.report").joinpath("report.css").read_text(encoding="utf-8")
LIGHT, DARK, PAPER = (
    dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
)


def linear(colour: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return red, green and blue, 0 to 1, linear in light."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    part = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = np.where(
        part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4
    )
    return found


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2, 1 to 21."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [LIGHT, DARK, PAPER], ids=["light", "dark", "paper"])
def test_text_and_marks_have_contrast(look: dict[str, str]) -> None:
    for text in ("ink", "quiet", "good", "bad"):
        assert contrast(look[text], look["ground"]) >= 4.5, text
    for n in range(8):
        assert contrast(look[f"c{n}"], look["ground"]) >= 3.0, n


# Machado, Oliveira and Fernandes (2009), severity 1: linear red, green and blue as each kind of sight sees them.
SIGHT = {
    "all": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, sight: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    seen = np.clip(SIGHT[sight] @ linear(colour), 0.0, 1.0)
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ seen / [0.9505, 1.0, 1.089], 1e-3))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("look", [LIGHT, DARK, PAPER], ids=["light", "dark", "paper"])
@pytest.mark.parametrize("sight", SIGHT)
def test_the_colour_blind_can_distinguish_the_colours(sight: str, look: dict[str, str]) -> None:
    apart_by = {
        (a, b): float(np.linalg.norm(lab(look[f"c{a}"], sight) - lab(look[f"c{b}"], sight)))
        for a, b in combinations(range(8), 2)
    }
    closest = min(apart_by, key=apart_by.__getitem__)
    # A difference of 2.3 is just noticeable side by side.
    assert apart_by[closest] >= 12.0, (closest, apart_by[closest])
