"""`segstream customer|score|export|forecast|merge|erase`: the customers, and how two become one, or one is erased."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from segmentation.money import format_units
from stream.clock import now_ms
from stream.commands.options import AsJson, amount_of, days_of, instant_of
from stream.terminal import echo

if TYPE_CHECKING:
    from stream.customers.campaigns import CampaignsReport
    from stream.customers.erasure_report import Erasure
    from stream.customers.export import ExportReport
    from stream.customers.forecast import MoveForecast
    from stream.customers.lookup import CustomerReport
    from stream.customers.merge import MergeOutcome
    from stream.customers.view import CustomerView
    from stream.models.scores import ScoreReport
    from stream.settings import Settings

app = typer.Typer()

_ENTRIES_SHOWN: Final = 20

CustomerId = Annotated[str, typer.Argument(metavar="ID", help="The customer's id, as in the orders.")]
EverythingFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.zip", show_default="none", help="Write all that is held of the customer, readable by you alone."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of --everything if it exists.")]
RecencyDays = Annotated[
    float, typer.Option(parser=days_of, metavar="DAYS", help="Days since the last order, 0 or more.")
]
Monetary = Annotated[
    int, typer.Option(parser=amount_of, metavar="DECIMAL", help="Net amount spent in the window; by own clock, in all.")
]
AsOf = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        show_default="event time: the most advanced shard's clock; wall time: now",
        help="Compute the figures as of this instant: at most SEGSTREAM_GRACE_DAYS before the shards' clocks.",
    ),
]
Days = Annotated[
    float, typer.Option(parser=days_of, metavar="DAYS", show_default="30", help="How many days to look ahead.")
]
_IN_TIME = "now; in event time the shard's clock"
At = Annotated[
    int | None,
    typer.Option(
        parser=instant_of,
        metavar="TIME",
        show_default=_IN_TIME,
        help="Erase everything dated up to this instant (ISO 8601).",
    ),
]
MergedAt = Annotated[
    int | None,
    typer.Option(
        "--at",
        parser=instant_of,
        metavar="TIME",
        show_default=_IN_TIME,
        help="The instant of the merge (ISO 8601): of two that contradict each other the later one counts.",
    ),
]
Check = Annotated[bool, typer.Option("--check", help="Only look whether the customer is erased; send nothing.")]
Wait = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait until a worker has done it.")]


@app.command()
def customer(
    customer_id: CustomerId, *, everything: EverythingFile = None, force: Force = False, as_json: AsJson = False
) -> None:
    """Show one customer: figures, segment, next move and events, and what campaigns did, do and don't do.

    The next move is the one that time alone will make, if nothing is bought. Of campaigns it shows the customer's
    profile, the actions that wait, and the latest decisions, each with its reason. They are looked for among the newest
    records alone, and it says how far back. With --everything, writes all that is held of the customer to a ZIP file
    instead: states, orders, profiles, moves, decisions, dead letters, and a manifest that says what was searched. Exits
    with 1 then if something could not be searched.
    """
    from stream.customers.view import look_up
    from stream.models.topic import read_published
    from stream.settings import load_settings

    settings = load_settings()
    if everything is not None:
        _write_everything(settings, customer_id, everything, force=force, as_json=as_json)
        return

    async def found() -> CustomerView:
        return await look_up(settings, await read_published(settings), customer_id, now_ms())

    view = asyncio.run(found())
    if as_json:
        echo(view.json())
        return
    if view.report is None:
        echo(f"{customer_id}: no shard knows an order of this customer")
    else:
        _show_customer(view.report, settings)
    if view.campaigns is not None:
        _show_campaigns(view.campaigns)


def _write_everything(settings: Settings, customer_id: str, out: Path, *, force: bool, as_json: bool) -> None:
    from stream.customers.everything import EverythingReport, everything_lines, export_everything, records_held
    from stream.models.topic import read_published
    from stream.progress import progress_bar

    async def written() -> EverythingReport:
        published = await read_published(settings)
        with progress_bar("reading", await records_held(settings, customer_id)) as show:
            return await export_everything(
                settings, published, customer_id, out, replace=force, progress=lambda done: show(done, "")
            )

    done = asyncio.run(written())
    if as_json:
        echo(msgspec.json.encode(done))
    else:
        for line in everything_lines(done):
            echo(line)
    if not done.complete:
        raise typer.Exit(1)


def _show_customer(report: CustomerReport, settings: Settings) -> None:
    from rich.table import Column, Table

    from stream.consoles import console
    from stream.customers.lookup import report_lines

    for line in report_lines(report, settings):
        echo(line)
    if report.merged_into is not None or report.erased_at is not None:
        return
    shown = report.entries[:_ENTRIES_SHOWN]
    foreign = any(entry.paid for entry in shown)
    paid = [Column("paid", justify="right"), Column("rate", justify="right")] if foreign else []
    table = Table("time", "event", *paid, Column("amount", justify="right"), "counts")
    for entry in shown:
        cells = (entry.paid or "", entry.rate or "") if foreign else ()
        table.add_row(entry.at, entry.kind, *cells, entry.amount, "yes" if entry.counts else "")
    console().print(table)
    if (more := len(report.entries) - _ENTRIES_SHOWN) > 0:
        echo(f"  and {more} earlier ones (--json lists all)")


def _show_campaigns(found: CampaignsReport) -> None:
    from stream.consoles import console, table
    from stream.customers.campaigns import campaign_lines, decision_rows, looked_line

    for line in campaign_lines(found):
        echo(line)
    if found.decisions:
        console().print(table(("decided", "campaign", "outcome", "reason"), decision_rows(found.decisions)))
    if found.looked is not None:
        echo(f"    {looked_line(found.looked, len(found.decisions))}")


@app.command()
def score(
    *,
    recency_days: RecencyDays,
    frequency: Annotated[
        int,
        typer.Option(min=0, help="Number of orders in the window; by own clock, of days with an order, in all."),
    ],
    monetary: Monetary,
    first_order_days: Annotated[
        float | None,
        typer.Option(
            parser=days_of,
            metavar="DAYS",
            show_default="recency, for one order",
            help="Days since the first order: a model by own clock needs it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the active model's segment for given figures.

    Also shows the recommended action; then the distance to each segment, or, by own clock, why and the outlook.
    """
    from stream.models.scores import GivenFigures
    from stream.models.scores import score as score_figures
    from stream.models.topic import read_active
    from stream.settings import load_settings

    settings = load_settings()
    model = asyncio.run(read_active(settings))
    found = score_figures(model, GivenFigures(recency_days, frequency, monetary, first_order_days), settings.currency)
    if as_json:
        echo(msgspec.json.encode(found))
    else:
        _show_score(found, f"{recency_days:g} days, {frequency} orders, {format_units(monetary)}", settings.currency)


