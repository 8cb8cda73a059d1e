"""The report's charts of what comes and came: expected orders, forecast and fact, the last runs. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from trainer.report.customer_charts import BarRow, Chart, bars
from trainer.report.markup import count, percent
from trainer.report.svg import (
    WIDTH,
    PlotArea,
    Scale,
    colour,
    line,
    mark,
    polyline,
    shortened,
    spread_out,
    svg_chart,
    text,
)

if TYPE_CHECKING:
    from trainer.outcome import LaterWorth, TrainingOutcome

_WIDE: Final = 420.0  # of charts with names in them, in units
_BOTTOM: Final = 260.0
_NAMES: Final = 152.0  # units right of the lines of the last runs, for names


def ordering(outcome: TrainingOutcome) -> Chart | None:
    """Draw the share of each segment that is expected to order, and that did the last time; None without an outlook."""
    rows = []
    for index, s in enumerate(outcome.segments):
        if s.forecast is None or not s.customers:
            continue
        shares = [(s.forecast.ordering / s.customers, "expected")]
        if s.past is not None and s.past.customers:
            shares.append((s.past.ordered / s.past.customers, "last time"))
        rows.append(BarRow(s.name, colour(index), tuple(shares)))
    if not rows:
        return None
    pale = any(len(row.shares) > 1 for row in rows)
    caption = "Share of each segment's customers expected to order in the next 90 days" + (
        " (solid), and of those who were in it 90 days ago the share that did since (pale)." if pale else "."
    )
    drawing = bars("ordering", "Share of customers who order within 90 days, by segment", rows)
    return Chart("Expected to order", caption, drawing)


def calibration(later: LaterWorth) -> Chart | None:
    """Draw the share of customers that ordered over the forecast of it, by groups; None without groups."""
    groups = later.calibration
    if not groups:
        return None
    top = max(0.02, *(max(g.chance, g.ordered) for g in groups)) * 1.05
    top = min(top, 1.0)
    x = Scale(0.0, top, 46.0, WIDTH - 14)
    y = Scale(0.0, top, _BOTTOM, 24.0)
    area = PlotArea(x, y, "expected share", "share that ordered")
    parts: list[str] = [area.axes(x.ticks(60.0), _whole_percent, _whole_percent)]
    parts.append(line(x.start, y.start, x.stop, y.stop, "limit"))
    parts += [mark(x.at(g.chance), y.at(g.ordered), 0, "mark", 5.0) for g in groups]
    described = "; ".join(f"expected {percent(g.chance)}, ordered {percent(g.ordered)}" for g in groups)
    return Chart(
        "Forecast and what came",
        f"Customers in {len(groups)} groups by their chance of an order within 90 days. On the dashed line as many "
        "ordered as expected; above it more did.",
        svg_chart("calibration", "Expected and actual share of customers who ordered", described, parts, _BOTTOM + 40),
    )


def trend(outcome: TrainingOutcome) -> Chart | None:
    """Draw the segments' shares of the customers over the last models; None without an earlier one."""
    if not outcome.past or not outcome.segments:
        return None
    runs = [_day(past.as_of) for past in outcome.past] + [_day(outcome.as_of)]
    shares = [
        [next((s.share for s in past.segments if s.id == segment.id), None) for past in outcome.past] + [segment.share]
        for segment in outcome.segments
    ]
    top = max(share for row in shares for share in row if share is not None)
    x = Scale(min(runs), max(runs), 52.0, _WIDE - _NAMES)
    y = Scale(0.0, top * 1.06, _BOTTOM, 24.0)
    parts: list[str] = [PlotArea(x, y, "", "share of customers").axes([], y_format=_whole_percent)]
    parts.append(text(x.start, _BOTTOM + 16, outcome.past[0].as_of[:10], "num"))
    parts.append(text(x.stop, _BOTTOM + 16, outcome.as_of[:10], "num", anchor="end"))
    ends: list[float] = []
    for index, row in enumerate(shares):
        points = [(x.at(run), y.at(share)) for run, share in zip(runs, row, strict=True) if share is not None]
        if len(points) > 1:
            parts.append(polyline(points, f"curve {colour(index)}"))
        parts += [mark(px, py, index, "mark", 3.5) for px, py in points]
        ends.append(points[-1][1])
    for index, height in enumerate(spread_out(ends, 14.0, 8.0, _BOTTOM - 2)):
        name = shortened(outcome.segments[index].name, _NAMES - 12)
        parts.append(text(x.stop + 10, height + 4, name, f"row {colour(index)}"))
    described = "; ".join(
        f"{s.name}: " + ", ".join("–" if share is None else percent(share) for share in row)  # noqa: RUF001 — en dash: none
        for s, row in zip(outcome.segments, shares, strict=True)
    )
    return Chart(
        "Share of the customers in each segment",
        f"At the training of each of the last {count(len(runs))} models. A segment that is new has only its last mark.",
        svg_chart("trend", "Shares of the segments over the last models", described, parts, _BOTTOM + 24, _WIDE),
    )


def _whole_percent(share: float) -> str:
    return percent(share, 0)


def _day(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
