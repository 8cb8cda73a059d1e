"""`segstream models`: the models on the topic and in the shards; what another one would do; how far customers have drifted."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from stream.clock import now_ms
from stream.commands.options import AsJson
from stream.models.drift import DriftReport, drift_sample
from stream.models.drift import drift as drift_of
from stream.models.shadow import ModelRow, ShadowReport, ShardModel, chosen, model_rows, shard_models
from stream.models.shadow import shadow as shadow_of
from stream.models.topic import PublishedModels, read_published
from stream.progress import progress_bar
from stream.settings import Settings, load_settings
from stream.storage.reads import customers_stored

app = typer.Typer(help="Which model scores, what another would do, how far customers have drifted.")
_WIDTH = 140
LITTLE, MUCH = 0.1, 0.25  # of a population stability index, by the usual reading


@app.callback(invoke_without_command=True)
def models(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the models, how many shards score by each, how far a new one has come, and how far customers have drifted."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    shards = shard_models(settings)
    published = asyncio.run(read_published(settings))
    rows = model_rows(published, shards)
    if as_json:
        for row in (*rows, *shards):
            typer.echo(msgspec.json.encode(row).decode())
    else:
        _show_models(rows, shards)
    if any(shard.quarantined for shard in shards):
        raise typer.Exit(1)
    # Last: where a state can't be read, that is told behind all that could be.
    if (sampled := asyncio.run(_sampled(settings, published))) is None:
        return
    if as_json:
        typer.echo(msgspec.json.encode(sampled).decode())
    else:
        _console().print(_drift_line(sampled), soft_wrap=True)


async def _sampled(settings: Settings, published: PublishedModels) -> DriftReport | None:
    if published.active is None or not (stored := customers_stored(settings)):
        return None
    return await drift_sample(settings, published, stored, now_ms())


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


def _table(*heads: str) -> Table:
    """Make a table; the columns of heads that begin with > are figures."""
    return Table(*(Column(h.lstrip(">"), justify="right" if h.startswith(">") else "left") for h in heads), box=None)


def _money(exact: str) -> str:
    """Write it for people.

    >>> _money("586085.272")
    '586,085.27'
    """
    return f"{Decimal(exact):,.2f}"


def _show_models(rows: list[ModelRow], shards: list[ShardModel]) -> None:
    console = _console()
    for shard in shards:
        if shard.quarantined:
            console.print(f"shard {shard.partition}: quarantined: {shard.quarantined}", markup=False, soft_wrap=True)
    if not rows:
        console.print("No model is on the topic yet: `segtrainer run` trains one.")
        return
    table = _table("version", "", "trained as of", ">customers", "segments", ">silhouette", ">shards")
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
    table = _table("from", "to", ">customers", f">money, {currency}", "for example")
    for flow in report.flows:
        table.add_row(
            flow.from_segment or "(new)",
            flow.to_segment or "",
            f"{flow.customers:,}",
            _money(flow.money),
            ", ".join(flow.examples),
        )
    console.print(table)
    table = _table("segment", ">customers", ">then", f">money, {currency}", ">then")
    for held in report.segments:
        table.add_row(
            held.segment or "(none)",
            f"{held.customers:,}",
            f"{held.customers_after:,}",
            _money(held.money),
            _money(held.money_after),
        )
    console.print(table)


def _drift_line(report: DriftReport) -> str:
    """Say it in a line, the worst last.

    >>> _drift_line(DriftReport("5ccb", None, 9_000, 4_000, {"segments": 0.01, "frequency": 0.3}, {}, (1.0, 1.1), {}))
    'Drift since the training, by 4,000 of 9,000 customers: segments 0.010, frequency 0.300: much has changed.'
    """
    told = sorted(report.stability_indices.items(), key=lambda item: item[1])
    if not told:
        return "Drift since the training: none of the customers looked at has an order that stands."
    worst = told[-1][1]
    verdict = "as at training" if worst < LITTLE else "some has changed" if worst <= MUCH else "much has changed"
    figures = ", ".join(f"{name} {index:.3f}" for name, index in told)
    return f"Drift since the training, by {report.customers:,} of {report.of:,} customers: {figures}: {verdict}."


def _show_drift(report: DriftReport) -> None:
    console = _console()
    console.print(f"Model {report.version}. {_drift_line(report)}", soft_wrap=True)
    console.print(
        f"(Stability indices: below {LITTLE} as at training, above {MUCH} much has changed.)\n", soft_wrap=True
    )
    table = _table("", ">at training", ">now")
    for name, (was, is_) in report.shares.items():
        table.add_row(f"share of {name}", f"{was:.1%}", f"{is_:.1%}")
    for name, (mean, now) in report.means.items():
        table.add_row(f"mean {name}", "" if mean is None else f"{mean:,.2f}", f"{now:,.2f}")
    was_distance, distance = report.distance
    table.add_row("mean distance", "" if was_distance is None else f"{was_distance:.3f}", f"{distance:.3f}")
    console.print(table)
