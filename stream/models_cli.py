"""`segstream models`: the models on the topic and in the shards; what another one would do; how far customers have drifted."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from stream.export import customers_stored
from stream.model_names import read_published
from stream.models_report import DriftReport, ModelRow, ShadowReport, ShardModel, chosen, model_rows, shard_models
from stream.models_report import drift as drift_of
from stream.models_report import shadow as shadow_of
from stream.options import AsJson
from stream.progress import progress_bar
from stream.settings import load_settings

app = typer.Typer(help="Which model scores, what another would do, how far customers have drifted.")
_WIDTH = 140


@app.callback(invoke_without_command=True)
def models(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the models, how many shards score by each, and how far a new one has come."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    shards = shard_models(settings)
    rows = model_rows(asyncio.run(read_published(settings)), shards)
    if as_json:
        for row in (*rows, *shards):
            typer.echo(msgspec.json.encode(row).decode())
    else:
        _show_models(rows, shards)


@app.command()
def shadow(
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="Default: the candidate.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Tell which moves a model's start would make now: who, from where to where, how much money. Nothing is told or written."""
    settings = load_settings()
    published = asyncio.run(read_published(settings))
    model = chosen(published, version)
    with progress_bar("customers", customers_stored(settings)) as bar:
        report = shadow_of(settings, published, model, lambda count: bar(count, ""))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _show_shadow(report, settings.currency)


@app.command()
def drift(*, as_json: AsJson = False) -> None:
    """Compare the customers of now with those that the active model was trained on."""
    settings = load_settings()
    published = asyncio.run(read_published(settings))
    with progress_bar("customers", customers_stored(settings)) as bar:
        report = drift_of(settings, published, lambda count: bar(count, ""))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        _show_drift(report)


def _console() -> Console:
    return Console(width=None if Console().is_terminal else _WIDTH, highlight=False)


def _show_models(rows: list[ModelRow], shards: list[ShardModel]) -> None:
    console = _console()
    table = Table("version", "", "trained as of", "customers", "segments", "silhouette", "shards", box=None)
    for row in rows:
        table.add_row(
            row.version,
            row.state,
            (row.as_of or "")[:10],
            "" if row.customers is None else f"{row.customers:,}",
            ", ".join(row.segments),
            "" if row.silhouette is None else f"{row.silhouette:.3f}",
            str(row.shards or ""),
        )
    console.print(table)
    for shard in shards:
        if shard.rescored is not None:
            console.print(
                f"shard {shard.partition}: {shard.version} has looked at {shard.rescored:.0%} of its customers"
            )


def _show_shadow(report: ShadowReport, currency: str) -> None:
    console = _console()
    console.print(
        f"A start of {report.version} now would move {report.moving:.1%} of {report.customers:,} customers"
        + (f" (as of {report.as_of})." if report.as_of else "."),
        soft_wrap=True,
    )
    table = Table("from", "to", "customers", f"money, {currency}", "for example", box=None)
    for flow in report.flows:
        table.add_row(
            flow.from_segment or "(new)",
            flow.to_segment or "",
            f"{flow.customers:,}",
            flow.money,
            ", ".join(flow.examples),
        )
    console.print(table)
    table = Table("segment", "customers", "then", f"money, {currency}", "then", box=None)
    for held in report.segments:
        table.add_row(
            held.segment or "(none)", f"{held.customers:,}", f"{held.customers_after:,}", held.money, held.money_after
        )
    console.print(table)


def _show_drift(report: DriftReport) -> None:
    console = _console()
    console.print(
        f"model {report.version}, {report.customers:,} customers: stability index of the segments' shares "
        f"{report.stability_index:.3f} (below 0.1 as at training, above 0.25 much has changed)",
        soft_wrap=True,
    )
    table = Table("", "at training", "now", box=None)
    for name, (was, is_) in report.shares.items():
        table.add_row(f"share of {name}", f"{was:.1%}", f"{is_:.1%}")
    for name, (mean, now) in report.means.items():
        table.add_row(f"mean {name}", "" if mean is None else f"{mean:.2f}", f"{now:.2f}")
    was_distance, distance = report.distance
    table.add_row("mean squared distance", "" if was_distance is None else f"{was_distance:.3f}", f"{distance:.3f}")
    console.print(table)
