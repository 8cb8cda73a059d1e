"""Scales, axes and marks: the parts of the report's charts, as SVG.

No plotting library: the charts follow the reader's light or dark mode, stay small and are readable on a phone. Colours
are classes of the page's style sheet (report.css), and text stays text.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from trainer.report.markup import Markup, coordinate, joined, short, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH: Final = 360.0  # of a chart, in units; on a phone a unit is about a pixel
COLOURS: Final = 8  # in the style sheet; further series repeat them with other shapes
Kind = Literal["linear", "log"]

_TICK_GAP: Final = 46.0  # units between ticks, at least
_LETTER: Final = 8.2  # width of a letter in a wide bold font, in units


@dataclass(frozen=True, slots=True)
class Scale:
    """A mapping of values to positions: `low` at `start`, `high` at `stop`, in units.

    `log` is sign(x)·log10(1 + |x|), so zero and negative values have positions too.
    """

    low: float
    high: float
    start: float
    stop: float
    kind: Kind = "linear"

    def at(self, value: float) -> float:
        """Return the position of a value; values beyond an end are at the end.

        >>> Scale(0.0, 10.0, 100.0, 200.0).at(5.0), Scale(0.0, 10.0, 100.0, 200.0).at(99.0)
        (150.0, 200.0)
        """
        low, high, here = self._bent(self.low), self._bent(self.high), self._bent(value)
        part = (here - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, part)) * (self.stop - self.start)

    def ticks(self, gap: float = _TICK_GAP) -> list[float]:
        """Return round values between the ends, at least `gap` units apart.

        >>> Scale(0.0, 1.0, 0.0, 240.0).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        >>> Scale(0.0, 5000.0, 0.0, 300.0, "log").ticks()
        [0.0, 10.0, 100.0, 1000.0, 5000.0]
        """
        room = max(1, int(abs(self.stop - self.start) / gap))
        if self.kind == "linear":
            return _round_steps(self.low, self.high, room)
        # Zero first, then the decades from the highest, then values between them; a value too close to one is dropped.
        sizes = [0.0, *(m * 10.0**n for m in (1.0, 2.0, 5.0) for n in range(14, -1, -1))]
        within = [x for size in sizes for x in (size, -size) if self.low <= x <= self.high]
        kept: list[float] = []
        for value in within:
            if all(abs(self.at(value) - self.at(other)) >= gap for other in kept):
                kept.append(value)
        return sorted(kept)

    def _bent(self, value: float) -> float:
        return value if self.kind == "linear" else math.copysign(math.log10(1.0 + abs(value)), value)


@dataclass(frozen=True, slots=True)
class PlotArea:
    """The position of a plot inside a chart, in units, and the names of its axes."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str = ""

    def axes(
        self,
        x_ticks: Sequence[float] | None = None,
        label: Callable[[float], str] = short,
        y_format: Callable[[float], str] = short,
    ) -> Markup:
        """Draw the lines, numbers and names of both axes; those of y only where it has a name.

        `x_ticks` are the values to mark (default: round ones); `label` formats one, `y_format` one of the y axis.
        """
        left, right, bottom, top = self.x.start, self.x.stop, self.y.start, self.y.stop
        parts: list[str] = []
        for value in self.x.ticks() if x_ticks is None else x_ticks:
            at = self.x.at(value)
            parts += [line(at, top, at, bottom, "grid"), text(at, bottom + 15, label(value), "num", anchor="middle")]
        if self.y_label:
            for value in self.y.ticks(34.0):
                at = self.y.at(value)
                parts += [
                    line(left, at, right, at, "grid"),
                    text(left - 6, at + 4, y_format(value), "num", anchor="end"),
                ]
            parts.append(text(2, 13, self.y_label, "name"))
        parts.append(line(left, bottom, right, bottom, "axis"))
        parts.append(text(right, bottom + 32, self.x_label, "name", anchor="end"))
        return joined(parts)


