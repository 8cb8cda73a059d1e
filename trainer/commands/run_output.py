"""The outcome of `segtrainer run` on stdout: as tables for people, or as one JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.table import Table

    from trainer.outcome import Fit, SegmentFacts, TrainingOutcome

# Wide enough for every column where the output isn't a terminal.
_WIDTH: Final = 140


def without_customers(outcome: TrainingOutcome) -> dict[str, Any]:
    """Return the outcome as JSON values, without the single customers, which only report.json has."""
    import msgspec

    content: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(outcome, sample=None))
    del content["sample"]
    return content


def print_tables(outcome: TrainingOutcome) -> None:
    """Print the fits, the segments and the decision as tables and sentences."""
    from stream.consoles import console as output_console

    console = output_console(_WIDTH)
    if len(outcome.fits) > 1 or outcome.decision.verdict == "refused":
        console.print(_fits(outcome))
    if outcome.segments:
        console.print(_segments(outcome))
    if (comparison := outcome.comparison) is not None:
        console.print(
            f"Compared with the active model {comparison.version}, {comparison.moved:.1%} of the customers would move.",
            highlight=False,
        )
    for sentence in outcome.decision.why:
        console.print(sentence, highlight=False, markup=False)
    quality = outcome.quality
    status = {
        "active": f"active as activation {outcome.decision.activation}",
        "candidate": "published as candidate, not active",
        "dry-run": "not published (dry run)",
        "refused": "not published (refused)",
    }[outcome.decision.verdict]
    version = f"; version {outcome.version}" if outcome.version else ""
    console.print(f"{quality.customers:,} customers, {quality.left_out:,} left out{version}: {status}", highlight=False)


def _fits(outcome: TrainingOutcome) -> Table:
    from rich.table import Table

    table = Table(title="Fits", caption="bold: chosen; red: fails a gate")
    table.add_column("transform")
    for heading in ("k", "inertia", "silhouette", "stability", "smallest", "largest"):
        table.add_column(heading, justify="right")
    for fit in outcome.fits:
        failed = {gate.name for gate in fit.gates if not gate.passed}
        cells = [
            _cell(fit.inertia, ",.0f"),
            _cell(fit.silhouette, ".3f"),
            _cell(fit.stability, ".2f", red="stability" in failed),
            _cell(fit.smallest_share, ".1%", red="smallest share" in failed),
            _cell(fit.largest_share, ".1%", red="largest share" in failed),
        ]
        if fit.failure:
            cells = ["-"] * len(cells)
        table.add_row(fit.transform, str(fit.k), *cells, style=_style(fit))
    return table


def _style(fit: Fit) -> str:
    return "bold" if fit.chosen else ""


def _cell(value: float | None, form: str, *, red: bool = False) -> str:
    text = "-" if value is None else format(value, form)
    return f"[red]{text}[/red]" if red else text


def _segments(outcome: TrainingOutcome) -> Table:
    from rich.table import Table

    from trainer.report.sentences import span
    from trainer.report.tables import orders_named

    foreseen = any(segment.forecast for segment in outcome.segments)
    frequency = orders_named(outcome).lower()
    caption = f"recency, frequency ({frequency}), monetary (spent {span(outcome)}): medians; money: share of all spent"
    if foreseen:
        caption += "; in 90 days: share expected to order"
    table = Table(title=f"Segments as of {outcome.as_of}", caption=caption)
    table.add_column("segment")
    ahead = ("in 90 days",) if foreseen else ()
    for heading in ("customers", "share", "money", "recency (days)", "frequency", "monetary", *ahead):
        table.add_column(heading, justify="right")
    table.add_column("action")
    for segment in outcome.segments:
        table.add_row(*_row(segment), *_ahead(segment)[: len(ahead)], segment.action)
    return table


def _ahead(segment: SegmentFacts) -> tuple[str]:
    known = segment.forecast
    return (f"{known.ordering / segment.customers:.1%}" if known and segment.customers else "-",)


def _row(segment: SegmentFacts) -> tuple[str, ...]:
    spreads = ((segment.recency_days, 1), (segment.frequency, 0), (segment.monetary, 2))
    medians = ["-" if spread is None else f"{spread.median:,.{decimals}f}" for spread, decimals in spreads]
    money = "-" if segment.money_share is None else f"{segment.money_share:.1%}"
    return (segment.name, f"{segment.customers:,}", f"{segment.share:.1%}", money, *medians)
