"""`segstream models`: the models on the topic and in the shards, the effect of another one, and drift."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from stream.clock import now_ms
from stream.commands.options import AsJson
from stream.terminal import echo

if TYPE_CHECKING:
    from stream.models.drift import DriftReport
    from stream.models.listing import ModelRow, ShardModel
    from stream.models.shadow import ShadowReport
    from stream.models.topic import PublishedModels
    from stream.settings import Settings

app = typer.Typer(name="models")
LITTLE, MUCH = 0.1, 0.25  # limits of a population stability index, by the usual reading


@app.callback(invoke_without_command=True)
def models(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the models, and show which one scores.

    Also shows how many shards score by each, how far the rescoring for a new one is, and how far customers have
    drifted.
    """
    if context.invoked_subcommand is not None:
        return
    from stream.models.listing import model_rows, shard_models
    from stream.models.topic import read_published
    from stream.settings import load_settings

    settings = load_settings()
    shards = shard_models(settings)
    published = asyncio.run(read_published(settings))
    rows = model_rows(published, shards)
    if as_json:
        for row in (*rows, *shards):
            echo(msgspec.json.encode(row))
    else:
        _show_models(rows, shards)
    if any(shard.quarantined for shard in shards):
        raise typer.Exit(1)
    # Last: if a state can't be read, the error comes after everything that could be read.
    if (sampled := asyncio.run(_sampled(settings, published))) is None:
        return
    if as_json:
        echo(msgspec.json.encode(sampled))
    else:
        from stream.consoles import console

        console().print(_drift_line(sampled), soft_wrap=True)


async def _sampled(settings: Settings, published: PublishedModels) -> DriftReport | None:
    from stream.models.drift import drift_sample
    from stream.storage.reads import customers_stored

    if published.active is None or not (stored := customers_stored(settings)):
        return None
    return await drift_sample(settings, published, stored, now_ms())


@app.command()
def shadow(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="A model on the topic.", show_default="the candidate")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the moves that activating a model now would cause.

    Counts customers and money by segments, and changes nothing.
    """
    from stream.models.listing import find_model
    from stream.models.shadow import shadow as shadow_of
    from stream.models.topic import read_published
    from stream.progress import progress_bar
    from stream.settings import load_settings
    from stream.storage.reads import customers_stored

    settings = load_settings()
    published = asyncio.run(read_published(settings))
    model = find_model(published, version)
    with progress_bar("customers", customers_stored(settings)) as show:
        report = shadow_of(settings, published, model, lambda count: show(count, ""))
    if as_json:
        echo(msgspec.json.encode(report))
    else:
        _show_shadow(report, settings.currency)


@app.command()
def drift(*, as_json: AsJson = False) -> None:
    """Compare the customers with those of the model's training."""
    from stream.models.drift import drift as drift_of
    from stream.models.topic import read_published
    from stream.progress import progress_bar
    from stream.settings import load_settings
    from stream.storage.reads import customers_stored

    settings = load_settings()
    published = asyncio.run(read_published(settings))
    with progress_bar("customers", customers_stored(settings)) as show:
        report = drift_of(settings, published, lambda count: show(count, ""))
    if as_json:
        echo(msgspec.json.encode(report))
    else:
        _show_drift(report)


def _money(exact: str) -> str:
    """Return an amount for people.

    >>> _money("586085.272")
    '586,085.27'
    """
    return f"{Decimal(exact):,.2f}"


def _show_models(rows: list[ModelRow], shards: list[ShardModel]) -> None:
    from stream.consoles import console, table

    shown = console()
    for shard in shards:
        if shard.quarantined:
            echo(f"shard {shard.partition}: quarantined: {shard.quarantined}")
    if not rows:
        shown.print("No model has been published yet: `segtrainer run` trains one.")
        return
    cells = (
        (
            row.version,
            row.state,
            (row.as_of or "")[:10],
            "" if row.customers is None else f"{row.customers:,}",
            ", ".join(row.segments),
            "" if row.silhouette is None else f"{row.silhouette:.3f}",
            str(row.shards or ""),
        )
        for row in rows
    )
    headings = ("version", "state", "trained as of", ">customers", "segments", ">silhouette", ">shards")
    shown.print(table(headings, cells))
    for shard in shards:
        if shard.rescored is not None:
            shown.print(f"shard {shard.partition}: {shard.version} has rescored {shard.rescored:.0%} of its customers")


def _show_shadow(report: ShadowReport, currency: str) -> None:
    from stream.consoles import console, table

    shown = console()
    shown.print(
        f"Activating {report.version} now would move {report.moving:.1%} of {report.customers:,} customers"
        + (f" (as of {report.as_of})." if report.as_of else "."),
        soft_wrap=True,
    )
    moves = (
        (
            flow.from_segment or "(new)",
            flow.to_segment or "",
            f"{flow.customers:,}",
            _money(flow.money),
            ", ".join(flow.examples),
        )
        for flow in report.flows
    )
    shown.print(table(("from", "to", ">customers", f">money, {currency}", "examples"), moves))
    segments = (
        (
            held.segment or "(none)",
            f"{held.customers:,}",
            f"{held.customers_after:,}",
            _money(held.money),
            _money(held.money_after),
        )
        for held in report.segments
    )
    shown.print(table(("segment", ">customers", ">afterwards", f">money, {currency}", ">afterwards"), segments))


def _drift_line(report: DriftReport) -> str:
    """Return the drift as one line, the largest index last.

    >>> from stream.models.drift import DriftReport
    >>> _drift_line(DriftReport("5ccb", None, 9_000, 4_000, {"segments": 0.01, "frequency": 0.3}, {}, (1.0, 1.1), {}))
    'Drift since the training, by 4,000 of 9,000 customers: segments 0.010, frequency 0.300: large drift.'
    """
    indices = sorted(report.stability_indices.items(), key=lambda item: item[1])
    if not indices:
        return "Drift since the training: unknown, as none of the customers in the sample has an order left."
    worst = indices[-1][1]
    verdict = "no drift" if worst < LITTLE else "some drift" if worst <= MUCH else "large drift"
    figures = ", ".join(f"{name} {index:.3f}" for name, index in indices)
    return f"Drift since the training, by {report.customers:,} of {report.of:,} customers: {figures}: {verdict}."


def _show_drift(report: DriftReport) -> None:
    from stream.consoles import console, table

    shown = console()
    shown.print(f"Model {report.version}. {_drift_line(report)}", soft_wrap=True)
    shown.print(f"(Stability indices: below {LITTLE} no drift, above {MUCH} large drift.)\n", soft_wrap=True)
    rows = [(f"share of {name}", f"{was:.1%}", f"{now:.1%}") for name, (was, now) in report.shares.items()]
    for name, (mean, now) in report.means.items():
        rows.append((f"mean {name}", "" if mean is None else f"{mean:,.2f}", f"{now:,.2f}"))
    was_distance, distance = report.distance
    rows.append(("mean distance", "" if was_distance is None else f"{was_distance:.3f}", f"{distance:.3f}"))
    shown.print(table(("measure", ">at training", ">now"), rows))
