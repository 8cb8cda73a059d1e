"""The report's charts of the customers: shares, box plots, distributions. Pure: an outcome in, SVG out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from trainer.report.markup import NARROW, Markup, decimal, percent
from trainer.report.measures import measure_of
from trainer.report.sentences import span
from trainer.report.svg import (
    WIDTH,
    PlotArea,
    Scale,
    colour,
    dots,
    line,
    polyline,
    rectangle,
    shortened,
    svg_chart,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.outcome import Sample, SampledFeature, SegmentFacts, TrainingOutcome

_LEFT: Final = 8.0
_RIGHT: Final = WIDTH - 12.0
_ROW: Final = 36.0  # units of a segment's row: its name and the mark under it
_FOOT: Final = 40.0  # units under a plot, for its axis
_BINS: Final = 32
_SHOWN: Final = 99.0  # highest percentile of the raw figures that a distribution shows


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the page: the drawing, its title and its caption."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class BarRow:
    """One row of a chart of shares: a name, its colour, and one or two shares with the words that follow each."""

    name: str
    colour: str
    shares: tuple[tuple[float, str], ...]


def shares(outcome: TrainingOutcome) -> Chart:
    """Draw each segment's share of the customers and of the money."""
    rows = [
        BarRow(
            s.name,
            colour(index),
            ((s.share, "of customers"), *(() if s.money_share is None else ((s.money_share, "of the money"),))),
        )
        for index, s in enumerate(outcome.segments)
    ]
    drawing = bars("shares", "Shares of customers and money by segment", rows)
    caption = f"Each segment's share of all customers (solid) and of all money spent {span(outcome)} (pale)."
    return Chart("Shares of customers and money", caption, drawing)


def bars(key: str, title: str, rows: Sequence[BarRow]) -> Markup:
    """Draw shares as bars under the names of their rows, the first of a row solid, the second one pale."""
    top = max((share for row in rows for share, _ in row.shares), default=1.0)
    x = Scale(0.0, top, _LEFT, _RIGHT - 118)
    parts: list[str] = []
    for place, row in enumerate(rows):
        y = place * 54.0
        parts.append(text(_LEFT, y + 13, shortened(row.name, _RIGHT - _LEFT), f"row {row.colour}"))
        for below, ((share, words), kind) in enumerate(zip(row.shares, ("bar", "bar pale"), strict=False)):
            end = x.at(share)
            parts += [
                rectangle(_LEFT, y + 18 + 15 * below, end - _LEFT, 13, f"{kind} {row.colour}"),
                text(end + 5, y + 29 + 15 * below, f"{percent(share)} {words}", "num"),
            ]
    description = "; ".join(
        f"{row.name}: " + ", ".join(f"{percent(share)} {words}" for share, words in row.shares) for row in rows
    )
    return svg_chart(key, title, description, parts, 54.0 * len(rows) + 2)


def box_plots(outcome: TrainingOutcome, sample: Sample) -> list[Chart]:
    """Draw each feature as boxes: all customers, then each segment."""
    of = np.array(sample.segment)
    return [_boxes(outcome.segments, feature, of) for feature in sample.features]


def _boxes(segments: Sequence[SegmentFacts], feature: SampledFeature, of: NDArray[np.int64]) -> Chart:
    measure, values = measure_of(feature.name), np.array(feature.values)
    groups = [("All customers", values, "")]
    groups += [(s.name, values[of == index], colour(index)) for index, s in enumerate(segments)]
    height = _ROW * len(groups) + 4
    x = Scale(float(values.min()), float(values.max()), _LEFT + 6, _RIGHT - 6, measure.kind)
    parts: list[str] = [PlotArea(x, Scale(0.0, 1.0, height, 0.0), measure.axis).axes()]
    description: list[str] = []
    for row, (name, inside, kind) in enumerate(groups):
        y = _ROW * row
        parts.append(text(_LEFT, y + 13, shortened(name, _RIGHT - _LEFT), f"row {kind}".strip()))
        if len(inside):
            parts += _box(inside, x, y + 25, kind)
            description.append(f"{name}: median {measure.label(float(np.median(inside)))}")
    return Chart(
        measure.title,
        "Box: the middle half of the customers, with the median. Whiskers: the rest within 1.5 box lengths; "
        "dots: those beyond." + (" The axis is logarithmic." if measure.kind == "log" else ""),
        svg_chart(f"box-{feature.name}", f"Box plots of {measure.axis}", "; ".join(description), parts, height + _FOOT),
    )