def svg_chart(
    key: str, title: str, description: str, parts: Iterable[str], height: float, width: float = WIDTH
) -> Markup:
    """Wrap a chart; screen readers read `title` and `description`, and `key` is unique on the page."""
    return tag(
        "svg",
        tag("title", title, id=f"{key}-title"),
        tag("desc", description, id=f"{key}-description"),
        *parts,
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        role="img",
        aria_labelledby=f"{key}-title {key}-description",
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Draw a straight line; `kind` is a class of the style sheet."""
    return tag("path", d=f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}", class_=kind)


def text(x: float, y: float, content: str, kind: str, anchor: Literal["start", "middle", "end"] = "start") -> Markup:
    """Draw a text with its baseline at y."""
    return tag("text", content, x=float(x), y=float(y), class_=kind, text_anchor=None if anchor == "start" else anchor)


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """Draw a rectangle at least half a unit wide, so that it can be seen."""
    return tag("rect", x=float(x), y=float(y), width=max(0.5, width), height=float(height), class_=kind)


def polyline(points: Iterable[tuple[float, float]], kind: str, *, closed: bool = False) -> Markup:
    """Draw a line through points, or the area within them."""
    path = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in points)
    return tag("path", d=f"M{path}{'Z' if closed else ''}", class_=kind)


def dots(points: Iterable[tuple[float, float]], kind: str) -> Markup:
    """Draw many dots as one path; the class gives their size. Dots at the same position are drawn once."""
    positions = dict.fromkeys(f"M{coordinate(x)} {coordinate(y)}h0" for x, y in points)
    return tag("path", d="".join(positions), class_=kind)


def mark(x: float, y: float, index: int, kind: str, size: float = 4.5) -> Markup:
    """Draw the mark of the series or segment with this index; where colours repeat, the shape differs."""
    corners = (0, 4, 3, 5)[index // COLOURS % 4]
    if not corners:
        return tag("circle", cx=float(x), cy=float(y), r=size, class_=f"{kind} {colour(index)}")
    turns = [2 * math.pi * n / corners - math.pi / 2 for n in range(corners)]
    around = [(x + 1.3 * size * math.cos(turn), y + 1.3 * size * math.sin(turn)) for turn in turns]
    return polyline(around, f"{kind} {colour(index)}", closed=True)


def colour(index: int) -> str:
    """Return the class of the colour of the segment or series with this index.

    >>> colour(0), colour(9)
    ('c0', 'c1')
    """
    return f"c{index % COLOURS}"


def shortened(content: str, width: float) -> str:
    """Shorten a text to a width in units; the tables have the whole name.

    >>> shortened("Champions", 100.0), shortened("A segment with a long name", 84.0)
    ('Champions', 'A segment…')
    """
    if text_width(content) <= width:
        return content
    kept = content
    while kept and text_width(kept) + _LETTER > width:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def text_width(content: str) -> float:
    """Estimate the width of a bold text in units, on the high side because fonts differ."""
    return sum(map(_letter, content))


def _letter(letter: str) -> float:
    if letter in "MWmw@%—" or unicodedata.east_asian_width(letter) in "WF":
        return 13.2
    if letter in " fijlrtI.,:;|'()":
        return 5.4
    return 9.6 if letter.isupper() else _LETTER


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until neighbours have a distance of `gap`, between low and high, each as little as possible.

    >>> spread_out([10.0, 12.0, 50.0], 10.0, 0.0, 100.0)
    [10.0, 20.0, 50.0]
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = list(wanted)
    floor = low
    for index in order:
        placed[index] = floor = max(placed[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        placed[index] = ceiling = min(placed[index], ceiling)
        ceiling -= gap
    return placed


def _round_steps(low: float, high: float, room: int) -> list[float]:
    if not high > low:
        return [low]
    raw = (high - low) / room
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1.0, 2.0, 2.5, 5.0, 10.0) if s * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Division of whole numbers where possible: 3 * 0.2 is not 0.6.
    return [n / round(1 / step) if step < 1 and step != 0.25 else n * step for n in range(first, last + 1)]
