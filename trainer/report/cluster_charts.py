"""The report's charts of the choice and of the clusters: elbow, silhouettes, stability, the plane. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from trainer.report.customer_charts import Chart
from trainer.report.markup import NARROW, Markup, decimal, percent
from trainer.report.measures import measure_of
from trainer.report.svg import (
    WIDTH,
    PlotArea,
    Scale,
    colour,
    dots,
    line,
    mark,
    polyline,
    shortened,
    spread_out,
    svg_chart,
    text,
    text_width,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.outcome import Fit, Projection, Sample, SegmentFacts, TrainingOutcome

_WIDE: Final = 420.0  # of charts with names in them, in units
_POINTS: Final = 2_500  # customers drawn one by one, at most
_STEPS: Final = 160  # corners of the outline of a segment's silhouettes, at most
_BOTTOM: Final = 200.0
_RIGHT: Final = WIDTH - 14.0
_MATTERS: Final = 0.45  # smallest loading of a feature that is named beside an axis


Box = tuple[float, float, float, float]


class _Curve(NamedTuple):
    """A measure over k: the field of Fit, its names, and the caption of its chart."""

    field: str
    title: str
    axis: str
    caption: str


_CURVES: Final = (
    _Curve(
        "inertia",
        "Elbow",
        "inertia",
        "Sum of squared distances to the segments' centres. It always falls with k; the elbow is where the fall slows.",
    ),
    _Curve(
        "silhouette",
        "Silhouette",
        "mean silhouette",
        "How much nearer customers are to their own segment than to the next one: 1 is best, 0 is the border.",
    ),
    _Curve(
        "stability",
        "Stability",
        "adjusted Rand index",
        "How well clusterings of resampled customers agree with this one; 1 is full agreement.",
    ),
)


def curves(outcome: TrainingOutcome) -> list[Chart]:
    """Draw inertia, silhouette and stability over k with the choice marked; a measure that no fit has is omitted."""
    return [
        _curve(outcome, which) for which in _CURVES if any(getattr(f, which.field) is not None for f in outcome.fits)
    ]


def _curve(outcome: TrainingOutcome, which: _Curve) -> Chart:
    known = [(f, float(getattr(f, which.field))) for f in outcome.fits if getattr(f, which.field) is not None]
    ks = sorted({f.k for f, _ in known})
    values = [value for _, value in known]
    limit = next((g.limit for f, _ in known for g in f.gates if g.name == which.field), None)
    # Room at both ends for the ring round the choice.
    x = Scale(ks[0] - 0.4, ks[-1] + 0.4, 46.0, _RIGHT)
    y = Scale(*_reach(which.field, values, limit), _BOTTOM, 38.0)
    parts: list[str] = [PlotArea(x, y, "number of segments, k", which.axis).axes([float(k) for k in ks])]
    if limit is not None:
        parts += [
            line(x.start, y.at(limit), x.stop, y.at(limit), "limit"),
            text(x.stop, y.at(limit) - 4, f"gate: at least {decimal(limit)}", "num", anchor="end"),
        ]
    transforms = list(dict.fromkeys(f.transform for f, _ in known))
    for index, transform in enumerate(transforms):
        parts += _series([(f, value) for f, value in known if f.transform == transform], x, y, index)
    chosen = next(((f, value) for f, value in known if f.chosen), None)
    if chosen is not None:
        parts += _choice(*chosen, x, y, transforms.index(chosen[0].transform))
    bottom = _BOTTOM + 40
    for index, transform in enumerate(transforms):
        parts += [mark(14, bottom + 12, index, "mark"), text(26, bottom + 16, transform, "num")]
        bottom += 18
    description = "; ".join(f"{f.transform} k={f.k}: {decimal(value, 3)}{' (chosen)' * f.chosen}" for f, value in known)
    hollow = " Hollow marks fail a gate." if any(fails(f) for f, _ in known) else ""
    drawing = svg_chart(f"over-k-{which.field}", f"{which.title} over k", description, parts, bottom + 6)
    return Chart(which.title, which.caption + hollow, drawing)


def _reach(field: str, values: Sequence[float], limit: float | None) -> tuple[float, float]:
    if field == "inertia":
        return 0.0, max(values) * 1.05
    low, high = (
        min(*values, *([] if limit is None else [limit]), 1.0),
        max(*values, *([] if limit is None else [limit]), -1.0),
    )
    room = max(0.02, 0.12 * (high - low))
    return low - room, high + room


def _series(series: Sequence[tuple[Fit, float]], x: Scale, y: Scale, index: int) -> list[Markup]:
    points = [(x.at(float(f.k)), y.at(value)) for f, value in sorted(series, key=lambda pair: pair[0].k)]
    ordered = [f for f, _ in sorted(series, key=lambda pair: pair[0].k)]
    drawn = [polyline(points, f"curve {colour(index)}")] if len(points) > 1 else []
    return drawn + [
        mark(px, py, index, "mark hollow" if fails(f) else "mark") for f, (px, py) in zip(ordered, points, strict=True)
    ]


def _choice(fit: Fit, value: float, x: Scale, y: Scale, index: int) -> list[Markup]:
    px, py = x.at(float(fit.k)), y.at(value)
    label = f"chosen: k{NARROW}={NARROW}{fit.k}"
    # Right of the line where there is room, else left.
    right = px + 6 + text_width(label) < WIDTH
    return [
        line(px, y.stop - 10, px, y.start, "choice"),
        # Drawn once more, above all other lines.
        mark(px, py, index, "mark hollow" if fails(fit) else "mark"),
        mark(px, py, 0, "ring", 8.5),
        text(px + 6 if right else px - 6, y.stop - 2, label, "chosen", anchor="start" if right else "end"),
    ]


def fails(fit: Fit) -> bool:
    """Return whether a gate refuses this fit."""
    return any(not gate.passed for gate in fit.gates)


def silhouettes(outcome: TrainingOutcome, sample: Sample) -> Chart | None:
    """Draw each sampled customer's silhouette, by segment and size. Return None where it isn't defined."""
    if sample.silhouette is None:
        return None
    values, of = np.array(sample.silhouette), np.array(sample.segment)
    groups = [np.sort(values[of == index])[::-1] for index in range(len(outcome.segments))]
    x = Scale(min(-0.1, float(values.min())), max(0.5, float(values.max())), 150.0, _WIDE - 46)
    room = 320.0
    parts: list[str] = [PlotArea(x, Scale(0.0, 1.0, room, 0.0), "silhouette of a customer").axes()]
    tops: list[float] = []
    y = 4.0
    for index, inside in enumerate(groups):
        tall = (room - 8 - 6 * len(groups)) * len(inside) / max(1, len(values))
        parts.append(polyline(_outline(inside, x, y, tall), f"area {colour(index)}", closed=True))
        tops.append(y + tall / 2)
        y += tall + 6
    parts.append(line(x.at(0.0), 0.0, x.at(0.0), room, "axis"))
    mean = float(values.mean())
    parts.append(line(x.at(mean), 0.0, x.at(mean), room, "choice"))
    for index, height in enumerate(spread_out(tops, 14.0, 8.0, room - 8)):
        segment = outcome.segments[index]
        mean_of = "" if segment.silhouette is None else decimal(segment.silhouette)
        parts += [
            text(4, height + 4, shortened(segment.name, 144), f"row {colour(index)}"),
            text(_WIDE - 4, height + 4, mean_of, "num", anchor="end"),
        ]
    below = percent(float(np.mean(values < 0.0)))
    described = "; ".join(
        f"{s.name}: mean {decimal(s.silhouette)}" for s in outcome.segments if s.silhouette is not None
    )
    return Chart(
        f"Silhouettes of the {len(groups)} segments",
        "One line per customer, longest first. On the right the mean of the segment; dashed: the mean of all "
        f"({decimal(mean)}). Customers below zero ({below}) are nearer to another segment than to their own.",
        svg_chart("silhouettes", "Silhouettes by segment", described, parts, room + 40, _WIDE),
    )


def _outline(inside: NDArray[np.float64], x: Scale, y: float, tall: float) -> list[tuple[float, float]]:
    """Return the outline of a segment's lines: from zero along the longest, down to the shortest, and back."""
    zero = x.at(0.0)
    if not len(inside):
        return [(zero, y)]
    picked = np.unique(np.linspace(0, len(inside) - 1, min(_STEPS, len(inside))).astype(int))
    edge = [(x.at(float(inside[i])), y + tall * (i + 0.5) / len(inside)) for i in picked.tolist()]
    return [(zero, y), (edge[0][0], y), *edge, (edge[-1][0], y + tall), (zero, y + tall)]