def _box(inside: NDArray[np.float64], x: Scale, y: float, kind: str) -> list[Markup]:
    """Draw one box at height y. The whiskers follow Tukey's rule, in the feature's own unit."""
    lower, median, upper = (float(q) for q in np.percentile(inside, (25, 50, 75)))
    reach = 1.5 * (upper - lower)
    within = inside[(inside >= lower - reach) & (inside <= upper + reach)]
    beyond = inside[(inside < lower - reach) | (inside > upper + reach)]
    least, greatest = x.at(float(within.min())), x.at(float(within.max()))
    return [
        # At whole units: hundreds of dots on one line would only enlarge the file.
        dots(((float(round(x.at(v))), y) for v in np.sort(beyond).tolist()), f"dot small {kind}".strip()),
        line(least, y, greatest, y, f"whisker {kind}".strip()),
        rectangle(x.at(lower), y - 6, x.at(upper) - x.at(lower), 12, f"box {kind}".strip()),
        line(x.at(median), y - 6, x.at(median), y + 6, "median"),
    ]


def distributions(outcome: TrainingOutcome, sample: Sample) -> list[Chart]:
    """Draw each feature's distribution before and after the transform, one above the other."""
    transform = next((f.transform for f in outcome.fits if f.chosen), None)
    return [_distribution(feature, transform) for feature in sample.features]


def _distribution(feature: SampledFeature, transform: str | None) -> Chart:
    measure, raw, z = measure_of(feature.name), np.array(feature.values), np.array(feature.z)
    top = float(np.percentile(raw, _SHOWN))
    shown = raw[raw <= top]
    parts = [text(_LEFT, 13, "before", "row")]
    parts += _histogram(shown, 150.0, 24.0, measure.axis)
    after = "after the transform, standardised" if transform is None else f"after ({transform}, standardised)"
    parts += [text(_LEFT, 213, after, "row"), *_histogram(z, 350.0, 224.0, "z: standard deviations from the mean")]
    before_skew, after_skew = skew(raw), skew(z)
    cut = f" The highest 1{NARROW}%, above {decimal(top, 0)}, isn't drawn." if len(shown) < len(raw) else ""
    description = f"skewness {decimal(before_skew)} before, {decimal(after_skew)} after"
    return Chart(
        measure.title,
        f"{description[0].upper()}{description[1:]} (0: symmetric).{cut} Dashed: a normal distribution.",
        svg_chart(f"spread-{feature.name}", f"Distribution of {measure.axis}", description, parts, 350 + _FOOT),
    )


def _histogram(values: NDArray[np.float64], bottom: float, top: float, axis: str) -> list[Markup]:
    low, high = float(values.min()), float(values.max())
    edges = _edges(values, low, high)
    counts, _ = np.histogram(values, edges)
    part = 100.0 * counts / max(1, len(values))
    x = Scale(float(edges[0]), float(edges[-1]), 42.0, _RIGHT)
    y = Scale(0.0, float(part.max()) * 1.04, bottom, top)
    steps = [(x.at(float(edges[0])), bottom)]
    for share, start, end in zip(part.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        steps += [(x.at(start), y.at(share)), (x.at(end), y.at(share))]
    steps.append((x.at(float(edges[-1])), bottom))
    drawn = [PlotArea(x, y, axis).axes(), polyline(steps, "area c0", closed=True)]
    drawn += [text(38, y.at(v) + 4, f"{v:g}{NARROW}%", "num", anchor="end") for v in y.ticks(40.0)]
    if axis.startswith("z"):
        width = float(edges[1] - edges[0])
        grid = np.linspace(float(edges[0]), float(edges[-1]), 60)
        normal = 100.0 * width * np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi)
        drawn.append(polyline([(x.at(a), y.at(b)) for a, b in zip(grid, normal, strict=True)], "limit"))
    return drawn


def _edges(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return the edges of equal bins; whole numbers get bins of whole width, so that none is empty by rounding."""
    if np.array_equal(values, np.round(values)):
        width = max(1, math.ceil((high - low) / _BINS))
        bins = math.floor((high - low) / width) + 1
        return low - 0.5 + width * np.arange(bins + 1, dtype=np.float64)
    return np.linspace(low, high if high > low else low + 1.0, _BINS + 1)


def skew(values: NDArray[np.float64]) -> float:
    """Return the moment coefficient of skewness: 0 for a symmetric distribution, and for one without spread.

    >>> skew(np.array([-1.0, 0.0, 1.0])), round(skew(np.array([0.0, 0.0, 0.0, 4.0])), 3)
    (0.0, 1.155)
    """
    apart = values - values.mean()
    spread = float(np.sqrt(np.mean(apart * apart)))
    # Not **: its rounding differs with the sign.
    return float(np.mean(apart * apart * apart)) / spread**3 if spread > 0.0 else 0.0