def _show_score(found: ScoreReport, figures: str, currency: str) -> None:
    from rich.table import Table

    from stream.consoles import console
    from stream.models.scores import score_lines

    echo(f"{figures}: {found.segment}. {found.action}")
    for line in score_lines(found, currency):
        echo(line)
    if found.distances:
        table = Table("segment", "distance")
        for name, distance in sorted(found.distances.items(), key=lambda row: row[1]):
            table.add_row(name, f"{distance:.3f}")
        console().print(table)
    echo(f"model {found.model_version}")


@app.command()
def export(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .csv or .parquet file to write.")],
    as_of: AsOf = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Keep texts of a .csv as they are, for programs; a spreadsheet may run formulas."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write all customers' figures and segments to a file that you alone can read.

    Writes recency, frequency, monetary value, segment, number of moves, the figures of the whole life, and what the
    active model expects of the next 90 days, sorted by customer id. In a .csv an apostrophe goes before a text that a
    spreadsheet would take for a formula.
    """
    from stream.customers.export import export as export_states
    from stream.models.topic import read_published
    from stream.progress import progress_bar
    from stream.settings import load_settings
    from stream.storage.reads import customers_stored

    settings = load_settings()
    published = asyncio.run(read_published(settings))
    with progress_bar("exporting", customers_stored(settings)) as show:
        report = export_states(
            settings, published, out, now_ms=now_ms(), as_of_ms=as_of, raw=raw, progress=lambda done: show(done, "")
        )
    echo(msgspec.json.encode(report) if as_json else _export_summary(report))


def _export_summary(report: ExportReport) -> str:
    line = f"{report.customers:,} customers as of {report.as_of or 'no clock yet'} in {report.file}"
    if report.incomplete:
        line += f", {report.incomplete:,} of them incomplete"
    return line + (f"; the shard furthest behind has reached {report.behind}" if report.behind else "")


@app.command()
def forecast(
    *,
    days: Days = 30.0,
    each: Annotated[bool, typer.Option("--each", help="List every single move, one per line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the coming moves by day, if nobody buys anything.

    Reads the customers' states, and changes nothing.
    """
    from stream.customers.forecast import each_move, forecast_flows, named
    from stream.models.topic import read_published
    from stream.progress import progress_bar
    from stream.settings import load_settings
    from stream.storage.reads import customers_stored

    settings = load_settings()
    published = asyncio.run(read_published(settings))
    with progress_bar("customers", customers_stored(settings)) as show:
        if each:
            for _, ahead in each_move(settings, published, days, lambda count: show(count, "")):
                move = named(ahead, published)
                echo(
                    msgspec.json.encode(move).decode()
                    if as_json
                    else f"{move.at}  {move.customer_id}  {move.from_segment or '(new)'} -> {move.to_segment}"
                )
            return
        found = forecast_flows(settings, published, days, lambda count: show(count, ""))
    if as_json:
        for flow in found.flows:
            echo(msgspec.json.encode(flow))
    else:
        _show_forecast(found, settings.currency)


def _show_forecast(found: MoveForecast, currency: str) -> None:
    from stream.consoles import console, table
    from stream.customers.forecast import day_bars, pair_rows

    moves = sum(flow.customers for flow in found.flows)
    if found.as_of is None:
        echo(f"{found.customers:,} customers; none will move if nothing is bought.")
        return
    echo(
        f"{found.customers:,} customers as of {found.as_of}. If nobody buys anything, {moves:,} moves by {found.until}:"
    )
    foreseen = any(flow.spend_90d is not None for flow in found.flows)
    rows = pair_rows(found.flows, foreseen=foreseen)
    heads = ("from", "to", "customers", f"{currency} in the window", *(("expected in 90 days",) * foreseen), "peak day")
    console().print(table(heads, rows))
    echo()
    for line in day_bars(found.flows):
        echo(line)


def _end(found: MergeOutcome | Erasure, lines: list[str], *, as_json: bool) -> None:
    """Show an outcome, and exit with 1 where it isn't done."""
    if as_json:
        echo(msgspec.json.encode(found))
    else:
        for line in lines:
            echo(line)
    if not found.done:
        raise typer.Exit(1)


@app.command()
def merge(
    from_: Annotated[str, typer.Argument(metavar="FROM", help="The id that goes.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="The id that stays.")],
    *,
    at: MergedAt = None,
    wait: Wait = 30.0,
    as_json: AsJson = False,
) -> None:
    """Make two ids one customer, with all that is known under either.

    Waits until workers have done it. Exits with 1 if it isn't done, with the reason. There is no way back; merging
    again does no harm.
    """
    from stream.customers import merge as merging
    from stream.settings import load_settings

    found = asyncio.run(
        merging.merge(
            load_settings(),
            from_,
            into,
            at,
            now_ms=now_ms(),
            wait_s=wait,
            on_sent=lambda where: echo(f"the merge is sent ({where}); waiting until it is done", err=True),
        )
    )
    _end(found, merging.merge_lines(found), as_json=as_json)


@app.command()
def erase(
    customer_id: CustomerId, *, at: At = None, wait: Wait = 30.0, check: Check = False, as_json: AsJson = False
) -> None:
    """Erase a customer, look whether it is done, and show what logs still hold.

    Looks into every shard and the dead letters. Exits with 1 if anything dated up to the erasure is left, with the
    reason. Erasing again does no harm.
    """
    from stream.customers import erase as erasure
    from stream.customers.erasure_report import erasure_lines
    from stream.settings import load_settings

    settings = load_settings()
    if check:
        found = asyncio.run(erasure.check(settings, customer_id, now_ms=now_ms()))
    else:
        # Said before the wait, which may be interrupted.
        found = asyncio.run(
            erasure.erase(
                settings,
                customer_id,
                at,
                now_ms=now_ms(),
                wait_s=wait,
                on_sent=lambda where: echo(f"the erasure is sent ({where}); waiting until it is done", err=True),
            )
        )
    _end(found, erasure_lines(found), as_json=as_json)