def plane(outcome: TrainingOutcome, sample: Sample, projection: Projection) -> Chart:
    """Draw the customers in the plane of the two principal components, with names at the centroids."""
    xs, ys, of = np.array(sample.x), np.array(sample.y), np.array(sample.segment)
    room = 360.0
    x = Scale(*_middle(xs, [c[0] for c in projection.centroids]), 14.0, _WIDE - 10)
    y = Scale(*_middle(ys, [c[1] for c in projection.centroids]), room, 22.0)
    step = max(1, -(-len(xs) // _POINTS))
    names = [feature.name for feature in sample.features]
    right, up = (_axis(names, loadings) for loadings in projection.loadings)
    parts: list[str] = [PlotArea(x, y, right + " →").axes([])]
    parts += [
        line(x.start, y.start, x.start, y.stop, "axis"),
        text(2, 13, "↑ " + up, "name"),
    ]
    for index in range(len(outcome.segments)):
        here = np.flatnonzero(of == index)[::step]
        points = [(x.at(a), y.at(b)) for a, b in zip(xs[here].tolist(), ys[here].tolist(), strict=True)]
        parts.append(dots(points, f"dot {colour(index)}{' square' * (index >= 8)}"))
    parts += _names(outcome.segments, projection, x, y)
    explained = percent(sum(projection.explained), 0)
    return Chart(
        "Customers by two principal components",
        f"The plane shows {explained} of the variance of the three features ({percent(projection.explained[0], 0)} and "
        f"{percent(projection.explained[1], 0)}). "
        + (f"One customer in {step} is drawn; " if step > 1 else "Each dot is a customer; ")
        + "those far outside are drawn at the edge.",
        svg_chart(
            "plane",
            "Customers in the plane of two principal components",
            f"Right: {right}. Up: {up}. "
            + "; ".join(
                f"{s.name} at {decimal(cx, 1)}, {decimal(cy, 1)}"
                for s, (cx, cy) in zip(outcome.segments, projection.centroids, strict=True)
            ),
            parts,
            room + 40,
            _WIDE,
        ),
    )


def _names(segments: Sequence[SegmentFacts], projection: Projection, x: Scale, y: Scale) -> list[Markup]:
    """Mark the centroids, with their names where they cover neither a mark nor each other."""
    marks: list[Markup] = []
    names: list[Markup] = []
    points = [(x.at(cx), y.at(cy)) for cx, cy in projection.centroids]
    taken = [(px - 8, py - 8, px + 8, py + 8) for px, py in points]
    for index, (px, py) in enumerate(points):
        name = shortened(segments[index].name, 170)
        half = text_width(name) / 2 + 4
        middle = min(max(px, x.start + half), x.stop - half)
        # Above, below, and then further and further from the mark.
        tried = [py + way for step in range(12) for way in (-10.0 - 15 * step, 21.0 + 15 * step)]
        inside = [height for height in tried if y.stop + 12 <= height <= y.start - 4] or [py - 10]
        height = next(
            (h for h in inside if not _covered((middle - half, h - 12, middle + half, h + 4), taken)), inside[0]
        )
        taken.append((middle - half, height - 12, middle + half, height + 4))
        if abs(height - py) > 22:
            marks.append(line(px, py, middle, height - 4, "lead-line"))
        marks.append(mark(px, py, index, "mark centre", 5.5))
        names.append(text(middle, height, name, f"at {colour(index)}", anchor="middle"))
    return marks + names


def _covered(box: Box, taken: Sequence[Box]) -> bool:
    """Return whether a box (left, top, right, bottom) overlaps one of the others."""
    left, top, right, bottom = box
    return any(left < r and at < right and top < b and t < bottom for at, t, r, b in taken)


def _middle(values: NDArray[np.float64], centroids: Sequence[float]) -> tuple[float, float]:
    """Return the range to draw: all centroids, and all customers but those far outside."""
    low, high = (float(q) for q in np.percentile(values, (0.3, 99.7)))
    room = 0.35 * (high - low)
    return min(max(low - room, float(values.min())), *centroids), max(min(high + room, float(values.max())), *centroids)


def _axis(features: Sequence[str], loadings: Sequence[float]) -> str:
    """Return what an axis of the plane means, in words."""
    greatest = max(abs(v) for v in loadings)
    return ", ".join(
        measure_of(name).more if v > 0 else measure_of(name).less
        for name, v in zip(features, loadings, strict=True)
        if abs(v) >= _MATTERS or abs(v) == greatest
    )
