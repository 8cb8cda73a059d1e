"""The result of a simulation as text: for each part of the time a table of campaigns, and one of days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stream.campaigns.simulate import CampaignSimulation, SimulatedPart

_HEADINGS: Final = {
    "past": "moves that have been",
    "model": "moves that the start of the model would make",
    "ahead": "moves to come, if nobody orders",
}
_MOST_DAYS: Final = 31


def lines(found: CampaignSimulation) -> Iterator[str]:
    """Yield the lines. Nothing of all this was sent."""
    for part in found.parts:
        yield from _part(part)
        yield ""
    if found.held_back:
        yield f"{found.held_back:,} customers have an action that still waits at the end."
    yield "Nothing was sent."


def _part(part: SimulatedPart) -> Iterator[str]:
    since, until = part.since[:16].replace("T", " "), part.until[:16].replace("T", " ")
    span = f"at {until}" if part.part == "model" else f"from {since} to {until}"
    yield f"{part.moves:,} {_HEADINGS[part.part]}, {span}"
    if not part.campaigns:
        yield "  no rule decides on any of them"
        return
    yield from _table(
        ("campaign", "actions", "held out", "withheld", "waited", "converted", "held out, converted"),
        [
            (
                one.campaign,
                f"{one.actions:,}",
                f"{one.held_out:,}",
                _counts(one.withheld),
                _counts(one.scheduled),
                f"{one.converted:,}",
                f"{one.converted_held_out:,}",
            )
            for one in part.campaigns
        ],
    )
    days = sorted({row.day for row in part.days})
    if len(days) > 1:
        yield ""
        yield from _days(part, days[-_MOST_DAYS:], left_out=max(0, len(days) - _MOST_DAYS))


def _days(part: SimulatedPart, days: Sequence[str], *, left_out: int) -> Iterator[str]:
    names = [one.campaign for one in part.campaigns]
    actions = {(row.day, row.campaign): row.actions for row in part.days}
    yield "  actions by day" + (f" ({left_out} earlier days aren't shown, --json has them)" if left_out else "")
    rows = [(day, *(f"{actions.get((day, name), 0):,}" for name in names)) for day in days]
    yield from _table(("day", *names), rows)


def _counts(counts: dict[str, int]) -> str:
    found = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found) or "0"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table whose columns are aligned by their widest cell."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
