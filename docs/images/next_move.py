# ruff: noqa: INP001 — started by its path, from the root of the repository
"""Draw docs/images/next-move.svg, the picture of docs/explanation/time.md, with lines and instants of the scorer.

.venv/bin/python docs/images/next_move.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from segmentation.entries import DAY_MS
from segmentation.intervals import Intervals, intervals_of
from segmentation.model import Feature, Segment, SegmentModel, Training
from segmentation.rfm import EMPTY, Kind, Rules, absorb_bytes, entry, headers
from segmentation.scorer import Scorer

PICTURE: Final = Path(__file__).with_name("next-move.svg")
LAST_ORDER: Final = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
WINDOW_D: Final = 365
# Okabe and Ito's colours, which the colour-blind can distinguish. Each also has its own dash.
INK: Final = {
    "Champions": ("#0072B2", "none"),
    "At Risk": ("#D55E00", "none"),
    "Lost": ("#56595c", "7 4"),
}


def model() -> SegmentModel:
    """Five segments such as the trainer gives."""

    def segment(number: int, name: str, *centroid: float) -> Segment:
        r, f, m = centroid
        return Segment(id=number, name=name, action="", centroid=(r, f, m))

    return SegmentModel(
        parent=None,
        features=(
            Feature(name="recency_days", transform="yeo-johnson", lam=0.2, mean=6.0, scale=2.2),
            Feature(name="frequency", transform="yeo-johnson", lam=-0.2, mean=1.2, scale=0.5),
            Feature(name="monetary", transform="log1p", mean=5.5, scale=1.2),
        ),
        segments=(
            segment(1, "Champions", -0.8, 1.6, 1.6),
            segment(2, "Loyal", -0.4, 0.5, 0.5),
            segment(3, "At Risk", 0.9, 0.7, 0.8),
            segment(4, "Lost", 0.9, -1.1, -0.9),
        ),
        margin=0.25,
        training=Training(
            as_of=LAST_ORDER, customers=0, k=4, silhouette=None, inertia=None, shares={}, feature_means={}, seed=0
        ),
    )


@dataclass(frozen=True)
class Course:
    """A customer of Loyal, from its last order on, if nothing more happens. Instants in ms."""

    last: int
    intervals: Intervals
    at: int  # of the next move
    to: str
    days: list[float]  # since the last order; each edge of an interval twice, a millisecond before it and at it
    leads: dict[str, list[float]]  # of each other segment over Loyal, at these days


def course(orders: list[tuple[float, int]], days: int) -> Course:
    """Follow a customer for so many days; its orders as (days before the last one, amount)."""
    scorer, rules = Scorer(model()), Rules(window=WINDOW_D * DAY_MS)
    last, value = ms(LAST_ORDER), EMPTY
    for n, (before, amount) in enumerate(sorted(orders, reverse=True)):
        time = last - round(before * DAY_MS)
        order = entry(Kind.PLACED, f"e{n}", time, order=f"o{n}", amount=amount * 10_000)
        value, _ = absorb_bytes(value, order, time, rules)
    stretches = intervals_of([value], np.array([last]), rules)
    loyal, start = np.array([1]), np.array([last])
    at, to = scorer.next_move(loyal, headers([value])["last"], start, stretches)
    edges = [int(edge) for edge in stretches.start[1:] if edge < last + days * DAY_MS]
    asked = [last + round(day * DAY_MS) for day in np.linspace(0, days, 2 * days + 1).tolist()]
    instants = np.array(sorted({*asked, *edges, *(edge - 1 for edge in edges)}), dtype=np.int64)
    interval = np.searchsorted(stretches.start, instants, side="right") - 1
    rest = scorer.rest(stretches.frequency[interval], stretches.monetary[interval])
    leads = scorer.leads(
        np.ones(instants.size, np.int64), scorer.z_recency(instants, np.full(instants.size, last)), rest
    )
    names = [segment.name for segment in scorer.model.segments]
    return Course(
        last,
        stretches,
        int(at[0]),
        names[int(to[0])],
        ((instants - last) / DAY_MS).tolist(),
        {name: leads[:, index].tolist() for index, name in enumerate(names) if name in INK},
    )


def ms(at: datetime) -> int:
    """Milliseconds since 1970."""
    return round(at.timestamp() * 1000)


def silence() -> Course:
    """Six orders within weeks of each other: for 300 days nothing leaves the window."""
    return course([(0, 60), (9, 45), (21, 80), (30, 40), (44, 95), (52, 70)], 180)


def leaving() -> Course:
    """Five orders spread over the year before the last one: they leave the window one by one."""
    return course([(0, 25), (205, 90), (281.5, 70), (304, 60), (330, 75)], 180)


# ---- drawing

WIDTH, LEFT, RIGHT = 700, 52, 598
LOW, HIGH = -4.0, 3.0


@dataclass(frozen=True)
class Frame:
    """Where a panel lies on the sheet; days and leads to points."""

    top: float
    bottom: float
    days: int

    def x(self, day: float) -> float:
        """Across."""
        return LEFT + (RIGHT - LEFT) * day / self.days

    def y(self, lead: float) -> float:
        """Down."""
        return self.bottom - (self.bottom - self.top) * (lead - LOW) / (HIGH - LOW)


def text(x: float, y: float, words: str, *, kind: str = "", anchor: str = "start", fill: str = "#222") -> str:
    """Return a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def axes(frame: Frame) -> list[str]:
    """Return grid, ticks, zero and the margin."""
    out = []
    for lead in range(int(LOW), int(HIGH) + 1, 2):
        weight = 'stroke="#9a9a9a"' if lead == 0 else 'stroke="#e6e6e6"'
        out.append(rule(LEFT, frame.y(lead), RIGHT, frame.y(lead), weight))
        out.append(text(LEFT - 8, frame.y(lead) + 4, f"{lead}".replace("-", "−"), anchor="end", fill="#555"))  # noqa: RUF001 — a true minus
    for day in range(0, frame.days + 1, 30):
        out.append(rule(frame.x(day), frame.bottom, frame.x(day), frame.bottom + 5, 'stroke="#9a9a9a"'))
        out.append(text(frame.x(day), frame.bottom + 19, str(day), anchor="middle", fill="#555"))
    margin = model().margin
    out.append(rule(LEFT, frame.y(margin), RIGHT, frame.y(margin), 'stroke="#222" stroke-dasharray="2 3"'))
    out.append(text(LEFT + 4, frame.y(margin) - 5, f"margin {margin}", kind="small"))
    return out


