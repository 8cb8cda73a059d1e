"""The report of a rehearsal: one HTML page, without scripts and without anything from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from stream.rehearsal.sentences import assumptions, day, headlines, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.rehearsal.rehearse import Rehearsal

_MOST_FLOWS: Final = 40
_CAUSES: Final = {
    "order": "an order",
    "refund": "a refund",
    "cancellation": "a cancellation",
    "silence": "silence",
    "window": "an order that left the window",
}
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.figures li { border: 1px solid #c9d3dd; border-radius: .5rem; padding: .75rem 1rem; min-width: 9rem; }
.figures b { display: block; font-size: 1.5rem; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; color: #51606f; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #dde4ea; vertical-align: top; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) { body { color: #e4eaf0; background: #141a20; }
  .figures li { border-color: #3a4754; } th, td { border-color: #2c3743; } caption { color: #9fb0c0; } }
"""


def page(report: Rehearsal) -> str:
    """Return the page."""
    title = f"Rehearsal of {day(report.since)} to {day(report.until)}"
    first, *sentences = headlines(report)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(first)}</p>",
        *[f"<p><strong>Warning:</strong> {escape(warning)}.</p>" for warning in report.warnings],
        _figures(report),
        *[f"<p>{escape(sentence)}</p>" for sentence in sentences],
        "<h2>Campaigns</h2>",
        _campaigns(report),
        "<h2>Moves</h2>",
        _causes(report),
        _flows(report),
        "<h2>How to read this</h2>",
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in assumptions(report)) + "</ul>",
        f"<p>File {escape(report.file)}, {report.orders:,} rows; model {escape(report.model)}.{_left_out(report)}</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _figures(report: Rehearsal) -> str:
    anyway = f"{report.discounts_anyway:,}" if report.discounts_followed else "-"
    found = [
        (f"{report.moves_per_year:.1f}", "moves a customer and year"),
        (f"{report.back_14:.1%}", "of the moves back within 14 days"),
        (f"{report.actions:,}", "campaign actions"),
        (anyway, "discounts to customers who bought anyway"),
        (f"{report.discount_cost:,.0f} {report.currency}", "cost of these"),
    ]
    return '<ul class="figures">' + "".join(f"<li><b>{escape(value)}</b>{name}</li>" for value, name in found) + "</ul>"


def _campaigns(report: Rehearsal) -> str:
    if not report.actions:
        return "<p>No rule would have acted on any move.</p>"
    rows = [
        (
            one.campaign,
            one.action,
            f"{one.actions:,}",
            f"{one.bought_anyway / one.followed:.0%}" if one.followed else "-",
            "" if one.discount is None else percent(one.discount),
            "" if one.discount is None else f"{one.cost:,.2f}",
        )
        for one in report.campaigns
    ]
    head = ("campaign", "action", "actions", "ordered within 30 days", "discount", f"cost, {report.currency}")
    return _table("The share that ordered did so without the campaign.", head, rows, numbers=4)


def _causes(report: Rehearsal) -> str:
    rows = [
        (_CAUSES.get(cause, cause), f"{share:.1%}")
        for cause, share in sorted(report.by_cause.items(), key=lambda item: -item[1])
    ]
    return _table("Moves by what set them off", ("cause", "share"), rows, numbers=1)


def _flows(report: Rehearsal) -> str:
    rows = [(flow.source, flow.target, f"{flow.moves:,}") for flow in report.flows[:_MOST_FLOWS]]
    more = len(report.flows) - len(rows)
    caption = "Moves from segment to segment" + (f"; {more} rarer ones aren't shown" if more else "")
    return _table(caption, ("from", "to", "moves"), rows, numbers=1)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int) -> str:
    """Return a table; its last `numbers` columns are aligned to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        plain = len(cells) - numbers
        return (
            "<tr>"
            + "".join(
                f"<{tag}{' class=n' if i >= plain else ''}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells)
            )
            + "</tr>"
        )

    body = "".join(line("td", row) for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def _left_out(report: Rehearsal) -> str:
    if not report.left_out:
        return ""
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in sorted(report.left_out.items()))
    return f" Left out: {escape(reasons)}."
