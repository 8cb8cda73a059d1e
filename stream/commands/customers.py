"""`segstream tail|export|customer|score`: what has become of the orders."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from segmentation.events import Reason
from segmentation.money import format_units
from stream.commands.options import AsJson, AsOf, amount_of, days_of
from stream.customers.export import ExportReport
from stream.customers.export import export as export_states
from stream.customers.lookup import CustomerReport, ScoreReport, sentence
from stream.customers.lookup import customer as look_up
from stream.customers.lookup import score as score_figures
from stream.models.topic import read_active, read_published
from stream.orders.rows import parse_at
from stream.outputs.kinds import OutputKind
from stream.outputs.tail import tail as follow
from stream.progress import progress_bar
from stream.settings import Settings, load_settings
from stream.storage.reads import customers_stored

app = typer.Typer(no_args_is_help=True, help="What has become of the orders.")

_ENTRIES_SHOWN: Final = 20


@app.command()
def tail(
    what: Annotated[OutputKind, typer.Argument(help="Moves, campaign actions, or records that couldn't be used.")],
    *,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="All there are, not only new ones.")] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", show_default="never", help="End this many seconds after the last record."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="never", help="End after this many.")
    ] = None,
    reason: Annotated[
        list[Reason] | None,
        typer.Option(metavar="REASON", show_default="all", help="Of dead letters, only these; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow what comes out, a line each, as it is committed. Ends with Ctrl-C, or as told."""
    with suppress(KeyboardInterrupt):
        asyncio.run(
            follow(
                load_settings(),
                what,
                typer.echo,
                from_beginning=from_beginning,
                until_idle_s=until_idle,
                limit=limit,
                as_json=as_json,
                reasons=reason or (),
            )
        )


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .csv or .parquet file to write.")],
    as_of: AsOf = None,
    as_json: AsJson = False,
) -> None:
    """Write every customer's recency, frequency, monetary value, segment and number of moves to a file, sorted by id."""
    settings = load_settings()
    published = asyncio.run(read_published(settings))
    with progress_bar("exporting", customers_stored(settings)) as told:
        report = export_states(settings, published, out, as_of_ms=as_of, progress=lambda done: told(done, ""))
    typer.echo(msgspec.json.encode(report) if as_json else _told_export(report))


def _told_export(report: ExportReport) -> str:
    line = f"{report.customers:,} customers as of {report.as_of or 'no clock yet'} in {report.file}"
    if report.incomplete:
        line += f", {report.incomplete:,} of them incomplete"
    return line + (f"; the shard furthest behind has come to {report.behind}" if report.behind else "")


@app.command()
def customer(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="The customer's id, as the orders give it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Tell what is known of a customer: events, figures, segment, and the next move by time alone."""
    settings = load_settings()
    report = look_up(settings, asyncio.run(read_published(settings)), customer_id)
    if as_json:
        typer.echo(msgspec.json.encode(report))
    else:
        _show_customer(report, settings)


def _show_customer(report: CustomerReport, settings: Settings) -> None:
    console = Console(highlight=False)
    if report.erased_at is not None:
        console.print(
            f"{report.customer_id} was erased at {report.erased_at} (partition {report.partition}): nothing else is known",
            markup=False,
        )
        return
    recency = "no order stands" if report.recency_days is None else f"last order {report.recency_days:.2f} days before"
    console.print(f"{report.customer_id} as of {report.as_of} (partition {report.partition})", markup=False)
    console.print(
        f"  {recency}; orders in the last {settings.window_days} days: {report.frequency}, net "
        f"{report.monetary} {settings.currency}" + (", incomplete" if report.incomplete else ""),
        markup=False,
    )
    since = f" since {report.last_move_at}, move {report.sequence}" if report.last_move_at else ""
    console.print(f"  segment {report.segment or 'none yet'}{since}", markup=False)
    if report.backfill is not None:
        console.print(f"  muted by back-fill {report.backfill}: no move is told until it is finished", markup=False)
    if report.next is not None:
        told = sentence(report.next, parse_at(report.next.at), report.segment or "", settings.currency)
        console.print(f"  {told}", markup=False, soft_wrap=True)
    table = Table("time", "event", Column("amount", justify="right"), "counts")
    for entry in report.entries[:_ENTRIES_SHOWN]:
        table.add_row(entry.at, entry.kind, entry.amount, "yes" if entry.counts else "")
    console.print(table)
    if (more := len(report.entries) - _ENTRIES_SHOWN) > 0:
        console.print(f"  and {more} earlier ones (--json lists all)", markup=False)


@app.command()
def score(
    *,
    recency_days: Annotated[
        float, typer.Option(parser=days_of, metavar="DAYS", help="Days since the last order, 0 or more.")
    ],
    frequency: Annotated[int, typer.Option(min=0, help="Orders in the window.")],
    monetary: Annotated[int, typer.Option(parser=amount_of, metavar="DECIMAL", help="Money spent in the window, net.")],
    as_json: AsJson = False,
) -> None:
    """Tell in which segment of the active model such figures lie, and what to do about it."""
    model = asyncio.run(read_active(load_settings()))
    found = score_figures(model, recency_days, frequency, monetary)
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        _show_score(found, f"{recency_days:g} days, {frequency} orders, {format_units(monetary)}")


def _show_score(found: ScoreReport, figures: str) -> None:
    typer.echo(f"{figures}: {found.segment}. {found.action}")
    table = Table("segment", "distance")
    for name, distance in sorted(found.distances.items(), key=lambda row: row[1]):
        table.add_row(name, f"{distance:.3f}")
    Console(highlight=False).print(table)
    typer.echo(f"model {found.model_version}")