def curves(frame: Frame, drawn: Course) -> list[str]:
    """Return a named line for each other segment, broken where the figures change, pale once the customer has moved."""
    out, labels = [], []
    moved = (drawn.at - drawn.last) / DAY_MS
    for name, leads in drawn.leads.items():
        ink, dash = INK[name]
        points = list(zip(drawn.days, leads, strict=True))
        for pale, part in ((1.0, [p for p in points if p[0] <= moved]), (0.3, [p for p in points if p[0] >= moved])):
            style = f'stroke-width="2.2" stroke-dasharray="{dash}" opacity="{pale}"'
            out.append(f'<path d="{path(frame, drawn, part)}" fill="none" stroke="{ink}" {style}/>')
        seen = [p for p in points if LOW <= p[1] <= HIGH]
        if seen[-1] == points[-1]:
            labels.append((frame.y(leads[-1]), name))
        else:  # leaves the panel: named where it enters if it falls, where it leaves if it rises
            (day, lead), down = (seen[0], -7) if leads[-1] < leads[0] else (seen[-1], 12)
            out.append(text(frame.x(day) + 8, frame.y(lead) + down, name, kind="name", fill=ink))
    return out + [text(RIGHT + 7, at + 4, name, kind="name", fill=INK[name][0]) for at, name in apart(labels)]


