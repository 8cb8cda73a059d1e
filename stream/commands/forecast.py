"""`segstream forecast`: the moves that time alone will make, for whoever plans campaigns."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from segmentation.money import format_units
from stream.commands.options import AsJson, days_of
from stream.customers.forecast import MoveForecast, each_move, forecast_flows, named
from stream.models.topic import read_published
from stream.orders.rows import parse_signed
from stream.progress import progress_bar
from stream.settings import load_settings
from stream.storage.reads import customers_stored

app = typer.Typer(help="The moves that time alone will make.")

_BAR = 40  # characters of the longest
Days = Annotated[float, typer.Option(parser=days_of, metavar="DAYS", show_default="30", help="How far ahead.")]


@app.command()
def forecast(
    *,
    days: Days = 30.0,
    each: Annotated[bool, typer.Option("--each", help="Every move by itself, one a line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell how many customers will go from where to where, by day, if nothing is bought. Nothing is replayed or written."""
    settings = load_settings()
    published = asyncio.run(read_published(settings))
    with progress_bar("customers", customers_stored(settings)) as bar:

        def show(count: int) -> None:
            bar(count, "")

        if each:
            for _, ahead in each_move(settings, published, days, show):
                move = named(ahead, published)
                typer.echo(
                    msgspec.json.encode(move).decode()
                    if as_json
                    else f"{move.at}  {move.customer_id}  {move.from_segment or '(new)'} -> {move.to_segment}"
                )
            return
        found = forecast_flows(settings, published, days, show)
    if as_json:
        for flow in found.flows:
            typer.echo(msgspec.json.encode(flow).decode())
    else:
        _show(found, settings.currency)


def _show(found: MoveForecast, currency: str) -> None:
    moves = sum(flow.customers for flow in found.flows)
    if found.as_of is None:
        typer.echo(f"{found.customers:,} customers; nobody will move by time alone.")
        return
    typer.echo(
        f"{found.customers:,} customers as of {found.as_of}. If nobody buys anything, {moves:,} moves by {found.until}:"
    )
    console = Console()
    by_day: Counter[str] = Counter()
    pairs: dict[tuple[str, str], Counter[str]] = {}
    money: Counter[tuple[str, str]] = Counter()
    for flow in found.flows:
        pair = flow.from_segment or "(new)", flow.to_segment or "(erased)"
        by_day[flow.day] += flow.customers
        pairs.setdefault(pair, Counter())[flow.day] += flow.customers
        money[pair] += parse_signed(flow.monetary)
    table = Table("from", "to", "customers", f"{currency} that count", "most on", box=None, pad_edge=False)
    for pair, of_days in sorted(pairs.items(), key=lambda row: -row[1].total()):
        day, most = of_days.most_common(1)[0]
        table.add_row(*pair, f"{of_days.total():,}", format_units(money[pair]), f"{day} ({most:,})")
    console.print(table)
    typer.echo()
    longest = max(by_day.values())
    for day, count in sorted(by_day.items()):
        typer.echo(f"{day}  {count:>9,}  {'#' * max(1, round(count * _BAR / longest))}")