def path(frame: Frame, drawn: Course, points: list[tuple[float, float]]) -> str:
    """Return the path through the points on the panel, lifted at each edge of an interval."""
    edges = {(edge - drawn.last) / DAY_MS for edge in drawn.intervals.start[1:].tolist()}
    out, pen = [], "M"
    for day, lead in points:
        inside = LOW <= lead <= HIGH
        if inside:
            out.append(f"{'M' if day in edges else pen}{frame.x(day):.1f} {frame.y(lead):.1f}")
        pen = "L" if inside else "M"
    return " ".join(out)


def apart(labels: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the labels from top to bottom, at least a line apart."""
    out: list[tuple[float, str]] = []
    for height, name in sorted(labels):
        out.append((max(height, out[-1][0] + 16) if out else height, name))
    return out


def the_move(frame: Frame, drawn: Course, why: str) -> list[str]:
    """Return the first crossing, with its instant."""
    day = (drawn.at - drawn.last) / DAY_MS
    lead = float(np.interp(day, drawn.days, drawn.leads[drawn.to]))
    x, y = frame.x(day), frame.y(lead)
    ink = INK[drawn.to][0]
    moved = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=drawn.at)
    stamp = f"{moved:%d %B, %H:%M:%S}.{moved.microsecond // 1000:03d}".lstrip("0")
    return [
        rule(x, frame.top, x, frame.bottom, f'stroke="{ink}" stroke-dasharray="1 3"'),
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#fff" stroke="{ink}" stroke-width="2.5"/>',
        text(x - 9, frame.top + 12, f"{stamp}: to {drawn.to}", kind="name", anchor="end", fill=ink),
        text(x - 9, frame.top + 27, why, kind="small", anchor="end"),
    ]


def edges_of(frame: Frame, drawn: Course) -> list[str]:
    """Return lines where an order leaves the window, with the number of orders left."""
    out = []
    for number, edge in enumerate(drawn.intervals.start[1:].tolist(), 1):
        day = (edge - drawn.last) / DAY_MS
        if day <= frame.days:
            x, orders = frame.x(day), int(drawn.intervals.frequency[number])
            out.append(rule(x, frame.top, x, frame.bottom, 'stroke="#b5b5b5"'))
            out.append(text(x, frame.top - 5, f"{orders} left", kind="small", anchor="middle"))
    return out


def svg() -> str:
    """Return the picture."""
    one, other = Frame(58, 258, 180), Frame(366, 566, 180)
    body = [
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="613" rx="8" fill="#fff" stroke="#d0d0d0"/>',
        text(16, 26, "1. A customer of Loyal falls silent: the lead of each other segment over Loyal", kind="title"),
        text(16, 44, "d²(Loyal) − d²(segment), in z space. Each line only rises or only falls.", kind="small"),  # noqa: RUF001 — a true minus
        *axes(one),
        *curves(one, silence()),
        *the_move(one, silence(), "the first millisecond above the margin"),
        text(RIGHT, 293, "days since the last order", kind="small", anchor="end"),
        text(16, 324, "2. Another one, whose orders leave the window one by one", kind="title"),
        text(
            16,
            342,
            "Frequency and money jump where one leaves; in between, as above. Both ends of each interval are asked.",
            kind="small",
        ),
        *axes(other),
        *edges_of(other, leaving()),
        *curves(other, leaving()),
        *the_move(other, leaving(), "an order leaves at this very instant"),
        text(RIGHT, 601, "days since the last order", kind="small", anchor="end"),
    ]
    style = (
        "text{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round;"
        "font:12px Verdana,'DejaVu Sans',sans-serif}"
        ".title{font-size:13.5px;font-weight:bold}.name{font-weight:bold}.small{font-size:11px}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 614" width="{WIDTH}" height="614" role="img">'
    title = "<title>When time alone moves a customer: the first crossing of the margin</title>"
    return "\n".join([head, title, f"<style>{style}</style>", *body, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
